//! Tables: which requests belong to which model, and how each model's requests are split.

pub mod build;
pub mod disk;
pub mod hosts;
pub mod keeper;
pub mod slices;
pub mod snapshot;

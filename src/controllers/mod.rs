//! One short driver for each kind: observe, decide, report, build, apply.

pub mod changes;
pub mod deployment;
pub mod fleet;
pub mod gateways;
pub mod memory;
pub mod router;
pub mod scaling;

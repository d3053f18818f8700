//! The sweep: the operator is disturbed at each write of a scenario, once in each run, and everything must end as it does when
//! nothing is disturbed.
//!
//! Each run has a namespace, a proxy and an operator process of its own; many go on side by side. Models, routers and
//! resolvers are processes of a [`crate::node::Node`]; real images are sent through a real router meanwhile.

pub mod ground;
pub mod picture;
mod report;
mod run;
pub mod scenario;
pub mod stage;

pub use report::Report;
pub use run::{Extent, Sweep};

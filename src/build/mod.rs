//! Making objects (no client): pure functions from specs, snapshots and state to what should be in the cluster.

pub mod foreign;
pub mod gateway;
pub mod labels;
pub mod resolver;
pub mod revision;
pub mod route;
pub mod router;
pub mod workload;

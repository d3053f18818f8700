//! Reading the cluster (client required): objects, pods and what is wrong with them, and what routers count.

pub mod pods;
pub mod routers;
pub mod world;

//! Reading the cluster (client required): objects, pods and what is wrong with them, what routers count, and what monitoring
//! systems measure.

pub mod gateway;
pub mod monitoring;
pub mod pods;
pub mod routers;
pub mod world;

//! What the benchmarks' programs share: when requests are due, connections, pods, and percentiles.

pub mod arrivals;
pub mod connection;
pub mod pods;
pub mod summary;

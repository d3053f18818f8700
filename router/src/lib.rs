//! The data plane of Stoker: one router process of a namespace.
//!
//! ```text
//! ModelRoutes, EndpointSlices ──► watch ──► table::keeper ──► plane (what requests see) ◄── forward ◄── clients
//!                 disk ◄──► table::disk ◄──┘  ▲                 │ count                        └──► pods
//!                                             └──── cut ◄───────┤ ◄──► other routers
//!                                          admin (operator) ◄──┴──► metrics (Prometheus)
//! ```
//!
//! - [`args`]: the command line.
//! - [`table`]: tables, their order, their copy on disk, and which host belongs to which.
//! - [`live`]: revisions and endpoints as they are by now.
//! - [`plane`]: what the hot path reads.
//! - [`cut`]: takes a harmful revision out of traffic.
//! - [`forward`]: one request from client to pod and back.
//! - [`unit`]: what stays at one arm.
//! - [`shadow`]: copies of requests, and the comparison of answers.
//! - [`count`]: attempts, errors and latencies by (run, step, arm).
//! - [`wake`]: calls for pods of models that have none.
//! - [`watch`]: the API server.
//! - [`admin`]: what the operator asks.
//! - [`metrics`]: what Prometheus reads.
//! - [`run`]: all of it together.

pub mod admin;
pub mod args;
pub mod count;
pub mod cut;
pub mod forward;
pub mod live;
pub mod metrics;
pub mod plane;
pub mod run;
pub mod shadow;
pub mod table;
pub mod unit;
pub mod wake;
pub mod watch;

//! What the cluster tests and the demo stand on: access to a cluster that has Stoker on it, namespaces of their own, real
//! images, a web server for artifacts and an open-loop load generator.
//!
//! - [`cluster`]: the API server by the current kubeconfig, and where a program beside the cluster is reached from pods.
//! - [`namespace`]: a namespace for one test, and how a test is run in it.
//! - [`subject`]: one ModelDeployment under test: write it, wait on it, ask it for an action.
//! - [`children`]: what the operator made for a ModelDeployment.
//! - [`diagnosis`]: all that explains a failure, as text.
//! - [`artifacts`]: models over http, with and without credentials.
//! - [`digits`]: the images, their labels and the models of the demo.
//! - [`load`]: requests at a fixed rate, and a ledger of every answer.
//! - [`sweep`]: the operator disturbed at each write of a story, by [`proxy`], which stands between it and the API server.
//! - [`partition`]: a network that is cut between two sides.
//! - [`node`] and [`operator`]: pods and operators as plain processes, hundreds of them; [`process`]: one of these.
//!
//! Programs of this crate run inside the cluster's network, since they call Services by their address: see
//! `e2e/cluster/exec`.

pub mod artifacts;
pub mod children;
pub mod cluster;
pub mod diagnosis;
pub mod digits;
pub mod examples;
pub mod load;
pub mod monitoring;
pub mod namespace;
pub mod node;
pub mod operator;
pub mod partition;
pub mod process;
pub mod proxy;
pub mod subject;
pub mod sweep;

//! Tests on a real cluster that has Stoker on it. They run side by side, each in a namespace of its own, beside real load.
//! `e2e/run` brings the cluster up and starts them inside its network. What disturbs the whole cluster is in
//! `tests/disruption`.

mod actions;
mod admission;
mod artifacts;
mod assignment;
mod capacity;
mod client;
mod deletion;
mod gates;
mod gitops;
mod hosts;
mod hpa;
mod installed;
mod monitoring;
mod onnx;
mod other_servers;
mod pods;
mod policy;
mod requests;
mod rollout;
mod scaling;
mod shadow;
mod strategies;

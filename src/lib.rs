//! The operator: makes the cluster match the ModelDeployments in it.
//!
//! A reconcile goes one way through the rooms: [`observe`] reads (client required), `stoker_decide` decides (pure), [`report`]
//! writes the decision to status before its effect, [`build`] makes the objects (no client), [`apply`] writes them. Nothing
//! after the decision changes it; the next reconcile reads everything again.

pub mod apply;
pub mod build;
pub mod call;
pub mod context;
pub mod controllers;
#[cfg(test)]
pub(crate) mod fake_api;
pub mod fence;
pub mod observe;
pub mod report;
pub mod run;
pub mod trust;

//! Telling people (client required): status, Events, metrics. The only place that writes status and Events.

pub mod conditions;
pub mod divergence;
pub mod events;
pub mod gateway;
pub mod metrics;
pub mod rollouts;
pub mod status;

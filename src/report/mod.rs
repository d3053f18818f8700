//! Telling people (client required): status, Events, metrics. The only place that writes status and Events.

pub mod conditions;
pub mod events;
pub mod metrics;
pub mod status;

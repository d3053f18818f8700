//! The health of what the model predicts, as far as it shows without knowing the truth.

mod metrics;
mod predictions;

pub use metrics::PredictionMetrics;
pub use predictions::{Predictions, Sampler};

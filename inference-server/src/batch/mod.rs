//! Requests that arrive together run as one batch.
//!
//! Work-conserving: an executor that is idle takes what is queued and never waits for more. A request waits only while
//! all executors are busy, and that is when batches grow. `queue` holds and joins, `executor` runs, `warm` prepares.

mod executor;
mod queue;
mod warm;

pub use executor::{Answers, Runner, Stages, Telemetry, start};
pub use queue::{Done, Failure, Full, Job, Queue};
pub use warm::{Warmth, warm};

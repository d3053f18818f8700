//! Requests that arrive together run as one batch.
//!
//! Work-conserving: an executor that is idle takes what is queued and does not wait for more unless it is told to. A request
//! waits only while all executors are busy, and that is when batches grow. With a latency target, requests that would be
//! answered too late are refused: [`stoker_decide::batching`] has the rules. `queue` holds and joins, `executor` runs, `warm`
//! prepares, `held` is what lives as long as a request is in work.

mod executor;
mod held;
mod queue;
mod warm;

pub use executor::{Answers, Bounded, Runner, Stages, Stop, Telemetry, start};
pub use held::Held;
pub use queue::{Done, Failure, Job, Learned, Queue, Refused, Release, Rules};
pub use warm::{Warmth, warm};

//! Copies of requests for revisions whose answers reach nobody, and what those answers would have been worth.
//!
//! ```text
//! forward ──► tee: the request, and the answer as it passes ──► end of the answer ──► lane of the shadow (bounded)
//!                                                                                        │
//!  the rest runs on two threads of its own, on time that nobody else wants:              ▼
//!             count ◄── compare: both answers ◄── (bounded) ◄── send: to a pod, within a deadline
//! ```
//! A copy is made when the client's answer has ended; until then it costs a count of references for each piece of the
//! answer. So no client waits for a shadow, and none fails by it. Whenever something is short (places in the queue,
//! memory, a pod, time before the process ends) it is the copy that is dropped, and counted by its reason.
//!
//! - [`lane`]: how much may wait for one shadow.
//! - [`tee`]: what is kept of a request and its answer.
//! - [`send`]: the thread that sends.
//! - [`compare`]: the thread that compares; [`answer`] reads what is compared.
//! - [`count`]: what became of copies. [`metrics`]: the same for Prometheus.

pub mod answer;
pub mod compare;
pub mod count;
pub mod lane;
pub mod metrics;
pub mod send;
pub mod tee;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use stoker_decide::traffic::WHOLE;
use stoker_edge::drain::{Drain, Phase};
use tokio::sync::mpsc::UnboundedSender;

use crate::forward::body::Budget;
use crate::plane::Plane;
use crate::shadow::count::Dropped;
use crate::shadow::lane::Place;
use crate::shadow::tee::Copied;
use crate::table::snapshot::Mirror;

/// What copies may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many may wait for one shadow.
    pub queue: usize,
    /// Bytes of all copies and of the answers that are kept for comparison; one shadow may have a quarter.
    pub bytes: usize,
    /// How many may be under way to one shadow.
    pub concurrency: usize,
    /// How long one may take, connecting included.
    pub timeout: Duration,
    /// Longest answer that is compared, in bytes.
    pub longest_answer: usize,
}

/// Makes copies. Shared by all requests.
#[derive(Debug)]
pub struct Shadow {
    shared: Arc<Shared>,
    /// To the thread that sends; it starts with the first copy. None when it could not be started.
    sender: OnceLock<Option<UnboundedSender<Job>>>,
}

/// What requests and the threads of shadows both know.
#[derive(Debug)]
pub struct Shared {
    limits: Limits,
    plane: Arc<Plane>,
    budget: Budget,
    drain: OnceLock<Drain>,
}

/// A copy for one shadow.
#[derive(Debug)]
pub struct Job {
    place: Place,
    copied: Arc<Copied>,
}

impl Shared {
    /// Whether the process is on its way out: no copy is worth a second of that.
    fn is_ending(&self) -> bool {
        self.drain.get().is_some_and(|drain| drain.phase() > Phase::Serving)
    }
}

impl Shadow {
    /// Makes copies for the mirrors in the tables of `plane`.
    pub fn new(limits: Limits, plane: Arc<Plane>) -> Self {
        let shared = Shared { limits, plane, budget: Budget::new(limits.bytes), drain: OnceLock::new() };
        Self { shared: Arc::new(shared), sender: OnceLock::new() }
    }

    /// Makes no copies any more once the process begins to leave.
    pub fn follow(&self, drain: Drain) {
        // A second call changes nothing: there is one drain in a process.
        let _ = self.shared.drain.set(drain);
    }

    /// Draws which mirrors get a copy of a request.
    pub fn draw(mirrors: &[Arc<Mirror>]) -> Vec<Arc<Mirror>> {
        mirrors.iter().filter(|mirror| rand::random_range(0..WHOLE) < mirror.ppm).cloned().collect()
    }

    /// Hands a copy over, or drops it.
    fn offer(&self, targets: &[Arc<Mirror>], copied: Result<Copied, Dropped>) {
        let copied = match copied {
            Ok(copied) if !self.shared.is_ending() => Arc::new(copied),
            Ok(_) => return drop_all(targets, Dropped::Draining),
            Err(reason) => return drop_all(targets, reason),
        };
        let Some(sender) = self.sender.get_or_init(|| self.start()) else {
            return drop_all(targets, Dropped::Unavailable);
        };
        for mirror in targets {
            match Place::take(mirror, copied.size(), &self.shared.limits) {
                // Each job has a place, so what is in the channel is bounded.
                Ok(place) => {
                    if sender.send(Job { place, copied: Arc::clone(&copied) }).is_err() {
                        mirror.count.dropped(Dropped::Unavailable);
                    }
                }
                Err(reason) => mirror.count.dropped(reason),
            }
        }
    }

    fn start(&self) -> Option<UnboundedSender<Job>> {
        send::start(Arc::clone(&self.shared))
            .inspect_err(|error| {
                tracing::error!(%error, "no copies are made: the threads that send and compare them did not start");
            })
            .ok()
    }
}

/// Counts copies that are not made at all.
pub fn drop_all(targets: &[Arc<Mirror>], reason: Dropped) {
    for mirror in targets {
        mirror.count.dropped(reason);
    }
}

/// Puts the calling thread behind all others of the process: it runs on what they leave, and makes room at once when one of
/// them has something to do. A niceness would not do that: a nice thread keeps the core for the rest of its slice.
fn step_back() {
    #[cfg(target_os = "linux")]
    if let Err(error) = thread_priority::set_thread_priority_and_policy(
        thread_priority::thread_native_id(),
        thread_priority::ThreadPriority::Min,
        thread_priority::ThreadSchedulePolicy::Normal(thread_priority::NormalThreadSchedulePolicy::Idle),
    ) {
        tracing::warn!(%error, "copies run at the priority of requests");
    }
}

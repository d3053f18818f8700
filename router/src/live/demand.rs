//! What comes for one model, whatever becomes of it: the scaler counts by it. Shared by all its requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests of one model since the process started. The next table of the model goes on with it.
#[derive(Debug, Default)]
pub struct Demand {
    offered: AtomicU64,
    held: AtomicU64,
}

impl Demand {
    /// A request has come.
    pub fn came(&self) {
        self.offered.fetch_add(1, Ordering::Relaxed);
    }

    /// A request waits for a pod until the returned value is dropped.
    pub fn holds(self: &Arc<Self>) -> Held {
        self.held.fetch_add(1, Ordering::Relaxed);
        Held(Arc::clone(self))
    }

    /// Requests that came.
    pub fn offered(&self) -> u64 {
        self.offered.load(Ordering::Relaxed)
    }

    /// Requests that wait for a pod now.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }
}

/// A request that waits for a pod.
#[derive(Debug)]
pub struct Held(Arc<Demand>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

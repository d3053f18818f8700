//! What requests hold while they are in work.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use tokio::task::JoinError;

/// What is to live for as long as a request is anywhere in work, such as its share of a bound: whoever works on the request
/// has a clone. Clients go away while their requests wait or are read, and the memory stays taken until that ends.
#[derive(Clone, Default)]
pub struct Held(Option<Arc<dyn Any + Send + Sync>>);

impl Held {
    /// Drops `guard` with the last clone.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Self(Some(Arc::new(guard)))
    }

    /// Does heavy work on a thread of its own, and holds on until that has ended: it goes on when nobody waits for it.
    pub async fn apart<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        tokio::task::spawn_blocking(move || {
            let done = work();
            drop(self);
            done
        })
        .await
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clones = self.0.as_ref().map_or(0, Arc::strong_count);
        formatter.debug_tuple("Held").field(&clones).finish()
    }
}

/// Requests that ask the same are equal, whatever is held for them.
impl PartialEq for Held {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

//! Whose question a provider is asked next: so many at a time, and of one namespace only some of them, so that slow queries of one team
//! do not hold up the rollouts of the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Questions that one provider is asked at the same time.
const AT_A_TIME: usize = 16;
/// Of these, from one namespace.
const OF_ONE: usize = 4;
/// How long a question waits for its turn.
const PATIENCE: Duration = Duration::from_secs(30);

/// The turns at one provider.
#[derive(Debug)]
pub struct Turns {
    patience: Duration,
    all: Arc<Semaphore>,
    each: Mutex<BTreeMap<String, Arc<Semaphore>>>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl Default for Turns {
    fn default() -> Self {
        Self { patience: PATIENCE, all: Arc::new(Semaphore::new(AT_A_TIME)), each: Mutex::default() }
    }
}

impl Turns {
    /// Waits for a turn, or says in vain for what.
    pub async fn take(&self, namespace: &str) -> Result<Turn, String> {
        let own = self.of(namespace);
        let waited = tokio::time::timeout(self.patience, async {
            // First the namespace's own: who waits for that takes no place from others.
            let own = own.acquire_owned().await;
            let all = Arc::clone(&self.all).acquire_owned().await;
            (own, all)
        });
        match waited.await {
            Ok((Ok(own), Ok(all))) => Ok(Turn { _all: all, _own: own }),
            _ => Err(format!(
                "{OF_ONE} questions of namespace {namespace} or {AT_A_TIME} of all are under way, and for {} s none ended",
                self.patience.as_secs_f64()
            )),
        }
    }

    fn of(&self, namespace: &str) -> Arc<Semaphore> {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        // Only those that somebody holds or waits for are kept.
        each.retain(|_, turns| Arc::strong_count(turns) > 1);
        Arc::clone(each.entry(namespace.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(OF_ONE))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn impatient() -> Turns {
        Turns { patience: Duration::from_millis(20), ..Turns::default() }
    }

    #[tokio::test]
    async fn one_namespace_holds_up_no_other() {
        let turns = impatient();
        let mut slow = Vec::new();
        for _ in 0..OF_ONE {
            slow.push(turns.take("greedy").await.unwrap());
        }
        let why = turns.take("greedy").await.unwrap_err();
        assert!(why.contains("of namespace greedy") && why.contains("0.02 s"), "{why}");
        let other = turns.take("modest").await.unwrap();
        drop((slow, other));
        turns.take("greedy").await.unwrap();
        turns.take("third").await.unwrap();
        let known: Vec<_> = turns.each.lock().unwrap().keys().cloned().collect();
        assert_eq!(known, ["third"], "who asks nothing any more is forgotten");
    }

    #[tokio::test]
    async fn all_together_wait_as_well() {
        let turns = impatient();
        let mut held = Vec::new();
        for number in 0..AT_A_TIME {
            held.push(turns.take(&format!("n{}", number / OF_ONE)).await.unwrap());
        }
        assert!(turns.take("another").await.is_err());
    }
}

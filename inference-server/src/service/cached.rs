//! The way of a request around the model: an answer that is there, or one that is under way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::predict::{Predicted, Ran, Times};
use super::{App, Ready, Refusal};
use crate::cache::{Begin, Cache, CacheStatus, Followed, Key};
use crate::protocol::InferRequest;

/// After so many leads of the same inputs have failed, those who wait run by themselves: the inputs are to blame, and one
/// after the other would keep the last one waiting for the runs of all.
const FAILURES: u32 = 2;
/// After so many leads whose clients have gone, those who wait run by themselves.
const LEADS_GONE: u32 = 4;

impl App {
    /// The outputs that a request asks for, from the cache where it has them.
    pub(super) async fn predict_cached(
        &self,
        cache: &Arc<Cache>,
        ready: &Ready,
        mut asked: InferRequest,
        times: Times,
    ) -> Result<Predicted, Refusal> {
        let key = cache.key(std::mem::take(&mut asked.inputs), std::mem::take(&mut asked.outputs));
        let statistics = self.metrics.statistics();
        // A client that says how long it waits does not wait longer for another's run.
        let own = asked.timeout.and_then(|timeout| times.begun.checked_add(timeout));
        let until = own.map_or(times.deadline, |own| own.min(times.deadline));
        let (mut failures, mut given_up) = (0, 0);
        while failures < FAILURES && given_up < LEADS_GONE {
            let begun = Instant::now();
            match cache.begin(&key, asked.cache, Instant::now()) {
                Begin::Hit(hit) => {
                    let status = CacheStatus::Hit { age: hit.age };
                    let outputs = hit.outputs();
                    statistics.cache_hit(begun.elapsed());
                    return Ok(Predicted { outputs, cache: status });
                }
                Begin::Lead(lead) => {
                    let looked = begun.elapsed();
                    let ran = self.run(ready, again(asked, key), times, CacheStatus::Miss).await;
                    return match ran {
                        Ok(Ran { outputs, computed }) => {
                            let ended = Instant::now();
                            lead.succeed(&outputs, computed, ended);
                            statistics.cache_miss(looked + ended.elapsed());
                            Ok(Predicted { outputs, cache: CacheStatus::Miss })
                        }
                        Err(refusal) => {
                            lead.fail();
                            Err(refusal)
                        }
                    };
                }
                Begin::Follow(follower) => {
                    let Ok(end) = tokio::time::timeout_at(until.into(), follower.end()).await else {
                        return Err(Refusal::AnswerLate(until.saturating_duration_since(times.begun)));
                    };
                    match end {
                        Followed::Answered(outputs) => {
                            statistics.cache_hit(begun.elapsed());
                            let status = CacheStatus::Hit { age: Duration::ZERO };
                            return Ok(Predicted { outputs, cache: status });
                        }
                        Followed::Failed => failures += 1,
                        // Leads that go away again and again would keep the others waiting as well.
                        Followed::GivenUp => given_up += 1,
                    }
                }
                Begin::Alone => break,
            }
        }
        let Ran { outputs, .. } = self.run(ready, again(asked, key), times, CacheStatus::Off).await?;
        Ok(Predicted { outputs, cache: CacheStatus::Off })
    }
}

/// The request as it came, with what its key was made of: a copy where the cache has the key too.
fn again(asked: InferRequest, key: Arc<Key>) -> InferRequest {
    let (inputs, outputs) = match Arc::try_unwrap(key) {
        Ok(key) => key.into_parts(),
        Err(shared) => (shared.inputs().to_vec(), shared.outputs().to_vec()),
    };
    InferRequest { inputs, outputs, ..asked }
}

#[cfg(test)]
#[path = "cached/tests.rs"]
mod tests;

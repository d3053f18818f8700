//! The way of a request around the model: an answer that is there, or one that is under way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::predict::{Predicted, Ran};
use super::{App, Ready, Refusal};
use crate::cache::{Begin, Cache, CacheStatus, Followed, Key};
use crate::protocol::InferRequest;

/// After so many leads of the same inputs have failed, those who wait run by themselves: the inputs are to blame, and one
/// after the other would keep the last one waiting for the runs of all.
const FAILURES: u32 = 2;

impl App {
    /// The outputs that a request asks for, from the cache where it has them.
    pub(super) async fn predict_cached(
        &self,
        cache: &Arc<Cache>,
        ready: &Ready,
        mut asked: InferRequest,
        deadline: Instant,
    ) -> Result<Predicted, Refusal> {
        let key = cache.key(std::mem::take(&mut asked.inputs), std::mem::take(&mut asked.outputs));
        let mut failures = 0;
        while failures < FAILURES {
            match cache.begin(&key, asked.cache, Instant::now()) {
                Begin::Hit(hit) => {
                    let status = CacheStatus::Hit { age: hit.age };
                    return Ok(Predicted { outputs: hit.outputs(), cache: status });
                }
                Begin::Lead(lead) => {
                    let ran = self.run(ready, again(asked, key), deadline, CacheStatus::Miss).await;
                    return match ran {
                        Ok(Ran { outputs, computed }) => {
                            lead.succeed(&outputs, computed, Instant::now());
                            Ok(Predicted { outputs, cache: CacheStatus::Miss })
                        }
                        Err(refusal) => {
                            lead.fail();
                            Err(refusal)
                        }
                    };
                }
                Begin::Follow(follower) => {
                    let Ok(end) = tokio::time::timeout_at(deadline.into(), follower.end()).await else {
                        return Err(Refusal::AnswerLate(self.limits.request_time));
                    };
                    match end {
                        Followed::Answered(outputs) => {
                            let status = CacheStatus::Hit { age: Duration::ZERO };
                            return Ok(Predicted { outputs, cache: status });
                        }
                        Followed::Failed => failures += 1,
                        Followed::GivenUp => {}
                    }
                }
                Begin::Alone => break,
            }
        }
        let Ran { outputs, .. } = self.run(ready, again(asked, key), deadline, CacheStatus::Off).await?;
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

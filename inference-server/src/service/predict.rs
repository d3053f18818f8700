//! The way of a request through the model, the same for every transport.

use std::time::{Duration, Instant};

use stoker_graph::Value;
use tokio::sync::oneshot;

use super::{App, Ready, Refusal};
use crate::batch::{Full, Job};
use crate::cache::CacheStatus;
use crate::metrics::Phase;
use crate::protocol::InferRequest;

/// The outputs of a request.
#[derive(Debug)]
pub(super) struct Predicted {
    /// Positions in the signature with their values, in the request's order.
    pub outputs: Vec<(usize, Value)>,
    /// The cache's part.
    pub cache: CacheStatus,
}

/// The outputs of a run.
pub(super) struct Ran {
    /// As in [`Predicted`].
    pub outputs: Vec<(usize, Value)>,
    /// Time of the run, of the whole batch.
    pub computed: Duration,
}

impl App {
    /// The outputs that a request asks for: from the cache where that has them, else of a run.
    pub(super) async fn predict(
        &self,
        ready: &Ready,
        asked: InferRequest,
        deadline: Instant,
    ) -> Result<Predicted, Refusal> {
        if let Some(cache) = &ready.model.cache {
            return self.predict_cached(cache, ready, asked, deadline).await;
        }
        let Ran { outputs, .. } = self.run(ready, asked, deadline, CacheStatus::Off).await?;
        Ok(Predicted { outputs, cache: CacheStatus::Off })
    }

    /// Queues a request and waits for the outputs that it asks for, as positions in the signature with their values, in
    /// the request's order. When the client goes away, this future is dropped, and with it the receiver: the executor
    /// then skips the request.
    pub(super) async fn run(
        &self,
        ready: &Ready,
        asked: InferRequest,
        deadline: Instant,
        cache: CacheStatus,
    ) -> Result<Ran, Refusal> {
        let InferRequest { inputs, outputs: wanted, .. } = asked;
        let rows = if ready.model.joinable { common_rows(&inputs) } else { None };
        let (reply, outcome) = oneshot::channel();
        let job = Job { inputs, rows, queued: Instant::now(), deadline, reply };
        let _waiting = self.metrics.waiting();
        ready.model.queue.push(job).map_err(|Full| Refusal::QueueFull)?;
        let done = match tokio::time::timeout_at(deadline.into(), outcome).await {
            Ok(Ok(outcome)) => outcome?,
            Ok(Err(_)) => return Err(Refusal::Internal),
            Err(_) => return Err(Refusal::AnswerLate(self.limits.request_time)),
        };
        self.metrics.phase(Phase::Queue, cache, done.waited);
        self.metrics.phase(Phase::Compute, cache, done.computed);
        let mut outputs: Vec<_> = done.outputs.into_iter().map(Some).collect();
        let chosen = wanted
            .iter()
            .filter_map(|position| outputs.get_mut(*position)?.take().map(|value| (*position, value)));
        Ok(Ran { outputs: chosen.collect(), computed: done.computed })
    }
}

/// The rows along axis 0 when all inputs have the same number and there is one at least.
fn common_rows(inputs: &[Value]) -> Option<usize> {
    let rows = *inputs.first()?.shape().first()?;
    let all = inputs.iter().all(|input| input.shape().first() == Some(&rows));
    (all && rows > 0).then_some(rows)
}

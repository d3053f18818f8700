//! The way of a request through the model, the same for every transport.

use std::time::{Duration, Instant};

use stoker_decide::batching;
use stoker_graph::Value;
use tokio::sync::oneshot;

use super::{App, Ready, Refusal};
use crate::batch::{Job, Refused};
use crate::metrics::Phase;
use crate::protocol::InferRequest;

impl App {
    /// Queues a request and waits for the outputs that it asks for, as positions in the signature with their values, in
    /// the request's order. When the client goes away, this future is dropped, and with it the receiver: the executor
    /// then skips the request.
    ///
    /// The request began at `begun` and nobody waits for it after `deadline`; `target` is the latency target by now. With a
    /// target or a timeout of its own it is refused, at once or later, when its answer cannot come within them.
    pub(super) async fn predict(
        &self,
        ready: &Ready,
        asked: InferRequest,
        (begun, deadline): (Instant, Instant),
        target: Option<Duration>,
    ) -> Result<Vec<(usize, Value)>, Refusal> {
        let InferRequest { inputs, outputs: wanted, priority, timeout, .. } = asked;
        let own = timeout.and_then(|timeout| begun.checked_add(timeout));
        let deadline = own.map_or(deadline, |own| own.min(deadline));
        let limit = timeout.into_iter().chain(target).min();
        let due = limit.and_then(|limit| begun.checked_add(batching::budget(limit)));
        let common = common_rows(&inputs);
        let rows = common.filter(|_| ready.model.joinable);
        let cost = common.filter(|_| ready.model.signature.batch_axis).unwrap_or(1);
        let (reply, outcome) = oneshot::channel();
        let queued = Instant::now();
        let job = Job { inputs, rows, cost, priority, queued, deadline, due, reply };
        let _waiting = self.metrics.waiting();
        ready.model.queue.push(job, target).map_err(|refused| match refused {
            Refused::Full { retry_after } => Refusal::QueueFull { retry_after },
            Refused::TooLate { expected, retry_after } => {
                // To the client it began with its first byte.
                let expected = expected.saturating_add(queued.saturating_duration_since(begun));
                Refusal::TooLate { limit: limit.unwrap_or_default(), expected, retry_after }
            }
        })?;
        let done = match tokio::time::timeout_at(deadline.into(), outcome).await {
            Ok(Ok(outcome)) => outcome?,
            Ok(Err(_)) => return Err(Refusal::Internal),
            Err(_) => return Err(Refusal::AnswerLate(deadline.saturating_duration_since(begun))),
        };
        self.metrics.phase(Phase::Queue, done.waited);
        self.metrics.phase(Phase::Compute, done.computed);
        let mut outputs: Vec<_> = done.outputs.into_iter().map(Some).collect();
        let chosen = wanted
            .iter()
            .filter_map(|position| outputs.get_mut(*position)?.take().map(|value| (*position, value)));
        Ok(chosen.collect())
    }
}

/// The rows along axis 0 when all inputs have the same number and there is one at least.
fn common_rows(inputs: &[Value]) -> Option<usize> {
    let rows = *inputs.first()?.shape().first()?;
    let all = inputs.iter().all(|input| input.shape().first() == Some(&rows));
    (all && rows > 0).then_some(rows)
}

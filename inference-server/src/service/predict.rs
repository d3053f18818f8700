//! The way of a request through the model, the same for every transport.

use std::time::{Duration, Instant};

use stoker_decide::batching;
use stoker_graph::Value;
use tokio::sync::oneshot;

use super::{App, Ready, Refusal};
use crate::batch::{Job, Refused};
use crate::cache::CacheStatus;
use crate::metrics::Phase;
use crate::protocol::{InferRequest, deadline};

/// The outputs of a request.
#[derive(Debug)]
pub(super) struct Predicted {
    /// Positions in the signature with their values, in the request's order.
    pub outputs: Vec<(usize, Value)>,
    /// The cache's part.
    pub cache: CacheStatus,
}

/// When a request began, and by when it must end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// With the head of the request.
    pub begun: Instant,
    /// Nobody waits for it after this.
    pub deadline: Instant,
    /// The latency target by now.
    pub target: Option<Duration>,
}

/// The outputs of a run.
pub(super) struct Ran {
    /// As in [`Predicted`].
    pub outputs: Vec<(usize, Value)>,
    /// Time of the run that was this request's: its part of the batch.
    pub computed: Duration,
}

impl App {
    /// The outputs that a request asks for: from the cache where that has them, else of a run.
    pub(super) async fn predict(
        &self,
        ready: &Ready,
        asked: InferRequest,
        times: Times,
    ) -> Result<Predicted, Refusal> {
        if let Some(cache) = &ready.model.cache {
            return self.predict_cached(cache, ready, asked, times).await;
        }
        let Ran { outputs, .. } = self.run(ready, asked, times, CacheStatus::Off).await?;
        Ok(Predicted { outputs, cache: CacheStatus::Off })
    }

    /// Queues a request and waits for the outputs that it asks for, as positions in the signature with their values, in
    /// the request's order. When the client goes away, this future is dropped, and with it the receiver: the executor
    /// then skips the request.
    ///
    /// With a target or a timeout of its own it is refused, at once or later, when its answer cannot come within them.
    pub(super) async fn run(
        &self,
        ready: &Ready,
        asked: InferRequest,
        Times { begun, deadline, target }: Times,
        cache: CacheStatus,
    ) -> Result<Ran, Refusal> {
        let InferRequest { inputs, outputs: wanted, priority, timeout, held, .. } = asked;
        let over = timeout.and_then(|timeout| begun.checked_add(timeout));
        let deadline = over.map_or(deadline, |over| over.min(deadline));
        let limit = deadline::shorter(timeout, target);
        let within = |limit: Duration| begun.checked_add(batching::budget(limit));
        let (due, own) = (limit.and_then(within), timeout.and_then(within));
        let common = common_rows(&inputs);
        let rows = common.filter(|_| ready.model.joinable);
        let cost = common.filter(|_| ready.model.signature.batch_axis).unwrap_or(1);
        let (reply, outcome) = oneshot::channel();
        let queued = Instant::now();
        let job = Job { inputs, rows, cost, priority, queued, deadline, due, own, held, reply };
        let _waiting = self.metrics.waiting();
        ready.model.queue.push(job, target).map_err(|refused| match refused {
            Refused::Full { retry_after } => Refusal::QueueFull { retry_after },
            Refused::TooLate { expected, retry_after, is_own, alone } => {
                // To the client it began with its first byte.
                let expected = expected.saturating_add(queued.saturating_duration_since(begun));
                let limit = if is_own { timeout } else { limit };
                Refusal::TooLate { limit: limit.unwrap_or_default(), expected, retry_after, alone }
            }
        })?;
        let done = match tokio::time::timeout_at(deadline.into(), outcome).await {
            Ok(Ok(outcome)) => outcome?,
            Ok(Err(_)) => return Err(Refusal::Internal),
            Err(_) => return Err(Refusal::AnswerLate(deadline.saturating_duration_since(begun))),
        };
        self.metrics.phase(Phase::Queue, cache, done.waited);
        self.metrics.phase(Phase::Compute, cache, done.computed);
        let mut outputs: Vec<_> = done.outputs.into_iter().map(Some).collect();
        let chosen = wanted
            .iter()
            .filter_map(|position| outputs.get_mut(*position)?.take().map(|value| (*position, value)));
        Ok(Ran { outputs: chosen.collect(), computed: done.computed.mul_f64(done.share) })
    }
}

/// The rows along axis 0 when all inputs have the same number and there is one at least. Inputs without elements have
/// none, whatever their shape says: it would cost its client nothing to say a million.
fn common_rows(inputs: &[Value]) -> Option<usize> {
    let rows = *inputs.first()?.shape().first()?;
    let all = inputs.iter().all(|input| input.shape().first() == Some(&rows) && !input.data().is_empty());
    (all && rows > 0).then_some(rows)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use prometheus_client::registry::Registry;
    use stoker_edge::drain::Drain;
    use stoker_graph::{DType, Data, ValueInfo};

    use super::*;
    use crate::artifact::Digest;
    use crate::batch::{Held, Queue, Rules};
    use crate::metrics::{Families, Metrics};
    use crate::protocol::Signature;
    use crate::service::bodies::Counted;
    use crate::service::{Limits, Loaded};

    #[tokio::test]
    async fn a_body_counts_until_its_request_has_left_the_queue_also_when_its_client_has_gone() {
        let time = Duration::from_hours(1);
        let limits = Limits {
            max_body: 100,
            max_body_total: 100,
            request_time: time,
            latency_target: None,
            behind_router: false,
        };
        let metrics = Metrics::new(&Families::new(&mut Registry::default(), 64), "m");
        let app =
            Arc::new(App::new("m".to_owned(), limits, metrics, Drain::new(Duration::ZERO), Arc::default()));
        let rules = Rules { capacity: 8, max_rows: 8, max_delay: Duration::ZERO, executors: 1 };
        let queue = Arc::new(Queue::new(rules, &[]));
        let info = |name: &str| ValueInfo::tensor(name, DType::U8, vec![None]);
        let signature = Signature { inputs: vec![info("x")], outputs: vec![info("y")], batch_axis: true };
        app.ready(Loaded {
            digest: Digest::from_raw([1; 32]),
            signature: Arc::new(signature),
            joinable: true,
            queue: Arc::clone(&queue),
            cache: None,
        });
        let bytes = Arc::new(AtomicU64::new(0));
        let mut counted = Counted::new(Arc::clone(&bytes), 100);
        counted.add(70).unwrap();
        let asked = InferRequest {
            inputs: vec![Value::new(vec![1], Data::U8(vec![7])).unwrap()],
            held: Held::new(counted),
            ..InferRequest::default()
        };
        let server = Arc::clone(&app);
        let request = tokio::spawn(async move {
            let begun = Instant::now();
            let times = Times { begun, deadline: begun + time, target: None };
            server.predict(server.loaded.get().unwrap(), asked, times).await
        });
        while queue.is_empty() {
            tokio::task::yield_now().await;
        }
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        assert_eq!(bytes.load(Ordering::Relaxed), 70, "its inputs still take room");
        assert_eq!(queue.take(0, 8, false).unwrap().cancelled, 1);
        assert_eq!(bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn rows_are_those_that_all_inputs_have() {
        let value =
            |shape: &[usize]| Value::new(shape.to_vec(), Data::U8(vec![0; shape.iter().product()])).unwrap();
        let rows = |shapes: &[&[usize]]| {
            let inputs: Vec<_> = shapes.iter().map(|shape| value(shape)).collect();
            common_rows(&inputs)
        };
        assert_eq!(rows(&[&[3, 2], &[3]]), Some(3));
        for shapes in [&[&[3, 2][..], &[2]][..], &[&[0, 2]], &[&[]], &[&[3, 2], &[]], &[]] {
            assert_eq!(rows(shapes), None, "{shapes:?}");
        }
        for shapes in [&[&[1_000_000, 0][..]][..], &[&[3, 2], &[3, 0]]] {
            assert_eq!(rows(shapes), None, "without elements: {shapes:?}");
        }
    }
}

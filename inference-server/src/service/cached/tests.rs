//! Requests that meet at the cache, with the test as the model: what runs is decided here, and not by a clock.

use std::sync::Arc;

use prometheus_client::registry::Registry;
use stoker_decide::caching::Settings as WorthSettings;
use stoker_edge::drain::Drain;
use stoker_graph::{DType, Data, Value, ValueInfo};
use tokio::task::JoinHandle;

use super::*;
use crate::artifact::Digest;
use crate::batch::{Done, Failure, Job, Queue, Rules};
use crate::cache::{Settings, keyed_fingerprint};
use crate::metrics::{Families, Metrics};
use crate::protocol::Signature;
use crate::service::{Limits, Loaded};

const TIME: Duration = Duration::from_secs(3600);

fn numbers(items: &[f32]) -> Value {
    Value::new(vec![items.len()], Data::F32(items.to_vec())).unwrap()
}

/// A server whose model is the test.
struct World {
    app: Arc<App>,
    queue: Arc<Queue>,
}

impl World {
    fn new() -> Self {
        let info = |name: &str| ValueInfo::tensor(name, DType::F32, vec![None]);
        let signature = Signature { inputs: vec![info("x")], outputs: vec![info("y")], batch_axis: true };
        let metrics = Metrics::new(&Families::new(&mut Registry::default(), 64), "m");
        let digest = Digest::from_raw([1; 32]);
        let settings = Settings { budget: 1 << 20, time_to_live: TIME, worth: WorthSettings::default() };
        let cache = Cache::new(settings, digest, keyed_fingerprint(), metrics.cache.clone(), Instant::now());
        let limits = Limits {
            max_body: 1 << 20,
            max_body_total: 1 << 20,
            request_time: TIME,
            latency_target: None,
            behind_router: false,
        };
        let app = App::new("m".to_owned(), limits, metrics, Drain::new(Duration::ZERO), Arc::default());
        let rules = Rules { capacity: 1000, max_rows: 64, max_delay: Duration::ZERO, executors: 1 };
        let queue = Arc::new(Queue::new(rules, &[]));
        app.ready(Loaded {
            digest,
            signature: Arc::new(signature),
            joinable: false,
            queue: Arc::clone(&queue),
            cache: Some(Arc::new(cache)),
        });
        Self { app: Arc::new(app), queue }
    }

    /// Sends a request.
    fn ask(&self, items: &[f32], timeout: Option<Duration>) -> JoinHandle<Result<Predicted, Refusal>> {
        let app = Arc::clone(&self.app);
        let request = InferRequest {
            inputs: vec![numbers(items)],
            outputs: vec![0],
            timeout,
            ..InferRequest::default()
        };
        tokio::spawn(async move {
            let ready = app.loaded.get().unwrap();
            let begun = Instant::now();
            let times = Times { begun, deadline: begun + TIME, target: None };
            app.predict(ready, request, times).await
        })
    }

    /// The requests that get to the model, once there are `count` of them.
    async fn jobs(&self, count: usize) -> Vec<Job> {
        for _ in 0..10_000 {
            if self.queue.len() == count {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(self.queue.len(), count, "requests at the model");
        // They are not joined.
        (0..count).flat_map(|_| self.queue.take(0, usize::MAX, false).unwrap().batch).collect()
    }

    /// Lets all others do what they can: none gets to the model.
    async fn nobody_runs(&self) {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(self.queue.is_empty());
    }
}

/// The model gives twice the input.
fn succeed(job: Job) {
    let Data::F32(items) = job.inputs[0].data() else { panic!("FP32 was sent") };
    let outputs = vec![numbers(&items.iter().map(|item| item * 2.0).collect::<Vec<_>>())];
    let done = Done { outputs, waited: Duration::ZERO, computed: Duration::from_millis(5), share: 1.0 };
    assert!(job.reply.send(Ok(done)).is_ok(), "the client has gone");
}

fn fail(job: Job) {
    assert!(job.reply.send(Err(Failure::Panicked)).is_ok(), "the client has gone");
}

/// The outputs and what the cache did.
async fn given(request: JoinHandle<Result<Predicted, Refusal>>) -> (Vec<(usize, Value)>, &'static str) {
    let Predicted { outputs, cache } = request.await.unwrap().unwrap();
    (outputs, cache.word())
}

#[tokio::test]
async fn a_hundred_identical_requests_are_one_run() {
    let world = World::new();
    let lead = world.ask(&[3.0], None);
    let job = world.jobs(1).await.remove(0);
    let others: Vec<_> = (0..99).map(|_| world.ask(&[3.0], None)).collect();
    world.nobody_runs().await;
    succeed(job);
    assert_eq!(given(lead).await, (vec![(0, numbers(&[6.0]))], "miss"));
    for other in others {
        assert_eq!(given(other).await, (vec![(0, numbers(&[6.0]))], "hit"));
    }
    let late = world.ask(&[3.0], None);
    assert_eq!(given(late).await, (vec![(0, numbers(&[6.0]))], "hit"));
    world.nobody_runs().await;
}

#[tokio::test]
async fn when_the_lead_s_client_goes_away_one_of_the_others_takes_over() {
    let world = World::new();
    let lead = world.ask(&[3.0], None);
    let job = world.jobs(1).await.remove(0);
    let others: Vec<_> = (0..5).map(|_| world.ask(&[3.0], None)).collect();
    world.nobody_runs().await;
    lead.abort();
    // One alone, and not all of them.
    let next = world.jobs(1).await.remove(0);
    world.nobody_runs().await;
    assert!(job.reply.is_closed());
    succeed(next);
    let mut parts = Vec::new();
    for other in others {
        let (outputs, part) = given(other).await;
        assert_eq!(outputs, [(0, numbers(&[6.0]))]);
        parts.push(part);
    }
    parts.sort_unstable();
    assert_eq!(parts, ["hit", "hit", "hit", "hit", "miss"]);
}

#[tokio::test]
async fn each_request_has_the_error_of_its_own_run() {
    let world = World::new();
    let mut requests: Vec<_> = (0..6).map(|_| world.ask(&[3.0], None)).collect();
    // A lead, the next lead, and then nobody waits for anybody any more.
    fail(world.jobs(1).await.remove(0));
    fail(world.jobs(1).await.remove(0));
    let mut rest = world.jobs(4).await;
    succeed(rest.remove(0));
    for job in rest {
        fail(job);
    }
    let mut good = 0;
    for request in requests.drain(..) {
        match request.await.unwrap() {
            Ok(predicted) => {
                assert_eq!(predicted.outputs, [(0, numbers(&[6.0]))]);
                good += 1;
            }
            Err(refusal) => assert!(matches!(refusal, Refusal::Failure(Failure::Panicked)), "{refusal}"),
        }
    }
    assert_eq!(good, 1);
    // Nothing of it is kept.
    let again = world.ask(&[3.0], None);
    succeed(world.jobs(1).await.remove(0));
    assert_eq!(given(again).await.1, "miss");
}

#[tokio::test]
async fn who_waits_for_another_s_run_has_a_deadline_of_its_own() {
    let world = World::new();
    let lead = world.ask(&[3.0], None);
    let job = world.jobs(1).await.remove(0);
    let hasty = world.ask(&[3.0], Some(Duration::from_millis(1)));
    let refusal = hasty.await.unwrap().unwrap_err();
    assert!(matches!(refusal, Refusal::AnswerLate(time) if time == Duration::from_millis(1)), "{refusal}");
    succeed(job);
    assert_eq!(given(lead).await.1, "miss");
}

#[tokio::test]
async fn requests_that_differ_do_not_meet() {
    let world = World::new();
    let requests: Vec<_> = [1.0, 2.0, -0.0, 0.0].map(|item| world.ask(&[item], None)).into();
    for job in world.jobs(4).await {
        succeed(job);
    }
    for (request, item) in requests.into_iter().zip([2.0, 4.0, -0.0, 0.0]) {
        assert_eq!(given(request).await, (vec![(0, numbers(&[item]))], "miss"));
    }
}

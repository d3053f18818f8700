//! Models beside each other: each answers its own requests, and none suffers from another.

use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use stoker_graph::{DType, Data, RunError, Value, ValueInfo};

use super::*;
use crate::artifact::Digest;
use crate::batch::{self, Failure, Queue, Rules, Runner, Stop};
use crate::metrics::Families;
use crate::protocol::{InferRequest, Signature};
use crate::service::predict::Times;
use crate::service::{Limits, Loaded};

const TIME: Duration = Duration::from_hours(1);

/// Adds a number to each element; panics without one.
struct Adds(Option<u8>);

impl Runner for Adds {
    fn run(&self, inputs: Vec<(String, Value)>, _: Stop<'_>) -> Result<Vec<(String, Value)>, RunError> {
        let added = self.0.expect("a fault of the model");
        let (shape, data) = inputs.into_iter().next().unwrap().1.into_parts();
        let Data::U8(items) = data else { panic!("UINT8 is declared") };
        let items = items.into_iter().map(|item| item + added).collect();
        Ok(vec![("y".to_owned(), Value::new(shape, Data::U8(items)).unwrap())])
    }
}

/// Models of these names, none of which is loaded.
fn models(names: &[&str]) -> (Models, Registry) {
    let mut registry = Registry::default();
    let families = Families::new(&mut registry, 64);
    let limits = Limits {
        max_body: 100,
        max_body_total: 100,
        request_time: TIME,
        latency_target: None,
        behind_router: false,
    };
    let counted = names.iter().map(|name| ((*name).to_owned(), Metrics::new(&families, name)));
    let models = Models::new(counted, Requests::unnamed(&families), limits, Drain::new(Duration::ZERO));
    (models, registry)
}

/// Serves a model by an executor of its own.
fn load(models: &Models, name: &str, runner: Adds) -> Arc<Queue> {
    let app = models.app(name).unwrap();
    let info = |name: &str| ValueInfo::tensor(name, DType::U8, vec![None]);
    let signature =
        Arc::new(Signature { inputs: vec![info("x")], outputs: vec![info("y")], batch_axis: true });
    let rules = Rules { capacity: 8, max_rows: 8, max_delay: Duration::ZERO, executors: 1 };
    let queue = Arc::new(Queue::new(rules, &[]));
    let (_, answers) = batch::start(&queue, &Arc::new(runner), &signature, &app.metrics, 1, 1).unwrap();
    tokio::spawn(answers.deliver());
    let digest = Digest::from_raw([1; 32]);
    app.ready(Loaded { digest, signature, joinable: true, queue: Arc::clone(&queue), cache: None });
    queue
}

/// What a model answers to a 7.
async fn ask(models: &Models, name: &str) -> Result<Value, Refusal> {
    let (app, ready) = models.find(Model { name, version: None })?;
    let inputs = vec![Value::new(vec![1], Data::U8(vec![7])).unwrap()];
    let asked = InferRequest { inputs, outputs: vec![0], ..InferRequest::default() };
    let begun = Instant::now();
    let times = Times { begun, deadline: begun + TIME, target: None };
    Ok(app.predict(ready, asked, times).await?.outputs.remove(0).1)
}

#[tokio::test]
async fn a_panic_in_one_model_fails_its_requests_and_no_others() {
    let (models, registry) = models(&["adds", "panics", "more"]);
    let queues = [("adds", Some(1)), ("panics", None), ("more", Some(2))]
        .map(|(name, added)| load(&models, name, Adds(added)));
    let value = |item: u8| Value::new(vec![1], Data::U8(vec![item])).unwrap();
    for _ in 0..20 {
        let (adds, panics, more) =
            tokio::join!(ask(&models, "adds"), ask(&models, "panics"), ask(&models, "more"));
        assert_eq!((adds.unwrap(), more.unwrap()), (value(8), value(9)));
        assert!(matches!(panics, Err(Refusal::Failure(Failure::Panicked))), "{panics:?}");
    }
    assert_eq!(models.readiness(), Ok(()), "a model that fails on its requests is still ready");
    assert_eq!(models.in_work(), 0);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for (name, panics) in [("adds", 0), ("panics", 20), ("more", 0)] {
        let line = format!("model_panics_total{{model=\"{name}\"}} {panics}\n");
        assert!(text.contains(&line), "{line} is not in\n{text}");
        let runs = models.app(name).unwrap().metrics.statistics().snapshot().execution_count;
        assert_eq!(runs, 20 - panics, "{name}");
    }
    for queue in queues {
        queue.close();
    }
}

#[tokio::test]
async fn a_model_is_served_while_another_is_loaded() {
    let (models, _registry) = models(&["a", "b"]);
    assert!(matches!(models.loaded(), Err(Refusal::Loading)));
    let queue = load(&models, "a", Adds(Some(1)));
    assert!(ask(&models, "a").await.is_ok());
    assert!(matches!(ask(&models, "b").await, Err(Refusal::Loading)));
    assert_eq!(models.loaded().unwrap().len(), 1);
    let ready = |name| models.app(name).unwrap().readiness().is_ok();
    assert_eq!((ready("a"), ready("b")), (true, false));
    assert_eq!(models.readiness(), Err("model `b`: the model is being loaded".to_owned()));
    models.drain.leave();
    assert!(models.readiness().unwrap_err().starts_with("draining"));
    queue.close();
}

#[test]
fn an_unknown_model_is_told_which_there_are() {
    let told = |names: &[&str]| models(names).0.app("cats").unwrap_err().to_string();
    assert_eq!(told(&["a"]), "there is no model `cats` here; this server serves `a`");
    assert_eq!(told(&["a", "b"]), "there is no model `cats` here; this server serves `a`, `b`");
    // However many there are, and however long their names.
    let names: Vec<String> = (0..40).map(|number| format!("{number:0>250}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let text = told(&names);
    assert!(text.ends_with("and 32 more, which /v2/repository/index lists"), "{text}");
    assert!(text.len() < 1000, "{}", text.len());
}

#[test]
fn requests_for_no_model_are_counted_for_none_of_several() {
    let counted = |names: &[&str]| {
        let (models, registry) = models(names);
        models.unnamed.refused("model");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text.lines().find(|line| line.starts_with("refusals_total")).unwrap().to_owned()
    };
    assert_eq!(counted(&["a"]), "refusals_total{model=\"a\",reason=\"model\"} 1");
    assert_eq!(counted(&["a", "b"]), "refusals_total{model=\"\",reason=\"model\"} 1");
}

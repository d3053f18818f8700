//! The reference of metrics in the docs is what a server registers.

use std::path::Path;
use std::time::Duration;

use prometheus_client::registry::Registry;
use reqwest::StatusCode;
use stoker_edge::process::Process;
use stoker_edge::reference::Reference;
use stoker_graph::{DType, Data, Value, ValueInfo};
use stoker_server::batch::{Learned, Release, Telemetry};
use stoker_server::cache::CacheStatus;
use stoker_server::health::Predictions;
use stoker_server::metrics::{Metrics, Phase};
use stoker_server::protocol::Signature;
use stoker_server::serve;

use crate::started::settings;

/// Counts something in each family: one without a series is not exposed, and its labels are not known.
fn fill(metrics: &Metrics, registry: &Registry) {
    metrics
        .serves("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".parse().unwrap());
    metrics.answered(StatusCode::OK, CacheStatus::Miss, Duration::ZERO);
    metrics.phase(Phase::Queue, CacheStatus::Miss, Duration::ZERO);
    metrics.started("load", Duration::ZERO);
    metrics.dropped(1, 1, 1);
    metrics.refused("request");
    let learned = Learned { target: Some(Duration::from_secs(1)), ..Learned::default() };
    metrics.released(Release::Full, &learned);

    let table = ValueInfo::tensor("probabilities", DType::F32, vec![None, Some(2)]);
    let signature = Signature { inputs: Vec::new(), outputs: vec![table], batch_axis: true };
    let sampler =
        Predictions::start(&metrics.predictions, "digits", "e3b0c44298fc", &signature).unwrap().unwrap();
    let see = |row: [f32; 2]| {
        sampler.see(&[Value::new(vec![20, 2], Data::F32(row.repeat(20))).unwrap()]);
    };
    see([0.5, 0.5]);
    while !text(registry).contains("prediction_top_score_count{") {
        std::thread::sleep(Duration::from_millis(5));
    }
    see([2.0, 3.0]);
    while !text(registry).contains("prediction_rows_unfit_total{") {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn text(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text
}

#[test]
fn the_reference_of_metrics_is_what_a_server_registers() {
    let (mut registry, _stats, all) = serve::metrics(&settings("file:///m", &[]));
    let metrics = Metrics::new(&all, "digits");
    fill(&metrics, &registry);
    let reference = Reference::of(&registry);
    // What is registered, whether it has a series or not, shows in the debug text alone.
    let registered = format!("{registry:?}").matches("Descriptor {").count();
    let shown: Vec<_> = reference.names().collect();
    assert_eq!(
        shown.len(),
        registered,
        "`fill` above leaves out a family: only these have a series: {shown:?}"
    );
    registry.register_collector(Box::new(Process));
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics/server.md");
    Reference::of(&registry).check(&page).unwrap();
}

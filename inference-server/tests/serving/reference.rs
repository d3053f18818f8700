//! The reference of metrics in the docs is what a server registers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use prometheus_client::registry::Registry;
use reqwest::StatusCode;
use stoker_graph::{DType, Data, Value, ValueInfo};
use stoker_server::batch::{Learned, Release, Telemetry};
use stoker_server::cache::CacheStatus;
use stoker_server::health::Predictions;
use stoker_server::metrics::{Metrics, Phase};
use stoker_server::protocol::Signature;
use stoker_server::serve;

use crate::started::settings;

/// What stands before the generated part of the page.
const MARK: &str = "<!-- generated -->\n";

#[derive(Default)]
struct About {
    help: String,
    kind: String,
    unit: String,
    labels: Vec<String>,
}

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

/// The families of an exposition, by name.
fn families(text: &str) -> BTreeMap<String, About> {
    let mut families = BTreeMap::<String, About>::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let Some((what, (name, rest))) =
                comment.split_once(' ').and_then(|(what, rest)| Some((what, rest.split_once(' ')?)))
            else {
                continue;
            };
            name.clone_into(&mut current);
            let about = families.entry(name.to_owned()).or_default();
            let field = match what {
                "HELP" => &mut about.help,
                "TYPE" => &mut about.kind,
                _ => &mut about.unit,
            };
            rest.trim_end_matches('.').clone_into(field);
        } else if let Some((_, labels)) = line.split_once('{') {
            let labels = labels.rsplit_once('}').unwrap().0;
            let about = families.get_mut(&current).unwrap();
            for label in labels.split("\",").filter_map(|label| Some(label.split_once("=\"")?.0)) {
                if label != "le" && !about.labels.iter().any(|known| known == label) {
                    about.labels.push(label.to_owned());
                }
            }
        }
    }
    families
}

fn page(families: &BTreeMap<String, About>) -> String {
    let mut page = "| name | type | labels | unit | help |\n|---|---|---|---|---|\n".to_owned();
    for (name, About { help, kind, unit, labels }) in families {
        let suffix = if kind == "counter" { "_total" } else { "" };
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(" ");
        let help = help.replace('|', "\\|");
        writeln!(page, "| `{name}{suffix}` | {kind} | {labels} | {unit} | {help} |").unwrap();
    }
    page
}

#[test]
fn the_reference_of_metrics_is_what_a_server_registers() {
    let (registry, _stats, all) = serve::metrics(&settings("file:///m", &[]));
    let metrics = Metrics::new(&all, "digits");
    fill(&metrics, &registry);
    let families = families(&text(&registry));
    // What is registered, whether it has a series or not, shows in the debug text alone.
    let registered = format!("{registry:?}").matches("Descriptor {").count();
    assert_eq!(
        families.len(),
        registered,
        "`fill` above leaves out a family: only these have a series: {:?}",
        families.keys()
    );
    let generated = page(&families);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics/server.md");
    let written = std::fs::read_to_string(&path).unwrap();
    let (before, after) = written.split_once(MARK).unwrap();
    if std::env::var_os("STOKER_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{MARK}{generated}")).unwrap();
        return;
    }
    assert_eq!(after, generated, "docs/metrics/server.md is not up to date: run `make generate`");
}

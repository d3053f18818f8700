//! What Prometheus reads about copies.

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use stoker_edge::metrics::encode as encode_histogram;

use crate::plane::Plane;
use crate::shadow::count::{Dropped, ShadowTotals};

/// Totals of one revision, under its labels.
type Row<'a> = ([(&'static str, &'a str); 2], ShadowTotals);

/// Writes all families of copies. A revision that never was a shadow is in none of them.
pub fn encode(plane: &Plane, encoder: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
    let revisions = plane.revisions().clone();
    let rows: Vec<Row<'_>> = revisions
        .keys()
        .filter_map(|(route, revision)| {
            let totals = plane.shadows.totals(route).remove(revision)?;
            Some(([("route", route.as_str()), ("revision", revision.as_str())], totals))
        })
        .collect();
    split(encoder, "stoker_router_mirrored", "Copies that were sent", "outcome", &rows, |totals| {
        vec![("Succeeded", totals.attempts - totals.errors), ("Failed", totals.errors)]
    })?;
    split(encoder, "stoker_router_mirror_dropped", "Copies that were not sent", "reason", &rows, |totals| {
        Dropped::ALL.iter().map(|reason| reason.name()).zip(totals.dropped).collect()
    })?;
    split(
        encoder,
        "stoker_router_mirror_comparisons",
        "Pairs of answers, of a revision and of its shadow",
        "result",
        &rows,
        |totals| {
            vec![
                ("Agreed", totals.agreed),
                ("Disagreed", totals.compared - totals.agreed),
                ("Incomparable", totals.incomparable),
                ("Skipped", totals.skipped),
            ]
        },
    )?;
    let mut family = encoder.encode_descriptor(
        "stoker_router_mirror_waiting",
        "Copies that wait to be sent",
        None,
        MetricType::Gauge,
    )?;
    for ([route, revision], _) in &rows {
        if let Some(live) = revisions.get(&(route.1.to_owned(), revision.1.to_owned())) {
            ConstGauge::new(live.lane.waiting() as f64)
                .encode(family.encode_family(&[*route, *revision])?)?;
        }
    }
    let mut family = encoder.encode_descriptor(
        "stoker_router_mirror_latency_seconds",
        "Latency of copies that succeeded",
        None,
        MetricType::Histogram,
    )?;
    for (labels, totals) in &rows {
        encode_histogram(&totals.latency, family.encode_family(labels)?)?;
    }
    let mut family = encoder.encode_descriptor(
        "stoker_router_mirror_distance",
        "Relative distance between the numbers of a revision and of its shadow, from 0 to 2",
        None,
        MetricType::Histogram,
    )?;
    for (labels, totals) in &rows {
        encode_histogram(&totals.distance, family.encode_family(labels)?)?;
    }
    Ok(())
}

/// Writes a family of counters with one more label.
fn split(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    rows: &[Row<'_>],
    values: impl Fn(&ShadowTotals) -> Vec<(&'static str, u64)>,
) -> std::fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for ([route, revision], totals) in rows {
        for (value, count) in values(totals) {
            let labels = [*route, *revision, (label, value)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

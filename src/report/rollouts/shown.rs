//! Writes what is known of rollouts when Prometheus asks.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{Figures, Known, Rollouts, ratio};

/// Reads the rollouts when Prometheus asks.
#[derive(Debug)]
pub(super) struct Shown(pub(super) Rollouts);

/// A series of a ModelDeployment: what its labels have beside namespace and name, and its value.
type Point<'a> = (Vec<(&'static str, &'a str)>, f64);

/// Name, help, and the series of a ModelDeployment.
type Family = (&'static str, &'static str, fn(&Known, Instant) -> Vec<Point<'_>>);

const FAMILIES: [Family; 22] = [
    ("stoker_rollout_phase", "1 for the phase that status says", |known, _| {
        vec![(vec![("phase", known.phase.as_str())], 1.0)]
    }),
    (
        "stoker_rollout_look_age_seconds",
        "Time since the last look whose decision was stored",
        |known, now| alone(Some(now.saturating_duration_since(known.looked_at).as_secs_f64())),
    ),
    (
        "stoker_rollout_step",
        "Step of the run that is under way; 0 while its pods are prepared",
        |known, _| alone(known.run.map(|run| run.step as f64)),
    ),
    ("stoker_rollout_steps", "Steps of the run that is under way", |known, _| {
        alone(known.run.map(|run| run.steps as f64))
    }),
    ("stoker_rollout_run_seconds", "Time since the run that is under way began", |known, now| {
        alone(known.run.map(|run| now.saturating_duration_since(run.began).as_secs_f64()))
    }),
    (
        "stoker_rollout_weight_wanted_ratio",
        "Share of the traffic that a revision is meant to get",
        |known, _| shares(&known.wanted),
    ),
    (
        "stoker_rollout_weight_verified_ratio",
        "Share of the traffic of a revision in the last table that all routers were seen to serve; none before the first",
        |known, _| shares(&known.verified),
    ),
    ("stoker_rollout_table_verified", "1 while all routers serve the table that is wanted", |known, _| {
        alone(Some(f64::from(u8::from(known.is_verified))))
    }),
    (
        "stoker_rollout_reachable",
        "0 while no request gets to the revision that has the traffic; none while it is to have no pods",
        |known, _| alone(known.reachable.map(|reachable| f64::from(u8::from(reachable)))),
    ),
    ("stoker_rollout_verdict", "1 for the verdict on what is compared, in a run or its guard", |known, _| {
        of_figures(known, |figures| vec![(vec![("verdict", figures.verdict)], 1.0)])
    }),
    (
        "stoker_rollout_harm_log10",
        "Evidence of harm as a power of ten; at stoker_rollout_alarm_log10 it is an alarm",
        |known, _| of_figures(known, |figures| alone(Some(figures.harm_log10))),
    ),
    (
        "stoker_rollout_alarm_log10",
        "Evidence of harm, as a power of ten, at which the compared revision is taken back",
        |known, _| of_figures(known, |figures| alone(Some(figures.alarm_log10))),
    ),
    (
        "stoker_rollout_attempts",
        "Attempts in the run, by arm; in a guard the candidate is stable and its control the previous revision",
        |known, _| arms(known, |arm| arm.attempts),
    ),
    ("stoker_rollout_errors", "Attempts in the run that failed, by arm", |known, _| {
        arms(known, |arm| arm.errors)
    }),
    ("stoker_rollout_slow", "Attempts in the run that were answered too slowly, by arm", |known, _| {
        arms(known, |arm| arm.slow)
    }),
    (
        "stoker_rollout_attempts_wanted",
        "Attempts of the candidate that the step needs for a Pass",
        |known, _| of_figures(known, |figures| alone(Some(figures.wanted as f64))),
    ),
    ("stoker_rollout_guard_remaining_seconds", "Time that the guard goes on", |known, _| {
        alone(known.guard_left.map(|left| left.as_secs_f64()))
    }),
    (
        "stoker_rollout_held_seconds",
        "For how long the run or its guard has stood still, by why: Evidence, Pods, Approval, Paused, Frozen, Alert, Harm (which nobody acts on)",
        |known, now| {
            let held = known.held.map(|held| {
                (vec![("why", held.why)], now.saturating_duration_since(held.since).as_secs_f64())
            });
            held.into_iter().collect()
        },
    ),
    ("stoker_rollout_pods_ready", "Pods of a revision that are ready", |known, _| {
        pods(known, |(ready, _)| ready)
    }),
    ("stoker_rollout_pods_wanted", "Pods that a revision is to have", |known, _| {
        pods(known, |(_, wanted)| wanted)
    }),
    ("stoker_scaling_replicas_limit", "scaling.maxReplicas: pods that a revision has at most", |known, _| {
        alone(known.most.map(f64::from))
    }),
    ("stoker_rollout_latency_target_seconds", "slo.latency.target, with its percentile", |known, _| {
        let target =
            known.target.map(|(target, percentile)| (vec![("percentile", percentile)], target.as_secs_f64()));
        target.into_iter().collect()
    }),
];

/// Name, help, and what counts.
type Total = (&'static str, &'static str, fn(&Known) -> bool);

const TOTALS: [Total; 3] = [
    ("stoker_rollouts_under_way", "Runs that go step by step and are under way", |known| {
        known.run.is_some_and(|run| run.stepwise)
    }),
    ("stoker_rollouts_guarded", "ModelDeployments in the guard after a promotion", |known| {
        known.guard_left.is_some()
    }),
    ("stoker_rollouts_queued", "ModelDeployments whose run waits for its turn", |known| known.queued),
];

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let (known, now) = (self.0.known(), Instant::now());
        for (name, help, series) in FAMILIES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for one in known.values() {
                for (more, value) in series(one, now) {
                    let mut labels =
                        vec![("namespace", one.namespace.as_str()), ("model_deployment", one.name.as_str())];
                    labels.extend(more);
                    ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        for (name, help, counts) in TOTALS {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            let count = known.values().filter(|one| counts(one)).count();
            ConstGauge::new(count as f64).encode(family)?;
        }
        Ok(())
    }
}

/// A series without more labels, where there is a value.
fn alone<'a>(value: Option<f64>) -> Vec<Point<'a>> {
    value.map(|value| (Vec::new(), value)).into_iter().collect()
}

fn of_figures(known: &Known, series: impl FnOnce(&Figures) -> Vec<Point<'_>>) -> Vec<Point<'_>> {
    known.examined.as_ref().map(series).unwrap_or_default()
}

fn shares(weights: &BTreeMap<String, u32>) -> Vec<Point<'_>> {
    weights.iter().map(|(revision, ppm)| (vec![("revision", revision.as_str())], ratio(*ppm))).collect()
}

fn arms(known: &Known, count: fn(&super::Arm) -> u64) -> Vec<Point<'_>> {
    of_figures(known, |figures| {
        let arms = figures.arms.iter();
        arms.map(|arm| (vec![("arm", arm.name), ("revision", arm.revision.as_str())], count(arm) as f64))
            .collect()
    })
}

fn pods(known: &Known, count: fn((u32, u32)) -> u32) -> Vec<Point<'_>> {
    let pods = known.pods.iter();
    pods.map(|(revision, pods)| (vec![("revision", revision.as_str())], f64::from(count(*pods)))).collect()
}

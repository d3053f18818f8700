//! What Prometheus reads from a router.
//!
//! Attempts and latencies are not counted twice: the collector reads the same ledger that the operator scrapes. Labels
//! come from tables and from closed lists, never from requests.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use stoker_edge::listen::Stats;
use stoker_edge::metrics::encode_with;

use crate::count::Tally;
use crate::cut::metrics::{CutCounts, Outcome, OutcomeLabel};
use crate::live::{CLASSES, Revision};
use crate::plane::{Plane, Revisions};
use crate::shadow;
use crate::table::keeper::Keeper;

/// Why the router itself refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Refusal {
    /// No model by that host, header or path.
    NoRoute,
    /// The model has no candidate that could be previewed.
    NoPreview,
    /// The path or method is not forwarded.
    NotForwarded,
    /// The request is malformed.
    BadRequest,
    /// The body is too long.
    BodyTooLong,
    /// The body did not arrive in time.
    BodyTooSlow,
    /// No pod became ready in time.
    NoEndpoint,
    /// Too many requests wait for pods already.
    QueueFull,
    /// The tables were not read yet.
    NotReady,
}

/// What reads from the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Watched {
    /// ModelRoutes.
    Routes,
    /// EndpointSlices.
    Slices,
    /// A live read of one ModelRoute.
    Live,
}

/// Label of [`Counts::refusals`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabel {
    /// Why.
    pub reason: Refusal,
}

/// Label of [`Counts::watch_errors`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WatchLabel {
    /// What was read.
    pub what: Watched,
}

/// Counts that belong to no revision. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Requests that the router refused.
    pub refusals: Family<RefusalLabel, Counter>,
    /// Requests that were sent to another pod after one failed.
    pub retries: Counter,
    /// Requests that failed and were not sent again, because too many were.
    pub retries_denied: Counter,
    /// Requests that a pod turned away and that were sent to another one.
    pub elsewhere: Counter,
    /// Requests that met a kept connection which the pod was closing, and were sent again.
    pub races: Counter,
    /// Requests whose client went away before the answer ended.
    pub aborted: Counter,
    /// Requests that wait for a pod.
    pub held: Gauge,
    /// Bodies that were too long to be kept for another try.
    pub unbuffered: Counter,
    /// Streams that were ended because their revision was taken out of service.
    pub ended: Counter,
    /// Reads from the API server that failed.
    pub watch_errors: Family<WatchLabel, Counter>,
    /// Tables that were lower than the one in use and yet what the API server has.
    pub regressions: Counter,
    /// Tables that could not be served.
    pub tables_refused: Counter,
    /// Writes of the tables to disk that failed.
    pub disk_errors: Counter,
    /// Calls for pods of models that sleep.
    pub wakes: Family<OutcomeLabel, Counter>,
    /// Cuts, and what is done for them.
    pub cut: CutCounts,
}

impl Counts {
    /// Counts a refusal.
    pub fn refused(&self, reason: Refusal) {
        self.refusals.get_or_create(&RefusalLabel { reason }).inc();
    }

    /// Counts a call for pods.
    pub fn woke(&self, outcome: Outcome) {
        self.wakes.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a read from the API server that failed.
    pub fn watch_failed(&self, what: Watched) {
        self.watch_errors.get_or_create(&WatchLabel { what }).inc();
    }
}

/// The registry of a router.
pub fn registry(
    counts: &Counts,
    plane: &Arc<Plane>,
    keeper: &Arc<Keeper>,
    data: &Stats,
    admin: &Stats,
) -> Registry {
    let mut root = Registry::default();
    let router = root.sub_registry_with_prefix("stoker_router");
    router.register("refusals", "Requests that the router refused", counts.refusals.clone());
    router.register("retries", "Requests sent to another pod after one failed", counts.retries.clone());
    router.register(
        "retries_denied",
        "Failed requests that were not sent again because the budget for retries was spent",
        counts.retries_denied.clone(),
    );
    router.register(
        "elsewhere",
        "Requests sent to another pod after one turned them away before it began with them",
        counts.elsewhere.clone(),
    );
    router.register(
        "races",
        "Requests sent again because the pod was closing the kept connection",
        counts.races.clone(),
    );
    router.register(
        "client_aborts",
        "Requests whose client went away before the answer ended",
        counts.aborted.clone(),
    );
    router.register("held", "Requests that wait for a pod", counts.held.clone());
    router.register("unbuffered", "Bodies too long to be kept for another try", counts.unbuffered.clone());
    router.register(
        "streams_ended",
        "Streams ended because their revision was taken out of service",
        counts.ended.clone(),
    );
    router.register("watch_errors", "Reads from the API server that failed", counts.watch_errors.clone());
    router.register(
        "table_regressions",
        "Tables lower than the one in use, accepted",
        counts.regressions.clone(),
    );
    router.register("tables_refused", "Tables that could not be served", counts.tables_refused.clone());
    router.register("disk_errors", "Writes of the tables to disk that failed", counts.disk_errors.clone());
    router.register("wakes", "Calls for pods of models that have none", counts.wakes.clone());
    counts.cut.register(router);
    data.register(router.sub_registry_with_prefix("data"));
    admin.register(router.sub_registry_with_prefix("admin"));
    root.register_collector(Box::new(Routes { plane: Arc::clone(plane), keeper: Arc::clone(keeper) }));
    root
}

/// Reads the state of routes and revisions when Prometheus asks.
#[derive(Debug)]
struct Routes {
    plane: Arc<Plane>,
    keeper: Arc<Keeper>,
}

type Labels<'a> = Vec<(&'a str, &'a str)>;

impl Collector for Routes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.plane.prune();
        let revisions = self.plane.revisions().clone();
        let status = self.keeper.status();
        let tables = self.plane.tables();
        let pairs = || revisions.iter().map(|((route, name), live)| (route.as_str(), name.as_str(), live));

        let mut family = encoder.encode_descriptor(
            "stoker_router_requests",
            "Answers of pods to clients",
            None,
            MetricType::Counter,
        )?;
        for (route, revision, live) in pairs() {
            for (class, count) in CLASSES.iter().zip(live.answers()) {
                let labels: Labels<'_> = vec![("route", route), ("revision", revision), ("code", class)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        self.encode_attempts(&mut encoder, &revisions)?;
        count_revisions(
            &mut encoder,
            &revisions,
            "stoker_router_ejections",
            "Pods that were ejected after failures in a row",
            Revision::ejections,
        )?;
        count_revisions(
            &mut encoder,
            &revisions,
            "stoker_router_fail_open",
            "Requests for which ejected pods were used because more than half were ejected",
            Revision::failed_open,
        )?;

        shadow::metrics::encode(&self.plane, &mut encoder)?;

        let mut gauge =
            |name: &str, help: &str, values: Vec<(Labels<'_>, f64)>| -> Result<(), std::fmt::Error> {
                let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                for (labels, value) in values {
                    ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
                }
                Ok(())
            };
        let of_revision = |value: &dyn Fn(&Revision) -> f64| {
            pairs()
                .map(|(route, name, live)| (vec![("route", route), ("revision", name)], value(live)))
                .collect()
        };
        gauge(
            "stoker_router_in_flight",
            "Requests that were sent and are not answered",
            of_revision(&|live| live.in_flight() as f64),
        )?;
        gauge(
            "stoker_router_ready_endpoints",
            "Pods that may be sent requests",
            of_revision(&|live| f64::from(live.ready_endpoints())),
        )?;
        gauge(
            "stoker_router_ejected_endpoints",
            "Ready pods that are ejected",
            of_revision(&|live| f64::from(live.ejected_endpoints())),
        )?;
        gauge(
            "stoker_router_table_generation",
            "Generation of the table that is served",
            tables
                .routes()
                .map(|route| (vec![("route", route.name.as_str())], route.version.generation as f64))
                .collect(),
        )?;
        gauge(
            "stoker_router_table_age_seconds",
            "Time since the table came into force here",
            status.iter().map(|status| (vec![("route", status.name.as_str())], status.age_seconds)).collect(),
        )?;
        gauge(
            "stoker_router_table_refused",
            "1 when a newer table is there and cannot be served",
            status
                .iter()
                .map(|status| {
                    (vec![("route", status.name.as_str())], f64::from(u8::from(status.refused.is_some())))
                })
                .collect(),
        )
    }
}

impl Routes {
    /// What the operator decides on, as totals of the process.
    fn encode_attempts(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        revisions: &Revisions,
    ) -> Result<(), std::fmt::Error> {
        let tables = self.plane.tables();
        let target = |route: &str| {
            let millis = tables.route(route)?.latency_target.as_ref()?.to_str().ok()?.parse().ok()?;
            Some(Duration::from_millis(millis))
        };
        let totals: Vec<(Labels<'_>, Tally)> = revisions
            .keys()
            .filter_map(|(route, revision)| {
                let tally = self.plane.ledger.totals(route).remove(revision)?;
                Some((vec![("route", route.as_str()), ("revision", revision.as_str())], tally))
            })
            .collect();
        let mut family = encoder.encode_descriptor(
            "stoker_router_attempts",
            "Attempts that ended",
            None,
            MetricType::Counter,
        )?;
        for (labels, tally) in &totals {
            ConstCounter::new(tally.attempts).encode(family.encode_family(labels)?)?;
        }
        let mut family = encoder.encode_descriptor(
            "stoker_router_errors",
            "Attempts that failed",
            None,
            MetricType::Counter,
        )?;
        for (labels, tally) in &totals {
            ConstCounter::new(tally.errors).encode(family.encode_family(labels)?)?;
        }
        let mut family = encoder.encode_descriptor(
            "stoker_router_latency_seconds",
            "Latency of attempts that succeeded, first byte sent to last byte received",
            None,
            MetricType::Histogram,
        )?;
        for (labels, tally) in &totals {
            // Rules ask how many answers were later than the target.
            encode_with(&tally.latency, target(labels[0].1), family.encode_family(labels)?)?;
        }
        Ok(())
    }
}

/// A counter with a value for each revision.
fn count_revisions(
    encoder: &mut DescriptorEncoder<'_>,
    revisions: &Revisions,
    name: &str,
    help: &str,
    value: impl Fn(&Revision) -> u64,
) -> Result<(), std::fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for ((route, revision), live) in revisions {
        let labels: Labels<'_> = vec![("route", route), ("revision", revision)];
        ConstCounter::new(value(live)).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

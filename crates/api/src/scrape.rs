//! What the operator asks a router on its admin port (mutual TLS), and what the router answers.
//!
//! `POST /stoker/v1/scrape` with a [`ScrapeRequest`] gives a [`ScrapeReply`]. Counts are totals since the router process
//! started, keyed by (run, step, arm), with the id of the process: a restarted operator reads evidence, not differences.

use serde::{Deserialize, Serialize};
use stoker_decide::histogram::Histogram;

use crate::route::Cut;

/// Path of the scrape on a router's admin port.
pub const SCRAPE_PATH: &str = "/stoker/v1/scrape";

/// Asks one router about one route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScrapeRequest {
    /// Name of the ModelRoute, in the router's own namespace.
    pub route: String,
    /// What the operator believes to be newest. A router that is behind asks the API server at once.
    pub expect: Option<TableVersion>,
}

/// Identity of a table: tables are ordered by generation within a uid.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableVersion {
    /// uid of the ModelRoute.
    pub uid: String,
    /// Its metadata.generation.
    pub generation: i64,
}

/// What one router knows of one route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScrapeReply {
    /// Chosen anew at each start of the router process; counts of another id are another process's.
    pub process: String,
    /// The table that requests are split by now; none when the router knows none.
    pub serving: Option<TableVersion>,
    /// Why a newer table is not served, when one was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The arms of the table, and those that still have requests in flight.
    #[serde(default)]
    pub arms: Vec<ArmState>,
    /// Totals of this route since the process started, for the run that is served and the one before.
    #[serde(default)]
    pub counts: Vec<ArmCounts>,
    /// What came for this route and what became of it since the process started, whatever is evidence for what. None from a
    /// router of a release that did not count it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub demand: Option<Demand>,
    /// Totals of copies that were sent to revisions that answer nobody, kept as [`ScrapeReply::counts`] are.
    #[serde(default)]
    pub shadows: Vec<ShadowCounts>,
    /// Revisions that get no traffic by this router, whatever the table says, with the run in which that was decided.
    #[serde(default)]
    pub cuts: Vec<Cut>,
    /// What this router's detectors think now.
    #[serde(default)]
    pub suspicions: Vec<Suspicion>,
}

/// What came for a route since the router process started: what the scaler goes by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Demand {
    /// Requests, refused ones included.
    pub offered: u64,
    /// Requests that wait for a pod now.
    pub held: u64,
    /// By revision.
    #[serde(default)]
    pub revisions: Vec<RevisionDemand>,
}

/// What became of the requests that a revision got.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionDemand {
    /// The revision.
    pub revision: String,
    /// Attempts that pods answered, be it with an error.
    pub answered: u64,
    /// Attempts that overload cost: refused as too much, or not answered by the deadline.
    pub overloaded: u64,
    /// Latencies of those that succeeded.
    #[serde(default)]
    pub latency: Histogram,
}

/// The evidence of harm that a router has gathered, its own and its peers'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Suspicion {
    /// The run.
    pub run: u64,
    /// The revision.
    pub revision: String,
    /// Evidence of harm as a power of ten.
    pub harm_log10: f64,
    /// Whether it reached the alarm, also where the table says only to observe.
    pub alarm: bool,
}

/// Totals of the copies for one (run, step, revision).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShadowCounts {
    /// The run.
    pub run: u64,
    /// The step.
    pub step: u32,
    /// The revision that got the copies.
    pub revision: String,
    /// Copies that were answered or failed.
    pub attempts: u64,
    /// Of these, failed.
    pub errors: u64,
    /// Copies that were not sent: the queue was full, no pod was ready, and so on.
    pub dropped: u64,
    /// Pairs of answers that were compared.
    pub compared: u64,
    /// Of these, the pairs with the same labels.
    pub agreed: u64,
    /// Pairs that could not be compared: one of the answers failed, was too long or cannot be read. Pairs that were not
    /// looked at for lack of time are in none of the three.
    pub incomparable: u64,
    /// Largest relative distance between numbers of a pair, as a histogram of the value in place of seconds.
    #[serde(default)]
    pub distance: Histogram,
    /// Latencies of the copies that succeeded.
    #[serde(default)]
    pub latency: Histogram,
}

/// A revision as the router sees it now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArmState {
    /// The revision.
    pub revision: String,
    /// Pods that may be sent requests.
    pub ready_endpoints: u32,
    /// Requests that were sent and are not answered.
    pub in_flight: u64,
}

/// Totals of one (run, step, arm).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArmCounts {
    /// The run.
    pub run: u64,
    /// The step.
    pub step: u32,
    /// The revision.
    pub revision: String,
    /// Attempts that ended. Not: aborts by the client, the router's own refusals.
    pub attempts: u64,
    /// Of these, the ones that failed: any non-success status from the pod (4xx included: clients' own faults cancel
    /// against concurrent stable), resets, deadlines.
    pub errors: u64,
    /// Latencies of the attempts that succeeded, first byte sent to last byte received.
    #[serde(default)]
    pub latency: Histogram,
}

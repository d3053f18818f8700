//! What requests see: the tables that are served, and how a request is assigned by them.
//!
//! Nothing here waits and nothing is locked on the way of a request. Assigning a request and reading how many are under
//! way must not miss each other: the operator removes pods once a revision that left the table has none. A request
//! therefore counts itself first and then looks whether the table is still the one it chose by; the writer changes the
//! table first and reads the counts then. One of the two always sees the other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use stoker_api::scrape::{ArmState, Demand, RevisionDemand};
use tokio::sync::watch;

use crate::count::{ArmCount, Ledger};
use crate::live::{Busy, Endpoint, Outcome, Revision};
use crate::shadow::count::ShadowCount;
use crate::table::snapshot::{Arm, Asked, Mirror, Route, Rule, Snapshot};
use crate::unit::Source;
use crate::wake::Wakes;

/// Revisions by (route, revision).
pub type Revisions = BTreeMap<(String, String), Arc<Revision>>;

/// The served tables and the live state behind them.
#[derive(Debug)]
pub struct Plane {
    tables: ArcSwap<Snapshot>,
    /// Grows with each change of the tables.
    epoch: AtomicU64,
    /// Told of each change of tables or pods; requests that are held wait for it.
    changed: watch::Sender<()>,
    revisions: Mutex<Revisions>,
    /// Counts of attempts.
    pub ledger: Ledger,
    /// Counts of copies.
    pub shadows: Ledger<ShadowCount>,
    /// Models that are called for.
    pub wakes: Wakes,
}

impl Default for Plane {
    fn default() -> Self {
        Self {
            tables: ArcSwap::default(),
            epoch: AtomicU64::new(0),
            changed: watch::channel(()).0,
            revisions: Mutex::default(),
            ledger: Ledger::default(),
            shadows: Ledger::default(),
            wakes: Wakes::default(),
        }
    }
}

/// A request that was assigned to a revision. It is in flight there until this is dropped.
#[derive(Debug)]
pub struct Flight {
    /// The revision.
    pub revision: Arc<Revision>,
    /// Where the attempt is counted: the table that was in force now.
    count: Arc<ArmCount>,
    /// Whether its attempts are evidence for or against the revision.
    evidence: bool,
    /// The unit that it belongs to, where the rule knows one and the request names it.
    pub unit: Option<u128>,
    /// The cookie that carries the unit by the rule.
    pub cookie: Option<Arc<str>>,
    /// Who gets copies.
    pub mirrors: Option<Arc<[Arc<Mirror>]>>,
}

impl Flight {
    fn new(arm: &Arm, rule: &Rule, unit: Option<u128>) -> Self {
        arm.revision.entered();
        Self {
            revision: Arc::clone(&arm.revision),
            count: Arc::clone(&arm.count),
            evidence: rule.is_evidence(),
            unit,
            cookie: rule.unit.as_ref().and_then(Source::cookie).cloned(),
            mirrors: arm.mirrors.clone(),
        }
    }

    /// Whether its attempts are evidence for or against the revision.
    pub fn is_evidence(&self) -> bool {
        self.evidence
    }

    /// Its attempts are no evidence.
    pub fn set_apart(&mut self) {
        self.evidence = false;
    }

    /// The attempt ended after `took`: counts it in its arm, and tells its pod. Ejection steers requests; what failed is counted
    /// whatever it says. What a pod does in its slow start is no evidence about the revision.
    pub fn ended(&self, busy: &mut Busy, outcome: Outcome, took: Duration) {
        let evidence = self.evidence && !busy.is_warming();
        match outcome {
            Outcome::Succeeded => self.count.succeeded(took, evidence),
            Outcome::Refused | Outcome::Failed => self.count.failed(evidence),
        }
        self.revision.ended(busy, outcome, took);
    }

    /// The attempt was lost to overload: its pod had too much to do, or did not answer by the deadline.
    pub fn overloaded(&self) {
        self.count.overloaded();
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.revision.left();
    }
}

/// Where a request goes.
#[derive(Debug)]
pub enum Assigned {
    /// To this pod.
    Pod(Flight, Busy),
    /// Nowhere by now: neither its arm nor the fallbacks have a pod.
    Nowhere,
    /// The model is not there any more.
    Gone,
}

impl Plane {
    /// The tables by now.
    pub fn tables(&self) -> Guard<Arc<Snapshot>> {
        self.tables.load()
    }

    /// Told of each change of tables or pods.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Assigns a request to a pod by what it asks for, and counts it as in flight. `drawn` is its unit where it has no other.
    /// `not` is a pod that failed it already.
    pub fn assign(&self, name: &str, asked: Asked<'_>, drawn: u128, not: Option<&Endpoint>) -> Assigned {
        loop {
            let epoch = self.epoch.load(Ordering::SeqCst);
            let tables = self.tables.load();
            let Some(route) = tables.route(name) else { return Assigned::Gone };
            let assigned = assign(route, asked, drawn, not);
            if self.epoch.load(Ordering::SeqCst) == epoch {
                return assigned;
            }
        }
    }

    /// Serves other tables from now on.
    pub fn install(&self, tables: Snapshot) {
        self.tables.store(Arc::new(tables));
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.pods_changed();
    }

    /// Wakes requests that are held.
    pub fn pods_changed(&self) {
        self.changed.send_replace(());
    }

    /// The revisions that are known. Not for the hot path.
    pub fn revisions(&self) -> MutexGuard<'_, Revisions> {
        self.revisions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets revisions that are in no table and have no requests.
    pub fn prune(&self) {
        let tables = self.tables.load();
        let is_served =
            |route: &str, revision: &str| tables.route(route).is_some_and(|route| route.names(revision));
        let mut revisions = self.revisions();
        revisions.retain(|(route, name), revision| is_served(route, name) || revision.in_flight() > 0);
        let routes: Vec<String> = tables.routes().map(|route| route.name.clone()).collect();
        for route in routes {
            let is_known = |name: &str| revisions.contains_key(&(route.clone(), name.to_owned()));
            self.ledger.retain(&route, is_known);
            self.shadows.retain(&route, is_known);
        }
    }

    /// What came for a route and what became of it.
    pub fn demand(&self, route: &str) -> Demand {
        let tables = self.tables.load();
        let Some(demand) = tables.route(route).map(|route| &route.demand) else { return Demand::default() };
        let revisions = self.ledger.totals(route).into_iter().map(|(revision, tally)| RevisionDemand {
            revision,
            answered: tally.attempts.saturating_sub(tally.overloaded),
            overloaded: tally.overloaded,
            latency: tally.latency,
        });
        Demand { offered: demand.offered(), held: demand.held(), revisions: revisions.collect() }
    }

    /// The arms and shadows of a route's table, and those that still have requests in flight.
    pub fn arms(&self, route: &str) -> Vec<ArmState> {
        self.prune();
        let revisions = self.revisions();
        let own = revisions.iter().filter(|((owner, _), _)| owner == route);
        own.map(|((_, name), revision)| ArmState {
            revision: name.clone(),
            ready_endpoints: revision.ready_endpoints(),
            in_flight: revision.in_flight(),
        })
        .collect()
    }
}

/// By one table: the first pod in the chain of fallbacks, ready ones before those that terminate.
fn assign(route: &Route, asked: Asked<'_>, drawn: u128, not: Option<&Endpoint>) -> Assigned {
    let Some(rule) = route.rule(asked) else { return Assigned::Nowhere };
    let unit = rule.unit.as_ref().and_then(|source| source.read(asked.headers));
    let Some(first) = rule.choose(unit.unwrap_or(drawn)) else { return Assigned::Nowhere };
    let pick = |terminating: bool| {
        rule.chain(first).find_map(|arm| {
            let revision = &arm.revision;
            let busy = if terminating { revision.pick_leaving(not) } else { revision.pick(not) };
            busy.map(|busy| Assigned::Pod(Flight::new(arm, rule, unit), busy))
        })
    };
    pick(false).or_else(|| pick(true)).unwrap_or(Assigned::Nowhere)
}

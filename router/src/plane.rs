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
use stoker_api::scrape::ArmState;
use tokio::sync::watch;

use crate::count::{ArmCount, Ledger};
use crate::live::{Busy, Endpoint, Outcome, Revision};
use crate::table::snapshot::{Route, Snapshot};

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
}

impl Default for Plane {
    fn default() -> Self {
        Self {
            tables: ArcSwap::default(),
            epoch: AtomicU64::new(0),
            changed: watch::channel(()).0,
            revisions: Mutex::default(),
            ledger: Ledger::default(),
        }
    }
}

/// A request that was assigned to a revision. It is in flight there until this is dropped.
#[derive(Debug)]
pub struct Flight {
    /// The revision.
    pub revision: Arc<Revision>,
    /// Where the attempt is counted: the table that was in force now.
    pub count: Arc<ArmCount>,
}

impl Flight {
    fn new(revision: &Arc<Revision>, count: &Arc<ArmCount>) -> Self {
        revision.entered();
        Self { revision: Arc::clone(revision), count: Arc::clone(count) }
    }

    /// The attempt ended after `took`: counts it in its arm, and tells its pod. Ejection and slow start steer requests; what
    /// failed is counted whatever they say.
    pub fn ended(&self, busy: &mut Busy, outcome: Outcome, took: Duration) {
        match outcome {
            Outcome::Succeeded if busy.is_warming() => self.count.succeeded_warming(),
            Outcome::Succeeded => self.count.succeeded(took),
            Outcome::Refused | Outcome::Failed => self.count.failed(),
        }
        self.revision.ended(busy, outcome, took);
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

    /// Assigns a request to a pod, and counts it as in flight. `not` is a pod that failed it already.
    pub fn assign(&self, name: &str, unit: u128, not: Option<&Endpoint>) -> Assigned {
        loop {
            let epoch = self.epoch.load(Ordering::SeqCst);
            let tables = self.tables.load();
            let Some(route) = tables.route(name) else { return Assigned::Gone };
            let assigned = assign(route, unit, not);
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
        let is_served = |route: &str, revision: &str| {
            let arms = tables.route(route).map(|route| &route.arms[..]).unwrap_or_default();
            arms.iter().any(|arm| arm.revision.name == revision)
        };
        let mut revisions = self.revisions();
        revisions.retain(|(route, name), revision| is_served(route, name) || revision.in_flight() > 0);
        let routes: Vec<String> = tables.routes().map(|route| route.name.clone()).collect();
        for route in routes {
            self.ledger.retain(&route, |name| revisions.contains_key(&(route.clone(), name.to_owned())));
        }
    }

    /// The arms of a route's table, and those that still have requests in flight.
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
fn assign(route: &Route, unit: u128, not: Option<&Endpoint>) -> Assigned {
    let Some(first) = route.choose(unit) else { return Assigned::Nowhere };
    let pick = |terminating: bool| {
        route.chain(first).find_map(|arm| {
            let revision = &arm.revision;
            let busy = if terminating { revision.pick_leaving(not) } else { revision.pick(not) };
            busy.map(|busy| Assigned::Pod(Flight::new(revision, &arm.count), busy))
        })
    };
    pick(false).or_else(|| pick(true)).unwrap_or(Assigned::Nowhere)
}

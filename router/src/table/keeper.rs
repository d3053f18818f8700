//! Which tables are served: their order, what is refused, and what changes when one comes.
//!
//! Tables of one object are ordered by generation. A lower generation, or another object of the same name, may be a
//! stale read or a restored cluster; so it is read again from the API server ([`Offer::ReadAgain`]) and what a live read
//! says is served, and counted: a restored etcd must not freeze the data plane. A table that cannot be served as it is
//! meant leaves the last good one in force. Revisions that are cut get nothing by any table of the run: see [`crate::cut`].

mod cuts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DeserializeGuard;
use stoker_api::ModelRoute;
use stoker_api::names::objects;
use stoker_api::scrape::TableVersion;
use tokio::sync::{Notify, watch};

use crate::cut::latch::Latches;
use crate::cut::{Origin as CutOrigin, Subject, obey};
use crate::live::{Addresses, Revision};
use crate::metrics::Counts;
use crate::plane::Plane;
use crate::table::build;
use crate::table::disk::Saved;
use crate::table::slices::{self, Slice};
use crate::table::snapshot::{Route, Snapshot};

/// A ModelRoute as it was read. One that this release cannot understand is refused alone and holds up no other.
#[derive(Debug)]
pub struct Reading(Result<ModelRoute, (ObjectMeta, String)>);

impl From<ModelRoute> for Reading {
    fn from(object: ModelRoute) -> Self {
        Self(Ok(object))
    }
}

impl From<DeserializeGuard<ModelRoute>> for Reading {
    fn from(guard: DeserializeGuard<ModelRoute>) -> Self {
        Self(guard.0.map_err(|invalid| (invalid.metadata, invalid.error)))
    }
}

impl Reading {
    /// Its metadata, understood or not.
    pub fn metadata(&self) -> &ObjectMeta {
        match &self.0 {
            Ok(object) => &object.metadata,
            Err((metadata, _)) => metadata,
        }
    }

    /// The table, or why it cannot be served.
    fn check(self) -> Result<ModelRoute, String> {
        let object = self.0.map_err(|(_, error)| format!("this router cannot read the table: {error}"))?;
        match object.spec.check() {
            Ok(_) => Ok(object),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Where a table was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From a watch or a list, which may be behind.
    Watch,
    /// From a live read that began when [`Keeper::changes`] had this value.
    Live(u64),
}

/// What became of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Served from now on.
    Served,
    /// Known already.
    Known,
    /// Cannot be served; the last good one is.
    Refused,
    /// Older than what is served, or of another object: read it live.
    ReadAgain,
}

/// Keeps the tables. The only writer of the plane.
#[derive(Debug)]
pub struct Keeper {
    plane: Arc<Plane>,
    namespace: String,
    counts: Counts,
    inner: Mutex<Inner>,
    /// Told when there is something new to be saved.
    dirty: Notify,
    /// Told when that must not wait.
    urgent: Notify,
    /// What tables ask to watch.
    subjects: watch::Sender<Arc<Vec<Subject>>>,
    /// Told when cuts, or what status says about them, changed.
    latched: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Inner {
    routes: BTreeMap<String, Kept>,
    slices: BTreeMap<String, Slice>,
    pods: BTreeMap<String, Addresses>,
    routes_listed: bool,
    slices_listed: bool,
    from_disk: bool,
    changes: u64,
    latches: Latches,
    /// Revisions whose share depends on how many of their pods are ready.
    refilled: BTreeSet<String>,
    /// The cuts that the status of each route has, by uid.
    reported: BTreeMap<String, BTreeSet<(u64, String)>>,
}

/// What is known of one ModelRoute.
#[derive(Debug)]
struct Kept {
    /// The newest table that was seen, served or not.
    newest: TableVersion,
    /// The table that is served.
    served: Option<ModelRoute>,
    /// Since when, on this process's clock.
    since: Instant,
    /// Why the newest is not served.
    refused: Option<String>,
}

/// The state of one table, for people and metrics.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Name of the ModelRoute.
    pub name: String,
    /// Why a newer table is not served.
    pub refused: Option<String>,
    /// For how many seconds the table has been served.
    pub age_seconds: f64,
}

impl Keeper {
    /// An empty keeper for the tables of `namespace`.
    pub fn new(plane: Arc<Plane>, namespace: &str, counts: Counts) -> Self {
        Self {
            plane,
            namespace: namespace.to_owned(),
            counts,
            inner: Mutex::default(),
            dirty: Notify::new(),
            urgent: Notify::new(),
            subjects: watch::Sender::default(),
            latched: watch::Sender::default(),
        }
    }

    /// Starts from what was saved, until the API server says otherwise.
    pub fn restore(&self, saved: Saved) {
        let mut inner = self.lock();
        for object in saved.routes {
            // What an older release served and this one cannot is left out.
            if let (Some((name, version)), Ok(_)) = (identity(&object.metadata), object.spec.check()) {
                let kept =
                    Kept { newest: version, served: Some(object), since: Instant::now(), refused: None };
                inner.routes.insert(name, kept);
            }
        }
        for (service, addresses) in saved.pods {
            inner.slices.insert(format!("disk/{service}"), Slice { service, addresses });
        }
        inner.from_disk = true;
        inner.pods = slices::join(inner.slices.values());
        self.latch(&mut inner, saved.cuts, CutOrigin::Disk);
        self.serve(&mut inner);
    }

    /// Whether there are tables to serve by: saved ones, or those of the API server with the pods to them.
    pub fn readiness(&self) -> Result<(), String> {
        let inner = self.lock();
        match (inner.from_disk, inner.routes_listed, inner.slices_listed) {
            (true, _, _) | (_, true, true) => Ok(()),
            (_, false, _) => Err("the ModelRoutes of the namespace were not listed yet".into()),
            (_, true, false) => Err("the EndpointSlices of the namespace were not listed yet".into()),
        }
    }

    /// How many changes of tables there were. See [`Origin::Live`].
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// A table was read.
    pub fn offer(&self, reading: impl Into<Reading>, origin: Origin) -> Offer {
        let mut inner = self.lock();
        let reading = reading.into();
        let told = reading.cuts();
        let offer = self.consider(&mut inner, reading, origin);
        // A cut is written without a new generation, and a table that is known already may tell of one.
        let cut = offer != Offer::ReadAgain && self.read_cuts(&mut inner, told);
        if offer == Offer::Served || cut {
            self.serve(&mut inner);
        }
        offer
    }

    /// All tables were listed: those that are missing are gone. Gives the names of those that must be read again.
    pub fn listed<R: Into<Reading>>(&self, readings: impl IntoIterator<Item = R>) -> Vec<String> {
        let readings: Vec<Reading> = readings.into_iter().map(Into::into).collect();
        let mut inner = self.lock();
        let names: BTreeSet<_> =
            readings.iter().filter_map(|reading| reading.metadata().name.clone()).collect();
        inner.routes.retain(|name, _| names.contains(name));
        let mut again = Vec::new();
        for reading in readings {
            let name = reading.metadata().name.clone().unwrap_or_default();
            let told = reading.cuts();
            if self.consider(&mut inner, reading, Origin::Watch) == Offer::ReadAgain {
                again.push(name);
            } else {
                self.read_cuts(&mut inner, told);
            }
        }
        inner.routes_listed = true;
        self.serve(&mut inner);
        again
    }

    /// A table is gone. When `uid` is given, only the one of that object.
    pub fn removed(&self, name: &str, uid: Option<&str>) {
        let mut inner = self.lock();
        let is_it = |kept: &Kept| uid.is_none_or(|uid| kept.newest.uid == uid);
        if inner.routes.get(name).is_some_and(is_it) {
            inner.routes.remove(name);
            inner.changes += 1;
            tracing::info!(route = name, "table removed");
            self.serve(&mut inner);
        }
    }

    /// All EndpointSlices were listed.
    pub fn slices_listed(&self, objects: &[EndpointSlice]) {
        let read = |object: &EndpointSlice| Some((object.metadata.name.clone()?, Slice::read(object)?));
        let slices = objects.iter().filter_map(read).collect();
        let mut inner = self.lock();
        inner.slices = slices;
        inner.slices_listed = true;
        self.pods_changed(&mut inner);
    }

    /// An EndpointSlice changed.
    pub fn slice_changed(&self, object: &EndpointSlice) {
        let Some(name) = object.metadata.name.clone() else { return };
        let mut inner = self.lock();
        match Slice::read(object) {
            Some(slice) => inner.slices.insert(name, slice),
            None => inner.slices.remove(&name),
        };
        self.pods_changed(&mut inner);
    }

    /// An EndpointSlice is gone.
    pub fn slice_removed(&self, name: &str) {
        let mut inner = self.lock();
        inner.slices.remove(name);
        self.pods_changed(&mut inner);
    }

    /// Why the newest table of a route is not served, if so.
    pub fn refusal(&self, route: &str) -> Option<String> {
        self.lock().routes.get(route)?.refused.clone()
    }

    /// All tables with their state.
    pub fn status(&self) -> Vec<Status> {
        let inner = self.lock();
        let status = inner.routes.iter().map(|(name, kept)| Status {
            name: name.clone(),
            refused: kept.refused.clone(),
            age_seconds: kept.since.elapsed().as_secs_f64(),
        });
        status.collect()
    }

    /// What is to be written to disk.
    pub fn to_save(&self) -> Saved {
        let inner = self.lock();
        let specs =
            || inner.routes.values().filter_map(|kept| kept.served.as_ref()).map(|object| &object.spec);
        let arms = specs().flat_map(|spec| &spec.rules).flat_map(|rule| &rule.arms);
        let shadows = specs().flat_map(|spec| &spec.mirrors).map(|mirror| mirror.revision.as_str());
        let revisions: BTreeSet<&str> = arms.map(|arm| arm.revision.as_str()).chain(shadows).collect();
        let clone = |(name, addresses): (&String, &Addresses)| (name.clone(), addresses.clone());
        Saved {
            namespace: self.namespace.clone(),
            routes: inner.routes.values().filter_map(|kept| kept.served.clone()).collect(),
            // Other Services of the namespace are listed as well, and are none of ours.
            pods: inner
                .pods
                .iter()
                .filter(|(name, _)| revisions.contains(name.as_str()) || *name == objects::ROUTER)
                .map(clone)
                .collect(),
            cuts: inner.latches.all().collect(),
        }
    }

    /// Waits until there is something new to be saved.
    pub async fn changed(&self) {
        self.dirty.notified().await;
    }

    /// Waits until something must be saved at once.
    pub async fn urgent(&self) {
        self.urgent.notified().await;
    }

    /// Takes a table in, or not. Does not change the plane.
    fn consider(&self, inner: &mut Inner, reading: Reading, origin: Origin) -> Offer {
        let Some((name, version)) = identity(reading.metadata()) else {
            tracing::warn!("a ModelRoute without name, uid or generation was ignored");
            return Offer::Refused;
        };
        let known = inner.routes.get(&name).map(|kept| &kept.newest);
        if known.is_none() && matches!(origin, Origin::Live(seen) if seen != inner.changes) {
            // It may have been removed since.
            return Offer::ReadAgain;
        }
        if let Some(newest) = known {
            let (older, other) = (version.generation < newest.generation, version.uid != newest.uid);
            if !other && version.generation == newest.generation {
                return Offer::Known;
            }
            if other || older {
                // A live read that began before the last change may itself be the older one.
                if origin != Origin::Live(inner.changes) {
                    return Offer::ReadAgain;
                }
                if !other {
                    self.counts.regressions.inc();
                    tracing::warn!(
                        route = name,
                        from = newest.generation,
                        to = version.generation,
                        "the API server has an older table than the one in use: it was restored; serving what it says"
                    );
                }
            }
        }
        inner.changes += 1;
        let before = inner.routes.remove(&name);
        let (kept, offer) = match reading.check() {
            Ok(object) => {
                tracing::info!(
                    route = name,
                    uid = version.uid,
                    generation = version.generation,
                    "table served"
                );
                let served = strip(object);
                (
                    Kept { newest: version, served: Some(served), since: Instant::now(), refused: None },
                    Offer::Served,
                )
            }
            Err(error) => {
                self.counts.tables_refused.inc();
                tracing::warn!(
                    route = name,
                    generation = version.generation,
                    error,
                    "table refused; the last good one stays"
                );
                let (served, since) =
                    before.map_or_else(|| (None, Instant::now()), |kept| (kept.served, kept.since));
                let refused = Some(format!("generation {}: {error}", version.generation));
                (Kept { newest: version, served, since, refused }, Offer::Refused)
            }
        };
        inner.routes.insert(name, kept);
        offer
    }

    /// Makes the plane serve what is kept.
    fn serve(&self, inner: &mut Inner) {
        inner.forget_cuts();
        let mut served: Vec<&ModelRoute> =
            inner.routes.values().filter_map(|kept| kept.served.as_ref()).collect();
        // The older one has a host that two claim.
        served.sort_by_key(|object| {
            (object.metadata.creation_timestamp.clone().map(|time| time.0), object.metadata.name.clone())
        });
        let mut revisions = self.plane.revisions();
        let mut revision = |route: &str, name: &str| {
            let known = revisions.entry((route.to_owned(), name.to_owned())).or_insert_with(|| {
                let revision = Revision::new(name);
                revision.set_addresses(inner.pods.get(name).unwrap_or(&Addresses::default()));
                Arc::new(revision)
            });
            Arc::clone(known)
        };
        let mut refilled = BTreeSet::new();
        let routes: Vec<Arc<Route>> = served
            .into_iter()
            .filter_map(|object| {
                let (name, version) = identity(&object.metadata)?;
                // It was checked when it came; without the arms that are cut its weights may not add up any more.
                let cut = inner.latches.revisions(&version.uid, object.spec.run);
                let spec = obey::obeyed(&object.spec, &cut);
                let arms = spec.rules.iter().flat_map(|rule| &rule.arms);
                refilled.extend(arms.filter(|arm| arm.refill.is_some()).map(|arm| arm.revision.clone()));
                build::route(&spec, name, version, &self.plane, &mut revision).map(Arc::new)
            })
            .collect();
        drop(revisions);
        inner.refilled = refilled;
        let gone: Vec<String> = {
            let tables = self.plane.tables();
            let is_gone = |name: &String| !routes.iter().any(|route| route.name == *name);
            tables.routes().map(|route| route.name.clone()).filter(is_gone).collect()
        };
        self.mark_cut(inner, &routes);
        self.plane.install(Snapshot::new(&self.namespace, routes));
        self.watch_for(inner);
        for route in gone {
            self.plane.ledger.forget(&route);
            self.plane.shadows.forget(&route);
        }
        self.plane.prune();
        self.dirty.notify_one();
    }

    /// Tells the revisions of the plane which pods they have.
    fn pods_changed(&self, inner: &mut Inner) {
        let pods = slices::join(inner.slices.values());
        let none = Addresses::default();
        let (mut ours, mut refilled) = (false, false);
        for ((_, name), revision) in self.plane.revisions().iter() {
            let (before, now) = (inner.pods.get(name).unwrap_or(&none), pods.get(name).unwrap_or(&none));
            if before != now {
                tracing::info!(
                    revision = name,
                    ready = now.ready.len(),
                    leaving = now.leaving.len(),
                    "pods changed"
                );
                revision.set_addresses(now);
                ours = true;
                refilled |= inner.refilled.contains(name);
            }
        }
        inner.pods = pods;
        if refilled {
            self.serve(inner);
        } else if ours {
            self.plane.pods_changed();
            self.dirty.notify_one();
        }
    }

    /// A panic while changing tables leaves them usable: each change ends with one replacement in the plane.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Name and version of a ModelRoute.
fn identity(metadata: &ObjectMeta) -> Option<(String, TableVersion)> {
    let version = TableVersion { uid: metadata.uid.clone()?, generation: metadata.generation? };
    Some((metadata.name.clone()?, version))
}

/// Only what is served and saved: managed fields and annotations are larger than the table.
fn strip(mut object: ModelRoute) -> ModelRoute {
    object.metadata = ObjectMeta {
        name: object.metadata.name,
        uid: object.metadata.uid,
        generation: object.metadata.generation,
        creation_timestamp: object.metadata.creation_timestamp,
        ..ObjectMeta::default()
    };
    // Cuts are kept beside the tables.
    object.status = None;
    object
}

#[cfg(test)]
mod tests;

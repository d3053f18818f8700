//! The cuts that the keeper obeys: who told of them, what is watched, and what status says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use stoker_api::exchange::KnownCut;
use stoker_api::names::objects;
use stoker_api::route::{Cut, ModelRouteSpec};
use tokio::sync::watch;

use super::{Inner, Keeper, Reading};
use crate::cut::report::Unreported;
use crate::cut::{Origin, Subject};
use crate::table::snapshot::{Arm, Route};

/// What a status says: the uid of the object, and its cuts.
pub(super) type Told = Option<(String, Vec<Cut>)>;

impl Reading {
    /// The cuts in its status.
    pub(super) fn cuts(&self) -> Told {
        let object = self.0.as_ref().ok()?;
        let cuts = object.status.as_ref().map(|status| status.cuts.clone()).unwrap_or_default();
        Some((object.metadata.uid.clone()?, cuts))
    }
}

impl Keeper {
    /// Obeys cuts, whoever made them, from now on. Those of routes that are not known here, and of runs that are over,
    /// change nothing.
    pub fn cut(&self, cuts: impl IntoIterator<Item = KnownCut>, origin: Origin) {
        let mut inner = self.lock();
        if self.latch(&mut inner, cuts, origin) {
            self.serve(&mut inner);
        }
    }

    /// Whether a revision is cut in a run.
    pub fn is_cut(&self, uid: &str, run: u64, revision: &str) -> bool {
        self.lock().latches.holds(uid, run, revision)
    }

    /// The cuts of the run that is served for a route.
    pub fn cuts(&self, route: &str) -> Vec<Cut> {
        let inner = self.lock();
        let served = inner.routes.get(route).and_then(|kept| kept.served.as_ref());
        let Some((uid, run)) =
            served.and_then(|object| Some((object.metadata.uid.as_deref()?, object.spec.run)))
        else {
            return Vec::new();
        };
        inner.latches.of(uid, run).cloned().collect()
    }

    /// All cuts that hold.
    pub fn known_cuts(&self) -> Vec<KnownCut> {
        self.lock().latches.all().collect()
    }

    /// What served tables ask to watch, as it changes.
    pub fn subjects(&self) -> watch::Receiver<Arc<Vec<Subject>>> {
        self.subjects.subscribe()
    }

    /// The routers of the namespace, this one among them.
    pub fn peers(&self) -> Vec<SocketAddr> {
        let inner = self.lock();
        let Some(routers) = inner.pods.get(objects::ROUTER) else { return Vec::new() };
        routers.ready.iter().chain(&routers.leaving).map(|address| address.socket).collect()
    }

    /// Told when cuts changed, or what status says about them.
    pub fn latched(&self) -> watch::Receiver<()> {
        self.latched.subscribe()
    }

    /// The routes whose status lacks a cut of the run that is served.
    pub fn unreported(&self) -> Vec<Unreported> {
        let inner = self.lock();
        let lacking = inner.routes.iter().filter_map(|(name, kept)| {
            let object = kept.served.as_ref()?;
            let (uid, run) = (object.metadata.uid.clone()?, object.spec.run);
            let cuts: Vec<Cut> = inner.latches.of(&uid, run).cloned().collect();
            let said = inner.reported.get(&uid);
            let is_said = |cut: &Cut| said.is_some_and(|said| said.contains(&(run, cut.revision.clone())));
            (!cuts.iter().all(is_said)).then(|| Unreported { route: name.clone(), uid, run, cuts })
        });
        lacking.collect()
    }

    /// The status of a route has these cuts, as far as this router is concerned.
    pub fn reported(&self, uid: &str, cuts: Vec<Cut>) {
        let mut inner = self.lock();
        let said = inner.reported.entry(uid.to_owned()).or_default();
        said.extend(cuts.into_iter().map(|cut| (cut.run, cut.revision)));
    }

    /// Takes in what the status of an object says. Tells whether a cut is new.
    pub(super) fn read_cuts(&self, inner: &mut Inner, told: Told) -> bool {
        let Some((uid, cuts)) = told else { return false };
        let said: BTreeSet<_> = cuts.iter().map(|cut| (cut.run, cut.revision.clone())).collect();
        let known = inner.reported.get(&uid);
        if known.map_or(!said.is_empty(), |known| *known != said) {
            inner.reported.insert(uid.clone(), said);
            self.latched.send_replace(());
        }
        let cuts = cuts.into_iter().map(|cut| KnownCut { uid: uid.clone(), cut });
        self.latch(inner, cuts, Origin::Status)
    }

    /// Keeps cuts. Does not change the plane; says whether it must be changed.
    pub(super) fn latch(
        &self,
        inner: &mut Inner,
        cuts: impl IntoIterator<Item = KnownCut>,
        origin: Origin,
    ) -> bool {
        let runs = inner.runs();
        let mut any = false;
        for KnownCut { uid, cut } in cuts {
            // A run that is ahead of ours: its table is on its way, and must find the cut here.
            let Some((route, served)) = runs.get(&uid) else { continue };
            let (revision, run) = (cut.revision.clone(), cut.run);
            let (because, by) = (cut.because.clone(), cut.by.clone());
            if run < *served || !inner.latches.add(&uid, cut) {
                continue;
            }
            any = true;
            self.counts.cut.cut(origin);
            tracing::warn!(
                route,
                revision,
                run,
                because,
                by,
                ?origin,
                "cut: the revision gets no more traffic in this run"
            );
        }
        if any {
            self.urgent.notify_one();
            self.latched.send_replace(());
        }
        any
    }

    /// Tells revisions whether they are cut, before the tables that say so are installed: a request that was assigned by
    /// the table before and is not sent yet looks here.
    pub(super) fn mark_cut(&self, inner: &Inner, routes: &[Arc<Route>]) {
        let served: BTreeMap<&str, &Arc<Route>> =
            routes.iter().map(|route| (route.name.as_str(), route)).collect();
        for ((route, name), revision) in self.plane.revisions().iter() {
            let cut = served.get(route.as_str()).is_some_and(|route| {
                // What its control has no pods for yet still goes there.
                let keeps = |arm: &Arm| arm.is_rest && arm.revision.name == *name;
                inner.latches.holds(&route.version.uid, route.run, name)
                    && !route.main_arms().iter().any(keeps)
            });
            if !revision.set_cut(cut) && cut {
                revision.end_streams();
            }
        }
    }

    /// Tells the detectors what to watch.
    pub(super) fn watch_for(&self, inner: &Inner) {
        let served = inner.routes.iter().filter_map(|(name, kept)| Some((name, kept.served.as_ref()?)));
        let subjects = served.flat_map(|(name, object)| {
            let uid = object.metadata.uid.clone().unwrap_or_default();
            object.spec.detectors.iter().map(move |detector| Subject {
                route: name.clone(),
                uid: uid.clone(),
                run: object.spec.run,
                controlled: has_traffic(&object.spec, &detector.control),
                detector: detector.clone(),
            })
        });
        let subjects: Vec<Subject> = subjects.collect();
        self.subjects.send_if_modified(|before| {
            let changed = **before != subjects;
            if changed {
                *before = Arc::new(subjects);
            }
            changed
        });
    }
}

impl Inner {
    /// Forgets cuts of runs that are over and of routes that are gone.
    pub(super) fn forget_cuts(&mut self) {
        let runs = self.runs();
        self.latches.forget(|uid| runs.get(uid).map(|(_, run)| *run));
        self.reported.retain(|uid, _| runs.contains_key(uid));
    }

    /// Name and served run of each route, by uid. 0 where no table of that object is served yet.
    fn runs(&self) -> BTreeMap<String, (String, u64)> {
        let mut runs = BTreeMap::new();
        for (name, kept) in &self.routes {
            runs.insert(kept.newest.uid.clone(), (name.clone(), 0));
            let served = kept.served.as_ref();
            if let Some((uid, run)) =
                served.and_then(|table| Some((table.metadata.uid.clone()?, table.spec.run)))
            {
                runs.insert(uid, (name.clone(), run));
            }
        }
        runs
    }
}

/// Whether a revision has weight in the rule that takes every request.
fn has_traffic(spec: &ModelRouteSpec, revision: &str) -> bool {
    let arms = spec.main_rule().map(|rule| &rule.arms[..]).unwrap_or_default();
    arms.iter().any(|arm| arm.revision == revision && arm.ppm > 0)
}

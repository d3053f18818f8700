//! How many pods each revision has, where Stoker counts them: one look at the routers every second, which costs the API server
//! nothing; a reconcile is asked for only when something changed.
//!
//! The reconcile tells what it knows ([`Scaling::enter`], [`Scaling::settled`]) and reads what was decided; it stores the
//! decision in status before pods follow. What is remembered here may be lost: it comes back from status and from the routers.

pub mod entry;
pub mod metrics;
pub mod price;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::{Stream, StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use stoker_api::deployment::ScalingStatus;
use stoker_api::scrape::ScrapeRequest;
use stoker_decide::rollout::{Replicas, State};
use tokio::time::MissedTickBehavior;

use super::changes::{Changes, Name};
use crate::context::Context;
use crate::observe::world::{World, version};
use entry::{Entry, Frame};
use price::Prices;

/// ModelDeployments whose routers are asked at the same time.
const CONCURRENCY: usize = 64;

/// All ModelDeployments whose pods Stoker counts, by uid.
#[derive(Default)]
pub struct Scaling {
    entries: Mutex<BTreeMap<String, Entry>>,
    changes: Changes,
}

/// What a look at a ModelDeployment goes by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scale {
    /// Pods for the whole demand.
    pub replicas: Replicas,
    /// The number of the sleep that routers are to call for, while no pod is ready.
    pub calls: Option<u64>,
    /// Pods of a revision that are enough to serve; none where all of them are meant to be there.
    pub enough: Option<u32>,
    /// For status; none where Stoker does not count the pods.
    pub status: Option<ScalingStatus>,
}

/// Something to be told in an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The word.
    pub reason: &'static str,
    /// The sentence.
    pub message: String,
    /// Somebody should look at it.
    pub warning: bool,
}

impl Scaling {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What holds for this look. A ModelDeployment that is seen for the first time goes on from its status, or from the pods
    /// that are there.
    pub fn enter(&self, world: &World, state: &State, prices: &Prices) -> Scale {
        let (md, mut entries) = (&world.md, self.entries());
        let uid = md.uid().unwrap_or_default();
        let ours = md.spec.scaling.as_ref().filter(|scaling| scaling.is_ours() && md.spec.replicas > 0);
        let Some((scaling, aim)) = ours.zip(md.spec.slo.aim()) else {
            entries.remove(&uid);
            // Another autoscaler's pods come and go as well.
            let enough = md.spec.is_counted_elsewhere().then_some(1);
            return Scale { replicas: md.spec.replicas.into(), enough, ..Scale::default() };
        };
        let entry = entries.entry(uid).or_insert_with(|| Entry::resume(world, state, aim, scaling.bounds()));
        entry.allow(aim, scaling.bounds());
        entry.price(
            world
                .snapshots
                .iter()
                .filter_map(|(name, snapshot)| Some((name, prices.of(&snapshot.template)?))),
        );
        if let Some(wake) = world.route.as_ref().and_then(|route| route.status.as_ref()?.wake) {
            entry.hear(wake);
        }
        let mut scale = entry.scale(md.spec.replicas);
        // Routers hold what comes to no pods only by a table that says so: pods go once all of them serve it.
        let told = world.route.as_ref().filter(|route| route.spec.asleep == scale.calls);
        let served = told.and_then(version).zip(world.routers.as_ref());
        let served = served.is_some_and(|(version, routers)| routers.unverified(&version).is_none());
        scale.replicas.asleep &= served;
        scale
    }

    /// What was decided about the revisions: pods of each, the one with most of the traffic, and whether one is tried.
    pub fn settled(&self, uid: &str, state: &State, replicas: &Replicas) {
        if let Some(entry) = self.entries().get_mut(uid) {
            entry.frame = Frame::of(state, replicas);
        }
    }

    /// What happened since it was asked last, for Events.
    pub fn news(&self, uid: &str) -> Vec<News> {
        self.entries().get_mut(uid).map(|entry| std::mem::take(&mut entry.news)).unwrap_or_default()
    }

    /// Forgets a ModelDeployment that is gone.
    pub fn forget(&self, uid: &str) {
        self.entries().remove(uid);
    }

    /// Forgets all ModelDeployments but these.
    pub fn keep(&self, uids: &BTreeSet<String>) {
        self.entries().retain(|uid, _| uids.contains(uid));
    }

    /// ModelDeployments that must be looked at because something changed here.
    pub fn changes(&self) -> impl Stream<Item = Name> + Send + 'static + use<> {
        self.changes.heard()
    }

    /// One look at the routers of one ModelDeployment.
    async fn look(&self, ctx: &Context, uid: &str) {
        let Some((namespace, name)) = self.entries().get(uid).map(Entry::name) else { return };
        let asked = ScrapeRequest { route: name.clone(), expect: None };
        let view = ctx.routers.scrape(&namespace, &asked).await;
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(uid) else { return };
        if entry.look(Instant::now(), &view, &Time(jiff::Timestamp::now())) {
            self.changes.say(ObjectRef::new_with(&name, ()).within(&namespace));
        }
    }

    /// Shows each entry.
    fn each(&self, mut show: impl FnMut(&Entry)) {
        self.entries().values().for_each(&mut show);
    }
}

/// Looks every second until `shutdown`.
pub async fn run(ctx: Arc<Context>, shutdown: impl Future<Output = ()>) {
    let mut ticks = tokio::time::interval(ctx.settings.tick);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            _ = ticks.tick() => {}
        }
        // Requests that come in step with the clock must not all come between two looks.
        tokio::time::sleep(ctx.settings.tick.mul_f64(rand::random_range(0.0..0.2))).await;
        let uids: Vec<String> = ctx.scaling.entries().keys().cloned().collect();
        let looks = stream::iter(uids)
            .for_each_concurrent(CONCURRENCY, async |uid| ctx.scaling.look(&ctx, &uid).await);
        tokio::select! {
            () = &mut shutdown => return,
            () = looks => {}
        }
    }
}

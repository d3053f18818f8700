//! One look at everything that belongs to a ModelDeployment (client required). Read live: a decision from an old picture could
//! undo the last one.

use std::collections::BTreeMap;
use std::time::Instant;

use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::api::core::v1::{Event, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use stoker_api::names::labels as label;
use stoker_api::revision::Snapshot;
use stoker_api::route::ModelRoute;
use stoker_api::scrape::{ScrapeRequest, TableVersion};
use stoker_api::{ModelDeployment, revision};
use stoker_decide::rollout::{Pods, Replicas, State};

use super::routers::RouterView;
use super::{gateway, pods};
use crate::build::{labels, resolver};
use crate::call::CallError;
use crate::context::Context;

/// What is in the cluster.
pub struct World {
    /// The wish and the last status, as they are now.
    pub md: ModelDeployment,
    /// Snapshots by revision, ours alone.
    pub snapshots: BTreeMap<String, Snapshot>,
    /// The objects that keep them.
    pub controller_revisions: BTreeMap<String, ControllerRevision>,
    /// Deployments by revision, ours alone.
    pub deployments: BTreeMap<String, Deployment>,
    /// Headless Services by revision, ours alone.
    pub services: BTreeMap<String, Service>,
    /// Disruption budgets by revision, ours alone.
    pub budgets: BTreeMap<String, PodDisruptionBudget>,
    /// Pods of all revisions, and resolvers.
    pub pods: Vec<Pod>,
    /// Events about pods that wait for their volumes.
    pub events: Vec<Event>,
    /// The table that was written last.
    pub route: Option<ModelRoute>,
    /// What the routers say about it; none while there is no table.
    pub routers: Option<RouterView>,
    /// The revision that the spec asks for.
    pub target: String,
    /// When the look began.
    pub began: Instant,
    /// Routes from a gateway, and the gateway; none where no gateway was ever asked for.
    pub gateway: Option<gateway::View>,
}

impl World {
    /// Looks. `None` when the ModelDeployment is gone or going.
    pub async fn read(ctx: &Context, namespace: &str, name: &str) -> Result<Option<Self>, CallError> {
        let began = Instant::now();
        let of_us = ListParams::default().labels(&labels::query(name));
        let controller_revisions: Api<ControllerRevision> = Api::namespaced(ctx.client.clone(), namespace);
        let deployments: Api<Deployment> = Api::namespaced(ctx.client.clone(), namespace);
        let services: Api<Service> = Api::namespaced(ctx.client.clone(), namespace);
        let budgets: Api<PodDisruptionBudget> = Api::namespaced(ctx.client.clone(), namespace);
        let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), namespace);
        let routes: Api<ModelRoute> = Api::namespaced(ctx.client.clone(), namespace);
        let (controller_revisions, deployments, services, budgets, pods, route) = tokio::try_join!(
            ctx.calls.make("list ControllerRevisions", name, controller_revisions.list(&of_us)),
            ctx.calls.make("list Deployments", name, deployments.list(&of_us)),
            ctx.calls.make("list Services", name, services.list(&of_us)),
            ctx.calls.make("list PodDisruptionBudgets", name, budgets.list(&of_us)),
            ctx.calls.make("list Pods", name, pods.list(&of_us)),
            ctx.calls.make("get ModelRoute", name, routes.get_opt(name)),
        )?;
        // Last: while it is there, nobody has taken away what belongs to it. Read first, its children could be gone with it by now,
        // and would be made again.
        let mds: Api<ModelDeployment> = Api::namespaced(ctx.client.clone(), namespace);
        let Some(md) = ctx.calls.make("get ModelDeployment", name, mds.get_opt(name)).await? else {
            return Ok(None);
        };
        if md.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let uid = md.uid().unwrap_or_default();
        let controller_revisions = ours(controller_revisions.items, &uid);
        let snapshots: BTreeMap<_, _> = controller_revisions
            .iter()
            .filter_map(|(name, kept)| Some((name.clone(), read_snapshot(kept)?)))
            .collect();
        let events = events_of(ctx, namespace, &pods.items).await?;
        let route = route.filter(|route| owned(route.metadata.owner_references.as_ref(), &uid));
        let scrape = async {
            let route = route.as_ref()?;
            let request = ScrapeRequest { route: name.to_owned(), expect: version(route) };
            Some(ctx.routers.scrape(namespace, &request).await)
        };
        let (view, gateway) = tokio::join!(scrape, gateway::view(ctx, &md));
        let target = snapshots
            .iter()
            .find(|(_, snapshot)| snapshot.is_of(&md.spec.model, &md.spec.runtime))
            .map_or_else(|| revision::name(name, &md.spec.model, &md.spec.runtime), |(name, _)| name.clone());
        Ok(Some(Self {
            snapshots,
            controller_revisions,
            deployments: ours(deployments.items, &uid),
            services: ours(services.items, &uid),
            budgets: ours(budgets.items, &uid),
            pods: pods.items,
            events,
            route,
            routers: view,
            target,
            began,
            gateway,
            md,
        }))
    }

    /// Pods by revision, with what is wrong with them. The state says how many there should be.
    pub fn summaries(&self, state: &State, replicas: &Replicas) -> BTreeMap<String, Pods> {
        let sizes = state.sizes(replicas);
        let summary = |(revision, deployment): (&String, &Deployment)| {
            let pods: Vec<_> = self.pods.iter().filter(|pod| is_server_of(pod, revision)).collect();
            let wanted = sizes.get(revision.as_str()).copied().unwrap_or(replicas.all);
            (revision.clone(), pods::summarise(deployment, wanted, &pods, &self.events))
        };
        self.deployments.iter().map(summary).collect()
    }

    /// The pod that resolves the target's digest, if it is there.
    pub fn resolver(&self) -> Option<&Pod> {
        let name = resolver::name(&self.target);
        self.pods.iter().find(|pod| pod.name_any() == name)
    }
}

/// uid and generation of a table.
pub fn version(route: &ModelRoute) -> Option<TableVersion> {
    Some(TableVersion { uid: route.uid()?, generation: route.metadata.generation? })
}

fn is_server_of(pod: &Pod, revision: &str) -> bool {
    let labels = pod.labels();
    labels.get(label::REVISION).is_some_and(|name| name == revision)
        && labels.get(label::PART).is_some_and(|part| part == stoker_api::names::parts::SERVER)
}

/// Events about pods that are stuck in creation. Asked for only then: it is the one place that names a missing volume.
async fn events_of(ctx: &Context, namespace: &str, pods: &[Pod]) -> Result<Vec<Event>, CallError> {
    let api: Api<Event> = Api::namespaced(ctx.client.clone(), namespace);
    let mut events = Vec::new();
    for pod in pods.iter().filter(|pod| pods::is_creating(pod)).take(4) {
        let Some(uid) = pod.uid() else { continue };
        let about =
            ListParams::default().fields(&format!("involvedObject.uid={uid},reason=FailedMount")).limit(20);
        events.extend(ctx.calls.make("list Events", &pod.name_any(), api.list(&about)).await?.items);
    }
    Ok(events)
}

fn read_snapshot(kept: &ControllerRevision) -> Option<Snapshot> {
    let data = kept.data.as_ref()?;
    serde_json::from_value(data.0.clone())
        .inspect_err(|error| tracing::warn!(name = kept.name_any(), %error, "a ControllerRevision cannot be read and is left alone"))
        .ok()
}

/// Objects that carry our uid, by name.
fn ours<K: kube::Resource>(items: Vec<K>, uid: &str) -> BTreeMap<String, K> {
    items
        .into_iter()
        .filter(|item| owned(item.meta().owner_references.as_ref(), uid))
        .map(|item| (item.name_any(), item))
        .collect()
}

fn owned(
    references: Option<&Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference>>,
    uid: &str,
) -> bool {
    references.into_iter().flatten().any(|owner| owner.uid == uid)
}

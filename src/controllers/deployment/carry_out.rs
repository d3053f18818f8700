//! Making the cluster follow a decision.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt;
use stoker_api::names::managers;
use stoker_api::route::ModelRoute;
use stoker_decide::rollout::{Pods, Replicas, State, Trouble};

use super::Error;
use crate::apply::{self, Applier};
use crate::build::route::previews;
use crate::build::{router, workload};
use crate::context::Context;
use crate::controllers::memory::Refused;
use crate::controllers::scaling::Scale;
use crate::observe::world::World;

/// Writes the table, then pods, then takes away what is left over.
///
/// The table comes first, so that nothing stands between a rollback and its effect: a decision raises a weight only for
/// pods that it saw ready, and makes them fewer only when it saw the lower weight served, so the table never needs what is
/// written after it. One object that cannot be written does not
/// keep the others from being written; pods are taken away only after the table was.
pub(super) async fn carry_out(
    ctx: &Context,
    applier: &Applier,
    world: &World,
    state: &State,
    replicas: &Replicas,
    table: Option<ModelRoute>,
    refused: &mut Refused,
) -> Result<(), Error> {
    let name = world.md.name_any();
    let sizes = state.sizes(replicas);
    let kept: BTreeSet<&str> = sizes.keys().copied().collect();
    let mut errors: Vec<Error> = Vec::new();
    if let Some(route) = table {
        let writer = ctx.applier(&world.md, managers::ROUTE);
        let written = writer.replace("write ModelRoute", route, world.route.as_ref()).await;
        if written.is_ok() {
            ctx.rollouts.written(state, world.began.elapsed());
        }
        errors.extend(written.err().map(Error::from));
    }
    let table_is_written = errors.is_empty();
    let front = router::front_service(&world.md);
    let front = applier.keep("apply Service", front, world.services.get(&name)).await;
    errors.extend(front.err().map(Error::from));
    let preview = previews(&world.md, state).then(|| router::preview_service(&world.md));
    let preview_name = preview.as_ref().map(ResourceExt::name_any);
    if let Some(preview) = preview {
        let live = preview_name.as_ref().and_then(|name| world.services.get(name));
        errors.extend(applier.keep("apply Service", preview, live).await.err().map(Error::from));
    }
    refused.retain(|revision, _| kept.contains(revision.as_str()));
    for (revision, size) in &sizes {
        match pods_of(applier, world, revision, *size).await {
            Ok(()) => {
                refused.remove(*revision);
            }
            Err(Error::Apply(apply::Error::Call(error))) if error.is_refusal() => {
                refused.insert((*revision).to_owned(), format!("the API server refuses its pods: {error}"));
            }
            Err(error) => errors.push(error),
        }
    }
    if table_is_written {
        errors.extend(take_away(applier, world, &kept, preview_name.as_deref()).await.err());
    }
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// The Service and the Deployment of one revision.
async fn pods_of(applier: &Applier, world: &World, revision: &str, replicas: u32) -> Result<(), Error> {
    let name = world.md.name_any();
    let (service, deployment) = (world.services.get(revision), world.deployments.get(revision));
    applier.keep("apply Service", workload::service(&name, revision), service).await?;
    let Some(snapshot) = world.snapshots.get(revision) else {
        // What runs goes on as it is; only its size can no longer be changed.
        if deployment.is_some() {
            return Ok(());
        }
        return Err(Error::InvalidSpec(format!(
            "the ControllerRevision of {revision} is gone; its pods cannot be made again"
        )));
    };
    let desired = workload::deployment(&name, revision, &snapshot.template, replicas);
    applier.keep("apply Deployment", desired, deployment).await?;
    match (workload::budget(&name, revision, replicas), world.budgets.get(revision)) {
        (Some(budget), live) => {
            applier.keep("apply PodDisruptionBudget", budget, live).await?;
        }
        (None, Some(live)) => applier.remove("delete PodDisruptionBudget", live).await?,
        (None, None) => {}
    }
    Ok(())
}

/// Deletes what belongs to revisions that are not kept, and the oldest snapshots.
async fn take_away(
    applier: &Applier,
    world: &World,
    kept: &BTreeSet<&str>,
    preview: Option<&str>,
) -> Result<(), Error> {
    let name = world.md.name_any();
    let fronts = [Some(name.as_str()), preview];
    let unkept = |revision: &&String| !kept.contains(revision.as_str());
    let good = world.md.spec.rollback.known_good.as_ref();
    for revision in world.deployments.keys().filter(unkept) {
        applier.remove("delete Deployment", &world.deployments[revision]).await?;
    }
    for revision in world.budgets.keys().filter(unkept) {
        applier.remove("delete PodDisruptionBudget", &world.budgets[revision]).await?;
    }
    for revision in
        world.services.keys().filter(unkept).filter(|service| !fronts.contains(&Some(service.as_str())))
    {
        applier.remove("delete Service", &world.services[revision]).await?;
    }
    let mut old: Vec<&ControllerRevision> = world
        .controller_revisions
        .iter()
        .filter(|(revision, _)| unkept(revision) && **revision != world.target && Some(*revision) != good)
        .map(|(_, snapshot)| snapshot)
        .collect();
    old.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.revision));
    for snapshot in old.into_iter().skip(world.md.spec.rollback.revisions as usize) {
        applier.remove("delete ControllerRevision", snapshot).await?;
    }
    Ok(())
}

/// Pods by revision, with what is wrong with them, refusals of the API server included.
pub(super) fn pods(world: &World, state: &State, scale: &Scale, refused: &Refused) -> BTreeMap<String, Pods> {
    let replicas = &scale.replicas;
    let mut pods = world.summaries(state, replicas);
    for (revision, why) in refused {
        let none = || Pods { wanted: replicas.all, ..Pods::default() };
        let trouble = || Trouble { what: why.clone(), permanent: false, crashed: false };
        pods.entry(revision.clone()).or_insert_with(none).trouble.get_or_insert_with(trouble);
    }
    for known in pods.values_mut() {
        known.enough = scale.enough;
    }
    pods
}

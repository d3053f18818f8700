//! The revision that the spec asks for: its snapshot, and before that the digest of its artifact.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use stoker_api::artifact::{Digest, Uri, UriError};
use stoker_api::names::{labels, parts};
use stoker_decide::rollout::Wait;

use super::Error;
use crate::apply::Applier;
use crate::build::{resolver, revision};
use crate::context::Context;
use crate::observe::pods::{has_failed, pod_trouble};
use crate::observe::world::World;

/// Makes sure that the target has a snapshot. Returns why it has none yet, if so.
///
/// A target that cannot be started must not keep anybody from looking at the run that is under way: what is wrong with the
/// spec itself is a reason to wait, and other errors end the look only where nothing is at stake.
pub(super) async fn resolve(
    ctx: &Context,
    applier: &Applier,
    world: &mut World,
    in_run: bool,
) -> Result<Option<Wait>, Error> {
    match snapshot(ctx, applier, world).await {
        Ok(waits) => Ok(waits),
        // A conflict passes with the next look, and so does the doubt who leads.
        Err(error) if error.is_conflict() || error.is_not_sent() => Err(error),
        Err(error) if in_run || error.is_about_the_spec() => {
            Ok(Some(Wait { why: format!("it cannot be started: {error}"), trouble: true }))
        }
        Err(error) => Err(error),
    }
}

async fn snapshot(ctx: &Context, applier: &Applier, world: &mut World) -> Result<Option<Wait>, Error> {
    tidy(applier, world).await?;
    if world.snapshots.contains_key(&world.target) {
        return Ok(None);
    }
    let model = world.md.spec.model.clone();
    let uri: Uri = model.uri.parse().map_err(|error: UriError| Error::InvalidSpec(error.to_string()))?;
    let digest: String = if let Some(given) = &model.digest {
        given.clone()
    } else if let Some(pod) = world.resolver() {
        let Some(digest) = resolver::answer(pod) else {
            let trouble = pod_trouble(pod, &world.events);
            return Ok(Some(resolving(trouble.map(|trouble| trouble.what))));
        };
        Digest::to_string(&digest)
    } else {
        let pod = resolver::pod(&world.md, &world.target, &uri, &ctx.settings);
        applier.ensure("apply Pod", pod).await?;
        return Ok(Some(resolving(None)));
    };
    let (name, runtime) = (world.md.name_any(), &world.md.spec.runtime);
    let snapshot = revision::snapshot(&name, &world.target, &model, runtime, &uri, &digest, &ctx.settings);
    let number = world.controller_revisions.values().map(|kept| kept.revision).max().unwrap_or(0) + 1;
    let kept = revision::controller_revision(&world.md, &world.target, number, &snapshot)
        .map_err(|error| Error::InvalidSpec(format!("the revision cannot be stored: {error}")))?;
    let kept = applier.ensure("apply ControllerRevision", kept).await?;
    world.controller_revisions.insert(world.target.clone(), kept);
    world.snapshots.insert(world.target.clone(), snapshot);
    Ok(None)
}

/// Removes resolvers that nobody waits for, and one that ended for good (evicted): the next look makes it anew.
async fn tidy(applier: &Applier, world: &mut World) -> Result<(), Error> {
    let resolved = world.snapshots.contains_key(&world.target);
    let wanted = resolver::name(&world.target);
    let useless = |pod: &Pod| {
        let is_resolver = pod.labels().get(labels::PART).is_some_and(|part| part == parts::RESOLVER);
        is_resolver
            && pod.metadata.deletion_timestamp.is_none()
            && (resolved || has_failed(pod) || pod.name_any() != wanted)
    };
    for pod in world.pods.iter().filter(|pod| useless(pod)) {
        applier.remove("delete Pod", pod).await?;
    }
    world.pods.retain(|pod| !useless(pod));
    Ok(())
}

/// The target waits for its digest, and what is wrong with that, if anything is.
fn resolving(trouble: Option<String>) -> Wait {
    match trouble {
        None => Wait { why: "its digest is being resolved".to_owned(), trouble: false },
        Some(what) => Wait { why: format!("its digest cannot be resolved: {what}"), trouble: true },
    }
}

//! Whether a namespace has a ModelRouter: made while there are ModelDeployments, also when somebody deletes it, and removed after
//! the last one.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::{Future, pending};
use std::pin::pin;

use futures::{Stream, StreamExt};
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use stoker_api::names::{labels, objects};
use stoker_api::pause::Pause;
use stoker_api::router::ModelRouterSpec;
use stoker_api::{ModelDeployment, ModelRouter};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use super::{CALM, Error};
use crate::call::{CallError, Calls};
use crate::context::{Context, scope};

/// The ModelRouter of a namespace that has ModelDeployments: made when there is none.
pub async fn ensure_present(ctx: &Context, namespace: &str) -> Result<(), Error> {
    Ok(present(&ctx.client, &ctx.calls, namespace).await?)
}

pub(super) async fn present(client: &Client, calls: &Calls, namespace: &str) -> Result<(), CallError> {
    let api: Api<ModelRouter> = Api::namespaced(client.clone(), namespace);
    // Only the metadata: one that cannot be read is there too, and its own driver says so.
    if calls.make("get ModelRouter", objects::ROUTER, api.get_metadata_opt(objects::ROUTER)).await?.is_some()
    {
        return Ok(());
    }
    let mut router = ModelRouter::new(objects::ROUTER, ModelRouterSpec::default());
    router.labels_mut().insert(labels::MANAGED_BY.to_owned(), labels::STOKER.to_owned());
    match calls.make("create ModelRouter", objects::ROUTER, api.create(&PostParams::default(), &router)).await
    {
        // Somebody was quicker, which is as good.
        Err(error) if error.is_already_exists() => Ok(()),
        Err(error) => Err(error),
        Ok(_) => {
            tracing::info!(namespace, "the namespace has ModelDeployments and no routers: they are made");
            Ok(())
        }
    }
}

/// What happens to the metadata of a kind, until `shutdown`.
pub(super) fn watch<K>(
    api: Api<PartialObjectMeta<K>>,
    shutdown: impl Future<Output = ()>,
) -> impl Stream<Item = watcher::Result<Event<PartialObjectMeta<K>>>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    watcher::watcher(api, watcher::Config::default()).backoff(Pause::default()).take_until(shutdown)
}

/// Takes the routers of a namespace away after its last ModelDeployment, and tries again where that fails: nothing else happens
/// in such a namespace. What is missed here is found at the next look at the ModelRouter.
pub(super) async fn reap(
    ctx: &Context,
    events: impl Stream<Item = watcher::Result<Event<PartialObjectMeta<ModelDeployment>>>>,
) {
    let mut events = pin!(events);
    let (mut owed, mut due, mut pauses) = (BTreeSet::new(), None, Pause::default());
    loop {
        let namespaces = tokio::select! {
            event = events.next() => match event {
                None => return,
                Some(Ok(Event::Delete(gone))) => BTreeSet::from([gone.namespace().unwrap_or_default()]),
                Some(Ok(_)) => continue,
                Some(Err(error)) => {
                    tracing::warn!(%error, "ModelDeployments cannot be watched");
                    continue;
                }
            },
            () = reached(due) => {
                due = None;
                std::mem::take(&mut owed)
            }
        };
        for namespace in namespaces {
            if let Err(error) = release(&ctx.client, &ctx.calls, &namespace).await {
                tracing::warn!(namespace, %error, "routers that nobody needs could not be removed; tried again soon");
                owed.insert(namespace);
                due = due.or_else(|| pauses.next().map(|pause| Instant::now() + pause));
            }
        }
    }
}

/// Waits until `due`; without it for ever.
async fn reached(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

/// Makes a ModelRouter again that somebody deleted while there are ModelDeployments. Nobody tells of a deletion while the
/// watch was interrupted, or repeats one that could not be answered: so all namespaces are gone through now and then.
pub(super) async fn restore(
    ctx: &Context,
    events: impl Stream<Item = watcher::Result<Event<PartialObjectMeta<ModelRouter>>>>,
) {
    let mut events = pin!(events);
    let mut calm = interval_at(Instant::now() + CALM, CALM);
    calm.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut due, mut pauses) = (None, Pause::default());
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = calm.tick() => Some(Ok(Event::InitDone)),
            () = reached(due) => Some(Ok(Event::InitDone)),
        };
        let gone = match event {
            None => return,
            Some(Ok(Event::Delete(gone))) => gone.namespace(),
            Some(Ok(Event::InitDone)) => None,
            Some(Ok(_)) => continue,
            Some(Err(error)) => {
                tracing::warn!(%error, "ModelRouters cannot be watched");
                continue;
            }
        };
        let within = gone.as_deref().or(ctx.settings.watch.as_deref());
        let all_made = make_missing(&ctx.client, &ctx.calls, within).await.unwrap_or_else(|error| {
            tracing::warn!(namespace = within, %error, "it is not known which namespaces lack routers; tried again soon");
            false
        });
        if !all_made {
            due = pauses.next().map(|pause| Instant::now() + pause);
        } else if gone.is_none() {
            due = None;
        }
    }
}

/// Makes the ModelRouters that ModelDeployments lack, in one namespace or in all. Says whether all could be made.
async fn make_missing(client: &Client, calls: &Calls, within: Option<&str>) -> Result<bool, CallError> {
    let place = within.unwrap_or("everywhere");
    let deployments: Api<ModelDeployment> = scope(client, within);
    let routers: Api<ModelRouter> = scope(client, within);
    let all = ListParams::default();
    let deployments = calls.make("list ModelDeployments", place, deployments.list_metadata(&all)).await?;
    // One that is going needs no routers any more.
    let staying = deployments.items.iter().filter(|md| md.metadata.deletion_timestamp.is_none());
    let mut lacking: BTreeSet<String> = staying.filter_map(ResourceExt::namespace).collect();
    let routers = calls.make("list ModelRouters", place, routers.list_metadata(&all)).await?;
    for namespace in routers.items.iter().filter_map(ResourceExt::namespace) {
        lacking.remove(&namespace);
    }
    let mut all_made = true;
    for namespace in lacking {
        // One namespace that cannot be served does not hold up the others.
        if let Err(error) = present(client, calls, &namespace).await {
            tracing::warn!(namespace, %error, "routers could not be made; tried again soon");
            all_made = false;
        }
    }
    Ok(all_made)
}

/// Deletes the ModelRouter of a namespace when we made it and there is no ModelDeployment. Says whether it did; a conflict
/// is an error, since nobody else would look again soon.
pub(super) async fn release(client: &Client, calls: &Calls, namespace: &str) -> Result<bool, CallError> {
    let routers: Api<ModelRouter> = Api::namespaced(client.clone(), namespace);
    let router =
        calls.make("get ModelRouter", objects::ROUTER, routers.get_metadata_opt(objects::ROUTER)).await?;
    let ours = |router: &PartialObjectMeta<ModelRouter>| {
        router.labels().get(labels::MANAGED_BY).is_some_and(|by| by == labels::STOKER)
    };
    let Some(router) = router.filter(ours) else { return Ok(false) };
    let deployments: Api<ModelDeployment> = Api::namespaced(client.clone(), namespace);
    let one = ListParams::default().limit(1);
    let left = calls.make("list ModelDeployments", namespace, deployments.list_metadata(&one)).await?;
    if !left.items.is_empty() {
        return Ok(false);
    }
    // A namesake that was made since, or one that a user made their own, stays.
    let preconditions = Preconditions { uid: router.uid(), resource_version: router.resource_version() };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    match calls.make("delete ModelRouter", objects::ROUTER, routers.delete(objects::ROUTER, &params)).await {
        Ok(_) => {
            tracing::info!(namespace, "the last ModelDeployment of the namespace is gone: its routers go");
            Ok(true)
        }
        Err(error) if error.is_not_found() => Ok(true),
        // One that was changed meanwhile, perhaps in its status only, is read again: the caller tries once more.
        Err(error) => Err(error),
    }
}

//! The API server: ModelRoutes and EndpointSlices of one namespace, followed for as long as the process runs.
//!
//! It may be away at any time, from the start on: the watches try again with a growing pause, list anew when the server
//! no longer has what they missed (410), and what is served stays meanwhile.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as follow};
use stoker_api::ModelRoute;
use stoker_api::pause::Pause;

use crate::metrics::{Counts, Watched};
use crate::table::keeper::{Keeper, Offer, Origin, Reading};
use crate::table::slices::SERVICE_LABEL;

/// Between two writes to disk.
const SAVE_PAUSE: Duration = Duration::from_millis(200);
/// How long a live read may take.
const READ_TIME: Duration = Duration::from_secs(3);
/// A watch is renewed this often, in seconds: a server that vanished without a word is noticed then.
const WATCH_SECONDS: u32 = 60;
/// How often a live read is repeated when tables changed while it ran.
const READS: usize = 3;

/// Reads one ModelRoute of the namespace from the API server, by its name; `None` when there is none.
pub type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Option<Reading>, String>> + Send + Sync>;

/// A [`Lookup`] by an API client. The answer is the newest, not one from a cache of the API server.
pub fn lookup(api: Api<DeserializeGuard<ModelRoute>>) -> Lookup {
    Arc::new(move |name| {
        let api = api.clone();
        async move {
            match tokio::time::timeout(READ_TIME, api.get_opt(&name)).await {
                Ok(Ok(object)) => Ok(object.map(Reading::from)),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer from the API server within {} s", READ_TIME.as_secs())),
            }
        }
        .boxed()
    })
}

/// Reads a table live and takes what it finds.
pub async fn read_live(keeper: &Keeper, lookup: &Lookup, counts: &Counts, name: &str) {
    for _ in 0..READS {
        let seen = keeper.changes();
        match lookup(name.to_owned()).await {
            Ok(Some(object)) => {
                if keeper.offer(object, Origin::Live(seen)) != Offer::ReadAgain {
                    return;
                }
            }
            // The watch tells of the deletion, and in order.
            Ok(None) => return,
            Err(error) => {
                counts.watch_failed(Watched::Live);
                tracing::warn!(route = name, error, "a live read of a table failed; the one in use stays");
                return;
            }
        }
    }
}

/// Follows the ModelRoutes; ends never.
pub async fn routes(
    api: Api<DeserializeGuard<ModelRoute>>,
    keeper: Arc<Keeper>,
    lookup: Lookup,
    counts: Counts,
) {
    let mut listing = Vec::new();
    let (keeper, lookup, counts) = (&keeper, &lookup, &counts);
    let mut events = pin!(stream(api, watcher::Config::default()));
    while let Some(event) = events.next().await {
        let again = match event {
            Ok(Event::Init) => {
                listing.clear();
                Vec::new()
            }
            Ok(Event::InitApply(object)) => {
                listing.push(object);
                Vec::new()
            }
            Ok(Event::InitDone) => keeper.listed(std::mem::take(&mut listing)),
            Ok(Event::Apply(object)) => {
                let reading = Reading::from(object);
                let name = reading.metadata().name.clone().unwrap_or_default();
                match keeper.offer(reading, Origin::Watch) {
                    Offer::ReadAgain => vec![name],
                    _ => Vec::new(),
                }
            }
            Ok(Event::Delete(object)) => {
                let gone = object.meta();
                if let Some(name) = &gone.name {
                    keeper.removed(name, gone.uid.as_deref());
                }
                Vec::new()
            }
            Err(error) => {
                counts.watch_failed(Watched::Routes);
                tracing::warn!(%error, "reading ModelRoutes failed; trying again, what is served stays");
                Vec::new()
            }
        };
        for name in again {
            read_live(keeper, lookup, counts, &name).await;
        }
    }
}

/// Follows the EndpointSlices; ends never.
pub async fn slices(api: Api<EndpointSlice>, keeper: Arc<Keeper>, counts: Counts) {
    let mut listing = Vec::new();
    let mut events = pin!(stream(api, watcher::Config::default().labels(SERVICE_LABEL)));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listing.clear(),
            Ok(Event::InitApply(object)) => listing.push(object),
            Ok(Event::InitDone) => keeper.slices_listed(&std::mem::take(&mut listing)),
            Ok(Event::Apply(object)) => keeper.slice_changed(&object),
            Ok(Event::Delete(object)) => {
                keeper.slice_removed(object.metadata.name.as_deref().unwrap_or_default());
            }
            Err(error) => {
                counts.watch_failed(Watched::Slices);
                tracing::warn!(%error, "reading EndpointSlices failed; trying again, the known pods stay");
            }
        }
    }
}

/// A watch that never ends.
fn stream<K>(
    api: Api<K>,
    config: watcher::Config,
) -> impl futures::Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    follow(api, config.timeout(WATCH_SECONDS)).backoff(Pause::default())
}

/// Writes the tables to disk after each change, at most a few times a second, a cut at once; ends never.
pub async fn save(keeper: Arc<Keeper>, counts: Counts, write: impl Fn() -> SaveFuture) {
    loop {
        keeper.changed().await;
        if let Err(error) = write().await {
            counts.disk_errors.inc();
            tracing::warn!(
                error,
                "the tables could not be saved; a restart without the API server would not know them"
            );
        }
        tokio::select! {
            () = tokio::time::sleep(SAVE_PAUSE) => {}
            () = keeper.urgent() => {}
        }
    }
}

/// A write to disk under way.
pub type SaveFuture = std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

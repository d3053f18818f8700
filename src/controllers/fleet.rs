//! What one ModelDeployment must know of the others: how many rollouts are under way, whether someone froze all of them, and
//! who claims which host.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use stoker_api::ModelDeployment;
use stoker_api::names::objects;
use stoker_api::pause::Pause;

use super::changes::Name;

/// ModelDeployments as the watch shows them.
type Store_ = Store<DeserializeGuard<ModelDeployment>>;

/// How many rollouts may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// In one namespace.
    pub namespace: u32,
    /// In all that this operator watches.
    pub fleet: u32,
}

/// Shared by all reconciles.
pub struct Fleet {
    caps: Caps,
    /// Set once the watch is there.
    deployments: RwLock<Option<Store_>>,
    settings: Store<ConfigMap>,
    /// Taken by [`Fleet::follow`].
    writer: Mutex<Option<reflector::store::Writer<ConfigMap>>>,
    known: Mutex<Known>,
}

/// What the reconciles of this process told.
#[derive(Default)]
struct Known {
    /// The namespace of each rollout that is under way, by uid of its ModelDeployment.
    under_way: BTreeMap<String, String>,
    /// ModelDeployments that were looked at: what the watch says of the others counts.
    looked_at: BTreeSet<String>,
}

impl Fleet {
    /// Knows of nobody yet.
    pub fn new(caps: Caps) -> Self {
        let (settings, writer) = reflector::store();
        Self {
            caps,
            deployments: RwLock::default(),
            settings,
            writer: Mutex::new(Some(writer)),
            known: Mutex::default(),
        }
    }

    /// Where the other ModelDeployments are seen.
    pub fn see(&self, deployments: Store_) {
        *self.deployments.write().unwrap_or_else(PoisonError::into_inner) = Some(deployments);
    }

    fn store(&self) -> Option<Store_> {
        self.deployments.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows the ConfigMap with the fleet's switches, in the operator's namespace, until `shutdown`.
    pub async fn follow(
        self: Arc<Self>,
        client: Client,
        namespace: String,
        shutdown: impl Future<Output = ()>,
    ) {
        let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let api: Api<ConfigMap> = Api::namespaced(client, &namespace);
        let config = watcher::Config::default().fields(&format!("metadata.name={}", objects::FLEET));
        let events = watcher(api, config).backoff(Pause::default()).reflect(writer).take_until(shutdown);
        pin_mut!(events);
        while let Some(event) = events.next().await {
            if let Err(error) = event {
                tracing::warn!(%error, "ConfigMap {} cannot be watched; what it said last holds", objects::FLEET);
            }
        }
    }

    /// Why nothing may advance, if someone froze the fleet.
    pub fn frozen(&self) -> Option<String> {
        let settings = self.settings.state().into_iter().next()?;
        let why = settings.data.as_ref()?.get(objects::FREEZE)?.trim().to_owned();
        (!why.is_empty() && why != "false").then(|| match why.as_str() {
            "true" => format!("the fleet is frozen (ConfigMap {}, key {})", objects::FLEET, objects::FREEZE),
            why => format!("the fleet is frozen: {why}"),
        })
    }

    /// A place for a rollout, or why there is none. A place that is not used is given back by [`Fleet::told`].
    pub fn place(&self, uid: &str, namespace: &str) -> Result<(), String> {
        let mut known = self.known();
        if known.under_way.contains_key(uid) {
            return Ok(());
        }
        let mut all = known.under_way.clone();
        // After a start most were not looked at yet: what their status says counts until then.
        for other in self.store().map(|store| store.state()).unwrap_or_default() {
            let Ok(md) = &other.0 else { continue };
            let uid = md.uid().unwrap_or_default();
            if is_under_way(md) && !known.looked_at.contains(&uid) {
                all.insert(uid, md.namespace().unwrap_or_default());
            }
        }
        all.remove(uid);
        let here = all.values().filter(|other| *other == namespace).count();
        for (count, cap, of) in
            [(here, self.caps.namespace, "this namespace"), (all.len(), self.caps.fleet, "the fleet")]
        {
            if count >= cap as usize {
                return Err(format!(
                    "it waits for its turn: {count} rollouts are under way in {of}, as many as may be"
                ));
            }
        }
        known.under_way.insert(uid.to_owned(), namespace.to_owned());
        known.looked_at.insert(uid.to_owned());
        Ok(())
    }

    /// Whether a rollout of this ModelDeployment is under way.
    pub fn told(&self, uid: &str, namespace: &str, under_way: bool) {
        let mut known = self.known();
        if under_way {
            known.under_way.insert(uid.to_owned(), namespace.to_owned());
        } else {
            known.under_way.remove(uid);
        }
        known.looked_at.insert(uid.to_owned());
    }

    /// A ModelDeployment is gone.
    pub fn forget(&self, uid: &str) {
        let mut known = self.known();
        known.under_way.remove(uid);
        known.looked_at.remove(uid);
    }

    /// Forgets the ModelDeployments that are gone, and says which are there, by uid.
    pub fn forget_gone(&self) -> BTreeSet<String> {
        let there = self.store().map(|store| store.state()).unwrap_or_default();
        let there: BTreeSet<String> = there.iter().filter_map(|md| md.meta().uid.clone()).collect();
        let mut known = self.known();
        known.under_way.retain(|uid, _| there.contains(uid));
        known.looked_at.retain(|uid| there.contains(uid));
        there
    }

    /// Hosts of `md` that another ModelDeployment of the namespace has: a host of its name, or one that it asked for earlier.
    pub fn taken_hosts(&self, md: &ModelDeployment) -> BTreeMap<String, String> {
        let hosts = &md.spec.traffic.hosts;
        let (Some(store), false) = (self.store(), hosts.is_empty()) else { return BTreeMap::new() };
        let (namespace, name) = (md.namespace().unwrap_or_default(), md.name_any());
        let mut taken = BTreeMap::new();
        for host in hosts {
            let host = host.to_ascii_lowercase();
            if let Some(owner) = name_in(&host, &namespace).filter(|owner| *owner != name) {
                let key = ObjectRef::new(owner).within(&namespace);
                if store.get(&key).is_some() {
                    taken.insert(host.clone(), owner.to_owned());
                    continue;
                }
            }
            let others = store.state();
            let older = others.iter().filter_map(|other| other.0.as_ref().ok()).find(|other| {
                other.namespace().as_deref() == Some(&namespace)
                    && other.metadata.deletion_timestamp.is_none()
                    && age(other) < age(md)
                    && other.spec.traffic.hosts.iter().any(|other| other.eq_ignore_ascii_case(&host))
            });
            if let Some(owner) = older {
                taken.insert(host, owner.name_any());
            }
        }
        taken
    }

    /// The gateways that are named, by namespace and name, each with who names it.
    pub fn gateways(&self) -> BTreeMap<(String, String), Vec<Name>> {
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for md in self.store().map(|store| store.state()).unwrap_or_default() {
            let Ok(md) = &md.0 else { continue };
            let Some(gateway) = &md.spec.traffic.gateway_ref else { continue };
            let namespace = md.namespace().unwrap_or_default();
            let key = (gateway.namespace(&namespace).to_owned(), gateway.name.clone());
            all.entry(key).or_default().push(ObjectRef::new_with(&md.name_any(), ()).within(&namespace));
        }
        all
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether status tells of a rollout that counts: a first revision has nobody to harm, and a way back must not wait.
fn is_under_way(md: &ModelDeployment) -> bool {
    let status = md.status.as_ref();
    status.is_some_and(|status| status.stable.is_some() && status.run.as_ref().is_some_and(|run| !run.direct))
}

/// The older one has a host that two ask for; of two that are as old, the one whose name comes first. Routers order alike.
fn age(md: &ModelDeployment) -> (Option<&Time>, Option<&String>) {
    (md.metadata.creation_timestamp.as_ref(), md.metadata.name.as_ref())
}

/// The ModelDeployment whose name gives a host: `<name>`, `<name>.<namespace>` or `<name>.<namespace>.svc...`.
fn name_in<'a>(host: &'a str, namespace: &str) -> Option<&'a str> {
    let Some((name, rest)) = host.split_once('.') else { return Some(host) };
    let rest = rest.strip_prefix(namespace)?;
    (rest.is_empty() || rest == ".svc" || rest.starts_with(".svc.")).then_some(name)
}

#[cfg(test)]
mod tests;

//! What every reconcile needs: the client, the settings, counters, and the little that is remembered between looks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client, Resource, ResourceExt};
use prometheus_client::registry::Registry;
use stoker_decide::address::Network;

use crate::apply::Applier;
use crate::call::Calls;
use crate::controllers::fleet::{Caps, Fleet};
use crate::controllers::gateways::Gateways;
use crate::controllers::memory::Memory;
use crate::controllers::scaling::Scaling;
use crate::controllers::scaling::metrics::Shown;
use crate::controllers::scaling::price::Prices;
use crate::observe::monitoring::Monitoring;
use crate::observe::routers::Routers;
use crate::report::metrics::Metrics;
use crate::report::rollouts::Rollouts;

/// Settings of the operator. They come from its Deployment, never from a namespaced object.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The operator's own namespace.
    pub namespace: String,
    /// Watch one namespace instead of the whole cluster.
    pub watch: Option<String>,
    /// Image of the inference server, for revisions that name none.
    pub server_image: String,
    /// Image of the routers.
    pub router_image: String,
    /// `imagePullPolicy` of the pods that the operator makes.
    pub pull_policy: String,
    /// Networks that artifacts may come from although they are not public.
    pub artifact_networks: Vec<Network>,
    /// Time between two looks at a run.
    pub tick: Duration,
    /// How many rollouts may be under way.
    pub caps: Caps,
    /// What pods cost.
    pub prices: Prices,
    /// The file with the monitoring systems that may be asked, where there is one.
    pub providers: Option<PathBuf>,
}

#[cfg(test)]
impl Settings {
    /// What tests run with.
    pub(crate) fn sample() -> Self {
        Self {
            namespace: "stoker-system".into(),
            watch: None,
            server_image: "server:1".into(),
            router_image: "router:1".into(),
            pull_policy: "IfNotPresent".into(),
            artifact_networks: vec!["10.0.0.0/8".parse().unwrap()],
            tick: Duration::from_secs(1),
            caps: Caps { namespace: 10, fleet: 50 },
            prices: Prices::default(),
            providers: None,
        }
    }
}

/// Shared by all reconciles.
pub struct Context {
    /// To the API server.
    pub client: Client,
    /// From the command line.
    pub settings: Settings,
    /// Deadlines and counters of remote calls.
    pub calls: Calls,
    /// Figures of the operator itself.
    pub metrics: Metrics,
    /// What is told of rollouts to Prometheus.
    pub rollouts: Rollouts,
    /// Publishes Events.
    pub recorder: Recorder,
    /// Talks to the routers.
    pub routers: Routers,
    /// What is known between looks and may be lost: counts, detectors, times.
    pub memory: Memory,
    /// What one ModelDeployment must know of the others.
    pub fleet: Arc<Fleet>,
    /// Asks Prometheus and Alertmanager.
    pub monitoring: Arc<Monitoring>,
    /// How many pods revisions have, where Stoker counts them.
    pub scaling: Arc<Scaling>,
    /// What happens at gateways.
    pub gateways: Gateways,
}

impl Context {
    /// A context whose figures are shown in `registry`.
    pub fn new(client: Client, settings: Settings, routers: Routers, registry: &mut Registry) -> Arc<Self> {
        let reporter = Reporter { controller: "stoker".into(), instance: None };
        let calls = Calls::default();
        calls.register(registry);
        let metrics = Metrics::default();
        metrics.register(registry);
        let rollouts = Rollouts::default();
        rollouts.register(registry);
        let recorder = Recorder::new(client.clone(), reporter);
        let fleet = Arc::new(Fleet::new(settings.caps));
        let scaling = Arc::new(Scaling::default());
        registry.register_collector(Box::new(Shown(Arc::clone(&scaling))));
        let monitoring = Monitoring::new(settings.providers.clone(), registry);
        Arc::new(Self {
            client,
            settings,
            calls,
            metrics,
            rollouts,
            recorder,
            routers,
            memory: Memory::default(),
            fleet,
            monitoring,
            scaling,
            gateways: Gateways::default(),
        })
    }

    /// Objects of a kind, in all that this operator watches.
    pub fn scope<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        scope(&self.client, self.settings.watch.as_deref())
    }

    /// A writer of children of `owner`.
    pub fn applier<K: Resource<DynamicType = ()>>(&self, owner: &K, manager: &'static str) -> Applier {
        Applier {
            client: self.client.clone(),
            calls: self.calls.clone(),
            manager,
            namespace: owner.namespace().unwrap_or_default(),
            owner: owner_reference(owner),
        }
    }
}

/// The ownerReference of a child. Deleting the owner deletes the child.
pub fn owner_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        // Would need the right to update finalizers of the owner, for nothing that we need.
        block_owner_deletion: None,
    }
}

/// Objects of a kind, in one namespace or in all.
pub fn scope<K>(client: &Client, within: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match within {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

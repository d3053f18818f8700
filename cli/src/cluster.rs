//! The cluster: all calls to the API server. Each has a deadline, and each failure names what was asked and the right that it needs.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client, Config};
use serde::de::DeserializeOwned;
use serde_json::Value;
use stoker_api::names::labels;
use stoker_api::{ModelDeployment, ModelRoute};

use crate::args::Global;
use crate::trouble::{Call, Trouble, causes};

/// Longest time that a call may take.
const DEADLINE: Duration = Duration::from_secs(15);
/// Longest time until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// Who changes annotations, for `metadata.managedFields`.
const MANAGER: &str = "kubectl-stoker";

/// The kinds that are asked for, as a right names them.
pub mod resources {
    /// ModelDeployments.
    pub const DEPLOYMENTS: &str = "modeldeployments.stoker.dev";
    /// ModelRoutes.
    pub const ROUTES: &str = "modelroutes.stoker.dev";
    /// Deployments of revisions.
    pub const APPS: &str = "deployments.apps";
    /// Pods of revisions.
    pub const PODS: &str = "pods";
    /// Snapshots of revisions.
    pub const REVISIONS: &str = "controllerrevisions.apps";
    /// Events.
    pub const EVENTS: &str = "events";
    /// Who am I?
    pub const SELF: &str = "selfsubjectreviews.authentication.k8s.io";
}

/// A cluster and the namespace that is meant.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
}

impl Cluster {
    /// The cluster that flags and kubeconfig name. Nothing is sent yet.
    pub async fn connect(global: &Global) -> Result<Self, Trouble> {
        let mut config = config(global).await?;
        config.connect_timeout = Some(CONNECT);
        let namespace = global.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| Trouble::Kubeconfig(causes(&error)))?;
        Ok(Self { client, namespace })
    }

    /// A cluster behind a client that is there already.
    pub fn of(client: Client, namespace: impl Into<String>) -> Self {
        Self { client, namespace: namespace.into() }
    }

    /// The namespace that is meant.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// ModelDeployments as they are written: what this release does not know stays there.
    pub fn deployments(&self) -> Api<DynamicObject> {
        Api::namespaced_with(
            self.client.clone(),
            &self.namespace,
            &ApiResource::erase::<ModelDeployment>(&()),
        )
    }

    /// Objects of one kind in the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn call(&self, verb: &'static str, resource: &'static str, name: Option<&str>) -> Call {
        Call { verb, resource, namespace: Some(self.namespace.clone()), name: name.map(str::to_owned) }
    }

    /// A ModelDeployment.
    pub async fn get(&self, name: &str) -> Result<DynamicObject, Trouble> {
        let call = self.call("get", resources::DEPLOYMENTS, Some(name));
        make(&call, self.deployments().get(name)).await
    }

    /// All ModelDeployments of the namespace, or of all.
    pub async fn list(&self, everywhere: bool) -> Result<Vec<DynamicObject>, Trouble> {
        let kind = ApiResource::erase::<ModelDeployment>(&());
        let mut call = self.call("list", resources::DEPLOYMENTS, None);
        let api: Api<DynamicObject> = if everywhere {
            call.namespace = None;
            Api::all_with(self.client.clone(), &kind)
        } else {
            self.deployments()
        };
        Ok(make(&call, api.list(&ListParams::default())).await?.items)
    }

    /// The table that its routers serve; none before the operator has written one.
    pub async fn route(&self, name: &str) -> Result<Option<ModelRoute>, Trouble> {
        let call = self.call("get", resources::ROUTES, Some(name));
        make(&call, self.api::<ModelRoute>().get_opt(name)).await
    }

    /// Deployments of its revisions.
    pub async fn workloads(&self, name: &str) -> Result<Vec<Deployment>, Trouble> {
        self.owned(resources::APPS, name).await
    }

    /// Pods of its revisions.
    pub async fn pods(&self, name: &str) -> Result<Vec<Pod>, Trouble> {
        self.owned(resources::PODS, name).await
    }

    /// Snapshots of its revisions.
    pub async fn revisions(&self, name: &str) -> Result<Vec<ControllerRevision>, Trouble> {
        self.owned(resources::REVISIONS, name).await
    }

    async fn owned<K>(&self, resource: &'static str, name: &str) -> Result<Vec<K>, Trouble>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let call = self.call("list", resource, None);
        Ok(make(&call, self.api::<K>().list(&ListParams::default().labels(&selector(name)))).await?.items)
    }

    /// Events about a ModelDeployment.
    pub async fn events(&self, name: &str) -> Result<Vec<Event>, Trouble> {
        let call = self.call("list", resources::EVENTS, None);
        let of = format!("involvedObject.kind=ModelDeployment,involvedObject.name={name}");
        Ok(make(&call, self.api::<Event>().list(&ListParams::default().fields(&of))).await?.items)
    }

    /// The name that the API server knows the caller by.
    pub async fn whoami(&self) -> Result<String, Trouble> {
        let call = Call { verb: "create", resource: resources::SELF, namespace: None, name: None };
        let api: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let review = make(&call, api.create(&PostParams::default(), &SelfSubjectReview::default())).await?;
        let name = review.status.and_then(|status| status.user_info).and_then(|user| user.username);
        name.filter(|name| !name.is_empty())
            .ok_or_else(|| Trouble::Unauthorised("the API server does not know who you are".to_owned()))
    }

    /// Changes a ModelDeployment; none: somebody else changed it since the version that `body` names.
    pub async fn patch(&self, name: &str, body: &Value) -> Result<Option<DynamicObject>, Trouble> {
        let call = self.call("patch", resources::DEPLOYMENTS, Some(name));
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let patched = async {
            match self.deployments().patch(name, &params, &Patch::Merge(body)).await {
                Err(kube::Error::Api(status)) if status.is_conflict() => Ok(None),
                other => other.map(Some),
            }
        };
        make(&call, patched).await
    }
}

/// What selects all that belongs to a ModelDeployment.
pub fn selector(name: &str) -> String {
    format!("{}={name}", labels::DEPLOYMENT)
}

/// What flags and environment say.
async fn config(global: &Global) -> Result<Config, Trouble> {
    let wrong = |error: &dyn std::error::Error| Trouble::Kubeconfig(causes(error));
    let options = KubeConfigOptions { context: global.context.clone(), ..KubeConfigOptions::default() };
    if let Some(path) = &global.kubeconfig {
        let file = Kubeconfig::read_from(path).map_err(|error| wrong(&error))?;
        return Config::from_custom_kubeconfig(file, &options).await.map_err(|error| wrong(&error));
    }
    match Config::from_kubeconfig(&options).await {
        Ok(config) => Ok(config),
        // In a pod there is no kubeconfig.
        Err(error) => match Config::incluster() {
            Ok(config) if global.context.is_none() => Ok(config),
            _ => Err(wrong(&error)),
        },
    }
}

/// Makes a call, within the deadline.
async fn make<T>(call: &Call, future: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Trouble> {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Trouble::of(call, &error)),
        Err(_) => Err(Trouble::timed_out(call, DEADLINE)),
    }
}

//! What the operator made in a namespace: pods of revisions, and whether anything is left of it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, ListParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use stoker_api::names::{labels, parts};
use stoker_api::{ModelRoute, ModelRouter};

use crate::cluster::until;
use crate::namespace::TestNamespace;

/// The pods of a revision, those that are on their way out among them.
pub async fn all_pods_of(namespace: &TestNamespace, revision: &str) -> Result<Vec<Pod>> {
    let api = Api::<Pod>::namespaced(namespace.client.clone(), &namespace.name);
    let selector = format!("{}={revision},{}={}", labels::REVISION, labels::PART, parts::SERVER);
    Ok(api.list(&ListParams::default().labels(&selector)).await?.items)
}

/// The pods of a revision that take room: those with a container that has not ended. A kubelet may list the others for some seconds more.
pub async fn standing_pods_of(namespace: &TestNamespace, revision: &str) -> Result<Vec<Pod>> {
    let pods = all_pods_of(namespace, revision).await?;
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
    let ended = |pod: &Pod| phase(pod).is_some_and(|phase| phase == "Succeeded" || phase == "Failed");
    Ok(pods.into_iter().filter(|pod| !ended(pod)).collect())
}

/// The pods that serve a revision and are not on their way out.
pub async fn pods_of(namespace: &TestNamespace, revision: &str) -> Result<Vec<Pod>> {
    let pods = all_pods_of(namespace, revision).await?;
    Ok(pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
}

/// The uids of a revision's pods.
pub async fn uids_of(namespace: &TestNamespace, revision: &str) -> Result<BTreeSet<String>> {
    Ok(pods_of(namespace, revision).await?.into_iter().filter_map(|pod| pod.metadata.uid).collect())
}

/// Waits until none of the operator's objects is left in the namespace; fails with the names of those that are.
pub async fn nothing_is_left(namespace: &TestNamespace) -> Result<()> {
    let mut left = Vec::new();
    let found = until("nothing is left", Duration::from_mins(2), async || {
        left = all(namespace).await?;
        Ok(left.is_empty().then_some(()))
    })
    .await;
    found.map_err(|error| error.context(format!("left in {}: {}", namespace.name, left.join(", "))))
}

/// All objects in the namespace that Kubernetes itself did not make, as `Kind/name`.
pub async fn all(namespace: &TestNamespace) -> Result<Vec<String>> {
    let (client, name) = (&namespace.client, namespace.name.as_str());
    let mut found = Vec::new();
    found.extend(named::<ModelRoute>(client, name).await?);
    found.extend(named::<ModelRouter>(client, name).await?);
    found.extend(named::<Deployment>(client, name).await?);
    found.extend(named::<ReplicaSet>(client, name).await?);
    found.extend(named::<ControllerRevision>(client, name).await?);
    found.extend(named::<Pod>(client, name).await?);
    found.extend(named::<Service>(client, name).await?);
    found.extend(named::<EndpointSlice>(client, name).await?);
    found.extend(named::<RoleBinding>(client, name).await?);
    found.extend(named::<PodDisruptionBudget>(client, name).await?);
    found.extend(named::<NetworkPolicy>(client, name).await?);
    found.extend(named::<Secret>(client, name).await?);
    found.extend(
        named::<ServiceAccount>(client, name)
            .await?
            .into_iter()
            .filter(|one| one != "ServiceAccount/default"),
    );
    Ok(found)
}

async fn named<K>(client: &Client, namespace: &str) -> Result<Vec<String>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let list = Api::<K>::namespaced(client.clone(), namespace).list_metadata(&ListParams::default()).await?;
    Ok(list.items.iter().map(|object| format!("{}/{}", K::kind(&()), object.name_any())).collect())
}

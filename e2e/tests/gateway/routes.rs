//! The routes of a test's namespace, as objects.

use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use stoker_api::gateway::{GRPCRoute, HTTPRoute};
use stoker_e2e::cluster::until;
use stoker_e2e::namespace::TestNamespace;
use stoker_e2e::subject::PATIENCE;

use crate::public;

/// The operator watches its routes; it begins to after it has seen the first ModelDeployment that names a gateway.
const SOON: Duration = Duration::from_secs(40);

pub(crate) struct Routes {
    http: Api<HTTPRoute>,
    grpc: Api<GRPCRoute>,
}

impl Routes {
    pub(crate) fn of(namespace: &TestNamespace) -> Self {
        let client = || namespace.client.clone();
        Self {
            http: Api::namespaced(client(), &namespace.name),
            grpc: Api::namespaced(client(), &namespace.name),
        }
    }

    /// A route that somebody else made, to the same Service.
    pub(crate) async fn make_foreign(&self, name: &str, host: &str) -> Result<()> {
        let spec = json!({
            "parentRefs": [{"name": public::GATEWAY, "namespace": public::NAMESPACE}],
            "hostnames": [host],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "backendRefs": [{"name": "digits", "port": 80}],
            }],
        });
        // With the label that Stoker's own routes have: that makes it no route of Stoker's.
        let labels = json!({"app.kubernetes.io/managed-by": "stoker"});
        let route =
            serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "spec": spec}))?;
        let params = PostParams { field_manager: Some("somebody".into()), ..PostParams::default() };
        self.http.create(&params, &route).await?;
        Ok(())
    }

    /// All of a route but what its gateway's controller writes.
    pub(crate) async fn foreign(&self, name: &str) -> Result<String> {
        let mut route = serde_json::to_value(self.http.get(name).await?)?;
        let fields = route["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        ensure!(
            fields.iter().all(|entry| !entry["manager"].as_str().unwrap_or_default().starts_with("stoker")),
            "Stoker wrote fields of route {name}: {fields:?}"
        );
        for field in ["managedFields", "resourceVersion"] {
            route["metadata"].as_object_mut().ok_or_else(|| anyhow!("no metadata"))?.remove(field);
        }
        route.as_object_mut().ok_or_else(|| anyhow!("no object"))?.remove("status");
        Ok(route.to_string())
    }

    /// The spec of an HTTPRoute.
    pub(crate) async fn spec(&self, name: &str) -> Result<Value> {
        Ok(serde_json::to_value(self.http.get(name).await?.spec)?)
    }

    /// Changes an HTTPRoute under a name.
    pub(crate) async fn edit(&self, name: &str, manager: &str, change: &Value) -> Result<()> {
        let params = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
        self.http.patch(name, &params, &Patch::Merge(change)).await?;
        Ok(())
    }

    /// Waits until an HTTPRoute has this spec.
    pub(crate) async fn is(&self, name: &str, spec: &Value) -> Result<()> {
        until(&format!("HTTPRoute {name} is as it was"), SOON, async || {
            let now = self.spec(name).await?;
            ensure!(now == *spec, "it is {now}");
            Ok(Some(()))
        })
        .await
    }

    /// Waits until there is no HTTPRoute of this name.
    pub(crate) async fn is_gone(&self, name: &str) -> Result<()> {
        until(&format!("HTTPRoute {name} is gone"), PATIENCE, async || {
            Ok(self.http.get_opt(name).await?.is_none().then_some(()))
        })
        .await
    }

    /// Waits until there is a GRPCRoute for this host, and no HTTPRoute has it.
    pub(crate) async fn grpc_is_there(&self, name: &str, host: &str) -> Result<()> {
        until(&format!("GRPCRoute {name} takes {host}"), PATIENCE, async || {
            let (http, grpc) = (self.http.get(name).await?.spec, self.grpc.get(name).await?.spec);
            ensure!(grpc.hostnames == [host], "the GRPCRoute has {:?}", grpc.hostnames);
            ensure!(
                !http.hostnames.iter().any(|other| other == host),
                "the HTTPRoute has {:?}",
                http.hostnames
            );
            Ok(Some(()))
        })
        .await
    }
}

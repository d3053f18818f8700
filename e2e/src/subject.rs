//! One ModelDeployment under test: how it is written, waited for and asked for an action.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use stoker_api::deployment::{ModelDeploymentStatus, Phase, ScalingStatus};
use stoker_api::names::{annotations, ports};
use stoker_api::{ModelDeployment, names};
use tokio::net::TcpStream;

use crate::cluster::{connect_as, until};
use crate::load::{Load, Plan};
use crate::namespace::TestNamespace;

/// Long enough for pods to start on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Who asks for actions in tests. The cluster refuses a name that is not the caller's, so they are asked for as this person.
pub const ASKS: &str = "e2e";

/// A spec with two short steps, one small pod a revision, and little warmth, so that a rollout takes seconds.
pub fn short_spec(uri: &str) -> Value {
    json!({
        "replicas": 1,
        "model": {"uri": uri},
        "runtime": {"resources": {"requests": {"cpu": "10m", "memory": "32Mi"}}},
        "rollout": {
            "steps": [{"weight": 20, "duration": "3s"}, {"weight": 50, "duration": "3s"}],
            "minRequests": 20,
            "progressDeadline": "60s",
        },
        "rollback": {"keepWarm": "5s"},
    })
}

/// As [`short_spec`], with a latency target that a busy machine keeps: where answers are to be judged by what they say alone.
pub fn patient_spec(uri: &str) -> Value {
    let mut spec = short_spec(uri);
    spec["slo"] = json!({"latency": {"target": "5s"}});
    spec
}

/// A ModelDeployment in a test's namespace.
pub struct Subject<'a> {
    namespace: &'a TestNamespace,
    /// Its name.
    pub name: String,
    /// ModelDeployments of the namespace.
    pub api: Api<ModelDeployment>,
}

impl<'a> Subject<'a> {
    /// Names it; nothing is written yet.
    pub fn new(namespace: &'a TestNamespace, name: &str) -> Self {
        let api = Api::namespaced(namespace.client.clone(), &namespace.name);
        Self { namespace, name: name.to_owned(), api }
    }

    /// Writes the spec, as `kubectl apply` does.
    pub async fn apply(&self, spec: &Value) -> Result<ModelDeployment> {
        let object = json!({
            "apiVersion": "stoker.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": self.name},
            "spec": spec,
        });
        let params = PatchParams::apply("e2e").force();
        Ok(self.api.patch(&self.name, &params, &Patch::Apply(&object)).await?)
    }

    /// Writes the spec, and waits until all of stable serves.
    pub async fn serve(&self, spec: &Value) -> Result<ModelDeployment> {
        self.apply(spec).await?;
        self.healthy().await
    }

    /// Changes the model's URI.
    pub async fn set_uri(&self, uri: &str) -> Result<ModelDeployment> {
        self.merge(&json!({"spec": {"model": {"uri": uri}}})).await
    }

    /// Changes some fields.
    pub async fn merge(&self, change: &Value) -> Result<ModelDeployment> {
        Ok(self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(change)).await?)
    }

    /// Asks for an action by annotation: `promote`, `approve`, `pause`, `resume`, `abort`, `retry`, `undo` and so on.
    pub async fn request(&self, verb: &str, nonce: &str) -> Result<()> {
        let values = json!({
            annotations::REQUEST: format!("{verb} {nonce}"),
            annotations::REQUESTED_BY: ASKS,
            annotations::REASON: "the figures are good",
        });
        let client = connect_as(ASKS, &["system:masters"]).await?;
        let api = Api::<ModelDeployment>::namespaced(client, &self.namespace.name);
        let change = json!({"metadata": {"annotations": values}});
        api.patch(&self.name, &PatchParams::default(), &Patch::Merge(&change)).await?;
        Ok(())
    }

    /// Asks for an action, and waits until the status echoes it and `condition` holds.
    pub async fn ask(
        &self,
        verb: &str,
        nonce: &str,
        condition: impl Fn(&ModelDeploymentStatus) -> bool,
    ) -> Result<ModelDeploymentStatus> {
        self.request(verb, nonce).await?;
        let echo = format!("{verb} {nonce}");
        let done = self
            .until(&format!("handled {echo:?}"), PATIENCE, |status| {
                status.handled_request.as_deref() == Some(echo.as_str()) && condition(status)
            })
            .await?;
        Ok(done.status.unwrap_or_default())
    }

    /// Deletes it; its children go after it.
    pub async fn delete(&self) -> Result<()> {
        self.api.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Waits until `condition` holds for a status that answers the spec as it is now.
    pub async fn until(
        &self,
        what: &str,
        deadline: Duration,
        condition: impl Fn(&ModelDeploymentStatus) -> bool,
    ) -> Result<ModelDeployment> {
        let mut last = String::from("it has no status");
        let found = until(&format!("{}: {what}", self.name), deadline, async || {
            let object = self.api.get(&self.name).await?;
            let Some(status) = &object.status else { return Ok(None) };
            last = format!(
                "it is {} at step {:?}, weight {:?}, verdict {:?}: {}",
                status.phase.as_str(),
                status.step,
                status.weight,
                status.verdict,
                status.message
            );
            let answers = Some(status.observed_generation) == object.metadata.generation;
            Ok((answers && condition(status)).then_some(object))
        })
        .await;
        found.map_err(|error| anyhow!("{error}; {last}"))
    }

    /// Waits until stable is what the spec asks for, and serves.
    pub async fn healthy(&self) -> Result<ModelDeployment> {
        self.until("is Healthy", PATIENCE, |status| {
            status.phase == Phase::Healthy && status.stable.is_some() && status.stable == status.target
        })
        .await
    }

    /// Waits until the revision that the spec asks for was rolled back.
    pub async fn rolled_back(&self) -> Result<ModelDeployment> {
        self.until("is RolledBack", PATIENCE, |status| {
            status.phase == Phase::RolledBack
                && status.rejected.iter().any(|one| Some(&one.revision) == status.target.as_ref())
        })
        .await
    }

    /// Waits until the run is at this step, counted from 1.
    pub async fn at_step(&self, step: u32) -> Result<ModelDeployment> {
        self.until(&format!("is at step {step}"), PATIENCE, |status| {
            status.run.as_ref().is_some_and(|run| run.step >= step && !run.direct)
        })
        .await
    }

    /// Its status now.
    pub async fn status(&self) -> Result<ModelDeploymentStatus> {
        self.api.get(&self.name).await?.status.ok_or_else(|| anyhow!("{} has no status", self.name))
    }

    /// What its scaler did.
    pub async fn scaling(&self) -> Result<ScalingStatus> {
        Ok(self.status().await?.scaling.unwrap_or_default())
    }

    /// Its Events with this reason.
    pub async fn events(&self, reason: &str) -> Result<Vec<Event>> {
        let api = Api::<Event>::namespaced(self.namespace.client.clone(), &self.namespace.name);
        let list = api.list(&ListParams::default()).await?;
        let about = |event: &Event| {
            let regarding = event.regarding.as_ref();
            let name = regarding.and_then(|object| object.name.as_deref());
            name == Some(self.name.as_str()) && event.reason.as_deref() == Some(reason)
        };
        Ok(list.items.into_iter().filter(about).collect())
    }

    /// Waits for an Event with this reason whose note holds all of `words`.
    pub async fn event(&self, reason: &str, words: &[&str]) -> Result<Event> {
        let what = format!("an Event {reason} about {} that says {words:?}", self.name);
        until(&what, Duration::from_secs(20), async || {
            let says = |event: &Event| {
                words.iter().all(|word| event.note.as_deref().unwrap_or_default().contains(word))
            };
            Ok(self.events(reason).await?.into_iter().find(says))
        })
        .await
    }

    /// The address of its Service.
    pub async fn address(&self) -> Result<SocketAddr> {
        let api = Api::<Service>::namespaced(self.namespace.client.clone(), &self.namespace.name);
        let service = until(&format!("Service {} exists", self.name), PATIENCE, async || {
            Ok(api.get_opt(&self.name).await?)
        })
        .await?;
        let ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
        let ip = ip.parse().with_context(|| format!("clusterIP {ip:?} of Service {}", service.name_any()))?;
        Ok(SocketAddr::new(ip, ports::SERVICE))
    }

    /// The address of its Service, once it can be reached: that a node's kube-proxy knows a new Service is told nowhere.
    pub async fn reached(&self) -> Result<SocketAddr> {
        let address = self.address().await?;
        until(&format!("{address} can be reached"), PATIENCE, async || {
            Ok(Some(TcpStream::connect(address).await?))
        })
        .await?;
        Ok(address)
    }

    /// Sends real images to it, `rate` a second, once its Service can be reached.
    pub async fn load(&self, rate: u32) -> Result<Load> {
        Load::start(Plan::of(self.reached().await?, &self.namespace.name, &self.name, rate))
    }
}

/// The revision in a field of the status, or an error that names the field.
pub fn revision(field: &str, value: Option<&String>) -> Result<String> {
    value.cloned().ok_or_else(|| anyhow!("status.{field} names no revision"))
}

/// Why a revision was rejected.
pub fn why_rejected(status: &ModelDeploymentStatus, revision: &str) -> Result<String> {
    let found = status.rejected.iter().find(|one| one.revision == revision);
    let Some(found) = found else { bail!("status.rejected does not name {revision}: {:?}", status.rejected) };
    Ok(found.because.clone())
}

/// The status of a condition: `True`, `False` or `Unknown`; empty where there is none.
pub fn condition<'s>(status: &'s ModelDeploymentStatus, kind: &str) -> &'s str {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .map_or("", |condition| condition.status.as_str())
}

/// Fails unless a condition has this status and its message holds all of `words`.
pub fn says(status: &ModelDeploymentStatus, kind: &str, wanted: &str, words: &[&str]) -> Result<()> {
    let found = status.conditions.iter().find(|condition| condition.type_ == kind);
    let Some(found) = found else { bail!("there is no condition {kind}: {:?}", status.conditions) };
    let said = found.status == wanted && words.iter().all(|word| found.message.contains(word));
    ensure!(said, "condition {kind} is not {wanted} with {words:?} but {}: {}", found.status, found.message);
    Ok(())
}

/// The status holds the condition Ready with status True.
pub fn is_ready(status: &ModelDeploymentStatus) -> bool {
    condition(status, names::conditions::READY) == "True"
}

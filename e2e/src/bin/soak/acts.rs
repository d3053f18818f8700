//! What happens in each rollout, and the count at the end.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::ValueEnum;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};
use stoker_api::deployment::ModelDeploymentStatus;
use stoker_api::names::objects;
use stoker_e2e::cluster::{self, OPERATOR_NAMESPACE, operator_is_ready, ready_operators, until};
use stoker_e2e::load::{Load, Plan};
use stoker_e2e::namespace::TestNamespace;
use stoker_e2e::subject::{PATIENCE, Subject};
use stoker_e2e::{diagnosis, digits};

use crate::Settings;

/// One kind of rollout. The order is that in which they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Act {
    /// It takes its way to the end of its guard.
    Promote,
    /// Someone ends it in mid-run.
    Abort,
    /// Another version takes its place in mid-run.
    Supersede,
    /// It is promoted, and someone goes back.
    Undo,
    /// The candidate fails on dark images, and is cut.
    Cut,
    /// It fails only after its promotion, and the guard returns.
    GuardReturn,
    /// The operator is killed in mid-run.
    KillOperator,
    /// The routers are restarted one after the other in mid-run.
    RestartRouters,
    /// All revisions get fewer pods in mid-run, and more again.
    ScaleDown,
    /// All requests are copied to it first.
    Shadow,
}

/// What the soak came to.
pub(crate) struct Count {
    rollouts: usize,
    requests: usize,
    http2: usize,
    model_errors: usize,
    /// Requests that failed and were no model error of a harmful candidate.
    pub(crate) failed: usize,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rollouts, requests, http2, model_errors, failed } = self;
        write!(
            f,
            "{rollouts} rollouts, {requests} requests ({http2} over HTTP/2), {model_errors} model errors of harmful candidates, {failed} failed"
        )
    }
}

/// The spec with its `number`-th revision: another size of memory is another revision. Its latency target is one that a busy
/// machine keeps: what is harmful here is so by its errors.
fn spec(version: &str, number: usize) -> Value {
    json!({
        "replicas": 2,
        "model": {"uri": format!("configmap://digits/{version}.onnx")},
        "runtime": {"resources": {"requests": {"cpu": "10m", "memory": format!("{}Mi", 32 + number)}}},
        "slo": {"latency": {"target": "5s"}},
        "rollout": {
            "steps": [{"weight": 20, "duration": "2s"}, {"weight": 50, "duration": "2s"}],
            "minRequests": 40,
            "progressDeadline": "60s",
            "guard": {"duration": "5s", "holdback": 30},
        },
        "rollback": {"keepWarm": "6s", "revisions": 3},
    })
}

/// Plays all rollouts.
pub(crate) async fn play(settings: &Settings) -> Result<Count> {
    let client = cluster::connect().await?;
    let namespace = TestNamespace::create(client, "soak").await?;
    let played = Soak::play(&namespace, settings).await;
    let told = match &played {
        Err(error) => Some(format!("{error:#}\n\n{}", diagnosis::of_namespace(&namespace).await)),
        Ok(_) => None,
    };
    namespace.delete().await;
    played.map_err(|error| told.map_or(error, |told| anyhow!(told)))
}

/// The state of the play.
struct Soak<'a> {
    namespace: &'a TestNamespace,
    subject: Subject<'a>,
    load: Load,
    number: usize,
    harmful: BTreeSet<String>,
}

impl<'a> Soak<'a> {
    async fn play(namespace: &'a TestNamespace, settings: &Settings) -> Result<Count> {
        let files = [("v1.onnx", digits::V1), ("v2.onnx", digits::V2), ("v3.onnx", digits::V3)];
        namespace.config_map("digits", &files).await?;
        let subject = Subject::new(namespace, "digits");
        subject.serve(&spec("v1", 0)).await?;
        let address = subject.reached().await?;
        let plan = Plan { http2_every: 3, ..Plan::of(address, &namespace.name, "digits", settings.rate) };
        let load = Load::start(plan)?;
        let mut soak = Self { namespace, subject, load, number: 0, harmful: BTreeSet::new() };
        let acts = if settings.acts.is_empty() { Act::value_variants() } else { &settings.acts };
        for (rollout, act) in acts.iter().cycle().take(settings.rollouts).enumerate() {
            let started = soak.load.elapsed();
            soak.act(*act).await.with_context(|| format!("rollout {}, {act:?}", rollout + 1))?;
            let failed = soak.failed();
            let took = soak.load.elapsed().saturating_sub(started).as_secs_f64();
            let requests = soak.load.ledger().answers().len();
            println!(
                "rollout {:>2}: {act:?} took {took:.0} s; {requests} requests so far, {failed} failed",
                rollout + 1
            );
            ensure!(failed == 0, "{failed} requests failed: {}", soak.load.ledger().explain());
        }
        let Self { load, harmful, .. } = soak;
        let ledger = load.finish().await?;
        let excused: BTreeSet<&str> = harmful.iter().map(String::as_str).collect();
        let failed = ledger.failed_but_for_all(&excused);
        if failed > 0 {
            eprintln!("{}", ledger.explain());
        }
        let requests = ledger.answers().len();
        let bad = ledger.answers().iter().filter(|answer| !answer.succeeded()).count();
        Ok(Count {
            rollouts: settings.rollouts,
            requests,
            http2: requests.div_ceil(3),
            model_errors: bad - failed,
            failed,
        })
    }

    fn failed(&self) -> usize {
        let excused = self.harmful.iter().map(String::as_str).collect();
        self.load.ledger().failed_but_for_all(&excused)
    }

    async fn act(&mut self, act: Act) -> Result<()> {
        match act {
            Act::Promote => {
                self.roll("v2").await?;
                self.promoted().await
            }
            Act::Shadow => {
                let steps = json!([{"shadow": 100, "duration": "2s"}, {"weight": 50, "duration": "2s"}]);
                self.roll_by("v2", |spec| spec["rollout"]["steps"] = steps).await?;
                self.promoted().await
            }
            Act::Abort => {
                let before = self.stable().await?;
                self.roll("v2").await?;
                self.subject.at_step(1).await?;
                self.subject.request("abort", &self.nonce()).await?;
                self.returned_to(before.as_ref()).await
            }
            Act::Supersede => {
                self.roll("v2").await?;
                self.subject.at_step(1).await?;
                self.roll("v1").await?;
                self.promoted().await
            }
            Act::Undo => {
                let before = self.stable().await?;
                self.roll("v2").await?;
                let target = self.target().await?;
                self.until("is promoted", |status| status.stable == target).await?;
                self.subject.request("undo", &self.nonce()).await?;
                self.returned_to(before.as_ref()).await
            }
            Act::Cut => {
                let before = self.stable().await?;
                self.roll("v3").await?;
                self.harmful.extend(self.target().await?);
                self.returned_to(before.as_ref()).await
            }
            Act::GuardReturn => {
                let before = self.stable().await?;
                self.load.only_bright(true);
                // The alarm of a guard is that of a month: what v3 does wrong takes some hundred requests to be told.
                self.roll_by("v3", |spec| {
                    spec["rollout"]["guard"]["duration"] = json!("20s");
                    spec["rollback"]["keepWarm"] = json!("21s");
                })
                .await?;
                let target = self.target().await?;
                self.harmful.extend(target.clone());
                self.until("is promoted", |status| status.stable == target).await?;
                self.load.only_bright(false);
                self.returned_to(before.as_ref()).await
            }
            Act::KillOperator => {
                self.roll("v2").await?;
                self.subject.at_step(1).await?;
                self.kill_operator().await?;
                self.promoted().await
            }
            Act::RestartRouters => {
                self.roll("v1").await?;
                self.subject.at_step(1).await?;
                self.restart_routers().await?;
                self.promoted().await
            }
            Act::ScaleDown => {
                self.roll("v2").await?;
                self.subject.at_step(1).await?;
                self.subject.merge(&json!({"spec": {"replicas": 1}})).await?;
                self.promoted().await?;
                self.subject.merge(&json!({"spec": {"replicas": 2}})).await?;
                self.subject.healthy().await?;
                Ok(())
            }
        }
    }

    /// Asks for another revision, and waits until the operator has taken it up.
    async fn roll(&mut self, version: &str) -> Result<()> {
        self.roll_by(version, |_| ()).await
    }

    /// As [`Soak::roll`], by another plan.
    async fn roll_by(&mut self, version: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
        self.number += 1;
        let before = self.target().await?;
        let mut spec = spec(version, self.number);
        change(&mut spec);
        self.subject.apply(&spec).await?;
        self.until("takes up the new revision", |status| status.target != before && status.target.is_some())
            .await
    }

    async fn target(&self) -> Result<Option<String>> {
        Ok(self.subject.status().await?.target)
    }

    async fn stable(&self) -> Result<Option<String>> {
        Ok(self.subject.status().await?.stable)
    }

    fn nonce(&self) -> String {
        format!("soak-{}", self.number)
    }

    async fn until(&self, what: &str, condition: impl Fn(&ModelDeploymentStatus) -> bool) -> Result<()> {
        self.subject.until(what, PATIENCE, condition).await.map(drop)
    }

    /// Stable is what the spec asks for, and its guard is over.
    async fn promoted(&self) -> Result<()> {
        self.until("is promoted and past its guard", |status| {
            status.stable.is_some()
                && status.stable == status.target
                && status.guard.is_none()
                && status.run.is_none()
        })
        .await
    }

    /// Stable is what it was, and status remembers that the spec asks for what was taken back.
    async fn returned_to(&self, before: Option<&String>) -> Result<()> {
        self.until("has returned", |status| {
            let target = status.target.as_ref();
            let rejected = status.rejected.iter().any(|one| Some(&one.revision) == target);
            let undone = status.pin.as_ref().is_some_and(|pin| Some(&pin.instead_of) == target);
            (rejected || undone)
                && status.stable.as_ref() == before
                && status.run.is_none()
                && status.guard.is_none()
        })
        .await
    }

    async fn kill_operator(&self) -> Result<()> {
        let api = Api::<Pod>::namespaced(self.namespace.client.clone(), OPERATOR_NAMESPACE);
        let running = ready_operators(&self.namespace.client).await?;
        let names: Vec<String> = running.iter().map(kube::ResourceExt::name_any).collect();
        ensure!(!names.is_empty(), "no operator is there to be killed");
        for name in &names {
            api.delete(name, &DeleteParams::default().grace_period(0)).await?;
        }
        operator_is_ready(&self.namespace.client, &names).await?;
        Ok(())
    }

    async fn restart_routers(&self) -> Result<()> {
        let api = Api::<Deployment>::namespaced(self.namespace.client.clone(), &self.namespace.name);
        let restarted = api.restart(objects::ROUTER).await?;
        let wanted = restarted.spec.as_ref().and_then(|spec| spec.replicas);
        until(&format!("all of {} are new", restarted.name_any()), Duration::from_mins(3), async || {
            let status = api.get(objects::ROUTER).await?.status.unwrap_or_default();
            let seen = status.observed_generation >= restarted.metadata.generation;
            let new = status.updated_replicas == wanted
                && status.available_replicas == wanted
                && status.replicas == wanted;
            Ok((seen && new).then_some(()))
        })
        .await
    }
}

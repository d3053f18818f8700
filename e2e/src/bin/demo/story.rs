//! The acts of the demo, in order.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use stoker_api::ModelDeployment;
use stoker_api::deployment::ModelDeploymentStatus;
use stoker_e2e::cluster::{self, until};
use stoker_e2e::load::Load;
use stoker_e2e::namespace::TestNamespace;
use stoker_e2e::subject::Subject;
use stoker_e2e::{diagnosis, digits};
use tokio::time::Instant;

use crate::Settings;
use crate::outcome::{End, Outcome, Version};
use crate::screen::Screen;
use crate::snapshots;

/// The namespace of the demo; it stays, so that one can look around afterwards.
const NAMESPACE: &str = "demo";
/// Marks that namespace as made here: one of the same name without it is somebody else's.
const MADE_BY_DEMO: &str = "stoker.dev/demo";
const MODEL: &str = "digits";
/// Longest time for the rollout of one version.
const LONGEST_ACT: Duration = Duration::from_secs(90);
/// How long traffic runs before, between and after the rollouts.
const CALM: Duration = Duration::from_secs(4);

fn spec() -> Value {
    json!({
        "replicas": 2,
        "model": {"uri": uri("v1")},
        "runtime": {"resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}},
        "slo": {"latency": {"target": "50ms"}},
        "rollout": {
            "steps": [
                {"shadow": 100, "duration": "5s", "minAgreement": 80},
                {"weight": 10, "duration": "6s"},
                {"weight": 50, "duration": "5s"},
            ],
            "minRequests": 50,
            "progressDeadline": "60s",
            "guard": {"duration": "25s", "holdback": 10},
        },
        "rollback": {"keepWarm": "30s"},
    })
}

fn uri(version: &str) -> String {
    format!("configmap://digits/{version}.onnx")
}

/// Plays all acts. An act that goes wrong ends the play; the outcome says how far it came.
pub(crate) async fn tell(settings: &Settings) -> Result<Outcome> {
    let client = cluster::connect().await?;
    let mut screen = Screen::default();
    let namespace = fresh_namespace(&client, &mut screen).await?;
    let files =
        [("v1.onnx", digits::V1), ("v2.onnx", digits::V2), ("v3.onnx", digits::V3), ("v4.onnx", digits::V4)];
    namespace.config_map("digits", &files).await?;
    let subject = Subject::new(&namespace, MODEL);

    screen.say("v1: a logistic regression. `kubectl apply` of a ModelDeployment; its pods start");
    let served = match subject.serve(&spec()).await {
        Ok(served) => served,
        Err(error) => return Err(anyhow!("{error:#}\n\n{}", diagnosis::of_namespace(&namespace).await)),
    };
    let mut play = Play {
        subject: &subject,
        settings,
        load: subject.load(settings.rate).await?,
        screen,
        versions: vec![Version { name: "v1", revision: target(&served)?, end: End::Promoted }],
        moments: 0,
        pairs: (0, 0),
        returned: false,
    };
    play.screen.say(&format!("{} real images a second, all to v1", settings.rate));
    play.watch(CALM, |_| false).await?;
    play.moment("v1-serves").await?;

    let ended = play.acts().await;
    if let Err(error) = &ended {
        eprintln!("{error:#}\n\n{}", diagnosis::of_namespace(&namespace).await);
    }
    let Play { load, versions, pairs, returned, .. } = play;
    let ledger = load.finish().await?;
    hints(&settings.prefix);
    Ok(Outcome { versions, ledger, rate: settings.rate, pairs, returned })
}

/// The state of the play.
struct Play<'a> {
    subject: &'a Subject<'a>,
    settings: &'a Settings,
    load: Load,
    screen: Screen,
    versions: Vec<Version>,
    moments: usize,
    /// Compared and agreed pairs of answers, as the last status of a shadow step had them.
    pairs: (u64, u64),
    /// Whether the guard took back what did harm after its promotion.
    returned: bool,
}

impl Play<'_> {
    async fn acts(&mut self) -> Result<()> {
        self.act(
            "v2",
            "a multi-layer perceptron, better: first copies of all requests, then 10, then 50 %",
            End::Promoted,
        )
        .await?;
        self.moment("v2-guarded").await?;
        self.screen
            .say("v2 has nearly all the traffic; v1 keeps 10 % of it for some seconds, to compare with");
        let over = |status: &ModelDeploymentStatus| status.guard.is_none();
        self.watch(LONGEST_ACT, over).await?.context("the guard of v2 did not end")?;
        self.moment("v2-promoted").await?;
        self.without_shadow().await?;
        self.act("v3", "its graph reads past the end of a table on dark images", End::RolledBack).await?;
        self.moment("v3-rolled-back").await?;
        self.act("v4", "right answers, but far above the target of 50 ms", End::RolledBack).await?;
        self.moment("v4-rolled-back").await?;
        self.late_harm().await
    }

    /// What fails on copies is stopped before anybody is harmed: to see the cut, the next versions skip that step.
    async fn without_shadow(&mut self) -> Result<()> {
        let steps = json!([{"weight": 10, "duration": "6s"}, {"weight": 50, "duration": "5s"}]);
        self.subject.merge(&json!({"spec": {"rollout": {"steps": steps}}})).await?;
        Ok(())
    }

    /// v3 again, by `retry`, while no dark image comes: it is promoted. Then they come back, and the guard returns to v2.
    async fn late_harm(&mut self) -> Result<()> {
        self.screen
            .say("v3 once more, by `retry`, while only bright images are sent: nothing speaks against it");
        let good = self.subject.status().await?.stable;
        let bad =
            self.versions.iter().find(|version| version.name == "v3").map(|version| version.revision.clone());
        self.load.only_bright(true);
        self.subject.set_uri(&uri("v3")).await?;
        self.subject.request("retry", "late-harm").await?;
        let promoted = |status: &ModelDeploymentStatus| status.stable == bad && status.guard.is_some();
        self.watch(LONGEST_ACT, promoted).await?.context("v3 was not promoted on bright images alone")?;
        self.moment("v3-guarded").await?;
        self.screen.say("dark images come back, after the promotion");
        self.load.only_bright(false);
        let returned = |status: &ModelDeploymentStatus| status.stable == good;
        self.watch(LONGEST_ACT, returned).await?.context("the guard did not return to v2")?;
        self.returned = true;
        self.watch(CALM, |_| false).await?;
        self.moment("v3-returned").await
    }

    /// Rolls a version out and waits for the end of it, then lets traffic run on for a while.
    async fn act(&mut self, name: &'static str, what: &str, expected: End) -> Result<()> {
        self.screen.say(&format!("{name}: {what}"));
        let before = self.subject.status().await?;
        let written = self.subject.set_uri(&uri(name)).await?;
        let generation = written.metadata.generation.unwrap_or_default();
        let seen = |status: &ModelDeploymentStatus| {
            status.observed_generation >= generation
                && status.target != before.target
                && status.target.is_some()
        };
        let status =
            self.watch(LONGEST_ACT, seen).await?.with_context(|| format!("{name} was not taken up"))?;
        let revision = status.target.clone().unwrap_or_default();
        self.versions.push(Version { name, revision, end: End::Other("not ended".to_owned()) });
        if name == "v2" {
            let in_steps =
                |status: &ModelDeploymentStatus| status.run.as_ref().is_some_and(|run| run.step >= 2);
            self.watch(LONGEST_ACT, in_steps).await?.context("v2 did not come to its second step")?;
            self.moment("v2-canary").await?;
        }
        let ended = self.watch(LONGEST_ACT, |status| end_of_run(status).is_some()).await?;
        let not_ended = || End::Other(format!("not ended after {} s", LONGEST_ACT.as_secs()));
        let end = ended.as_ref().and_then(end_of_run).unwrap_or_else(not_ended);
        let as_it_should = end == expected;
        if let Some(version) = self.versions.last_mut() {
            version.end = end.clone();
        }
        if !as_it_should {
            return Err(anyhow!("{name} should have been {expected:?} and is {end:?}"));
        }
        self.watch(CALM, |_| false).await?;
        Ok(())
    }

    /// Shows a line each second until `enough` or until the time is over; the status that was enough.
    async fn watch(
        &mut self,
        longest: Duration,
        enough: impl Fn(&ModelDeploymentStatus) -> bool,
    ) -> Result<Option<ModelDeploymentStatus>> {
        let end = Instant::now() + longest;
        let mut next_line = Instant::now();
        loop {
            let status = self.subject.status().await?;
            if let Some(evidence) = status.run.as_ref().and_then(|run| run.evidence.as_ref()) {
                let pairs = evidence.compared.zip(evidence.agreed);
                self.pairs = pairs.filter(|pairs| pairs.0 > 0).unwrap_or(self.pairs);
            }
            if enough(&status) {
                return Ok(Some(status));
            }
            if Instant::now() >= next_line {
                next_line += Duration::from_secs(1);
                let now = self.load.elapsed();
                self.screen.line(now, &status, &self.load.ledger(), &self.versions);
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Saves what an SRE would see now, where that was asked for.
    async fn moment(&mut self, name: &str) -> Result<()> {
        self.moments += 1;
        match &self.settings.snapshots {
            Some(folder) => snapshots::save(folder, self.moments, name, NAMESPACE).await,
            None => Ok(()),
        }
    }
}

/// How the run of the revision that the spec asks for ended; none while it is under way.
fn end_of_run(status: &ModelDeploymentStatus) -> Option<End> {
    let target = status.target.as_ref();
    if status.run.is_some() {
        None
    } else if status.stable.as_ref() == target {
        Some(End::Promoted)
    } else {
        status.rejected.iter().any(|one| Some(&one.revision) == target).then_some(End::RolledBack)
    }
}

fn target(object: &ModelDeployment) -> Result<String> {
    let status = object.status.as_ref();
    status.and_then(|status| status.target.clone()).ok_or_else(|| anyhow!("status.target is empty"))
}

/// The namespace of the demo, without what an earlier run left in it.
async fn fresh_namespace(client: &Client, screen: &mut Screen) -> Result<TestNamespace> {
    let api = Api::<Namespace>::all(client.clone());
    if let Some(old) = api.get_opt(NAMESPACE).await? {
        ensure!(
            old.labels().contains_key(MADE_BY_DEMO),
            "there is a namespace {NAMESPACE} that the demo did not make (it has no label {MADE_BY_DEMO}), and the demo \
             would remove it with all that is in it. If that is right, say so by `kubectl label namespace {NAMESPACE} \
             {MADE_BY_DEMO}=true`; else use another cluster"
        );
        screen.say(&format!("removing namespace {} of an earlier run", old.name_any()));
        if old.metadata.deletion_timestamp.is_none() {
            api.delete(NAMESPACE, &DeleteParams::default()).await?;
        }
        until("the old namespace is gone", LONGEST_ACT, async || {
            Ok(api.get_opt(NAMESPACE).await?.is_none().then_some(()))
        })
        .await?;
    }
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted", MADE_BY_DEMO: "true"});
    let namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE, "labels": labels}}))?;
    api.create(&PostParams::default(), &namespace).await.context("creating the namespace of the demo")?;
    Ok(TestNamespace { client: client.clone(), name: NAMESPACE.to_owned() })
}

/// What to type next.
fn hints(prefix: &str) {
    let kubectl = format!("{prefix} kubectl -n {NAMESPACE}");
    let kubectl = kubectl.trim_start();
    let me = format!("$({prefix} kubectl auth whoami -o jsonpath={{.status.userInfo.username}})");
    let undo =
        format!("annotate md digits stoker.dev/request='undo 1' \\\n      stoker.dev/requested-by=\"{me}\"");
    println!("\n== What to type next");
    for (command, what) in [
        ("get md -o wide", "the state in one line, with the sentence"),
        ("describe md digits", "conditions, history and Events"),
        ("get modelroute,modelrouter,controllerrevision", "the traffic table, the routers, the revisions"),
        (undo.as_str(), "back to the version before"),
        ("delete md digits", "removes it and all that was made for it"),
    ] {
        println!("  {kubectl} {command}\n      {what}");
    }
    if prefix.is_empty() {
        println!("  kubectl delete namespace {NAMESPACE}\n      removes what the demo made\n");
    } else {
        println!("  make demo-down\n      removes the cluster\n");
    }
}

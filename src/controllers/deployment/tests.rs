//! What a look writes, in which order, and what it says when something cannot be written.

use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::*;
use crate::context::Settings;
use crate::fake_api::{Asked, Server};
use crate::observe::routers::Routers;

pub(super) const MODEL: &str = "/apis/stoker.dev/v1alpha1/namespaces/team/modeldeployments/digits";
const ROUTE: &str = "/apis/stoker.dev/v1alpha1/namespaces/team/modelroutes/digits";
const ROUTERS: &str = "/apis/stoker.dev/v1alpha1/namespaces/team/modelrouters";
const ROUTER: &str = "/apis/stoker.dev/v1alpha1/namespaces/team/modelrouters/stoker-router";
const STATUS: &str = "PATCH /apis/stoker.dev/v1alpha1/namespaces/team/modeldeployments/digits/status";

fn deployment_of(revision: &str) -> String {
    format!("/apis/apps/v1/namespaces/team/deployments/{revision}")
}

fn snapshot_of(revision: &str) -> String {
    format!("/apis/apps/v1/namespaces/team/controllerrevisions/{revision}")
}

/// A ModelDeployment, looked at by an operator that no router answers.
pub(super) struct Looking {
    pub(super) server: Server,
    ctx: Arc<Context>,
    memory: Remembered,
}

impl Looking {
    pub(super) fn new() -> Self {
        let server = Server::default();
        let client = server.client();
        Self::with(server, client)
    }

    fn with(server: Server, client: kube::Client) -> Self {
        let routers = Routers::new(client.clone(), None);
        let ctx = Context::new(client, Settings::sample(), routers, &mut Registry::default());
        let looking = Self { server, ctx, memory: Remembered::default() };
        looking.server.put(
            MODEL,
            json!({
                "apiVersion": "stoker.dev/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": {"name": "digits", "uid": "uid-digits", "generation": 1},
                "spec": spec('a'),
            }),
        );
        looking
    }

    fn md(&self) -> ModelDeployment {
        serde_json::from_value(self.server.get(MODEL).unwrap()).unwrap()
    }

    pub(super) fn status(&self) -> Value {
        self.server.get(MODEL).unwrap()["status"].clone()
    }

    pub(super) fn condition(&self, kind: &str) -> Value {
        let status = self.status();
        let found = status["conditions"].as_array().unwrap().iter().find(|one| one["type"] == kind);
        found.unwrap().clone()
    }

    /// Changes the object as another client would.
    pub(super) fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut object = self.server.get(MODEL).unwrap();
        change(&mut object);
        self.server.put(MODEL, object);
    }

    /// Looks once; what was written.
    pub(super) async fn look(&mut self) -> Vec<Asked> {
        let md = self.md();
        // What it comes to is in status.
        let _ = Box::pin(look(&self.ctx, &md, "uid-digits", &mut self.memory)).await;
        self.server.writes()
    }

    /// All pods of a revision are ready.
    fn start_pods(&self, revision: &str) {
        self.start(revision, 1);
    }

    /// So many pods of a revision are ready.
    fn start(&self, revision: &str, count: u32) {
        let path = deployment_of(revision);
        let mut object = self.server.get(&path).unwrap();
        let generation = object["metadata"]["generation"].clone();
        object["status"] =
            json!({"observedGeneration": generation, "replicas": count, "readyReplicas": count});
        self.server.put(&path, object);
    }

    /// The one pod of a revision was killed for memory.
    pub(super) fn kill_pod(&self, revision: &str) {
        let terminated = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let container = json!({"name": "server", "image": "x", "imageID": "", "ready": false, "restartCount": 1, "state": terminated});
        let labels = crate::build::labels::of_revision("digits", revision);
        let mut labels = serde_json::to_value(labels).unwrap();
        labels["stoker.dev/part"] = json!("server");
        self.server.put(
            &format!("/api/v1/namespaces/team/pods/{revision}-x"),
            json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": format!("{revision}-x"), "labels": labels},
                "status": {"phase": "Running", "containerStatuses": [container]},
            }),
        );
    }

    /// `a` is stable, and the pods of `b` have just become ready. The names of both.
    async fn ready(&mut self) -> (String, String) {
        self.look().await;
        let a = self.status()["target"].as_str().unwrap().to_owned();
        self.start_pods(&a);
        self.change(|object| {
            object["status"] = json!({"stable": a, "runs": 1, "phase": "Healthy", "message": ""});
            object["spec"]["model"] = spec('b')["model"].clone();
        });
        self.look().await;
        let b = self.status()["target"].as_str().unwrap().to_owned();
        self.start_pods(&b);
        (a, b)
    }

    /// `a` is stable, `b` is tried and has the first weight. The names of both.
    pub(super) async fn trying(&mut self) -> (String, String) {
        let (a, b) = self.ready().await;
        self.look().await;
        assert_eq!(self.status()["run"]["step"], 1, "{}", self.status());
        assert_eq!(arms(&self.server).len(), 2);
        (a, b)
    }
}

/// A spec with a digest of its own.
fn spec(digit: char) -> Value {
    let digest = format!("sha256:{}", digit.to_string().repeat(64));
    json!({"model": {"uri": "configmap://digits/model.onnx", "digest": digest}})
}

/// The revisions of the table.
fn arms(server: &Server) -> Vec<String> {
    let route = server.get(ROUTE).unwrap();
    let arms = route["spec"]["rules"][0]["arms"].as_array().unwrap().clone();
    arms.iter().map(|arm| arm["revision"].as_str().unwrap().to_owned()).collect()
}

fn position(asked: &[Asked], what: &str) -> usize {
    let found = asked.iter().position(|(asked, _)| asked.starts_with(what));
    found.unwrap_or_else(|| {
        panic!("{what} was not asked: {:?}", asked.iter().map(|(what, _)| what).collect::<Vec<_>>())
    })
}

fn events(asked: &[Asked]) -> usize {
    asked.iter().filter(|(what, _)| what.contains("/events")).count()
}

#[tokio::test]
async fn intent_is_stored_before_its_effect_and_a_second_look_writes_nothing() {
    let mut looking = Looking::new();
    let asked = looking.look().await;
    let target = looking.status()["target"].as_str().unwrap().to_owned();
    let snapshot = position(&asked, &format!("PATCH {}", snapshot_of(&target)));
    let status = position(&asked, STATUS);
    let table = position(&asked, "POST /apis/stoker.dev/v1alpha1/namespaces/team/modelroutes");
    let pods = position(&asked, &format!("PATCH {}", deployment_of(&target)));
    assert!(snapshot < status && status < table && table < pods, "{asked:?}");
    assert_eq!(arms(&looking.server), [target]);
    looking.look().await;
    let again: Vec<_> = looking.look().await;
    assert!(again.is_empty(), "{again:?}");
}

#[tokio::test]
async fn a_rollback_takes_effect_though_other_objects_cannot_be_written() {
    let mut looking = Looking::new();
    let (a, b) = looking.trying().await;
    // A warm revision that can no longer be made, and a Service that is refused.
    looking
        .change(|object| object["status"]["previous"] = json!({"revision": "digits-gone", "keptSeconds": 1}));
    looking.server.refuse("/api/v1/namespaces/team/services/digits", "no more Services");
    looking.server.remove(ROUTER);
    looking.server.refuse(ROUTERS, "no more ModelRouters");
    looking.kill_pod(&b);
    let asked = looking.look().await;
    assert_eq!(arms(&looking.server), std::slice::from_ref(&a));
    let (status, table) = (position(&asked, STATUS), position(&asked, &format!("PUT {ROUTE}")));
    assert!(status < table && table < position(&asked, "POST /apis/events.k8s.io"), "{asked:?}");
    assert!(looking.server.get(&deployment_of(&b)).is_some(), "requests in flight need their pods");
    let status = looking.status();
    assert_eq!((status["stable"].as_str(), status["verdict"].as_str()), (Some(a.as_str()), Some("Fail")));
    assert!(status["rejected"][0]["because"].as_str().unwrap().contains("more memory"), "{status}");
}

#[tokio::test]
async fn pods_by_share_come_before_weight_go_after_it_and_come_back_before_all_of_it() {
    let by_share = |digit| {
        let mut spec = spec(digit);
        spec["replicas"] = json!(4);
        spec["rollout"] = json!({"steps": [{"weight": 50}], "capacity": "Proportional"});
        spec
    };
    let mut looking = Looking::new();
    let pods = |looking: &Looking, revision: &str| {
        looking.server.get(&deployment_of(revision)).unwrap()["spec"]["replicas"].clone()
    };
    looking.change(|object| object["spec"] = by_share('a'));
    looking.look().await;
    let a = looking.status()["target"].as_str().unwrap().to_owned();
    looking.start(&a, 4);
    looking.change(|object| {
        object["status"] = json!({"stable": a, "runs": 1, "phase": "Healthy", "message": ""});
        object["spec"] = by_share('b');
    });
    looking.look().await;
    let b = looking.status()["target"].as_str().unwrap().to_owned();
    assert_eq!((pods(&looking, &a), pods(&looking, &b)), (json!(4), json!(2)), "for half of the traffic");
    looking.start(&b, 2);
    looking.look().await;
    assert_eq!((arms(&looking.server).len(), pods(&looking, &a)), (2, json!(4)), "no router says it yet");
    let served = json!([{"revision": a, "percent": 50}, {"revision": b, "percent": 50}]);
    looking.change(|object| object["status"]["capacity"]["served"] = served);
    looking.look().await;
    assert_eq!((pods(&looking, &a), pods(&looking, &b)), (json!(2), json!(2)));
    looking.start(&a, 2);

    looking.kill_pod(&b);
    let asked = looking.look().await;
    let (table, size) = (
        position(&asked, &format!("PUT {ROUTE}")),
        position(&asked, &format!("PATCH {}", deployment_of(&a))),
    );
    assert!(table < size, "{asked:?}");
    assert_eq!((pods(&looking, &a), pods(&looking, &b)), (json!(4), json!(2)));
    let refill = json!({"from": b, "whole": 4, "mostPpm": 500_000, "badPpm": 0});
    let route = looking.server.get(ROUTE).unwrap();
    assert_eq!(route["spec"]["rules"][0]["arms"][0]["refill"], refill, "{route}");
    let message = looking.status()["message"].as_str().unwrap().to_owned();
    assert!(message.contains(&format!("50 % still goes to {b} until {a} has 4 of 4 pods")), "{message}");

    looking.start(&a, 4);
    looking.look().await;
    assert_eq!(arms(&looking.server), std::slice::from_ref(&a));
    assert!(looking.server.get(&deployment_of(&b)).is_some(), "requests in flight need their pods");
    assert_eq!(looking.status()["leaving"], json!([b]));
}

#[tokio::test]
async fn a_new_spec_that_cannot_be_started_does_not_blind_the_run_before_it() {
    let mut looking = Looking::new();
    let (a, b) = looking.trying().await;
    looking.change(|object| {
        object["spec"]["model"] =
            json!({"uri": "configmap://digits/..", "digest": spec('c')["model"]["digest"]});
    });
    looking.look().await;
    assert_eq!(arms(&looking.server), [a], "{b} is not wanted any more");
    let message = looking.status()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("cannot be started") && message.contains("configmap://"), "{message}");
    assert_eq!(looking.condition(stoker_api::names::conditions::PROGRESSING)["reason"], "CandidateFailed");
}

#[tokio::test]
async fn pods_that_the_api_server_refuses_are_told_once_and_with_the_cause() {
    let mut looking = Looking::new();
    looking.look().await;
    let a = looking.status()["target"].as_str().unwrap().to_owned();
    let path = deployment_of(&a);
    looking.server.remove(&path);
    looking.server.refuse(&path, "limits.memory: Invalid value");
    let mut told = 0;
    for _ in 0..5 {
        told += events(&looking.look().await);
    }
    let message = looking.status()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("limits.memory: Invalid value"), "{message}");
    assert_eq!(told, 1, "the same trouble was told {told} times");
    let before = looking.server.get(MODEL);
    looking.look().await;
    assert_eq!(looking.server.get(MODEL), before, "status goes to and fro");
}

#[tokio::test]
async fn a_failure_is_told_until_a_look_succeeds() {
    let mut looking = Looking::new();
    let (a, _) = looking.trying().await;
    looking.server.refuse("/api/v1/namespaces/team/services/digits", "no more Services");
    looking.server.remove("/api/v1/namespaces/team/services/digits");
    let mut told = 0;
    for _ in 0..4 {
        told += events(&looking.look().await);
    }
    assert_eq!(told, 1);
    let message = looking.status()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("no more Services"), "{message}");
    assert_eq!(arms(&looking.server)[0], a, "the rollout itself goes on");
    looking.server.allow("/api/v1/namespaces/team/services/digits");
    looking.look().await;
    looking.look().await;
    let message = looking.status()["message"].as_str().unwrap().to_owned();
    assert!(!message.contains("no more Services"), "{message}");
}

#[tokio::test]
async fn after_a_lost_status_what_is_served_goes_on_and_old_requests_are_not_obeyed() {
    let mut looking = Looking::new();
    let (a, b) = looking.trying().await;
    looking.memory = Remembered::default();
    looking.change(|object| {
        object["status"] = Value::Null;
        object["metadata"]["annotations"] = json!({"stoker.dev/request": "retry 1"});
    });
    looking.look().await;
    let status = looking.status();
    assert_eq!(status["stable"].as_str(), Some(a.as_str()), "{status}");
    assert_eq!(status["pin"]["insteadOf"].as_str(), Some(b.as_str()), "{status}");
    assert_eq!(status["handledRequest"], "retry 1");
    assert_eq!(status["leaving"], json!([b]), "requests in flight need their pods");
    assert!(looking.server.get(&deployment_of(&b)).is_some());
    assert!(status["run"].is_null(), "{status}");
}

#[test]
fn of_a_long_request_the_beginning_counts() {
    let mut md: ModelDeployment =
        serde_json::from_value(json!({"metadata": {"name": "digits"}, "spec": spec('a')})).unwrap();
    let text = format!("undo {}", "x".repeat(100_000));
    md.metadata.annotations = Some([(annotations::REQUEST.to_owned(), text)].into());
    let (asked, _, handled) = request(&md, false);
    assert!(asked.is_some());
    let handled = handled.unwrap();
    assert!(handled.len() <= LONGEST_REQUEST);
    md.status.get_or_insert_default().handled_request = Some(handled);
    assert_eq!(request(&md, false).0, None, "it is obeyed once");
}

#[tokio::test]
async fn an_object_that_cannot_be_read_gets_an_event() {
    let looking = Looking::new();
    let guarded = || {
        let object = json!({
            "apiVersion": "stoker.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "digits", "namespace": "team", "uid": "uid-digits"},
            "spec": {"replicas": "two"},
        });
        Arc::new(serde_json::from_value::<DeserializeGuard<ModelDeployment>>(object).unwrap())
    };
    for _ in 0..2 {
        let error = reconcile(guarded(), Arc::clone(&looking.ctx)).await.unwrap_err();
        assert!(error.to_string().contains("cannot be read"), "{error}");
    }
    let asked = looking.server.writes();
    assert_eq!(events(&asked), 1, "{asked:?}");
    assert!(asked[0].1["note"].as_str().unwrap().contains("two"), "{asked:?}");
}

/// The garbage collector takes the children of one that is deleted. A look that is under way must not make them again.
#[tokio::test]
async fn nothing_is_made_for_one_that_is_deleted_during_the_look() {
    let mut looking = Looking::new();
    let (a, b) = looking.trying().await;
    let md = looking.md();
    let server = looking.server.clone();
    let snapshots = snapshot_of(&a).rsplit_once('/').unwrap().0.to_owned();
    looking.server.after(&format!("GET {snapshots}"), move || server.remove(MODEL));
    for path in [snapshot_of(&a), snapshot_of(&b)] {
        looking.server.remove(&path);
    }
    look(&looking.ctx, &md, "uid-digits", &mut looking.memory).await.unwrap();
    assert_eq!(looking.server.writes(), []);
}

/// A write whose reply was lost is found in status by the next look. Should that one fail too, the one after it must not go on from
/// what is remembered of the time before.
#[tokio::test]
async fn what_status_says_holds_although_the_look_that_found_it_failed() {
    let mut looking = Looking::new();
    let (_, b) = looking.trying().await;
    looking.change(|object| {
        object["status"] = json!({"stable": b, "runs": 2, "phase": "Healthy", "message": ""});
    });
    let status = format!("{MODEL}/status");
    looking.server.refuse(&status, "not now");
    looking.look().await;
    looking.server.allow(&status);
    looking.look().await;
    let status = looking.status();
    assert_eq!((&status["stable"], &status["run"]), (&json!(b), &Value::Null), "{status}");
}

#[tokio::test]
async fn a_host_of_somebody_else_is_told_once() {
    let mut looking = Looking::new();
    let older: ModelDeployment = serde_json::from_value(
        json!({"metadata": {"name": "older", "namespace": "team"}, "spec": spec('b')}),
    )
    .unwrap();
    let (store, mut writer) = kube::runtime::reflector::store();
    writer.apply_watcher_event(&watcher::Event::Init);
    writer.apply_watcher_event(&watcher::Event::InitApply(DeserializeGuard(Ok(older))));
    writer.apply_watcher_event(&watcher::Event::InitDone);
    looking.ctx.fleet.see(store);
    looking.change(|object| object["spec"]["traffic"] = json!({"hosts": ["older.team"]}));
    let mut told = Vec::new();
    for _ in 0..3 {
        told.extend(
            looking.look().await.into_iter().filter(|(_, body)| body["reason"] == reasons::CONFLICTED),
        );
    }
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].1["note"].as_str().unwrap().contains("belongs to ModelDeployment older"), "{told:?}");
    assert_eq!(looking.status()["phase"], "Conflicted");
}

mod fenced;
mod known_faults;

#[tokio::test]
async fn who_sleeps_has_no_pods_until_a_router_calls() {
    let mut looking = Looking::new();
    looking.look().await;
    let a = looking.status()["target"].as_str().unwrap().to_owned();
    looking.start_pods(&a);
    looking.change(|object| {
        object["spec"]["slo"] = json!({"latency": {"target": "100ms"}});
        object["spec"]["scaling"] = json!({"maxReplicas": 3, "scaleToZeroAfter": "1m"});
        let known =
            json!({"revision": a, "replicas": 0, "rule": "Idle", "because": "", "capacityPerPod": 80.0});
        object["status"] = json!({
            "stable": a, "runs": 1, "phase": "Healthy", "message": "",
            "scaling": {"asleep": true, "sleeps": 3, "revisions": [known]},
        });
    });
    looking.look().await;
    let pods =
        |looking: &Looking| looking.server.get(&deployment_of(&a)).unwrap()["spec"]["replicas"].clone();
    let table = |looking: &Looking| looking.server.get(ROUTE).unwrap();
    // No router says that it serves the table by which requests are held: a pod stays.
    assert_eq!((pods(&looking), &table(&looking)["spec"]["asleep"]), (json!(1), &json!(3)));
    assert_eq!(table(&looking)["spec"]["requires"], json!(["sleep"]));

    // The call of the sleep before says nothing.
    for (call, reason) in [(0, "ScaledToZero"), (2, "ScaledToZero"), (3, "Scaled")] {
        let mut route = table(&looking);
        route["status"] = json!({"wake": call});
        looking.server.put(ROUTE, route);
        looking.look().await;
        assert_eq!(looking.condition("ScalingActive")["reason"], reason, "call {call}");
    }
    assert_eq!(table(&looking)["spec"]["asleep"], json!(3), "requests are held until a pod is ready");
    let known = &looking.status()["scaling"]["revisions"][0];
    assert_eq!((&known["rule"], &known["capacityPerPod"]), (&json!("Wake"), &json!(80.0)));
    // The fake API server merges, and so keeps what status leaves out.
    looking.change(|object| object["status"]["scaling"]["asleep"] = json!(false));
    // An operator that takes over now holds requests as well, and has nothing to write.
    looking.ctx.scaling.keep(&BTreeSet::new());
    looking.look().await;
    assert_eq!(table(&looking)["spec"]["asleep"], json!(3));
    let again = looking.look().await;
    assert_eq!(again.iter().filter(|(what, _)| what.starts_with("PATCH")).count(), 0, "{again:?}");
}

#[tokio::test]
async fn scaling_goes_on_from_the_pods_that_are_there_and_keeps_to_its_bounds() {
    let mut looking = Looking::new();
    looking.change(|object| object["spec"]["replicas"] = json!(5));
    looking.look().await;
    let a = looking.status()["target"].as_str().unwrap().to_owned();
    looking.start(&a, 5);
    looking.look().await;
    let pods =
        |looking: &Looking| looking.server.get(&deployment_of(&a)).unwrap()["spec"]["replicas"].clone();
    // Nothing is known of the demand yet: five there are, and spec.replicas counts no more.
    looking.change(|object| {
        object["spec"]["replicas"] = json!(1);
        object["spec"]["slo"] = json!({"latency": {"target": "100ms"}});
        object["spec"]["scaling"] = json!({"maxReplicas": 8});
    });
    looking.look().await;
    assert_eq!(pods(&looking), json!(5));
    looking.change(|object| object["spec"]["scaling"] = json!({"maxReplicas": 3}));
    looking.look().await;
    assert_eq!(pods(&looking), json!(3));
    // Without scaling spec.replicas counts again.
    looking.change(|object| {
        object["spec"].as_object_mut().unwrap().remove("scaling");
    });
    looking.look().await;
    assert_eq!(pods(&looking), json!(1));
}

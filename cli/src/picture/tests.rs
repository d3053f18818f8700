//! Stories: hand-made objects as an operator would have written them, for the tests of all that shows or judges them.

use serde_json::{Value, json};

use super::*;

/// A state of a ModelDeployment, by its name.
pub(crate) struct Story {
    pub(crate) name: &'static str,
    pub(crate) look: Look,
}

const STABLE: &str = "digits-1f0c22ab90";
const CANDIDATE: &str = "digits-8c1d5e07f3";
const BEFORE: &str = "digits-03b9aa41cc";

/// When all of it was looked at.
const NOW: &str = "2026-11-29T12:00:00Z";

fn object(status: &Value) -> Value {
    json!({
        "apiVersion": "stoker.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {
            "name": "digits", "namespace": "models", "generation": 7, "uid": "u", "resourceVersion": "100",
            "creationTimestamp": "2026-11-26T08:00:00Z",
        },
        "spec": {"replicas": 2, "model": {"uri": "configmap://digits/v2.onnx"}, "rollout": plan()},
        "status": status,
    })
}

/// As it is declared, with the defaults that the API server sets.
fn plan() -> Value {
    json!({
        "steps": [{"shadow": 100, "duration": "5m"}, {"weight": 10, "duration": "2m"}, {"weight": 50}],
        "guard": {"duration": "10m", "holdback": 1},
    })
}

fn resolved() -> Value {
    let mut plan = plan();
    plan["analysis"] =
        json!({"detect": 20, "power": 90, "onInconclusive": "Hold", "inconclusiveDeadline": "1h"});
    plan["progressDeadline"] = json!("10m");
    plan
}

fn evidence() -> Value {
    json!({
        "candidate": {"requests": 1_204, "errors": 3, "slow": 1, "p99Ms": 12.345},
        "stable": {"requests": 10_830, "errors": 25, "slow": 4, "p99Ms": 11.9},
        "harmLog10": 0.42, "alarmLog10": 2.31,
    })
}

/// A run at a step, with so many seconds in it.
fn run(step: u32, seconds: u64) -> Value {
    json!({
        "number": 4, "step": step, "stepSeconds": seconds, "plan": resolved(), "planDigest": "a1b2c3d4e5",
        "slowAboveMs": 100.0, "evidence": evidence(),
    })
}

/// A status in a run.
fn running(step: u32, seconds: u64, weight: u32, verdict: &str, message: &str) -> Value {
    json!({
        "observedGeneration": 7, "phase": "Progressing", "message": message, "step": format!("{step}/3"),
        "weight": weight, "verdict": verdict, "ready": "2/2", "target": CANDIDATE, "stable": STABLE,
        "candidate": CANDIDATE, "runs": 4, "run": run(step, seconds), "conditions": [verified("True", "all routers serve the table")],
    })
}

/// A status without a run.
fn resting(phase: &str, message: &str) -> Value {
    json!({
        "observedGeneration": 7, "phase": phase, "message": message, "ready": "2/2", "target": STABLE,
        "stable": STABLE, "runs": 4, "conditions": [verified("True", "all routers serve the table")],
    })
}

fn verified(status: &str, message: &str) -> Value {
    json!({"type": "TrafficVerified", "status": status, "reason": "Verified", "message": message,
        "lastTransitionTime": NOW, "observedGeneration": 7})
}

fn route(run: u64, step: u32, arms: &[(&str, u32)]) -> Value {
    let arms: Vec<_> = arms
        .iter()
        .map(|(name, ppm)| {
            let fallback = if *name == CANDIDATE { json!(STABLE) } else { Value::Null };
            json!({"revision": name, "ppm": ppm, "fallback": fallback})
        })
        .collect();
    json!({
        "apiVersion": "stoker.dev/v1alpha1", "kind": "ModelRoute",
        "metadata": {"name": "digits", "namespace": "models"},
        "spec": {"schema": 1, "run": run, "step": step, "rules": [{"salt": "s", "arms": arms}]},
    })
}

fn workload(revision: &str, ready: u32, wanted: u32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": revision, "labels": {"stoker.dev/revision": revision}},
        "spec": {"replicas": wanted, "selector": {}, "template": {}},
        "status": {"readyReplicas": ready},
    }))
    .unwrap()
}

fn pod(revision: &str, end: &str, ready: bool, restarts: u32, waiting: Option<&str>) -> Pod {
    let state = waiting.map_or_else(|| json!({"running": {}}), |why| json!({"waiting": {"reason": why}}));
    let container = json!({"name": "server", "image": "", "imageID": "", "ready": ready, "restartCount": restarts, "state": state});
    serde_json::from_value(json!({
        "metadata": {"name": format!("{revision}-{end}"), "labels": {"stoker.dev/revision": revision},
            "creationTimestamp": "2026-11-29T11:50:00Z"},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            "containerStatuses": [container],
        },
    }))
    .unwrap()
}

/// Two pods for each, all of them ready.
fn pods(revisions: &[&str]) -> Vec<Pod> {
    let both = |revision: &&str| ["7d9c-k2x4p", "7d9c-zz81q"].map(|end| pod(revision, end, true, 0, None));
    revisions.iter().flat_map(both).collect()
}

fn look(status: &Value, route: Option<Value>, revisions: &[&str]) -> Look {
    Look {
        object: object(status),
        route: route.map(|route| serde_json::from_value(route).unwrap()),
        workloads: revisions.iter().map(|revision| workload(revision, 2, 2)).collect(),
        pods: pods(revisions),
        notes: Vec::new(),
        now: NOW.parse().unwrap(),
    }
}

/// A look in a run at a weight, with the status changed.
fn at(step: u32, seconds: u64, verdict: &str, message: &str, change: impl FnOnce(&mut Value)) -> Look {
    let weight = [0, 0, 10, 50][step as usize];
    let mut status = running(step, seconds, weight, verdict, message);
    change(&mut status);
    let table = route(4, step, &[(STABLE, 1_000_000 - weight * 10_000), (CANDIDATE, weight * 10_000)]);
    look(&status, Some(table), &[STABLE, CANDIDATE])
}

const PLACE: &str = "run 4, step 2/3: digits-8c1d5e07f3 gets 10 %";

/// All stories.
pub(crate) fn stories() -> Vec<Story> {
    let all = [runs(), waits(), rests()].into_iter().flatten();
    all.map(|(name, look)| Story { name, look }).collect()
}

fn runs() -> Vec<(&'static str, Look)> {
    let pending = json!({
        "observedGeneration": 7, "phase": "Pending", "ready": "0/2", "target": CANDIDATE, "candidate": CANDIDATE, "runs": 1,
        "message": "run 1: 0 of 2 pods of digits-8c1d5e07f3 are ready: pod digits-8c1d5e07f3-7d9c-k2x4p: ImagePullBackOff",
        "run": {"number": 1, "step": 0, "direct": true, "stepSeconds": 41, "plan": resolved(), "planDigest": "a1b2c3d4e5"},
    });
    let mut first = look(&pending, None, &[]);
    first.workloads = vec![workload(CANDIDATE, 0, 2)];
    first.pods = vec![
        pod(CANDIDATE, "7d9c-k2x4p", false, 0, Some("ImagePullBackOff")),
        pod(CANDIDATE, "7d9c-zz81q", false, 2, Some("CrashLoopBackOff")),
    ];
    let mut shadow = at(
        1,
        200,
        "Inconclusive",
        "run 4, step 1/3: digits-8c1d5e07f3 gets copies of 100 %: 100 s to go; no verdict yet",
        |status| {
            status["run"]["evidence"]["compared"] = json!(1_200);
            status["run"]["evidence"]["agreed"] = json!(1_187);
        },
    );
    let mut table = route(4, 1, &[(STABLE, 1_000_000)]);
    table["spec"]["mirrors"] = json!([{"revision": CANDIDATE, "of": STABLE, "ppm": 1_000_000}]);
    shadow.route = Some(serde_json::from_value(table).unwrap());
    let progressing = at(2, 78, "Pass", &format!("{PLACE}: 42 s to go; no harm"), |_| {});
    let drift = at(
        2,
        78,
        "Pass",
        &format!("{PLACE} (by the plan it started with; `repin` takes up the new one): 42 s to go; no harm"),
        |status| {
            status["run"]["planDrift"] = json!("ffee001122");
            status["run"]["plan"]["steps"][2]["weight"] = json!(30);
            status["run"]["plan"]["steps"][2]["duration"] = json!("5m");
        },
    );
    let mut preview = at(
        1,
        130,
        "Pass",
        "run 4, step 1/1: digits-8c1d5e07f3 answers at its preview address: 470 s to go; no harm",
        |status| {
            status["step"] = json!("1/1");
            status["weight"] = json!(0);
            status["run"]["plan"]["strategy"] = json!("BlueGreen");
            status["run"]["plan"]["steps"] = json!([{"analysis": {}, "duration": "10m"}]);
            status["run"]["plan"]["guard"]["holdback"] = json!(0);
            status["run"]["plan"]["approval"] = json!("Required");
            status["run"]["evidence"] = json!(null);
        },
    );
    preview.object["spec"]["rollout"] = json!({
        "strategy": "BlueGreen", "steps": [{"analysis": {}, "duration": "10m"}], "approval": "Required",
        "guard": {"duration": "10m"},
    });
    let mut recreate = at(
        1,
        9,
        "Inconclusive",
        "run 4: 1 pod of digits-1f0c22ab90 still to go; nobody is served",
        |status| {
            status["step"] = json!("0/0");
            status["weight"] = json!(0);
            status["ready"] = json!("0/2");
            status["run"]["step"] = json!(0);
            status["run"]["room"] = json!("Leaving");
            status["run"]["evidence"] = json!(null);
            status["run"]["plan"]["strategy"] = json!("Recreate");
            status["run"]["plan"]["steps"] = json!([]);
            status["run"]["plan"]["guard"]["holdback"] = json!(0);
        },
    );
    recreate.object["spec"]["rollout"] = json!({"strategy": "Recreate", "guard": {"duration": "10m"}});
    recreate.workloads = vec![workload(STABLE, 0, 0), workload(CANDIDATE, 0, 0)];
    recreate.pods = vec![pod(STABLE, "7d9c-k2x4p", false, 0, None)];
    let mut behind = at(2, 78, "Pass", &format!("{PLACE}: 42 s to go; no harm"), |_| {});
    behind.object["metadata"]["generation"] = json!(8);
    let mut blind = at(2, 78, "Pass", &format!("{PLACE}: 42 s to go; no harm"), |_| {});
    (blind.route, blind.workloads, blind.pods) = (None, Vec::new(), Vec::new());
    blind.notes = vec!["pods: forbidden: User \"ann\" cannot list resource \"pods\"; what is missing is the right to list pods in namespace models".into()];
    vec![
        ("pending", first),
        ("shadow", shadow),
        ("progressing", progressing),
        ("plan-drift", drift),
        ("preview", preview),
        ("recreate", recreate),
        ("behind", behind),
        ("without-rights", blind),
    ]
}

fn waits() -> Vec<(&'static str, Look)> {
    let holding = at(
        2,
        300,
        "Inconclusive",
        &format!("{PLACE} holds: the candidate has answered 12 of the 50 requests that this step needs"),
        |_| {},
    );
    let mut approval = at(
        2,
        150,
        "Pass",
        &format!("{PLACE}; step 3 (50 %) waits for an approval: `approve` with a reason lets it begin"),
        |status| {
            status["run"]["awaits"] = json!("step 3");
            status["run"]["plan"]["steps"][1]["approval"] = json!("Required");
            status["run"]["plan"]["steps"][2]["approval"] = json!("Required");
            status["run"]["plan"]["approval"] = json!("Required");
            status["run"]["approvals"] = json!([{"gate": "step 2", "by": "ann@example.com", "reason": "shadow looks right", "at": NOW}]);
        },
    );
    let declared = &mut approval.object["spec"]["rollout"];
    declared["steps"][1]["approval"] = json!("Required");
    declared["steps"][2]["approval"] = json!("Required");
    declared["approval"] = json!("Required");
    let paused = at(2, 60, "Pass", &format!("{PLACE} is paused by ben: `resume` lets it go on"), |status| {
        status["run"]["pausedBy"] = json!("ben");
    });
    let pause =
        at(2, 60, "Pass", &format!("{PLACE} pauses until someone asks for `resume`; no harm"), |status| {
            status["run"]["plan"]["steps"][1] = json!({"pause": {}});
        });
    let metrics = at(
        2,
        300,
        "Pass",
        &format!("{PLACE} holds: metric revenue: no samples for 90 s"),
        |status| {
            status["metrics"] = json!([
                {"name": "conversion", "verdict": "Pass", "value": "0.031", "against": "0.03", "message": "", "dryRun": false},
                {"name": "revenue", "verdict": "Error", "message": "no samples for 90 s", "dryRun": false},
                {"name": "returns", "verdict": "Fail", "value": "0.2", "against": "<= 0.1", "message": "above its limit", "dryRun": true},
            ]);
        },
    );
    let alert = at(
        2,
        300,
        "Pass",
        &format!("{PLACE} holds: alert DigitsErrorBudgetBurn fires since 11:58"),
        |status| {
            status["alerts"] = json!([{"alert": "DigitsErrorBudgetBurn", "action": "Hold", "since": "2026-11-29T11:58:00Z",
            "message": "14 % of the month's budget in an hour"}]);
        },
    );
    let frozen =
        at(2, 300, "Pass", &format!("{PLACE} holds: the fleet is frozen: incident 4711; no harm"), |_| {});
    let routers = at(
        2,
        5,
        "Pass",
        &format!("{PLACE}: waits until all routers serve the table: router stoker-router-0: no answer"),
        |status| {
            status["conditions"] = json!([verified("False", "router stoker-router-0: no answer")]);
        },
    );
    let stuck = "patch ModelDeployment status digits: no answer within 10 s";
    let operator = at(2, 5, "Pass", stuck, |status| {
        let mut failed = verified("False", stuck);
        failed["type"] = json!("Progressing");
        status["conditions"] = json!([failed]);
    });
    let mut asked = at(2, 78, "Pass", &format!("{PLACE}: 42 s to go; no harm"), |_| {});
    asked.object["metadata"]["annotations"] =
        json!({"stoker.dev/request": "abort 2026-11-29T11:59:58Z", "stoker.dev/requested-by": "ann"});
    vec![
        ("holding", holding),
        ("approval", approval),
        ("paused", paused),
        ("pause-step", pause),
        ("metrics", metrics),
        ("alert", alert),
        ("frozen", frozen),
        ("routers", routers),
        ("operator", operator),
        ("request", asked),
    ]
}

fn rests() -> Vec<(&'static str, Look)> {
    let table = || Some(route(4, 0, &[(STABLE, 1_000_000)]));
    let healthy = look(&resting("Healthy", "digits-1f0c22ab90 serves"), table(), &[STABLE]);
    let mut guarded = resting("Healthy", "digits-1f0c22ab90 serves; guarded for 433 s more: no harm");
    guarded["verdict"] = json!("Pass");
    guarded["previous"] = json!({"revision": BEFORE, "keptSeconds": 167});
    guarded["guard"] = json!({"step": 4, "ofSeconds": 600, "seconds": 167, "holdback": 1, "evidence": evidence(), "slowAboveMs": 23.8});
    let guarded =
        look(&guarded, Some(route(4, 4, &[(STABLE, 990_000), (BEFORE, 10_000)])), &[STABLE, BEFORE]);
    let because = "candidate failed 34 of 120 requests, stable 3 of 1080";
    let taken_back = |phase: &str| {
        let message = format!(
            "digits-1f0c22ab90 serves; the spec wants {CANDIDATE}, which was taken back: {because}; change spec.model or spec.runtime, or ask for `retry`"
        );
        let mut status = resting(phase, &message);
        status["target"] = json!(CANDIDATE);
        status["verdict"] = json!("Fail");
        status["rejected"] = json!([{"revision": CANDIDATE, "because": because}]);
        status["leaving"] = json!([CANDIDATE]);
        status["history"] = json!([
            {"run": 4, "revision": CANDIDATE, "outcome": "RolledBack", "at": NOW,
                "message": format!("{CANDIDATE}: {because}; {STABLE} has all the traffic")},
            {"run": 3, "revision": STABLE, "outcome": "Promoted", "at": "2026-11-28T09:00:00Z",
                "message": format!("{STABLE} is stable; it is guarded for 600 s")},
        ]);
        status
    };
    let rolled_back = look(&taken_back("RolledBack"), table(), &[STABLE, CANDIDATE]);
    let mut cut = at(2, 20, "Fail", &format!("{PLACE}: {because}"), |_| {});
    if let Some(route) = &mut cut.route {
        route.status =
            serde_json::from_value(json!({"cuts": [{"run": 4, "revision": CANDIDATE, "because": because,
            "by": "stoker-router-0", "at": NOW}]}))
            .unwrap();
    }
    let mut pinned = resting(
        "RolledBack",
        "digits-03b9aa41cc serves; the spec wants digits-1f0c22ab90, which does not run: ann went back to digits-03b9aa41cc; `retry` tries it",
    );
    pinned["stable"] = json!(BEFORE);
    pinned["pin"] =
        json!({"revision": BEFORE, "insteadOf": STABLE, "because": "ann went back to digits-03b9aa41cc"});
    let pinned = look(&pinned, Some(route(5, 0, &[(BEFORE, 1_000_000)])), &[BEFORE]);
    let degraded = resting("Degraded", "1 of 2 pods are ready: pod digits-1f0c22ab90-7d9c-zz81q: OOMKilled");
    let mut degraded = look(&degraded, table(), &[STABLE]);
    degraded.workloads = vec![workload(STABLE, 1, 2)];
    degraded.pods[1] = pod(STABLE, "7d9c-zz81q", false, 5, Some("CrashLoopBackOff"));
    let conflicted = look(
        &resting(
            "Conflicted",
            "host digits.example belongs to ModelDeployment other, which had it first; change traffic.hosts of one of them; digits-1f0c22ab90 serves",
        ),
        table(),
        &[STABLE],
    );
    let mut fresh = look(&Value::Null, None, &[]);
    fresh.object.as_object_mut().unwrap().remove("status");
    vec![
        ("fresh", fresh),
        ("healthy", healthy),
        ("guard", guarded),
        ("rolled-back", rolled_back),
        ("cut", cut),
        ("pinned", pinned),
        ("degraded", degraded),
        ("conflicted", conflicted),
    ]
}

/// A story by its name.
pub(crate) fn story(name: &str) -> Look {
    stories().into_iter().find(|story| story.name == name).unwrap().look
}

#[test]
fn each_story_waits_for_its_one_thing() {
    let wanted = [
        ("fresh", Some("Spec")),
        ("pending", Some("Pods")),
        ("shadow", Some("Time")),
        ("progressing", Some("Time")),
        ("plan-drift", Some("Time")),
        ("preview", Some("Time")),
        ("recreate", Some("Pods")),
        ("behind", Some("Spec")),
        ("without-rights", Some("Time")),
        ("holding", Some("Evidence")),
        ("approval", Some("Approval")),
        ("paused", Some("Paused")),
        ("pause-step", Some("Pause")),
        ("metrics", Some("Metric")),
        ("alert", Some("Alert")),
        ("frozen", Some("Fleet")),
        ("routers", Some("Routers")),
        ("operator", Some("Operator")),
        ("request", Some("Time")),
        ("healthy", None),
        ("guard", Some("Guard")),
        ("rolled-back", Some("TakenBack")),
        ("pinned", Some("Pinned")),
        ("degraded", Some("Unready")),
        ("conflicted", Some("Conflict")),
        ("cut", Some("Harm")),
    ];
    assert_eq!(stories().len(), wanted.len());
    for (name, kind) in wanted {
        let picture = Picture::of(&story(name)).unwrap();
        assert_eq!(picture.hold.map(|hold| hold.kind), kind, "{name}");
    }
}

#[test]
fn what_routers_cut_gets_nothing_and_stable_has_it() {
    let shares = |name: &str| {
        let picture = Picture::of(&story(name)).unwrap();
        picture.revisions.iter().map(|one| (one.role, one.percent)).collect::<Vec<_>>()
    };
    assert_eq!(shares("progressing"), [(Role::Stable, Some(90.0)), (Role::Candidate, Some(10.0))]);
    assert_eq!(shares("cut"), [(Role::Stable, Some(100.0)), (Role::Candidate, Some(0.0))]);
    assert_eq!(shares("guard"), [(Role::Stable, Some(99.0)), (Role::Previous, Some(1.0))]);
}

#[test]
fn an_object_that_cannot_be_read_names_the_release() {
    let mut look = story("healthy");
    look.object["status"]["phase"] = json!("Sleeping");
    let trouble = Picture::of(&look).unwrap_err().to_string();
    assert!(trouble.contains("digits cannot be read") && trouble.contains("another release"), "{trouble}");
}

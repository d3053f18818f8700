//! Faults that another rollout controller had, played against the driver. The numbers are those of the changes that mended them
//! there; `docs/known-faults.md` lists all.

use super::*;

/// A user's words to the object that is kept at the API server.
fn ask(server: &Server, request: &str) {
    let mut object = server.get(MODEL).unwrap();
    object["metadata"]["annotations"] = json!({"stoker.dev/request": request});
    server.put(MODEL, object);
}

/// Argo Rollouts 4786: the controller worked from its cache and wrote its own result back into it. The user's end of a pause, which
/// the cache did not have yet, was lost, and the rollout stayed paused for ever.
///
/// Ours: a watch only says that there is something to look at. A look reads everything live, so an old object in the watch's
/// store decides nothing.
#[tokio::test]
async fn the_end_of_a_pause_that_the_watch_does_not_know_yet_is_obeyed() {
    let mut looking = Looking::new();
    looking.change(|object| {
        object["spec"]["rollout"] = json!({"steps": [{"weight": 10}, {"pause": {}}, {"weight": 50}]});
    });
    let (_, b) = looking.trying().await;
    looking.change(|object| object["status"]["run"]["step"] = json!(2));
    let stale = looking.md();
    ask(&looking.server, "resume 1");
    look(&looking.ctx, &stale, "uid-digits", &mut looking.memory).await.unwrap();
    let status = looking.status();
    assert_eq!(status["handledRequest"], "resume 1", "{status}");
    assert_eq!((&status["candidate"], &status["run"]["step"]), (&json!(b), &json!(2)), "{status}");
    let asked = looking.server.writes();
    assert!(asked.iter().any(|(_, body)| body["reason"] == "Resumed"), "{asked:?}");
}

/// Argo Rollouts 4784: a reconcile went on after its first write, with a picture that was not true any more: an abort that came
/// meanwhile was written over, and weights and replicas followed the old decision.
///
/// Ours: the decision is written first, with the version that it was made from. When that is refused nothing of it takes
/// effect, and the next look decides anew.
#[tokio::test]
async fn nothing_of_a_look_takes_effect_when_the_user_was_quicker() {
    let mut looking = Looking::new();
    let (a, b) = looking.ready().await;
    looking.server.writes();
    let server = looking.server.clone();
    // This look gives `b` its first weight, had nobody aborted the run after the object was read.
    looking.server.after(&format!("GET {MODEL}"), move || ask(&server, "abort 1"));
    let asked = looking.look().await;
    assert_eq!(asked.iter().map(|(what, _)| what.as_str()).collect::<Vec<_>>(), [STATUS]);
    assert_eq!(arms(&looking.server), std::slice::from_ref(&a));
    assert_eq!(looking.status()["run"]["step"], 0);
    looking.look().await;
    let status = looking.status();
    assert_eq!(status["handledRequest"], "abort 1", "{status}");
    assert_eq!(status["rejected"][0]["revision"], b, "{status}");
    assert_eq!(arms(&looking.server), [a]);
}

/// Argo Rollouts 4805: an AnalysisRun that status named and that the cache did not have yet counted as an error, and the
/// experiment ended.
///
/// Ours: what a look does not find is missing evidence, never harm. The run holds, nothing is made over what is there, and the
/// next look goes on.
#[tokio::test]
async fn a_table_that_one_look_does_not_find_ends_no_run() {
    let mut looking = Looking::new();
    let (a, b) = looking.trying().await;
    let (before, table) = (looking.status(), looking.server.get(ROUTE));
    looking.server.hide_once(ROUTE);
    looking.look().await;
    assert_eq!(looking.server.get(ROUTE), table);
    for _ in 0..2 {
        looking.look().await;
    }
    let status = looking.status();
    for field in ["stable", "runs", "rejected"] {
        assert_eq!(status[field], before[field], "{status}");
    }
    assert_eq!((&status["candidate"], &status["run"]["step"]), (&json!(b), &json!(1)), "{status}");
    assert_eq!(arms(&looking.server), [a, b]);
    assert!(!status["message"].as_str().unwrap().contains("AlreadyExists"), "{status}");
}

/// Argo Rollouts 4602: a Job whose image could not be pulled never ran, and when it was ended for that its measurement counted as
/// a success: the version was promoted.
///
/// Ours: the one pod whose outcome a rollout waits for resolves the artifact's digest. Only its own words at a good end count.
/// While it cannot start, and when it is ended from outside, there is no digest, no pod of the new revision and no run; status says
/// why.
#[tokio::test]
async fn a_pod_that_never_ran_has_found_out_nothing() {
    let mut looking = Looking::new();
    let (a, _) = looking.ready().await;
    let runs = looking.status()["runs"].clone();
    looking.change(|object| object["spec"]["model"] = json!({"uri": "configmap://digits/new.onnx"}));
    looking.look().await;
    let target = looking.status()["target"].as_str().unwrap().to_owned();
    let resolver = format!("/api/v1/namespaces/team/pods/{}", crate::build::resolver::name(&target));
    let ended = |phase: &str, state: Value| {
        let mut pod = looking.server.get(&resolver).unwrap();
        let container = json!({"name": "server", "image": "server:1", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        pod["status"] = json!({"phase": phase, "containerStatuses": [container]});
        looking.server.put(&resolver, pod);
    };
    ended("Pending", json!({"waiting": {"reason": "ErrImagePull", "message": "no such image"}}));
    for _ in 0..3 {
        looking.look().await;
    }
    let status = looking.status();
    assert!(status["message"].as_str().unwrap().contains("no such image"), "{status}");
    // Ended from outside before it began: by a deadline, an eviction, a node that shut down.
    let mut pod = looking.server.get(&resolver).unwrap();
    pod["status"] = json!({"phase": "Failed", "reason": "DeadlineExceeded"});
    looking.server.put(&resolver, pod);
    let asked = looking.look().await;
    position(&asked, &format!("DELETE {resolver}"));
    looking.look().await;
    assert!(looking.server.get(&resolver).is_some(), "it is tried again");
    let status = looking.status();
    assert_eq!((&status["stable"], &status["runs"]), (&json!(a), &runs), "{status}");
    assert!(looking.server.get(&snapshot_of(&target)).is_none());
    assert!(looking.server.get(&deployment_of(&target)).is_none());
    assert_eq!(arms(&looking.server), [a]);
}

//! What is sent to the API server, and what is made of its answers.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;

use super::*;
use crate::picture::tests::story;

/// A stand-in for the API server and the operator behind it.
#[derive(Clone)]
struct Server(Arc<Mutex<State>>);

struct State {
    object: Value,
    events: Option<Vec<Value>>,
    /// Bodies of the patches that were taken.
    patches: Vec<Value>,
    /// What happens before a patch is looked at, once each.
    meanwhile: Vec<fn(&mut Value)>,
    /// How the operator answers: reason and message of an Event.
    operator: Option<(&'static str, &'static str)>,
    /// What the operator does to the object.
    does: fn(&mut Value),
    /// Patches are refused.
    forbidden: bool,
}

const PATH: &str = "/apis/stoker.dev/v1alpha1/namespaces/models/modeldeployments/digits";

impl Server {
    fn with(object: Value) -> Self {
        Self(Arc::new(Mutex::new(State {
            object,
            events: Some(vec![event("old", "1", "RequestRefused", "retry: from before")]),
            patches: Vec::new(),
            meanwhile: Vec::new(),
            operator: None,
            does: |_| {},
            forbidden: false,
        })))
    }

    fn story(name: &str) -> Self {
        Self::with(story(name).object)
    }

    fn answering(self, reason: &'static str, message: &'static str) -> Self {
        self.0.lock().unwrap().operator = Some((reason, message));
        self
    }

    fn change(self, change: impl FnOnce(&mut State)) -> Self {
        change(&mut self.0.lock().unwrap());
        self
    }

    fn patches(&self) -> Vec<Value> {
        self.0.lock().unwrap().patches.clone()
    }

    fn cluster(&self) -> Cluster {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (code, answer) = server.0.lock().unwrap().answer(&head.method, head.uri.path(), &body);
                let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
                *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
                Ok::<_, Infallible>(response)
            }
        });
        Cluster::of(Client::new(service, "default"), "models")
    }

    async fn ask(&self, verb: Verb, waiting: &Waiting) -> std::result::Result<Outcome, Trouble> {
        let reason = (verb == Verb::Approve).then(|| "looks right".to_owned());
        act(&self.cluster(), "digits", &Ask { verb, to: None, reason }, waiting).await
    }
}

impl State {
    fn answer(&mut self, method: &Method, path: &str, body: &Value) -> (u16, Value) {
        match (method.as_str(), path) {
            ("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews") => (
                201,
                json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {},
                    "status": {"userInfo": {"username": "ann@example.com"}}}),
            ),
            ("GET", PATH) => (200, self.object.clone()),
            ("GET", "/api/v1/namespaces/models/events") => match &self.events {
                Some(events) => {
                    (200, json!({"apiVersion": "v1", "kind": "EventList", "metadata": {}, "items": events}))
                }
                None => failure(403, "Forbidden", "User \"ann\" cannot list resource \"events\""),
            },
            ("PATCH", PATH) if self.forbidden => {
                failure(403, "Forbidden", "User \"ann\" cannot patch resource \"modeldeployments\"")
            }
            ("PATCH", PATH) => self.patch(body),
            _ => failure(404, "NotFound", path),
        }
    }

    fn patch(&mut self, body: &Value) -> (u16, Value) {
        if let Some(happens) = self.meanwhile.pop() {
            happens(&mut self.object);
            let version: u64 = self.object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
            self.object["metadata"]["resourceVersion"] = json!((version + 1).to_string());
        }
        if body["metadata"]["resourceVersion"] != self.object["metadata"]["resourceVersion"] {
            return failure(409, "Conflict", "it was changed");
        }
        self.patches.push(body.clone());
        self.object["metadata"]["annotations"] = body["metadata"]["annotations"].clone();
        if let Some(annotations) = self.object["metadata"]["annotations"].as_object_mut() {
            annotations.retain(|_, value| !value.is_null());
        }
        if let Some((reason, message)) = self.operator {
            self.object["status"]["handledRequest"] =
                body["metadata"]["annotations"]["stoker.dev/request"].clone();
            (self.does)(&mut self.object);
            if let Some(events) = &mut self.events {
                events.push(event("new", "2", reason, message));
            }
        }
        (200, self.object.clone())
    }
}

fn event(name: &str, version: &str, reason: &str, message: &str) -> Value {
    json!({"metadata": {"name": name, "uid": name, "resourceVersion": version}, "involvedObject": {},
        "reason": reason, "message": message})
}

fn failure(code: u16, reason: &str, message: &str) -> (u16, Value) {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": message, "metadata": {}}),
    )
}

fn patient() -> Waiting {
    Waiting { no_wait: false, timeout: Duration::from_secs(20), replace: false }
}

#[tokio::test]
async fn a_request_names_what_was_seen_and_who_asks() {
    let server =
        Server::story("progressing").answering("Aborted", "digits-8c1d5e07f3: aborted by ann@example.com");
    let outcome = server.ask(Verb::Abort, &patient()).await.unwrap();
    assert_eq!(outcome.result, Result::Done);
    assert_eq!(outcome.message, "digits-8c1d5e07f3: aborted by ann@example.com");
    assert_eq!(outcome.exit(), Exit::Well);
    let patches = server.patches();
    let [patch] = patches.as_slice() else { panic!("{patches:?}") };
    assert_eq!(patch["metadata"]["resourceVersion"], "100");
    let annotations = &patch["metadata"]["annotations"];
    assert_eq!(annotations["stoker.dev/requested-by"], "ann@example.com");
    assert_eq!(annotations["stoker.dev/request"], outcome.request.as_str());
    assert!(outcome.request.starts_with("abort/digits-8c1d5e07f3 20"), "{}", outcome.request);
    // Without a reason, one from before is taken away.
    assert_eq!(annotations.get("stoker.dev/reason"), Some(&Value::Null));
    assert_eq!(patch["metadata"].as_object().unwrap().len(), 2, "nothing else is written");
}

#[tokio::test]
async fn an_approval_carries_its_reason() {
    let server = Server::story("approval").answering("Approved", "digits-8c1d5e07f3: step 3 is approved");
    let outcome = server.ask(Verb::Approve, &patient()).await.unwrap();
    assert_eq!(outcome.result, Result::Done);
    assert_eq!(server.patches()[0]["metadata"]["annotations"]["stoker.dev/reason"], "looks right");
}

#[tokio::test]
async fn what_the_operator_refuses_is_told_with_its_reason() {
    let server = Server::story("healthy").answering("RequestRefused", "abort: there is no run");
    let outcome = server.ask(Verb::Abort, &patient()).await.unwrap();
    assert_eq!((outcome.result, outcome.exit()), (Result::Refused, Exit::Unwell));
    assert_eq!(outcome.message, "abort: there is no run");
}

#[tokio::test]
async fn figures_that_change_meanwhile_are_no_obstacle() {
    let figures: fn(&mut Value) = |object| object["status"]["run"]["stepSeconds"] = json!(99);
    let server = Server::story("progressing")
        .answering("PromoteRequested", "it goes on")
        .change(|state| state.meanwhile = vec![figures, figures]);
    assert_eq!(server.ask(Verb::Promote, &patient()).await.unwrap().result, Result::Done);
    assert_eq!(server.patches()[0]["metadata"]["resourceVersion"], "102");
}

#[tokio::test]
async fn what_was_decided_about_another_state_is_not_written() {
    let step: fn(&mut Value) = |object| object["status"]["run"]["step"] = json!(3);
    let server = Server::story("progressing").change(|state| state.meanwhile = vec![step]);
    let trouble = server.ask(Verb::Promote, &patient()).await.unwrap_err();
    assert_eq!(trouble.exit(), Exit::Unwell);
    let said = trouble.to_string();
    assert!(
        said.contains("at step 2 with") && said.contains("at step 3 with") && said.contains("look again"),
        "{said}"
    );
    assert_eq!(server.patches(), [Value::Null; 0]);
}

#[tokio::test]
async fn an_operator_that_does_not_answer_is_told() {
    let server = Server::story("progressing");
    let trouble =
        server.ask(Verb::Pause, &Waiting { timeout: Duration::ZERO, ..patient() }).await.unwrap_err();
    assert_eq!(trouble.exit(), Exit::Unsettled);
    assert!(trouble.to_string().contains("has not handled"), "{trouble}");
    let asked = Server::story("progressing");
    let outcome = asked.ask(Verb::Pause, &Waiting { no_wait: true, ..patient() }).await.unwrap();
    assert_eq!((outcome.result, outcome.exit()), (Result::Asked, Exit::Well));
}

#[tokio::test]
async fn a_request_that_is_not_handled_is_not_lost() {
    let server = Server::story("request").answering("PromoteRequested", "it goes on");
    let trouble = server.ask(Verb::Promote, &patient()).await.unwrap_err();
    assert!(trouble.to_string().contains("abort 2026-11-29T11:59:58Z"), "{trouble}");
    assert_eq!(server.patches(), [Value::Null; 0]);
    let outcome = server.ask(Verb::Promote, &Waiting { replace: true, ..patient() }).await.unwrap();
    assert_eq!(outcome.result, Result::Done);
}

#[tokio::test]
async fn without_a_look_at_events_the_state_tells() {
    let gone: fn(&mut Value) = |object| {
        for field in ["run", "candidate"] {
            object["status"].as_object_mut().unwrap().remove(field);
        }
        object["status"]["message"] = json!("digits-1f0c22ab90 serves");
    };
    let blind = |does| {
        Server::story("progressing").answering("Aborted", "").change(|state| {
            (state.events, state.does) = (None, does);
        })
    };
    let outcome = blind(gone).ask(Verb::Abort, &patient()).await.unwrap();
    assert_eq!((outcome.result, outcome.message.as_str()), (Result::Done, "digits-1f0c22ab90 serves"));
    let trouble = blind(|_| {}).ask(Verb::Abort, &patient()).await.unwrap_err();
    assert_eq!(trouble.exit(), Exit::Unwell);
    assert!(trouble.to_string().contains("no Event that can be read"), "{trouble}");
}

#[tokio::test]
async fn a_missing_right_is_named() {
    let server = Server::story("progressing").change(|state| state.forbidden = true);
    let trouble = server.ask(Verb::Abort, &patient()).await.unwrap_err();
    assert_eq!(trouble.exit(), Exit::Unknown);
    let right = "the right to patch modeldeployments.stoker.dev digits in namespace models";
    assert!(trouble.to_string().contains(right), "{trouble}");
}

#[test]
fn each_verb_names_what_it_is_about() {
    let md = read(&story("progressing").object).unwrap();
    let now: Timestamp = "2026-11-29T12:00:00.5Z".parse().unwrap();
    let candidate = "digits-8c1d5e07f3";
    let cases = [
        (Verb::Promote, None, format!("promote/{candidate}")),
        (Verb::PromoteFull, None, format!("promote-full/{candidate}")),
        (Verb::Approve, None, format!("approve/{candidate}")),
        (Verb::Pause, None, format!("pause/{candidate}")),
        (Verb::Abort, None, format!("abort/{candidate}")),
        (Verb::Retry, None, format!("retry/{candidate}")),
        (Verb::Resume, None, "resume".to_owned()),
        (Verb::Repin, None, "repin".to_owned()),
        (Verb::Undo, None, "undo".to_owned()),
        (Verb::Undo, Some("digits-03b9aa41cc"), "undo/digits-03b9aa41cc".to_owned()),
    ];
    for (verb, to, action) in cases {
        let ask = Ask { verb, to: to.map(str::to_owned), reason: None };
        assert_eq!(value(&ask, &md, now), format!("{action} 2026-11-29T12:00:00.5Z"));
    }
    // Without a run there is none to name: the operator says so.
    let healthy = read(&story("healthy").object).unwrap();
    let ask = Ask { verb: Verb::Promote, to: None, reason: None };
    assert_eq!(value(&ask, &healthy, now), "promote 2026-11-29T12:00:00.5Z");
}

//! A stand-in for the API server: keeps objects by path, counts versions, and remembers what was asked.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// What was asked: `METHOD path` and the body.
pub(crate) type Asked = (String, Value);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    asked: Vec<Asked>,
    /// The next GET of these paths finds nothing, as if the object were made just after.
    late: BTreeSet<String>,
    /// What is below these paths is not known: as for a kind that is not installed.
    unknown: Vec<String>,
    /// Writes of these paths are refused with this answer.
    refused: BTreeMap<String, (u16, Value)>,
    /// What happens right after a request was answered, once: while the client has the answer and has done nothing with it.
    after: BTreeMap<String, Box<dyn FnOnce() + Send>>,
    writes: u64,
}

/// Clones share what is kept.
#[derive(Clone, Default)]
pub(crate) struct Server(Arc<Mutex<State>>);

impl Server {
    /// A client of it.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.service(), "default")
    }

    /// What a client sends its requests to.
    pub(crate) fn service(
        &self,
    ) -> impl tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Send
    + 'static {
        let server = self.clone();
        tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (status, answer) = server.answer(&head.method, head.uri.path(), &body);
                let after =
                    server.0.lock().unwrap().after.remove(&format!("{} {}", head.method, head.uri.path()));
                if let Some(after) = after {
                    after();
                }
                let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
                *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
                Ok::<_, Infallible>(response)
            }
        })
    }

    /// Does something right after the next request `METHOD path` was answered.
    pub(crate) fn after(&self, asked: &str, then: impl FnOnce() + Send + 'static) {
        self.0.lock().unwrap().after.insert(asked.to_owned(), Box::new(then));
    }

    /// Puts an object there.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.0.lock().unwrap().store(path, object);
    }

    /// An object as it is.
    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    /// Lets the next GET of an object find nothing.
    pub(crate) fn hide_once(&self, path: &str) {
        self.0.lock().unwrap().late.insert(path.to_owned());
    }

    /// Refuses writes of an object from now on, as for a value that is not valid.
    pub(crate) fn refuse(&self, path: &str, message: &str) {
        self.0.lock().unwrap().refused.insert(path.to_owned(), status(422, "Invalid", message));
    }

    /// Refuses writes of an object from now on, as for one that somebody changed meanwhile.
    pub(crate) fn contradict(&self, path: &str) {
        self.0.lock().unwrap().refused.insert(path.to_owned(), status(409, "Conflict", "it was changed"));
    }

    /// Knows nothing below a path from now on, as where its kind is not installed.
    pub(crate) fn without(&self, path: &str) {
        self.0.lock().unwrap().unknown.push(path.to_owned());
    }

    /// Takes writes of an object again.
    pub(crate) fn allow(&self, path: &str) {
        self.0.lock().unwrap().refused.remove(path);
    }

    /// Takes an object away.
    pub(crate) fn remove(&self, path: &str) {
        self.0.lock().unwrap().objects.remove(path);
    }

    /// What was asked so far, in order; forgets it.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.0.lock().unwrap().asked)
    }

    /// What was written so far, in order; forgets all that was asked.
    pub(crate) fn writes(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(|(what, _)| !what.starts_with("GET")).collect()
    }

    fn answer(&self, method: &Method, path: &str, body: &Value) -> (u16, Value) {
        let mut state = self.0.lock().unwrap();
        state.asked.push((format!("{method} {path}"), body.clone()));
        if state.unknown.iter().any(|unknown| path.starts_with(unknown)) {
            // In plain text, as the API server does it.
            return (404, Value::from("404 page not found"));
        }
        if let Some(answer) = state.refused.get(path).filter(|_| *method != Method::GET) {
            return answer.clone();
        }
        let object = path.strip_suffix("/status").unwrap_or(path);
        let live = state.objects.get(object).cloned();
        let version = |value: &Value| {
            value.pointer("/metadata/resourceVersion").cloned().filter(|version| !version.is_null())
        };
        let behind =
            live.as_ref().is_some_and(|live| version(body).is_some_and(|read| Some(read) != version(live)));
        match (method.as_str(), live) {
            ("GET", _) if state.late.remove(object) => status(404, "NotFound", "test"),
            ("GET", Some(live)) => (200, live),
            ("GET", None) if is_collection(path) => {
                let items: Vec<_> = state
                    .objects
                    .iter()
                    .filter(|(at, _)| is_in(at, path))
                    .map(|(_, item)| item.clone())
                    .collect();
                (200, json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}))
            }
            ("POST", _) => {
                let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("generated");
                let at = format!("{path}/{name}");
                if state.objects.contains_key(&at) {
                    status(409, "AlreadyExists", "test")
                } else {
                    (201, state.store(&at, body.clone()))
                }
            }
            ("PUT" | "PATCH", Some(_)) if behind => status(409, "Conflict", "test"),
            ("PUT", Some(_)) => (200, state.store(object, body.clone())),
            ("PATCH", live) => {
                let mut merged = live.unwrap_or_else(|| json!({}));
                merge(&mut merged, body);
                (200, state.store(object, merged))
            }
            ("DELETE", Some(live)) => {
                let wanted = |field: &str| body.pointer(&format!("/preconditions/{field}"));
                let same =
                    |field: &str| wanted(field).is_none_or(|wanted| live["metadata"][field] == *wanted);
                if !same("uid") || !same("resourceVersion") {
                    return status(409, "Conflict", "test");
                }
                state.objects.remove(object);
                (200, live)
            }
            _ => status(404, "NotFound", "test"),
        }
    }
}

impl State {
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.writes += 1;
        let namespace =
            path.split_once("/namespaces/").and_then(|(_, rest)| rest.split('/').next()).unwrap_or("default");
        let metadata = &mut object["metadata"];
        metadata["namespace"] = json!(namespace);
        metadata["resourceVersion"] = json!(self.writes.to_string());
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("uid-{}", self.writes));
            metadata["generation"] = json!(1);
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }
}

fn status(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let message = format!("{reason} ({message})");
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": message, "metadata": {}}),
    )
}

/// Whether a path names a kind and no object.
fn is_collection(path: &str) -> bool {
    let rest = path.split_once("/namespaces/").map_or(path, |(_, rest)| rest);
    rest.split('/').filter(|part| !part.is_empty()).count()
        == if path.contains("/namespaces/") { 2 } else { 4 }
}

/// Whether the object at `at` is listed under the collection `path`, of one namespace or of all.
fn is_in(at: &str, path: &str) -> bool {
    let (parent, _) = at.rsplit_once('/').unwrap_or((at, ""));
    let cluster = parent.split_once("/namespaces/").map(|(group, rest)| {
        let kind = rest.rsplit('/').next().unwrap_or_default();
        format!("{group}/{kind}")
    });
    parent == path || cluster.as_deref() == Some(path)
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

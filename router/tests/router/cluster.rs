//! An API server of this process.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use http::{Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::Client;
use serde_json::{Value, json};

/// An API server that knows lists, watches and reads of one namespace.
#[derive(Default)]
pub struct Cluster {
    /// Objects by path of their list, then by name.
    pub objects: Mutex<BTreeMap<String, BTreeMap<String, Value>>>,
    pub watches: Mutex<Vec<(String, UnboundedSender<Value>)>>,
    pub away: Mutex<bool>,
    pub lists: Mutex<usize>,
    /// Writes of status that were carried out, and those that met another version.
    pub writes: Mutex<(usize, usize)>,
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

pub const ROUTES: &str = "/apis/stoker.dev/v1alpha1/namespaces/team/modelroutes";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/team/endpointslices";

impl Cluster {
    pub fn client(self: &Arc<Self>) -> Client {
        let server = Arc::clone(self);
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let server = Arc::clone(&server);
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
                if *server.away.lock().unwrap() {
                    return Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
                }
                if parts.method == Method::PATCH {
                    return Ok(server.patch(parts.uri.path(), &body));
                }
                Ok(server.answer(&Request::from_parts(parts, ())))
            }
        });
        Client::new(service, "team")
    }

    fn answer(&self, request: &Request<()>) -> Answer {
        let path = request.uri().path();
        if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
            let (sender, receiver) = unbounded();
            self.watches.lock().unwrap().push((path.to_owned(), sender));
            let lines = receiver.map(|event: Value| Ok(Frame::data(Bytes::from(format!("{event}\n")))));
            return Response::new(BodyExt::boxed(StreamBody::new(lines)));
        }
        let objects = self.objects.lock().unwrap();
        if path == ROUTES || path == SLICES {
            *self.lists.lock().unwrap() += 1;
            let items: Vec<_> =
                objects.get(path).map(|all| all.values().cloned().collect()).unwrap_or_default();
            return whole(
                200,
                &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}),
            );
        }
        let found = path.rsplit_once('/').and_then(|(list, name)| objects.get(list)?.get(name));
        match found {
            Some(object) => whole(200, object),
            None => whole(404, &failure(404, "NotFound")),
        }
    }

    /// A merge patch of a status, under the version that was read where it names one.
    fn patch(&self, path: &str, body: &[u8]) -> Answer {
        let change: Value = serde_json::from_slice(body).unwrap();
        let (list, name) = path.strip_suffix("/status").and_then(|path| path.rsplit_once('/')).unwrap();
        let mut objects = self.objects.lock().unwrap();
        let Some(object) = objects.get_mut(list).and_then(|all| all.get_mut(name)) else {
            return whole(404, &failure(404, "NotFound"));
        };
        let version = object["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        let read = &change["metadata"]["resourceVersion"];
        if (!read.is_null() && *read != json!(version))
            || change["metadata"]["uid"] != object["metadata"]["uid"]
        {
            self.writes.lock().unwrap().1 += 1;
            return whole(409, &failure(409, "Conflict"));
        }
        object["metadata"]["resourceVersion"] = json!((version.parse::<u64>().unwrap() + 1).to_string());
        for (field, value) in change["status"].as_object().unwrap() {
            object["status"][field] = value.clone();
        }
        self.writes.lock().unwrap().0 += 1;
        let written = object.clone();
        drop(objects);
        self.event(list, "MODIFIED", &written);
        whole(200, &written)
    }

    /// Stores an object; watches are not told.
    pub fn store(&self, list: &str, object: &impl serde::Serialize) -> Value {
        let mut object = serde_json::to_value(object).unwrap();
        object["metadata"]["resourceVersion"] = json!("2");
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        self.objects.lock().unwrap().entry(list.to_owned()).or_default().insert(name, object.clone());
        object
    }

    pub fn event(&self, list: &str, kind: &str, object: &Value) {
        let event = json!({"type": kind, "object": object});
        self.watches
            .lock()
            .unwrap()
            .retain(|(path, watch)| path != list || watch.unbounded_send(event.clone()).is_ok());
    }

    /// Forgets what a watch would need, as after a compaction, and ends all watches.
    pub fn forget(&self) {
        let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410,
            "message": "too old resource version", "metadata": {}});
        self.event(ROUTES, "ERROR", &gone);
        self.event(SLICES, "ERROR", &gone);
        self.watches.lock().unwrap().clear();
    }

    pub fn watched(&self) -> usize {
        self.watches.lock().unwrap().len()
    }
}

fn whole(status: u16, value: &Value) -> Answer {
    let body = Full::new(Bytes::from(value.to_string())).boxed();
    Response::builder().status(status).body(body).unwrap()
}

fn failure(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": reason})
}

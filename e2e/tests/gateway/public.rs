//! The gateway as clients see it, and as its owner handles it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use stoker_api::gateway::Gateway;
use stoker_api::names::headers;
use stoker_e2e::cluster::until;
use stoker_e2e::namespace::TestNamespace;
use stoker_e2e::subject::PATIENCE;
use tokio::net::TcpStream;

/// Where Contour, the Envoys and the gateway are.
pub(crate) const NAMESPACE: &str = "projectcontour";
/// The gateway.
pub(crate) const GATEWAY: &str = "public";
/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Fresh connections that must all lead to the model: there are two Envoys, and each hears of a route by itself.
const IN_A_ROW: usize = 20;

/// What a client sees.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) revision: String,
}

/// The gateway of the cluster.
pub(crate) struct Public {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    gateways: Api<DynamicObject>,
}

impl Public {
    pub(crate) async fn find(namespace: &TestNamespace) -> Result<Self> {
        let services = Api::<Service>::namespaced(namespace.client.clone(), NAMESPACE);
        let service =
            services.get("envoy").await.context("no gateway on this cluster: run e2e/gateway/up")?;
        let ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
        let address =
            SocketAddr::new(ip.parse().with_context(|| format!("clusterIP {ip:?} of Service envoy"))?, 80);
        // As it is, with the fields that Stoker has no use for: it is made again out of this.
        let kind = ApiResource::erase::<Gateway>(&());
        let gateways = Api::namespaced_with(namespace.client.clone(), NAMESPACE, &kind);
        Ok(Self { address, gateways })
    }

    /// One GET over a connection of its own.
    pub(crate) async fn ask(&self, host: &str, path: &str) -> Result<Answer> {
        let mut request = Request::get(path).header(HOST, host).body(Full::<Bytes>::default())?;
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        let exchange = async {
            let stream = TcpStream::connect(self.address).await?;
            let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
            // Its errors come out at the request.
            tokio::spawn(connection);
            let (head, body) = sender.send_request(request).await?.into_parts();
            body.collect().await?;
            let revision = head.headers.get(headers::REVISION).and_then(|value| value.to_str().ok());
            Ok::<_, anyhow::Error>(Answer {
                status: head.status,
                revision: revision.unwrap_or_default().to_owned(),
            })
        };
        tokio::time::timeout(DEADLINE, exchange)
            .await
            .with_context(|| format!("no answer for {host} in time"))?
    }

    /// Waits until the host leads to this revision, by every Envoy.
    pub(crate) async fn leads_to(&self, host: &str, revision: &str) -> Result<()> {
        until(&format!("{host} leads to {revision} through the gateway"), PATIENCE, async || {
            for _ in 0..IN_A_ROW {
                let answer = self.ask(host, "/v2/models/digits").await?;
                let (status, by) = (answer.status, answer.revision);
                ensure!(status == StatusCode::OK && by == revision, "{host} answers {status}, by {by:?}");
            }
            Ok(Some(()))
        })
        .await
    }

    /// Waits until no Envoy takes HTTP requests to the host.
    pub(crate) async fn refuses(&self, host: &str) -> Result<()> {
        until(&format!("{host} is not found at the gateway"), PATIENCE, async || {
            for _ in 0..IN_A_ROW {
                let status = self.ask(host, "/v2/models/digits").await?.status;
                ensure!(status == StatusCode::NOT_FOUND, "{host} answers {status}");
            }
            Ok(Some(()))
        })
        .await
    }

    /// Takes the gateway away; it is handed over, to be made again.
    pub(crate) async fn remove_gateway(&self) -> Result<DynamicObject> {
        let gateway = self.gateways.get(GATEWAY).await?;
        self.gateways.delete(GATEWAY, &DeleteParams::default()).await?;
        Ok(gateway)
    }

    /// Makes the gateway again.
    pub(crate) async fn make_gateway(&self, as_it_was: &DynamicObject) -> Result<()> {
        let mut gateway = DynamicObject::new(GATEWAY, &ApiResource::erase::<Gateway>(&()));
        gateway.data = json!({"spec": as_it_was.data["spec"]});
        self.gateways.create(&PostParams::default(), &gateway).await?;
        Ok(())
    }
}

/// Starts the pods of a Deployment of the gateway anew, one after the other, and waits until the last old one is gone.
pub(crate) async fn restart(client: &Client, name: &str) -> Result<()> {
    let deployments = Api::<Deployment>::namespaced(client.clone(), NAMESPACE);
    let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    let of_it = ListParams::default().labels(&format!("app={name}"));
    let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
    let old: Vec<String> = pods.list(&of_it).await?.items.iter().map(uid).collect();
    ensure!(!old.is_empty(), "no pod of {name} is there to be restarted");
    let nonce = json!({"stoker.dev/test-restart": old.join(" ")});
    let change = json!({"spec": {"template": {"metadata": {"annotations": nonce}}}});
    deployments.patch(name, &PatchParams::default(), &Patch::Merge(&change)).await?;
    until(&format!("the pods of {name} are new ones"), PATIENCE, async || {
        let there = pods.list(&of_it).await?.items;
        if let Some(left) = there.iter().find(|pod| old.contains(&uid(pod))) {
            return Err(anyhow!("pod {} is still there", left.metadata.name.clone().unwrap_or_default()));
        }
        let ready = there.iter().filter(|pod| stoker_e2e::cluster::is_ready(pod)).count();
        Ok((ready == old.len()).then_some(()))
    })
    .await
}

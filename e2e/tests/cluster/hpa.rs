//! The cluster's own `HorizontalPodAutoscaler` counts the pods: the real controller, and an external metric that the test serves.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};
use stoker_e2e::cluster::{address_for_pods, until};
use stoker_e2e::namespace::{TestNamespace, case};
use stoker_e2e::subject::{Subject, patient_spec, revision};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::rollout::serving;

/// The group that HPAs ask for metrics that belong to no object of the cluster.
const GROUP: &str = "external.metrics.k8s.io";
const VERSION: &str = "v1beta1";
/// The metric.
const METRIC: &str = "queue";
/// The HPA looks every 15 s, and pods take time.
const PATIENCE: Duration = Duration::from_secs(90);

/// Serves one metric to the API server's aggregation layer for as long as it lives.
struct MetricsApi {
    value: Arc<AtomicU64>,
    task: JoinHandle<()>,
    registered: Api<APIService>,
}

impl MetricsApi {
    async fn start(namespace: &TestNamespace) -> Result<Self> {
        let address = address_for_pods(&namespace.client).await?;
        let listener = TcpListener::bind((address, 0)).await?;
        let port = listener.local_addr()?.port();
        let value = Arc::new(AtomicU64::new(10));
        let task = tokio::spawn(serve(listener, acceptor(address)?, Arc::clone(&value)));
        register(namespace, SocketAddr::new(address, port)).await?;
        let registered = Api::all(namespace.client.clone());
        let api = Self { value, task, registered };
        until("the API server reaches the metrics", PATIENCE, async || {
            let live = api.registered.get(&name()).await?;
            let conditions = live.status.and_then(|status| status.conditions).unwrap_or_default();
            Ok(conditions.iter().any(|one| one.type_ == "Available" && one.status == "True").then_some(()))
        })
        .await?;
        Ok(api)
    }

    fn set(&self, value: u64) {
        self.value.store(value, Ordering::Relaxed);
    }

    /// Takes the registration away: it belongs to the whole cluster.
    async fn end(self) -> Result<()> {
        self.registered.delete(&name(), &DeleteParams::default()).await?;
        Ok(())
    }
}

impl Drop for MetricsApi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn name() -> String {
    format!("{VERSION}.{GROUP}")
}

fn acceptor(address: IpAddr) -> Result<TlsAcceptor> {
    let own = rcgen::generate_simple_self_signed([address.to_string()])?;
    let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der())
        .map_err(anyhow::Error::msg)?;
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .context("the metrics' certificate")?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, value: Arc<AtomicU64>) {
    while let Ok((socket, _)) = listener.accept().await {
        let (tls, value) = (tls.clone(), Arc::clone(&value));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(socket).await else { return };
            let answer = service_fn(move |request| {
                let answer = answer(&request, value.load(Ordering::Relaxed));
                async move { Ok::<_, Infallible>(answer) }
            });
            // The API server closes connections as it likes.
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await
                .ok();
        });
    }
}

fn answer(request: &Request<Incoming>, value: u64) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let root = format!("/apis/{GROUP}/{VERSION}");
    let body: Value = if path == root {
        json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{GROUP}/{VERSION}"),
            "resources": [{"name": METRIC, "singularName": "", "namespaced": true, "kind": "ExternalMetricValueList", "verbs": ["get"]}],
        })
    } else if path.starts_with(&root) && path.ends_with(&format!("/{METRIC}")) {
        let now = some_time();
        json!({
            "kind": "ExternalMetricValueList", "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {},
            "items": [{"metricName": METRIC, "metricLabels": {}, "timestamp": now, "value": value.to_string()}],
        })
    } else {
        let mut refusal = Response::new(Full::default());
        *refusal.status_mut() = StatusCode::NOT_FOUND;
        return refusal;
    };
    let mut reply = Response::new(Full::from(body.to_string()));
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    reply
}

/// Any time will do: the HPA takes the value whatever its age.
fn some_time() -> &'static str {
    "2026-01-01T00:00:00Z"
}

async fn register(namespace: &TestNamespace, at: SocketAddr) -> Result<()> {
    let client = || namespace.client.clone();
    let params = PostParams::default();
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "metrics"},
        "spec": {"ports": [{"name": "https", "port": 443, "targetPort": at.port()}]},
    }))?;
    Api::<Service>::namespaced(client(), &namespace.name).create(&params, &service).await?;
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": "metrics", "labels": {"kubernetes.io/service-name": "metrics"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [at.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": at.port(), "protocol": "TCP"}],
    }))?;
    Api::<EndpointSlice>::namespaced(client(), &namespace.name).create(&params, &slice).await?;
    let api: APIService = serde_json::from_value(json!({
        "metadata": {"name": name()},
        "spec": {
            "group": GROUP, "version": VERSION, "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": true,
            "service": {"namespace": namespace.name, "name": "metrics", "port": 443},
        },
    }))?;
    let all = Api::<APIService>::all(client());
    // An earlier run that was killed may have left it.
    all.delete(&name(), &DeleteParams::default()).await.ok();
    all.create(&params, &api).await.context("registering the metrics")?;
    Ok(())
}

async fn has_pods(digits: &Subject<'_>, wanted: i32) -> Result<()> {
    until(&format!("the HPA has {wanted} pods"), PATIENCE, async || {
        let scale = digits.api.get_scale(&digits.name).await?;
        let asked = scale.spec.and_then(|spec| spec.replicas);
        let there = scale.status.map(|status| status.replicas);
        Ok((asked == Some(wanted) && there == Some(wanted)).then_some(()))
    })
    .await
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_horizontal_pod_autoscaler_counts_the_pods_also_in_a_run() {
    case("hpa", async |namespace| {
        let mut spec = patient_spec("configmap://digits/v1.onnx");
        spec["scaling"] = json!({"mode": "External"});
        spec["rollout"]["steps"] = json!([{"weight": 50, "duration": "600s"}]);
        // As Git should leave it: the HPA owns the field.
        spec.as_object_mut().map(|spec| spec.remove("replicas"));
        let digits = serving(namespace, &spec).await?;
        let stable = revision("stable", digits.status().await?.stable.as_ref())?;
        let metrics = MetricsApi::start(namespace).await?;
        let hpa: HorizontalPodAutoscaler = serde_json::from_value(json!({
            "metadata": {"name": "digits"},
            "spec": {
                "scaleTargetRef": {"apiVersion": "stoker.dev/v1alpha1", "kind": "ModelDeployment", "name": "digits"},
                "minReplicas": 1, "maxReplicas": 6,
                "metrics": [{"type": "External", "external": {
                    "metric": {"name": METRIC}, "target": {"type": "AverageValue", "averageValue": "10"},
                }}],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
            },
        }))?;
        let hpas = Api::<HorizontalPodAutoscaler>::namespaced(namespace.client.clone(), &namespace.name);
        hpas.create(&PostParams::default(), &hpa).await?;

        metrics.set(30);
        has_pods(&digits, 3).await?;
        digits.set_uri("configmap://digits/v2.onnx").await?;
        let running = digits.at_step(1).await?.status.unwrap_or_default();
        let candidate = revision("candidate", running.candidate.as_ref())?;
        metrics.set(60);
        has_pods(&digits, 6).await?;
        let selector = digits.status().await?.selector.unwrap_or_default();
        ensure!(selector.contains(&stable) && selector.contains(&candidate), "the HPA sees {selector}");
        digits.request("abort", "enough").await?;
        metrics.set(10);
        has_pods(&digits, 1).await?;
        metrics.end().await
    });
}

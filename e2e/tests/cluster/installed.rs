//! All parts run as the restricted Pod Security Standard wants it, and show metrics.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};
use stoker_api::names::{labels, parts, ports};
use stoker_e2e::cluster::{OPERATOR_NAMESPACE, ready_operators};
use stoker_e2e::digits;
use stoker_e2e::namespace::case;
use stoker_e2e::subject::{Subject, is_ready, short_spec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The body of a GET, and the status line before it.
async fn get(pod: &Pod, path: &str) -> Result<String> {
    let name = pod.name_any();
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    let ip = ip.ok_or_else(|| anyhow!("pod {name} has no address"))?.parse()?;
    let fetch = async {
        let mut stream = TcpStream::connect(SocketAddr::new(ip, ports::METRICS)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {ip}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, anyhow::Error>(answer)
    };
    tokio::time::timeout(Duration::from_secs(10), fetch)
        .await
        .with_context(|| format!("{name}: GET {path}"))?
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn every_part_is_healthy_and_shows_metrics() {
    case("metrics", async |namespace| {
        namespace.config_map("digits", &[("v1.onnx", digits::V1)]).await?;
        let digits = Subject::new(namespace, "digits");
        let served = digits.serve(&short_spec("configmap://digits/v1.onnx")).await?;
        ensure!(is_ready(&served.status.unwrap_or_default()), "the condition Ready is not True");
        let load = digits.load(20).await?;
        load.ended(20).await;
        load.finish_without_failure().await?;

        let api = Api::<Pod>::namespaced(namespace.client.clone(), &namespace.name);
        let mut pods = ready_operators(&namespace.client).await?;
        ensure!(!pods.is_empty(), "no operator is ready");
        for part in [parts::ROUTER, parts::SERVER] {
            let of_part =
                api.list(&ListParams::default().labels(&format!("{}={part}", labels::PART))).await?.items;
            ensure!(!of_part.is_empty(), "no pod is labelled {}={part}", labels::PART);
            pods.extend(of_part);
        }
        for pod in pods {
            for path in ["/healthz", "/readyz"] {
                let answer = get(&pod, path).await?;
                ensure!(answer.starts_with("HTTP/1.1 200"), "{}: {path}: {answer}", pod.name_any());
            }
            let metrics = get(&pod, "/metrics").await?;
            let own = metrics.lines().any(|line| line.starts_with("stoker_"));
            ensure!(
                metrics.starts_with("HTTP/1.1 200") && own,
                "{}: no stoker_ metric: {metrics}",
                pod.name_any()
            );
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn the_operator_is_held_to_the_restricted_standard() {
    // The namespaces of all other tests enforce the same, so that each of their pods proves it.
    case("restricted", async |namespace| {
        let api = Api::<Namespace>::all(namespace.client.clone());
        let labels = api.get(OPERATOR_NAMESPACE).await?.labels().clone();
        let enforced = labels.get("pod-security.kubernetes.io/enforce").map(String::as_str);
        ensure!(enforced == Some("restricted"), "{OPERATOR_NAMESPACE} enforces {enforced:?}");
        ensure!(!ready_operators(&namespace.client).await?.is_empty(), "no operator runs there");
        Ok(())
    });
}

//! Requests that are wrong: each gets a 4xx with a message, and good requests beside them never notice.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};
use stoker_e2e::children::pods_of;
use stoker_e2e::digits;
use stoker_e2e::namespace::case;
use stoker_e2e::subject::{Subject, revision, short_spec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Sends bytes as they are and gives the status and the body. The body of the request goes on being written while the answer
/// is awaited: a server that refuses early need not read it all.
async fn send(address: SocketAddr, head: &str, body: &[u8], times: usize) -> Result<(u16, String)> {
    let exchange = async {
        let (mut reader, mut writer) = TcpStream::connect(address).await?.into_split();
        let head = format!("{head}\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n");
        writer.write_all(head.as_bytes()).await?;
        let write = async {
            for _ in 0..times {
                // The server may close as soon as it has answered.
                if writer.write_all(body).await.is_err() {
                    break;
                }
            }
            writer
        };
        let read = async {
            let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
            loop {
                match reader.read(&mut chunk).await {
                    Ok(0) => break,
                    Ok(length) => answer.extend_from_slice(&chunk[..length]),
                    // A reset after the answer: the rest of our body was not wanted.
                    Err(_) if !answer.is_empty() => break,
                    Err(error) => return Err(anyhow!(error).context("no answer")),
                }
                if complete(&answer) {
                    break;
                }
            }
            Ok(answer)
        };
        // The answer ends the exchange, however much is still to be written.
        tokio::pin!(write);
        tokio::pin!(read);
        tokio::select! {
            answer = &mut read => answer,
            _writer = &mut write => read.await,
        }
    };
    let answer =
        tokio::time::timeout(Duration::from_mins(1), exchange).await.context("no answer in 60 s")??;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok((status.ok_or_else(|| anyhow!("not an answer: {answer:?}"))?, body.to_owned()))
}

/// Whether the answer holds as much body as its header announces.
fn complete(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let announced = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    announced.and_then(|length| length.trim().parse().ok()).is_some_and(|length: usize| body.len() >= length)
}

fn infer(shape: &Value, datatype: &str, data: &Value) -> String {
    json!({"inputs": [{"name": "input", "shape": shape, "datatype": datatype, "data": data}]}).to_string()
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn wrong_requests_are_answered_with_4xx_and_harm_no_other() {
    case("requests", async |namespace| {
        namespace.config_map("digits", &[("v1.onnx", digits::V1)]).await?;
        let digits = Subject::new(namespace, "digits");
        digits.serve(&short_spec("configmap://digits/v1.onnx")).await?;
        let stable = revision("stable", digits.status().await?.stable.as_ref())?;
        let address = digits.address().await?;
        let load = digits.load(60).await?;

        let own = format!("digits.{}.svc", namespace.name);
        let image = json!(vec![0.0; digits::PIXELS]);
        let good = infer(&json!([1, 64]), "FP32", &image);
        let path = "/v2/models/digits/infer";
        let nan = format!(
            r#"{{"inputs":[{{"name":"input","shape":[1,64],"datatype":"FP32","data":[{}NaN]}}]}}"#,
            "0,".repeat(63)
        );
        let other = good.replace("\"input\"", "\"picture\"");
        let cases: &[(&str, &str, &str, &str)] = &[
            ("unknown host and model", "other.example", "/v2/models/other/infer", &good),
            ("unknown model", &own, "/v2/models/other/infer", &good),
            ("a path outside of the protocol", &own, "/metrics", &good),
            (
                "fewer pixels than the model takes",
                &own,
                path,
                &infer(&json!([1, 63]), "FP32", &json!(vec![0.0; 63])),
            ),
            ("shape and data differ", &own, path, &infer(&json!([1, 64]), "FP32", &json!([0.0, 1.0]))),
            ("negative shape", &own, path, &infer(&json!([-1, 64]), "FP32", &image)),
            (
                "a shape beyond all memory",
                &own,
                path,
                &infer(&json!([1_000_000_000_000_u64, 64]), "FP32", &image),
            ),
            ("wrong datatype", &own, path, &infer(&json!([1, 64]), "BYTES", &image)),
            ("unknown datatype", &own, path, &infer(&json!([1, 64]), "FP7", &image)),
            ("text for numbers", &own, path, &infer(&json!([1, 64]), "FP32", &json!(vec!["a"; 64]))),
            ("NaN", &own, path, &nan),
            ("an input that the model lacks", &own, path, &other),
            ("no inputs", &own, path, "{}"),
            ("malformed JSON", &own, path, &good[..good.len() - 3]),
            ("no JSON", &own, path, "\u{0}\u{1}hello"),
            ("deep nesting", &own, path, &"[".repeat(100_000)),
            ("no body", &own, path, ""),
        ];
        for (what, host, path, body) in cases {
            let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}", body.len());
            let (status, answer) = send(address, &head, body.as_bytes(), 1).await.context(*what)?;
            ensure!((400..500).contains(&status), "{what}: {status}: {answer}");
            let message: Value =
                serde_json::from_str(&answer).with_context(|| format!("{what}: {answer:?}"))?;
            ensure!(
                message["error"].as_str().is_some_and(|text| !text.is_empty()),
                "{what}: no error in {answer:?}"
            );
        }

        let megabyte = vec![b' '; 1 << 20];
        let announced = format!("POST {path} HTTP/1.1\r\nHost: {own}\r\nContent-Length: {}", 100 << 20);
        let (status, answer) =
            send(address, &announced, &megabyte, 100).await.context("100 MB, announced")?;
        ensure!(status == 413, "100 MB, announced: {status}: {answer}");
        let chunk = [b"100000\r\n", megabyte.as_slice(), b"\r\n"].concat();
        let chunked = format!("POST {path} HTTP/1.1\r\nHost: {own}\r\nTransfer-Encoding: chunked");
        let (status, answer) = send(address, &chunked, &chunk, 100).await.context("100 MB in chunks")?;
        ensure!(status == 413, "100 MB in chunks: {status}: {answer}");

        let head = format!("POST {path} HTTP/1.1\r\nHost: {own}\r\nContent-Length: {}", good.len());
        let (status, answer) = send(address, &head, good.as_bytes(), 1).await?;
        ensure!(status == 200, "a good request after all that: {status}: {answer}");
        load.finish_without_failure().await?;
        for pod in pods_of(namespace, &stable).await? {
            let containers = pod.status.unwrap_or_default().container_statuses.unwrap_or_default();
            ensure!(containers.iter().all(|container| container.restart_count == 0), "the server crashed");
        }
        Ok(())
    });
}

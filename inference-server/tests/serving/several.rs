//! Several models in one process: requests go to the one that they name, and one does not suffer from another.

use std::collections::BTreeSet;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use stoker_server::proto::inference::{
    ModelConfigRequest, ModelInferRequest, ModelMetadataRequest, ModelReadyRequest, ModelStatisticsRequest,
    RepositoryIndexRequest, ServerReadyRequest,
};
use tonic::Code;

use crate::calls::{assert_refused, client, outputs, raw};
use crate::process::{ending, run, serve};
use crate::started::{Digits, Started, digits, labels, model_uri, request};

/// A second model on the command line.
fn beside(name: &str, model: &str) -> String {
    format!("{name}={}", model_uri(model))
}

/// Asks a model over REST.
async fn infer(server: &Started, model: &str, images: &[Vec<f64>]) -> (StatusCode, Value) {
    let path = format!("/v2/models/{model}/infer");
    let (status, text) = server.ask(Method::POST, &path, request(images).to_string()).await;
    (status, serde_json::from_str(&text).unwrap())
}

async fn get(server: &Started, path: &str) -> Value {
    let (status, text) = server.get(path).await;
    assert_eq!(status, StatusCode::OK, "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

/// A request for some images over gRPC.
fn named(model: &str, images: &[Vec<f64>]) -> ModelInferRequest {
    ModelInferRequest { model_name: model.to_owned(), ..raw(images) }
}

/// The labels that a model gives when it is served alone, and its version.
async fn alone(model: &str, digits: &Digits) -> (Vec<i64>, Value) {
    let server = Started::new(model, &[]).await;
    let (status, answer) = server.infer(request(&digits.images).to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    server.end().await;
    (labels(&answer), answer["model_version"].clone())
}

#[tokio::test]
async fn each_of_two_models_answers_as_if_it_were_served_alone() {
    let digits = digits();
    let server = Started::new("digits-v2.onnx", &["--model", &beside("small", "digits-v1.onnx")]).await;
    let mut grpc = client(&server).await;
    let mut wanted = Vec::new();
    for (name, file) in [("digits", "digits-v2.onnx"), ("small", "digits-v1.onnx")] {
        let (by_itself, version) = alone(file, &digits).await;
        let (status, answer) = infer(&server, name, &digits.images).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!((&answer["model_name"], &answer["model_version"]), (&json!(name), &version));
        assert_eq!(labels(&answer), by_itself, "{name} over REST");
        let answer = grpc.model_infer(named(name, &digits.images)).await.unwrap().into_inner();
        assert_eq!((answer.model_name.as_str(), version.as_str().unwrap()), (name, &*answer.model_version));
        assert_eq!(outputs(&answer).0, by_itself, "{name} over gRPC");
        wanted.push((name, by_itself, version));
    }
    assert_ne!(wanted[0].1, wanted[1].1, "the models must differ for this to say anything");
    assert_ne!(wanted[0].2, wanted[1].2);

    // The version of one is not that of the other.
    let path = format!("/v2/models/digits/versions/{}/infer", wanted[1].2.as_str().unwrap());
    let (status, text) = server.ask(Method::POST, &path, request(&digits.images[..1]).to_string()).await;
    assert!(status == StatusCode::NOT_FOUND && text.contains("has no version"), "{status} {text}");

    // A stream may go from one to the other.
    let images = &digits.images[..1];
    let turns = ["digits", "small", "cats", "small", "digits"];
    let messages = turns.map(|name| named(name, images));
    let mut answers = grpc.model_stream_infer(futures::stream::iter(messages)).await.unwrap().into_inner();
    for turn in turns {
        let answer = answers.message().await.unwrap().unwrap();
        if turn == "cats" {
            assert!(answer.error_message.contains("serves `digits`, `small`"), "{}", answer.error_message);
        } else {
            let response = answer.infer_response.unwrap();
            assert_eq!((response.model_name.as_str(), answer.error_message.as_str()), (turn, ""));
            let of_model = wanted.iter().find(|(name, ..)| *name == turn).unwrap();
            assert_eq!(outputs(&response).0, of_model.1[..1]);
        }
    }
    server.end().await;
}

#[tokio::test]
async fn what_is_told_of_models_is_of_the_one_that_is_named() {
    let images = digits().images;
    let server = Started::new("digits-v2.onnx", &["--model", &beside("small", "digits-v1.onnx")]).await;
    let mut grpc = client(&server).await;
    for (name, asked) in [("digits", 1), ("small", 2)] {
        for _ in 0..asked {
            assert_eq!(infer(&server, name, &images[..3]).await.0, StatusCode::OK);
            grpc.model_infer(named(name, &images[..2])).await.unwrap();
        }
    }
    let (status, answer) = infer(&server, "cats", &images[..1]).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(answer["error"], "there is no model `cats` here; this server serves `digits`, `small`");
    assert_refused(grpc.model_infer(named("cats", &images[..1])).await, Code::NotFound, "`digits`, `small`");

    // Statistics.
    let counts = |stats: &Value| (stats["name"].clone(), stats["inference_count"].clone());
    let all = get(&server, "/v2/models/stats").await;
    let all: Vec<_> = all["model_stats"].as_array().unwrap().iter().map(counts).collect();
    assert_eq!(all, [(json!("digits"), json!(5)), (json!("small"), json!(10))]);
    for (position, name) in ["digits", "small"].into_iter().enumerate() {
        let one = get(&server, &format!("/v2/models/{name}/stats")).await;
        assert_eq!(one["model_stats"].as_array().map(Vec::len), Some(1));
        assert_eq!(counts(&one["model_stats"][0]), all[position]);
        assert_eq!(one["model_stats"][0]["inference_stats"]["fail"]["count"], 0, "a request for no model");
    }
    let asked = |name: &str| ModelStatisticsRequest { name: name.to_owned(), version: String::new() };
    let over_grpc = grpc.model_statistics(asked("")).await.unwrap().into_inner().model_stats;
    let over_grpc: Vec<_> = over_grpc.into_iter().map(|one| (one.name, one.inference_count)).collect();
    assert_eq!(over_grpc, [("digits".to_owned(), 5), ("small".to_owned(), 10)]);
    let small = grpc.model_statistics(asked("small")).await.unwrap().into_inner().model_stats;
    assert!(small.len() == 1 && small[0].inference_count == 10, "{small:?}");

    // Metadata, configuration, index and readiness.
    assert_eq!(server.get("/v2/health/ready").await.0, StatusCode::OK);
    assert!(grpc.server_ready(ServerReadyRequest {}).await.unwrap().get_ref().ready);
    let mut versions = BTreeSet::new();
    for name in ["digits", "small"] {
        let (asked, version) = (name.to_owned(), String::new());
        let about = get(&server, &format!("/v2/models/{name}")).await;
        assert_eq!(about["name"], name);
        versions.insert(about["versions"][0].as_str().unwrap().to_owned());
        let metadata = ModelMetadataRequest { name: asked.clone(), version: version.clone() };
        let metadata = grpc.model_metadata(metadata).await.unwrap().into_inner();
        assert_eq!((metadata.name.as_str(), json!(metadata.versions)), (name, about["versions"].clone()));
        assert_eq!(get(&server, &format!("/v2/models/{name}/config")).await["name"], name);
        let config = ModelConfigRequest { name: asked.clone(), version: version.clone() };
        let config = grpc.model_config(config).await.unwrap().into_inner().config.unwrap();
        assert_eq!(config.name, name);
        let ready = get(&server, &format!("/v2/models/{name}/ready")).await;
        assert_eq!(ready, json!({"name": name, "ready": true}));
        let ready = ModelReadyRequest { name: asked, version };
        assert!(grpc.model_ready(ready).await.unwrap().get_ref().ready);
    }
    assert_eq!(versions.len(), 2);
    let (_, index) = server.ask(Method::POST, "/v2/repository/index", "").await;
    let index: Value = serde_json::from_str(&index).unwrap();
    assert_eq!(
        (&index[0]["name"], &index[1]["name"], index.get(2)),
        (&json!("digits"), &json!("small"), None)
    );
    let over_grpc = grpc.repository_index(RepositoryIndexRequest::default()).await.unwrap().into_inner();
    let over_grpc: BTreeSet<_> = over_grpc.models.into_iter().map(|model| model.version).collect();
    assert_eq!(over_grpc, versions);

    // Metrics.
    let metrics = server.metrics().await;
    for line in [
        "stoker_server_requests_total{model=\"digits\",code=\"200\"} 2\n",
        "stoker_server_requests_total{model=\"small\",code=\"200\"} 4\n",
        "stoker_server_requests_total{model=\"\",code=\"404\"} 2\n",
        "stoker_server_refusals_total{model=\"\",reason=\"model\"} 2\n",
        "stoker_server_batch_rows_sum{model=\"digits\"} 5.0\n",
        "stoker_server_batch_rows_sum{model=\"small\"} 10.0\n",
        "stoker_server_queue_requests{model=\"small\"} 0\n",
        "stoker_server_cache_enabled{model=\"digits\"} 0\n",
        "stoker_server_start_seconds{model=\"small\",step=\"warm\"}",
        "stoker_server_model_info{model=\"small\",digest=\"sha256:",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let families: Vec<_> = metrics.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    assert_eq!(families.len(), families.iter().collect::<BTreeSet<_>>().len(), "a family twice:\n{metrics}");
    server.end().await;
}

#[tokio::test]
async fn a_model_that_fails_does_not_touch_the_other() {
    let digits = digits();
    // One thread for each, so that requests of both wait and are joined.
    let more = ["--threads", "1", "--model", &beside("harmful", "digits-v3.onnx")];
    let server = Started::new("digits-v2.onnx", &more).await;
    let mut asked = tokio::task::JoinSet::new();
    for image in &digits.images {
        let body = request(std::slice::from_ref(image)).to_string();
        for name in ["digits", "harmful"] {
            let request = server.client.post(server.url(&format!("/v2/models/{name}/infer")));
            let request = request.body(body.clone());
            asked.spawn(async move { (name, request.send().await.unwrap().status()) });
        }
    }
    let mut failed = 0;
    while let Some(outcome) = asked.join_next().await {
        match outcome.unwrap() {
            ("digits", status) => assert_eq!(status, StatusCode::OK),
            (_, StatusCode::OK) => {}
            (_, status) => {
                assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
                failed += 1;
            }
        }
    }
    assert!(failed > 100, "{failed} failed");
    let all = get(&server, "/v2/models/stats").await;
    let failures = |position: usize| all["model_stats"][position]["inference_stats"]["fail"]["count"].clone();
    assert_eq!((failures(0), failures(1)), (json!(0), json!(failed)));
    assert_eq!(server.get("/v2/health/ready").await.0, StatusCode::OK);
    server.end().await;
}

#[tokio::test]
async fn one_is_served_while_another_is_loaded() {
    let images = digits().images;
    // An address that takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/a.onnx", silent.local_addr().unwrap());
    let server = Started::loading(&uri, &["--model", &beside("small", "digits-v1.onnx")]).await;
    while server.get("/v2/models/small/ready").await.0 != StatusCode::OK {
        assert!(!server.running.is_finished(), "{:?}", server.running.await);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(infer(&server, "small", &images[..2]).await.0, StatusCode::OK);
    let (status, answer) = infer(&server, "digits", &images[..2]).await;
    assert_eq!(
        (status, &answer["error"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("the model is being loaded"))
    );
    for path in ["/v2/health/ready", "/v2/models/digits/ready"] {
        assert_eq!(server.get(path).await.0, StatusCode::SERVICE_UNAVAILABLE, "{path}");
    }
    let url = format!("http://{}/readyz", server.metrics);
    let answer = server.client.get(url).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.text().await.unwrap(), "model `digits`: the model is being loaded\n");
    let (_, index) = server.ask(Method::POST, "/v2/repository/index", "").await;
    let index: Value = serde_json::from_str(&index).unwrap();
    assert_eq!((&index[0]["state"], &index[1]["state"]), (&json!("LOADING"), &json!("READY")));
    let (_, index) = server.ask(Method::POST, "/v2/repository/index", "{\"ready\": true}").await;
    let index: Value = serde_json::from_str(&index).unwrap();
    assert_eq!((&index[0]["name"], index.get(1)), (&json!("small"), None));
    let all = get(&server, "/v2/models/stats").await;
    assert_eq!((&all["model_stats"][0]["name"], all["model_stats"].get(1)), (&json!("small"), None));
    server.end().await;
}

#[test]
fn one_that_cannot_be_loaded_ends_the_process_and_is_named() {
    let good = model_uri("digits-v2.onnx");
    let (code, message) =
        ending(&serve(&["--model-uri", &good, "--model", "gone=file:///no/such/model.onnx"]));
    assert_eq!(code, 69, "{message}");
    assert!(message.contains("model `gone`: "), "{message}");
    assert!(message.contains("file:///no/such/model.onnx cannot be read"), "{message}");
    let wrong = format!("{}@sha256:{}", beside("wrong", "digits-v1.onnx"), "0".repeat(64));
    let (code, message) = ending(&serve(&["--model-uri", &good, "--model", &wrong]));
    assert_eq!(code, 65, "{message}");
    assert!(message.contains("model `wrong`: "), "{message}");
}

#[test]
fn models_that_cannot_be_told_apart_end_with_64() {
    let good = model_uri("digits-v2.onnx");
    let (code, message) = ending(&serve(&["--model-uri", &good, "--model", &beside("m", "digits-v1.onnx")]));
    assert_eq!(code, 64, "{message}");
    assert!(
        message.contains("two models are named `m`") && message.contains("--model NAME=URI"),
        "{message}"
    );
    // The short form takes the names of the files.
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("a.onnx"), folder.path().join("other"));
    std::fs::create_dir(&two).unwrap();
    let (code, message) = ending(&run(&[one.to_str().unwrap(), two.join("a.onnx").to_str().unwrap()]));
    assert_eq!(code, 64, "{message}");
    assert!(message.contains("two models are named `a`"), "{message}");
    let (code, message) = ending(&run(&["serve", "--model", "a=https://user:hunter2@host:99999/a"]));
    assert_eq!(code, 64, "{message}");
    assert!(message.contains("--model <NAME=URI[@DIGEST]>") && !message.contains("hunter2"), "{message}");
}

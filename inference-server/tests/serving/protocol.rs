//! The protocol with the demo's models: the answers are right, whatever the form of the request.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::started::{Started, digits, labels, request};

#[tokio::test]
async fn the_labels_are_as_good_as_the_model_is() {
    let digits = digits();
    for model in ["digits-v1", "digits-v2"] {
        let server = Started::new(&format!("{model}.onnx"), &[]).await;
        let mut right = 0;
        // 450 images in requests of 1, 2, 3, ... rows.
        let (mut at, mut rows) = (0, 1);
        while at < digits.images.len() {
            let end = (at + rows).min(digits.images.len());
            let (status, answer) = server.infer(request(&digits.images[at..end]).to_string()).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            let given = labels(&answer);
            assert_eq!(given.len(), end - at);
            right +=
                given.iter().zip(&digits.labels[at..end]).filter(|(given, label)| given == label).count();
            (at, rows) = (end, rows + 1);
        }
        let accuracy = right as f64 / digits.images.len() as f64;
        let wanted = digits.about[model]["accuracy"].as_f64().unwrap();
        assert!((accuracy - wanted).abs() < 1e-3, "{model}: {accuracy}, ONNX Runtime has {wanted}");
        server.end().await;
    }
}

#[tokio::test]
async fn requests_that_come_together_get_their_own_answers() {
    let digits = digits();
    let server = Started::new("digits-v2.onnx", &["--threads", "1"]).await;
    let alone: Vec<Value> = {
        let mut answers = Vec::new();
        for image in &digits.images[..100] {
            answers.push(server.infer(request(std::slice::from_ref(image)).to_string()).await.1);
        }
        answers
    };
    let together = futures_of(digits.images[..100].iter().map(|image| {
        let body = request(std::slice::from_ref(image)).to_string();
        let server = &server;
        async move { server.infer(body).await.1 }
    }))
    .await;
    for (alone, together) in alone.iter().zip(&together) {
        assert_eq!(labels(alone), labels(together));
        let numbers = |answer: &Value| -> Vec<f64> {
            serde_json::from_value(answer["outputs"][1]["data"].clone()).unwrap()
        };
        assert!(numbers(alone).iter().zip(numbers(together)).all(|(a, b)| (a - b).abs() < 1e-5));
    }
    let metrics = server.metrics().await;
    assert!(metrics.contains("stoker_server_requests_total{model=\"digits\",code=\"200\"} 200"), "{metrics}");
    for line in [
        "phase=\"queue\",cache=\"off\"} 200\n",
        "phase=\"compute\",cache=\"off\"} 200\n",
        "phase=\"serialise\",cache=\"off\"} 200\n",
        "phase=\"total\",cache=\"off\"} 200\n",
        "stoker_server_batch_rows_sum{model=\"digits\"} 200.0",
        "stoker_server_queue_requests{model=\"digits\"} 0",
        "stoker_server_model_info{model=\"digits\",digest=\"sha256:",
        "stoker_server_start_seconds{model=\"digits\",step=\"load\"}",
        "stoker_server_model_panics_total{model=\"digits\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    server.end().await;
}

/// Runs futures together on this task.
async fn futures_of<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = all.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut ready = true;
        for (future, output) in &mut waiting {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => ready = false,
                }
            }
        }
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    waiting.into_iter().filter_map(|(_, output)| output).collect()
}

#[tokio::test]
async fn flat_and_nested_data_id_and_chosen_outputs() {
    let digits = digits();
    let server = Started::new("digits-v2.onnx", &[]).await;
    let flat = server.infer(request(&digits.images[..2]).to_string()).await.1;
    let nested = json!({"id": "q-7", "parameters": {"any": 1}, "outputs": [{"name": "label"}],
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [2, 64], "data": digits.images[..2]}]});
    let (status, nested) = server.infer(nested.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{nested}");
    assert_eq!(labels(&flat), labels(&nested));
    assert_eq!((&nested["id"], nested["outputs"].as_array().map(Vec::len)), (&json!("q-7"), Some(1)));
    assert_eq!(flat["outputs"][1]["shape"], json!([2, 10]));
    server.end().await;
}

#[tokio::test]
async fn health_and_metadata() {
    let server = Started::new("digits-v2.onnx", &[]).await;
    let metadata = |text: String| serde_json::from_str::<Value>(&text).unwrap();
    assert_eq!(server.get("/v2/health/live").await, (StatusCode::OK, String::new()));
    assert_eq!(server.get("/v2/health/ready").await, (StatusCode::OK, String::new()));
    let (status, text) = server.get("/v2").await;
    assert_eq!((status, &metadata(text)["name"]), (StatusCode::OK, &json!("stoker-server")));

    let (status, text) = server.get("/v2/models/digits").await;
    let model = metadata(text);
    assert_eq!(status, StatusCode::OK);
    assert_eq!(model["inputs"], json!([{"name": "input", "datatype": "FP32", "shape": [-1, 64]}]));
    assert_eq!(model["outputs"][0], json!({"name": "label", "datatype": "INT64", "shape": [-1]}));
    let version = model["versions"][0].as_str().unwrap();
    assert_eq!(version.len(), 12, "the digest's first digits");

    for path in ["", "/ready"] {
        assert_eq!(server.get(&format!("/v2/models/digits{path}")).await.0, StatusCode::OK);
        assert_eq!(
            server.get(&format!("/v2/models/digits/versions/{version}{path}")).await.0,
            StatusCode::OK
        );
    }
    let infer = format!("/v2/models/digits/versions/{version}/infer");
    let (status, text) = server.ask(Method::POST, &infer, request(&digits().images[..1]).to_string()).await;
    assert_eq!((status, &metadata(text)["model_version"]), (StatusCode::OK, &json!(version)));
    server.end().await;
}

#[tokio::test]
async fn large_requests_are_answered_too() {
    let digits = digits();
    let server = Started::new("digits-v2.onnx", &[]).await;
    // 4500 rows: more than a batch, a heavy body and a heavy answer.
    let images: Vec<_> = std::iter::repeat_n(&digits.images, 10).flatten().cloned().collect();
    let (status, answer) = server.infer(request(&images).to_string()).await;
    assert_eq!(status, StatusCode::OK);
    let given = labels(&answer);
    assert_eq!(given.len(), 4500);
    assert_eq!(given[..450], given[4050..]);
    server.end().await;
}

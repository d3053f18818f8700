//! A model that fails on some inputs: only those requests fail, in batches and alone.

use reqwest::StatusCode;

use crate::started::{Started, digits, labels, request};

#[tokio::test]
async fn a_request_on_which_the_model_fails_does_not_touch_the_others_of_its_batch() {
    let digits = digits();
    let good = Started::new("digits-v2.onnx", &[]).await;
    // One thread, so that requests queue up behind a run and are joined.
    let harmful = Started::new("digits-v3.onnx", &["--threads", "1"]).await;
    let mut asked = tokio::task::JoinSet::new();
    for (number, image) in digits.images.iter().enumerate() {
        let body = request(std::slice::from_ref(image)).to_string();
        let to = [&good, &harmful]
            .map(|server| server.client.post(server.url("/v2/models/digits/infer")).body(body.clone()));
        asked.spawn(async move {
            let [good, harmful] = to;
            let good: serde_json::Value = good.send().await.unwrap().json().await.unwrap();
            let harmful = harmful.send().await.unwrap();
            let status = harmful.status();
            (number, labels(&good), status, harmful.json::<serde_json::Value>().await.unwrap())
        });
    }
    let mut failed = 0;
    while let Some(outcome) = asked.join_next().await {
        let (number, wanted, status, answer) = outcome.unwrap();
        if status == StatusCode::OK {
            assert_eq!(labels(&answer), wanted, "image {number}");
        } else {
            let message = answer["error"].as_str().unwrap();
            assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{message}");
            assert!(message.contains("`gain_lookup` (Gather)"), "{message}");
            failed += 1;
        }
    }
    let share = f64::from(failed) / digits.images.len() as f64;
    let wanted = digits.about["digits-v3"]["failing"].as_f64().unwrap();
    assert!((share - wanted).abs() < 1e-3, "{share} of the images failed, {wanted} do in ONNX Runtime");
    good.end().await;
    harmful.end().await;
}

//! Leaving under load: no request fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::StatusCode;

use crate::started::{Started, client, digits, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_under_load_fails_no_request() {
    let server = Started::new("digits-v2.onnx", &[]).await;
    let body = request(&digits().images[..1]).to_string();
    let url = server.url("/v2/models/digits/infer");
    let answered = Arc::new(AtomicUsize::new(0));
    let leaving = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (url, body) = (url.clone(), body.clone());
            let (answered, leaving) = (Arc::clone(&answered), Arc::clone(&leaving));
            tokio::spawn(async move {
                // One keep-alive connection for each client; a router stops when it hears `Connection: close`.
                let client = client();
                loop {
                    let answer = client.post(&url).body(body.clone()).send().await.expect("no request fails");
                    assert_eq!(answer.status(), StatusCode::OK);
                    let closes = answer.headers().get("connection").is_some_and(|value| value == "close");
                    answer.bytes().await.expect("no answer is torn");
                    answered.fetch_add(1, Ordering::Relaxed);
                    if leaving.load(Ordering::Acquire) && closes {
                        return;
                    }
                }
            })
        })
        .collect();
    while answered.load(Ordering::Relaxed) < 200 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    leaving.store(true, Ordering::Release);
    server.drain.leave();
    assert_eq!(server.get("/v2/health/ready").await.0, StatusCode::SERVICE_UNAVAILABLE);
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(server.end().await.cut, 0);
}

#[tokio::test]
async fn a_request_that_is_in_the_model_when_the_port_closes_is_answered() {
    let server = Started::new("digits-v4.onnx", &["--threads", "1", "--max-batch", "1"]).await;
    let images = &digits().images[..8];
    let asked =
        server.client.post(server.url("/v2/models/digits/infer")).body(request(images).to_string()).send();
    let asked = tokio::spawn(asked);
    while !server.metrics().await.contains("stoker_server_queue_requests{model=\"digits\"} 1")
        && !asked.is_finished()
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let finished = server.end().await;
    assert_eq!(asked.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(finished.cut, 0);
}

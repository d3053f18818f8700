//! A server on ports of its own, a client for it, and the demo's fixtures.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use stoker_edge::drain::Drain;
use stoker_edge::listen::Finished;
use stoker_server::config::{Cli, Command, Serve};
use stoker_server::serve::{ServeError, Server};
use tokio::task::JoinHandle;

/// A file of the demo.
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../e2e/models/fixtures")).join(name)
}

/// A model of the demo as a URI.
pub fn model_uri(name: &str) -> String {
    format!("file://{}", fixture(name).canonicalize().unwrap().display())
}

/// The demo's test images and their labels.
pub struct Digits {
    pub images: Vec<Vec<f64>>,
    pub labels: Vec<i64>,
    pub about: Value,
}

pub fn digits() -> Digits {
    let text = std::fs::read(fixture("digits-test.json")).unwrap();
    let mut all: Value = serde_json::from_slice(&text).unwrap();
    Digits {
        images: serde_json::from_value(all["images"].take()).unwrap(),
        labels: serde_json::from_value(all["labels"].take()).unwrap(),
        about: all["models"].take(),
    }
}

/// A client without the environment's proxies.
pub fn client() -> Client {
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::builder().no_proxy().timeout(Duration::from_mins(1)).build().unwrap()
}

/// Settings as the command line gives them, with ports that the system chooses.
pub fn settings(uri: &str, more: &[&str]) -> Serve {
    let fixed = [
        "stoker-server",
        "serve",
        "--model-name",
        "digits",
        "--listen",
        "127.0.0.1:0",
        "--metrics-listen",
        "127.0.0.1:0",
        // Web servers of tests are on this machine.
        "--allow-network",
        "127.0.0.1",
        "--model-uri",
        uri,
    ];
    match Cli::try_parse_from(fixed.iter().chain(more)).unwrap().command {
        Command::Serve(settings) => *settings,
        _ => panic!("`serve` was asked for"),
    }
}

/// A server that runs in this process.
pub struct Started {
    pub address: SocketAddr,
    pub metrics: SocketAddr,
    pub client: Client,
    pub drain: Drain,
    pub running: JoinHandle<Result<Finished, ServeError>>,
}

impl Started {
    /// A server of a demo's model, ready.
    pub async fn new(model: &str, more: &[&str]) -> Self {
        Self::ready(&model_uri(model), more).await
    }

    /// A server of the model at a URI, ready.
    pub async fn ready(uri: &str, more: &[&str]) -> Self {
        let started = Self::loading(uri, more).await;
        while started.get("/v2/health/ready").await.0 != StatusCode::OK {
            assert!(!started.running.is_finished(), "{:?}", started.running.await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        started
    }

    /// A server that need not be ready.
    pub async fn loading(uri: &str, more: &[&str]) -> Self {
        let client = client();
        let drain = Drain::new(Duration::from_secs(20));
        let server = Server::bind(settings(uri, more), drain.clone()).await.unwrap();
        let (address, metrics) = (server.data_address().unwrap(), server.metrics_address().unwrap());
        Self { address, metrics, client, drain, running: tokio::spawn(server.run()) }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Status and text of an answer. The text of an error must be `{"error": "..."}`.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> (StatusCode, String) {
        let answer = self.client.request(method, self.url(path)).body(body).send().await.unwrap();
        let status = answer.status();
        // The prefix is the router's, which takes such headers out of answers. A pod tells it two things: its load where it
        // answers for a model, and that it has not begun with what it refuses for the moment.
        let prefixed = answer.headers().keys().filter(|name| name.as_str().starts_with("stoker-"));
        let mut prefixed: Vec<_> = prefixed.map(http::HeaderName::as_str).collect();
        prefixed.retain(|name| {
            !(*name == "stoker-load" && path.ends_with("/infer")
                || *name == "stoker-untouched" && status == StatusCode::SERVICE_UNAVAILABLE)
        });
        assert!(prefixed.is_empty(), "{prefixed:?}");
        (status, answer.text().await.unwrap())
    }

    pub async fn get(&self, path: &str) -> (StatusCode, String) {
        self.ask(Method::GET, path, "").await
    }

    pub async fn infer(&self, body: impl Into<reqwest::Body>) -> (StatusCode, Value) {
        let (status, text) = self.ask(Method::POST, "/v2/models/digits/infer", body).await;
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}")))
    }

    /// The message of a refusal of the given status.
    pub async fn refused(&self, status: StatusCode, body: impl Into<reqwest::Body>) -> String {
        let (actual, answer) = self.infer(body).await;
        assert_eq!(actual, status, "{answer}");
        answer["error"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// The text of the metrics.
    pub async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.metrics);
        self.client.get(url).send().await.unwrap().text().await.unwrap()
    }

    /// Ends the server and says how it went.
    pub async fn end(self) -> Finished {
        self.drain.close();
        self.running.await.unwrap().unwrap()
    }
}

/// A request for some images.
pub fn request(images: &[Vec<f64>]) -> Value {
    let data: Vec<f64> = images.concat();
    json!({"inputs": [{"name": "input", "datatype": "FP32", "shape": [images.len(), 64], "data": data}]})
}

/// The labels in an answer.
pub fn labels(answer: &Value) -> Vec<i64> {
    let outputs = answer["outputs"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let label = outputs.iter().find(|output| output["name"] == "label").unwrap();
    serde_json::from_value(label["data"].clone()).unwrap()
}

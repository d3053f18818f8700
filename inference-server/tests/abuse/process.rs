//! A server as a process, what it takes, and a client beside the abuse.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

/// How often the abuse is done before it counts: it fills pools and buffers that then stay.
const WARM: usize = 2;
/// Tenths of a second in which threads that have nothing to do any more end: the runtime keeps them for ten seconds.
const THREADS_END: usize = 150;
/// How often it is repeated then.
const ROUNDS: usize = 4;
/// So many readings of the resident memory in a row have not fallen once it is at rest.
const STILL: usize = 10;
/// Kilobytes that a reading must be lower to be a fall: a client is answered all the time.
const FALL_KIB: u64 = 128;
/// Kilobytes by which the resident memory may differ between the rounds: the allocator's own. Each abuse would leave more
/// than that if it left anything.
const SLACK_KIB: u64 = 16 << 10;

/// A server with the demo's model, ready.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    metrics: SocketAddr,
}

impl Process {
    pub async fn start(more: &[&str]) -> Self {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/models/fixtures/digits-v2.onnx");
        let uri = format!("file://{}", model.canonicalize().unwrap().display());
        let fixed = ["serve", "--model-name", "digits", "--model-uri", &uri, "--listen", "127.0.0.1:0"];
        let mut child = Command::new(env!("CARGO_BIN_EXE_stoker-server"))
            .args(fixed)
            .args(["--metrics-listen", "127.0.0.1:0", "--drain-delay", "0s", "--threads", "2"])
            .args(more)
            // Else every thread has an arena, which keeps what was freed for as long as something lies above it: how much
            // that is says nothing of what the server holds.
            .env("MALLOC_ARENA_MAX", "1")
            .env("MALLOC_MMAP_THRESHOLD_", "8192")
            .env("MALLOC_TRIM_THRESHOLD_", "65536")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stdout.take().unwrap());
        let (address, metrics) = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "the server ended before it listened");
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["message"] == "listening" {
                let address = |name: &str| line[name].as_str().unwrap().parse().unwrap();
                break (address("data"), address("metrics"));
            }
        };
        // Read on, or the server waits for room in the pipe.
        std::thread::spawn(move || drop(log.read_to_end(&mut Vec::new())));
        let server = Self { child, address, metrics };
        let client = client();
        while client.get(server.url("/v2/health/ready")).send().await.unwrap().status() != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        server
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A number of `/proc/PID/status`: kilobytes of `VmRSS`, or the count of `Threads`.
    fn status(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// The sum of a counter over its labels.
    pub async fn counted(&self, name: &str) -> f64 {
        let text = client()
            .get(format!("http://{}/metrics", self.metrics))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Does harm some times over, with a client beside it. Memory, threads and descriptors stay what they were after the
    /// first time, and the client is always answered.
    pub async fn bears(self, abuse: impl AsyncFn(&Self)) -> Self {
        let calm = Calm::start(&self);
        for _ in 1..WARM {
            abuse(&self).await;
            self.settled().await;
        }
        abuse(&self).await;
        let before = self.settled().await;
        let mut after = before;
        for _ in 0..ROUNDS {
            abuse(&self).await;
            after = self.settled().await;
        }
        calm.stop().await;
        assert!(
            after.resident <= before.resident + SLACK_KIB,
            "resident memory went from {} to {} KiB",
            before.resident,
            after.resident
        );
        // A thread for heavy work goes on for some seconds after it.
        for _ in 0..THREADS_END {
            if after.threads <= before.threads {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            after = self.settled().await;
        }
        assert!(
            after.threads <= before.threads,
            "there were {} threads and then {}",
            before.threads,
            after.threads
        );
        self
    }

    /// What the process takes once the connections of the abuse are gone, and what their requests held.
    async fn settled(&self) -> Taken {
        // A connection is closed before the tasks of its requests have ended, each of which frees what it was sent.
        let (mut last, mut still) = (self.status("VmRSS:"), 0);
        for _ in 0..1000 {
            // Two listeners, the runtime's own, and the client's connection. A server that keeps connections never gets there.
            if self.descriptors() < 30 && still >= STILL {
                return Taken { resident: last, threads: self.status("Threads:") };
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            let resident = self.status("VmRSS:");
            still = if resident + FALL_KIB < last { 0 } else { still + 1 };
            last = resident;
        }
        panic!("{} descriptors are still open, or memory goes on falling", self.descriptors());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a process takes.
#[derive(Clone, Copy)]
struct Taken {
    /// Kilobytes.
    resident: u64,
    threads: u64,
}

/// A client that asks again and again, and must be answered each time.
struct Calm {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    asking: tokio::task::JoinHandle<()>,
}

impl Calm {
    fn start(server: &Process) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counter, url) =
            (Arc::clone(&stop), Arc::clone(&answered), server.url("/v2/models/digits/infer"));
        let asking = tokio::spawn(async move {
            let client = client();
            while !stopped.load(Ordering::Relaxed) {
                let answer = client.post(&url).body(request()).send().await.unwrap();
                assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.text().await);
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { stop, answered, asking }
    }

    /// Ends it, once it was answered as often as there were rounds.
    async fn stop(self) {
        while self.answered.load(Ordering::Relaxed) < ROUNDS && !self.asking.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.stop.store(true, Ordering::Relaxed);
        self.asking.await.unwrap();
    }
}

/// A client without the environment's proxies.
pub fn client() -> Client {
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::builder().no_proxy().timeout(Duration::from_mins(1)).build().unwrap()
}

/// A request of one row.
pub fn request() -> String {
    let tensor = json!({"name": "input", "datatype": "FP32", "shape": [1, 64], "data": vec![0.5; 64]});
    json!({"inputs": [tensor]}).to_string()
}

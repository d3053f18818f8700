//! Telling the other routers of the namespace, each at its own pace: a slow one holds up nobody.
//!
//! Each peer has a courier with one connection. It is handed the newest message only; what it had no time for is in the
//! next one, because messages hold sums.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use stoker_api::exchange::{EXCHANGE_PATH, ExchangeReply};
use stoker_api::names::router_identity;
use stoker_edge::body::read_bounded;
use stoker_edge::tls::Tls;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::metrics::{CutCounts, Outcome};

/// Longest time that a peer may take, connecting included.
const DEADLINE: Duration = Duration::from_millis(500);
/// Longest answer that is read, in bytes.
const ANSWER: usize = 4 << 10;
/// Most peers that are told. A namespace has at most 100 routers, and some more while they are replaced.
const PEERS: usize = 256;

/// The couriers to all peers. They end with this value.
pub struct Couriers {
    errand: Errand,
    open: BTreeMap<SocketAddr, Courier>,
    /// Addresses that turned out to be this process's own.
    own: Arc<Mutex<BTreeSet<SocketAddr>>>,
}

/// What all couriers know.
#[derive(Clone)]
struct Errand {
    tls: Tls,
    /// The name that a peer must prove to have.
    name: String,
    process: String,
    counts: CutCounts,
}

struct Courier {
    letters: watch::Sender<Bytes>,
    _task: Task,
}

/// A task that ends with this value.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An open connection to a peer.
struct Line {
    sender: SendRequest<Full<Bytes>>,
    _driver: Task,
}

impl Couriers {
    /// Couriers to the routers of `namespace`. `process` is our own.
    pub fn new(tls: Tls, namespace: &str, process: &str, counts: CutCounts) -> Self {
        let errand = Errand { tls, name: router_identity(namespace), process: process.to_owned(), counts };
        Self { errand, open: BTreeMap::new(), own: Arc::default() }
    }

    /// Hands a message to a courier for each of `peers`. It is written only when there is somebody to read it.
    pub fn send(&mut self, peers: &[SocketAddr], letter: impl FnOnce() -> Bytes) {
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let wanted: BTreeSet<_> =
            peers.iter().copied().filter(|peer| !own.contains(peer)).take(PEERS).collect();
        self.open.retain(|peer, _| wanted.contains(peer));
        self.errand.counts.peers.set(i64::try_from(wanted.len()).unwrap_or(i64::MAX));
        if wanted.is_empty() {
            return;
        }
        let letter = letter();
        for peer in wanted {
            if let Some(courier) = self.open.get(&peer) {
                courier.letters.send_replace(letter.clone());
            } else {
                let (letters, mut received) = watch::channel(letter.clone());
                received.mark_changed();
                let task = deliver(peer, self.errand.clone(), received, Arc::clone(&self.own));
                self.open.insert(peer, Courier { letters, _task: Task(tokio::spawn(task)) });
            }
        }
    }
}

/// Brings letters to one peer, for as long as there are any.
async fn deliver(
    peer: SocketAddr,
    errand: Errand,
    mut letters: watch::Receiver<Bytes>,
    own: Arc<Mutex<BTreeSet<SocketAddr>>>,
) {
    let mut line: Option<Line> = None;
    let mut failing = false;
    while letters.changed().await.is_ok() {
        let letter = letters.borrow_and_update().clone();
        let answer = tokio::time::timeout(DEADLINE, call(&mut line, peer, &errand, letter)).await;
        let (outcome, why) = match answer {
            Ok(Ok(reply)) if reply.process == errand.process => {
                own.lock().unwrap_or_else(PoisonError::into_inner).insert(peer);
                return;
            }
            Ok(Ok(_)) => (Outcome::Ok, None),
            Ok(Err(why)) => (Outcome::Failed, Some(why)),
            Err(_) => (Outcome::TimedOut, Some(format!("no answer within {} ms", DEADLINE.as_millis()))),
        };
        errand.counts.exchanged(outcome);
        if let Some(why) = &why {
            // What an answer that comes yet would belong to is not known any more.
            line = None;
            if !failing {
                tracing::warn!(%peer, why, "another router cannot be told about harm; tried again, the evidence waits here");
            }
        } else if failing {
            tracing::info!(%peer, "the other router is told again");
        }
        failing = why.is_some();
    }
}

/// One message to one peer.
async fn call(
    line: &mut Option<Line>,
    peer: SocketAddr,
    errand: &Errand,
    letter: Bytes,
) -> Result<ExchangeReply, String> {
    let mut open = match line.take().filter(|line| !line.sender.is_closed()) {
        Some(open) => open,
        None => connect(peer, errand).await?,
    };
    let request = Request::builder()
        .method(Method::POST)
        .uri(EXCHANGE_PATH)
        .header(HOST, &errand.name)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(letter))
        .map_err(|error| error.to_string())?;
    open.sender.ready().await.map_err(|error| error.to_string())?;
    let mut answer = open.sender.send_request(request).await.map_err(|error| error.to_string())?;
    let text = read_bounded(answer.body_mut(), ANSWER).await.map_err(|error| error.to_string())?;
    if answer.status() != StatusCode::OK {
        return Err(format!("answered {}: {}", answer.status(), String::from_utf8_lossy(&text)));
    }
    let reply =
        serde_json::from_slice(&text).map_err(|error| format!("the answer cannot be read: {error}"))?;
    *line = Some(open);
    Ok(reply)
}

async fn connect(peer: SocketAddr, errand: &Errand) -> Result<Line, String> {
    let config = errand.tls.client().ok_or("this router has no certificate to show")?;
    let name = ServerName::try_from(errand.name.clone()).map_err(|error| error.to_string())?;
    let stream = TcpStream::connect(peer).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| error.to_string())?;
    let (sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let driver = tokio::spawn(async move {
        // Its error shows at the request that it breaks.
        let _ = connection.await;
    });
    Ok(Line { sender, _driver: Task(driver) })
}

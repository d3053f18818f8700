//! A listener on loopback.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use stoker_edge::drain::Drain;
use stoker_edge::listen::{self, Finished, Limits, Options, Stats};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Sleep;

/// A listener that answers `/wait` after 300 ms and `/doze` after 1200 ms, sends the body of `/late` some time after its head,
/// panics at `/panic`, never answers `/never`, sends 64 MiB at `/large` and reads the body for all else.
pub struct Server {
    pub address: SocketAddr,
    pub drain: Drain,
    pub stats: Stats,
    pub task: JoinHandle<Finished>,
}

impl Server {
    pub async fn new(limits: Limits) -> Self {
        Self::with(Options { limits, ..Options::default() }).await
    }

    pub async fn with(options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, stats) = (Drain::new(Duration::from_secs(3)), Stats::default());
        let service = service_fn(|request: Request<Incoming>| async move {
            let mut answer = Bytes::from_static(b"done");
            match request.uri().path() {
                "/doze" => tokio::time::sleep(Duration::from_millis(1200)).await,
                "/late" => return Ok::<_, Infallible>(Response::new(Either::Left(Late::new()))),
                "/wait" => tokio::time::sleep(Duration::from_millis(300)).await,
                "/never" => std::future::pending().await,
                "/panic" => panic!("asked to"),
                "/large" => answer = Bytes::from(vec![0; 64 << 20]),
                _ => drop(request.into_body().collect().await),
            }
            Ok(Response::new(Either::Right(Full::new(answer))))
        });
        let options = Options { stats: stats.clone(), ..options };
        let task = tokio::spawn(listen::serve(listener, service, options, drain.clone()));
        Self { address, drain, stats, task }
    }

    pub async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }
}

/// A body of known length whose only piece comes after a while.
struct Late(Option<Pin<Box<Sleep>>>);

impl Late {
    fn new() -> Self {
        Self(Some(Box::pin(tokio::time::sleep(Duration::from_millis(100)))))
    }
}

impl Body for Late {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(alarm) = &mut self.0 else { return Poll::Ready(None) };
        std::task::ready!(alarm.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"done")))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(if self.0.is_some() { 4 } else { 0 })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection that is used by hand.
pub struct Client(pub TcpStream);

impl Client {
    pub async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Asks and reads an answer whose body is `done`.
    pub async fn ask(&mut self, path: &str) -> String {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        self.answer().await
    }

    pub async fn answer(&mut self) -> String {
        let mut text = String::new();
        let mut byte = [0];
        while !text.ends_with("done") && self.0.read(&mut byte).await.unwrap_or(0) == 1 {
            text.push(char::from(byte[0]));
        }
        text
    }

    /// All that comes until the server closes.
    pub async fn rest(&mut self) -> String {
        let mut all = Vec::new();
        let _ = self.0.read_to_end(&mut all).await;
        String::from_utf8_lossy(&all).into_owned()
    }
}

/// Waits until `done`; the test fails when that takes absurdly long.
pub async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never came: {what}");
}

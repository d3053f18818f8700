//! HTTP/2 on the same port: what a connection and its streams may take, and how they end.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use stoker_edge::listen::{Finished, Http2, Limits, Options};
use stoker_edge::tls::{self, Tls};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::server::{Server, eventually};

/// A client's side of one connection.
struct Streams {
    sender: SendRequest<Empty<Bytes>>,
    most: Arc<AtomicUsize>,
}

impl Streams {
    async fn connect(server: &Server) -> Self {
        Self::over(TcpStream::connect(server.address).await.unwrap()).await
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, mut connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let most = Arc::new(AtomicUsize::new(0));
        let told = Arc::clone(&most);
        tokio::spawn(std::future::poll_fn(move |cx| {
            told.store(connection.current_max_send_streams(), Ordering::Relaxed);
            Pin::new(&mut connection).poll(cx)
        }));
        Self { sender, most }
    }

    /// Sends at once; the answer is waited for when the future is polled.
    fn send(
        &mut self,
        path: &str,
        fields: usize,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + use<> {
        let mut request = Request::builder().uri(format!("http://x{path}"));
        for field in 0..fields {
            request = request.header(format!("x-{field}"), "1");
        }
        self.sender.send_request(request.body(Empty::new()).unwrap())
    }

    /// The status and the length of an answer.
    async fn ask(&mut self, path: &str) -> hyper::Result<(u16, usize)> {
        let answer = self.send(path, 0).await?;
        let status = answer.status().as_u16();
        Ok((status, answer.into_body().collect().await?.to_bytes().len()))
    }
}

fn with(limits: Limits, http2: Http2) -> Options {
    Options { limits, http2: Some(http2), ..Options::default() }
}

#[tokio::test]
async fn both_protocols_are_spoken_on_one_port() {
    let server = Server::with(with(Limits::default(), Http2::default())).await;
    let mut streams = Streams::connect(&server).await;
    assert_eq!(streams.ask("/large").await.unwrap(), (200, 64 << 20));
    assert_eq!(streams.ask("/panic").await.unwrap().0, 500);
    assert_eq!(streams.ask("/").await.unwrap(), (200, 4));
    let mut client = server.connect().await;
    for _ in 0..3 {
        assert!(client.ask("/").await.starts_with("HTTP/1.1 200"));
    }
    // Begins like the other protocol.
    for piece in ["P", "R", "OPFIND / HTTP/1.1\r\nhost: x\r\n\r\n"] {
        client.send(piece).await;
        tokio::task::yield_now().await;
    }
    assert!(client.answer().await.starts_with("HTTP/1.1 200"));
    let mut pieces = server.connect().await;
    for piece in ["P", "RI", "NT / HTTP/1.1\r\nhost: x\r\n\r\n"] {
        pieces.send(piece).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(pieces.answer().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_listener_without_http2_does_not_speak_it() {
    let server = Server::new(Limits::default()).await;
    assert!(Streams::connect(&server).await.ask("/").await.is_err());
}

#[tokio::test]
async fn alpn_chooses_the_protocol() {
    let key = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    let certificate = key.cert.der().clone();
    let secret = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], secret)
        .unwrap();
    config.alpn_protocols = tls::protocols(true);
    let options = with(Limits::default(), Http2::default());
    let server = Server::with(Options { tls: Some(Tls::new(config)), ..options }).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    for (offered, chosen) in [(vec!["h2", "http/1.1"], "h2"), (vec!["http/1.1"], "http/1.1")] {
        let mut config = rustls::ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(server.address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect("x".try_into().unwrap(), stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(chosen.as_bytes()));
        if chosen == "h2" {
            assert_eq!(Streams::over(stream).await.ask("/").await.unwrap(), (200, 4));
        } else {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            let _ = AsyncReadExt::read_to_string(&mut stream, &mut answer).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_preface_that_comes_slowly_is_cut() {
    let limits = Limits { header_time: Duration::from_millis(200), ..Limits::default() };
    let server = Server::with(with(limits, Http2::default())).await;
    let mut client = server.connect().await;
    client.send("PRI * HTTP/2.0\r\n").await;
    assert_eq!(client.rest().await, "");
    eventually("the connection is gone", || server.stats.open.get() == 0).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_a_stream_is_not() {
    let limits = Limits { idle_time: Duration::from_millis(200), ..Limits::default() };
    let server = Server::with(with(limits, Http2::default())).await;
    let mut idle = Streams::connect(&server).await;
    assert_eq!(idle.ask("/").await.unwrap().0, 200);
    eventually("it was told", || idle.sender.is_closed()).await;
    let mut busy = Streams::connect(&server).await;
    // Longer than a connection may idle.
    assert_eq!(busy.ask("/doze").await.unwrap().0, 200);
    drop((idle, busy));
    eventually("both are gone", || server.stats.open.get() == 0).await;
}

#[tokio::test]
async fn headers_and_streams_have_their_limits() {
    let limits = Limits { header_bytes: 8 << 10, ..Limits::default() };
    let http2 = Http2 { streams: 7, streams_total: 3, ..Http2::default() };
    let server = Server::with(with(limits, http2)).await;
    let mut streams = Streams::connect(&server).await;
    // hyper looks at the settings when it sends, and the first request may go before they are there.
    for _ in 0..2 {
        assert_eq!(streams.ask("/").await.unwrap().0, 200);
    }
    assert_eq!(streams.most.load(Ordering::Relaxed), 7);
    assert_eq!(streams.send("/", 101).await.unwrap().status(), 431);
    assert_eq!(streams.send("/", 90).await.unwrap().status(), 200);
    let long = "a".repeat(9 << 10);
    let request = Request::builder().uri("http://x/").header("x", long).body(Empty::new()).unwrap();
    let answer = streams.sender.send_request(request).await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 431));
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut other = Streams::connect(&server).await;
        let waiting = other.send("/never", 0);
        assert!(other.ask("/").await.is_ok());
        others.push((other, waiting));
    }
    let answer = streams.send("/", 0).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    drop(others);
    eventually("there is room", || server.stats.open.get() == 1).await;
    let mut again = Streams::connect(&server).await;
    assert_eq!(again.ask("/").await.unwrap().0, 200);
}

#[tokio::test]
async fn an_answer_that_is_not_accepted_ends_in_time() {
    let http2 = Http2 { stream_time: Duration::from_millis(300), streams_total: 1, ..Http2::default() };
    let server = Server::with(with(Limits::default(), http2)).await;
    let mut streams = Streams::connect(&server).await;
    // Its body is not read, so its window is spent soon.
    let unread = streams.send("/large", 0).await.unwrap();
    let mut tries = 0;
    while streams.send("/", 0).await.unwrap().status() == 503 {
        tries += 1;
        assert!(tries < 1000, "the stream never ended");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(unread.into_body().collect().await.is_err(), "a broken answer must not look whole");
}

#[tokio::test]
async fn a_flood_of_resets_ends_its_connection_alone() {
    let server = Server::with(with(Limits::default(), Http2::default())).await;
    let (mut good, mut bad) = (Streams::connect(&server).await, Streams::connect(&server).await);
    let mut batches = 0;
    while !bad.sender.is_closed() {
        let taken: Vec<_> = (0..50).map(|_| bad.send("/never", 0)).collect();
        // Requests are taken up in their order.
        let answered = bad.ask("/").await.is_ok();
        drop(taken);
        batches += 1;
        assert!(batches < 20, "it was never cut");
        if !answered {
            break;
        }
    }
    eventually("it is cut", || server.stats.floods.get() == 1 && server.stats.open.get() == 1).await;
    assert_eq!(good.ask("/").await.unwrap().0, 200);
}

#[tokio::test]
async fn leaving_finishes_open_streams_and_takes_no_new_ones() {
    let mut server = Server::with(with(Limits::default(), Http2::default())).await;
    let mut busy = Streams::connect(&server).await;
    let idle = Streams::connect(&server).await;
    let asked: Vec<_> = (0..10).map(|_| busy.send("/doze", 0)).collect();
    assert_eq!(busy.ask("/").await.unwrap().0, 200);
    server.drain.leave();
    eventually("the idle one is closed", || idle.sender.is_closed()).await;
    let mut tries = 0;
    while busy.ask("/").await.is_ok() {
        tries += 1;
        assert!(tries < 10_000, "the busy one was never told");
    }
    // Still accepting, for those who have not noticed.
    assert_eq!(Streams::connect(&server).await.ask("/").await.unwrap().0, 200);
    server.drain.close();
    for answer in asked {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "done");
    }
    assert_eq!((&mut server.task).await.unwrap(), Finished { cut: 0 });
}

/// A frame of HTTP/2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
}

/// Reads one frame: its kind and its payload.
async fn next_frame(stream: &mut TcpStream) -> std::io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    stream.read_exact(&mut payload).await?;
    Ok((head[3], payload))
}

#[tokio::test]
async fn what_a_client_sends_before_it_reads_the_goodbye_does_not_reset_the_connection() {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const ACK: u8 = 1;
    let server = Server::with(with(Limits::default(), Http2::default())).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // GET / of http://x, whole.
    let get = |number| frame(HEADERS, 0b101, number, b"\x82\x86\x84\x41\x01x");
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &[])[..]].concat();
    stream.write_all(&preface).await.unwrap();
    stream.write_all(&get(1)).await.unwrap();
    while next_frame(&mut stream).await.unwrap().0 != DATA {}
    server.drain.leave();
    let ping = loop {
        let (kind, payload) = next_frame(&mut stream).await.unwrap();
        if kind == PING {
            break payload;
        }
    };
    stream.write_all(&frame(PING, ACK, 0, &ping)).await.unwrap();
    // The server says which stream was the last, and has nothing to wait for.
    for number in [3, 5, 7] {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.write_all(&get(number)).await.unwrap();
    }
    let mut last = None;
    while let Ok((kind, payload)) = next_frame(&mut stream).await {
        if kind == GOAWAY {
            last = Some(payload[3]);
        }
    }
    assert_eq!(last, Some(1), "streams 3, 5 and 7 may be sent elsewhere");
    drop(stream);
    eventually("the connection is gone", || server.stats.open.get() == 0).await;
}

#[tokio::test]
async fn a_request_that_is_malformed_is_told_why_and_counted() {
    let server = Server::new(Limits::default()).await;
    let mut client = server.connect().await;
    client
        .send(
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        )
        .await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("connection: close"), "{answer}");
    assert!(answer.contains("both Content-Length and Transfer-Encoding"), "{answer}");
    assert_eq!(server.stats.malformed.get(), 1);
}

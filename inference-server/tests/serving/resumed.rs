//! Downloads that break off: they go on where they were, and never join two versions.

use std::io::Write as _;
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use stoker_decide::address::Guard;
use stoker_server::artifact::{Digest, FetchError, Fetcher, Limits, Looking, Lookup};

use crate::raw::{RawServer, answer, cut, header, ranged};
use crate::started::client;

/// A body that is no repetition, so that a part at a wrong place shows.
fn bytes(length: usize, seed: u8) -> Vec<u8> {
    let byte = |number: usize| u8::try_from(number % 251).unwrap();
    (0..length).map(|at| byte(at / 7) ^ byte(at) ^ seed).collect()
}

fn digest_of(bytes: &[u8]) -> Digest {
    use sha2::Digest as _;
    Digest::from_raw(sha2::Sha256::digest(bytes).into())
}

fn fetcher() -> Fetcher {
    // The ring provider is installed there.
    drop(client());
    let limits = Limits {
        max_bytes: 10 << 20,
        retry_for: Duration::from_secs(20),
        total_time: Duration::from_mins(1),
    };
    Fetcher::new(limits, None, loopback())
}

fn loopback() -> Guard {
    Guard::new(vec!["127.0.0.1".parse().unwrap()])
}

async fn fetch(server: &RawServer) -> Result<Vec<u8>, FetchError> {
    fetcher().fetch(&server.url("/a.onnx").parse().unwrap(), None).await.map(|(bytes, _)| bytes)
}

fn send(stream: &mut TcpStream, bytes: &[u8]) {
    // A client that has gone away is no fault of the server's.
    drop(stream.write_all(bytes));
}

/// The parts that were asked for.
fn ranges(server: &RawServer) -> Vec<Option<String>> {
    server.heads().iter().map(|head| header(head, "range")).collect()
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_was() {
    let body = bytes(300_000, 0);
    let held = body.clone();
    let server = RawServer::new(move |number, head, stream| {
        let whole = ranged(head, &held, "\"v1\"");
        // Each of the first three breaks after 80,000 more bytes.
        send(stream, &if number < 3 { cut(&whole, 80_000) } else { whole });
    });
    assert_eq!(fetch(&server).await.unwrap(), body);
    let wanted = [None, Some("bytes=80000-"), Some("bytes=160000-"), Some("bytes=240000-")];
    assert_eq!(ranges(&server), wanted.map(|range| range.map(str::to_owned)));
    assert!(server.heads()[1..].iter().all(|head| header(head, "if-range").as_deref() == Some("\"v1\"")));
}

#[tokio::test]
async fn a_new_version_begins_again() {
    let (old, new) = (bytes(100_000, 1), bytes(120_000, 2));
    let (v1, v2) = (old.clone(), new.clone());
    let server = RawServer::new(move |number, head, stream| {
        let first = cut(&ranged(head, &v1, "\"v1\""), 50_000);
        send(stream, &if number == 0 { first } else { ranged(head, &v2, "\"v2\"") });
    });
    assert_eq!(fetch(&server).await.unwrap(), new);
    // Pinned, the new version is refused, and the old digest is not met by half of each.
    let error = fetcher().fetch(&server.url("/a").parse().unwrap(), Some(digest_of(&old))).await.unwrap_err();
    assert!(matches!(&error, FetchError::Digest { actual, .. } if *actual == digest_of(&new)), "{error}");
}

/// A copy is judged by its own rate. The first one here stalls for longer than the quarter of the time in which none is judged.
#[tokio::test]
async fn a_copy_that_was_given_up_does_not_slow_the_next() {
    let (old, new) = (bytes(1000, 1), bytes(1000, 2));
    let (v1, v2) = (answer("200 OK", "ETag: \"v1\"\r\n", &old), new.clone());
    let server = RawServer::new(move |number, head, stream| {
        if number == 0 {
            send(stream, &cut(&v1, 500));
            std::thread::sleep(Duration::from_secs(3));
            return;
        }
        let whole = ranged(head, &v2, "\"v2\"");
        send(stream, &cut(&whole, 0));
        for chunk in v2.chunks(100) {
            std::thread::sleep(Duration::from_millis(50));
            send(stream, chunk);
        }
    });
    drop(client());
    let limits = Limits {
        max_bytes: 10 << 20,
        retry_for: Duration::from_secs(10),
        total_time: Duration::from_secs(10),
    };
    let fetcher = Fetcher::new(limits, None, loopback());
    let outcome = fetcher.fetch(&server.url("/a.onnx").parse().unwrap(), None).await;
    assert_eq!(outcome.unwrap().0, new);
}

/// Servers that send the rest of another version, or of another place, as if it were what was asked for.
#[tokio::test]
async fn a_rest_that_does_not_fit_is_thrown_away() {
    let (old, new) = (bytes(100_000, 1), bytes(100_000, 2));
    let part = |status_etag: &str, range: &str, body: &[u8]| {
        answer("206 Partial Content", &format!("ETag: {status_etag}\r\nContent-Range: {range}\r\n"), body)
    };
    let misfits = [
        // If-Range was not looked at.
        part("\"v2\"", "bytes 50000-99999/100000", &new[50_000..]),
        // No version at all.
        answer("206 Partial Content", "Content-Range: bytes 50000-99999/100000\r\n", &new[50_000..]),
        // Another place.
        part("\"v1\"", "bytes 40000-99999/100000", &old[40_000..]),
        // Another length.
        part("\"v1\"", "bytes 50000-99999/200000", &new[50_000..]),
        // No range.
        answer("206 Partial Content", "ETag: \"v1\"\r\n", &new[50_000..]),
        answer("416 Range Not Satisfiable", "Content-Range: bytes */10\r\n", b""),
        answer("412 Precondition Failed", "", b""),
    ];
    for misfit in misfits {
        let (v1, v2) = (old.clone(), new.clone());
        let shown = String::from_utf8_lossy(&misfit[..misfit.len().min(150)]).into_owned();
        let server = RawServer::new(move |number, head, stream| match number {
            0 => send(stream, &cut(&ranged(head, &v1, "\"v1\""), 50_000)),
            1 => send(stream, &misfit),
            _ => send(stream, &ranged(head, &v2, "\"v2\"")),
        });
        assert_eq!(fetch(&server).await.unwrap(), new, "{shown}");
        assert_eq!(ranges(&server), [None, Some("bytes=50000-".to_owned()), None], "{shown}");
    }
}

#[tokio::test]
async fn without_a_strong_version_nothing_is_joined() {
    for tag in ["", "ETag: W/\"v1\"\r\n"] {
        let body = bytes(100_000, 3);
        let held = answer("200 OK", tag, &body);
        let server = RawServer::new(move |number, _, stream| {
            send(stream, &if number == 0 { cut(&held, 70_000) } else { held.clone() });
        });
        assert_eq!(fetch(&server).await.unwrap(), body);
        assert_eq!(ranges(&server), [None, None], "{tag}");
    }
}

/// Answers with the addresses of its list in turn, the last one for ever.
#[derive(Debug)]
struct Turning(Vec<Vec<IpAddr>>, Arc<AtomicUsize>);

impl Lookup for Turning {
    fn lookup(&self, _host: &str) -> Looking {
        let turn = self.1.fetch_add(1, Ordering::SeqCst).min(self.0.len() - 1);
        let addresses = self.0[turn].clone();
        Box::pin(async move { Ok(addresses) })
    }
}

#[tokio::test]
async fn a_name_that_turns_to_a_forbidden_address_is_not_followed_there() {
    let (good, bad) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
    let held = bytes(1000, 0);
    let server =
        RawServer::new(move |_, head, stream| send(stream, &cut(&ranged(head, &held, "\"v1\""), 500)));
    let port = server.address.port();
    let inside =
        RawServer::at(&format!("127.0.0.2:{port}"), |_, _, stream| send(stream, b"HTTP/1.1 200 OK\r\n\r\n"));
    // (what the name leads to in turn, connections to the allowed address)
    let cases = [(vec![vec![good], vec![bad]], 1), (vec![vec![good, bad]], 0), (vec![vec![bad]], 0)];
    for (answers, connections) in cases {
        let before = server.connections();
        let lookups = Arc::new(AtomicUsize::new(0));
        let fetcher = fetcher().looking_up(Arc::new(Turning(answers, Arc::clone(&lookups))));
        let uri = format!("http://models.example:{port}/a.onnx").parse().unwrap();
        let error = fetcher.fetch(&uri, None).await.unwrap_err();
        assert!(matches!(error, FetchError::Forbidden { .. }), "{error}");
        assert!(error.to_string().contains("127.0.0.2 is a loopback address"), "{error}");
        assert_eq!((error.exit_code(), server.connections() - before), (64, connections));
        assert_eq!(lookups.load(Ordering::SeqCst), connections + 1);
    }
    assert_eq!(inside.connections(), 0);
}

#[tokio::test]
async fn a_name_without_addresses_is_no_address() {
    let fetcher = Fetcher::new(
        Limits { max_bytes: 1, retry_for: Duration::ZERO, total_time: Duration::from_mins(1) },
        None,
        loopback(),
    );
    drop(client());
    let fetcher = fetcher.looking_up(Arc::new(Turning(vec![Vec::new()], Arc::default())));
    let error = fetcher.digest(&"http://models.example/a".parse().unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("the name has no address"), "{error}");
}

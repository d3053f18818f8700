//! Fetching: from a web server of the test's own, with all that can go wrong there.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use stoker_decide::address::Guard;
use stoker_edge::drain::Drain;
use stoker_edge::listen::{self, Options};
use stoker_server::artifact::{Credentials, Digest, FetchError, Fetcher, Limits, Location};

use crate::started::client;

/// What the web server holds.
const ARTIFACT: &[u8] = b"the bytes of a model";

fn digest_of(bytes: &[u8]) -> Digest {
    use sha2::Digest as _;
    Digest::from_raw(sha2::Sha256::digest(bytes).into())
}

/// A web server, its address, and how often it was asked.
async fn server() -> (String, Arc<AtomicUsize>) {
    // The ring provider is installed there.
    drop(client());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        let answer = answer(&request, number, address.port());
        async move { Ok::<_, Infallible>(answer) }
    });
    tokio::spawn(listen::serve(listener, service, Options::small(), Drain::new(Duration::ZERO)));
    (format!("http://{address}"), asked)
}

/// The answer to the `number`th request.
fn answer(request: &Request<Incoming>, number: usize, port: u16) -> Response<Full<Bytes>> {
    let with = |status: StatusCode| Response::builder().status(status);
    let authorization =
        request.headers().get("authorization").map(|value| value.to_str().unwrap_or_default());
    let authorised =
        |wanted| if authorization == Some(wanted) { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
    let answer = match request.uri().path() {
        "/shaky" if number < 2 => with(StatusCode::BAD_GATEWAY),
        "/model" | "/shaky" => with(StatusCode::OK),
        "/down" => with(StatusCode::INTERNAL_SERVER_ERROR),
        "/bearer" => with(authorised("Bearer hunter2")),
        // "user:hunter2" in base64.
        "/basic" => with(authorised("Basic dXNlcjpodW50ZXIy")),
        "/moved" => with(StatusCode::FOUND).header("location", "/model"),
        "/loop" => with(StatusCode::FOUND).header("location", "/loop"),
        // The same server by another name: credentials must not go there.
        "/elsewhere" => with(StatusCode::FOUND).header("location", format!("http://localhost:{port}/bearer")),
        _ => with(StatusCode::NOT_FOUND),
    };
    answer.body(Full::from(ARTIFACT)).unwrap()
}

/// Lets this machine through, by both of its addresses.
fn here() -> Guard {
    Guard::new(["127.0.0.0/8", "::1"].iter().map(|network| network.parse().unwrap()).collect())
}

fn fetcher(credentials: Option<Credentials>) -> Fetcher {
    let limits =
        Limits { max_bytes: 1000, retry_for: Duration::from_secs(20), total_time: Duration::from_mins(1) };
    Fetcher::new(limits, credentials, here())
}

async fn fetch(fetcher: Fetcher, uri: &str, expected: Option<Digest>) -> Result<Vec<u8>, FetchError> {
    fetcher.fetch(&uri.parse().unwrap(), expected).await.map(|(bytes, _)| bytes)
}

#[tokio::test]
async fn an_artifact_is_fetched_and_its_digest_checked() {
    let (base, _) = server().await;
    let right = digest_of(ARTIFACT);
    for path in ["/shaky", "/model", "/moved"] {
        let fetched = fetch(fetcher(None), &format!("{base}{path}"), Some(right)).await;
        assert_eq!(fetched.unwrap(), ARTIFACT, "{path}");
    }
    assert_eq!(fetcher(None).digest(&format!("{base}/model").parse().unwrap()).await.unwrap(), right);

    let wrong = digest_of(b"other");
    let error = fetch(fetcher(None), &format!("{base}/model?sig=secret"), Some(wrong)).await.unwrap_err();
    let message = error.to_string();
    assert_eq!(error.exit_code(), 65);
    for part in [format!("{base}/model?..."), right.to_string(), wrong.to_string()] {
        assert!(message.contains(&part), "{message}");
    }
}

#[tokio::test]
async fn what_cannot_heal_is_not_tried_again() {
    let (base, asked) = server().await;
    let cases = [("/gone", "answered 404"), ("/bearer", "answered 401"), ("/loop", "redirects too often")];
    for (path, part) in cases {
        let error = fetch(fetcher(None), &format!("{base}{path}"), None).await.unwrap_err();
        assert_eq!(error.exit_code(), 69, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
    // One for each of the first two, and the redirects that were followed.
    assert!(asked.load(Ordering::Relaxed) <= 2 + 7, "{asked:?}");
}

#[tokio::test]
async fn what_may_heal_is_tried_for_a_while() {
    let (base, asked) = server().await;
    let impatient = || {
        let limits = Limits {
            max_bytes: 1000,
            retry_for: Duration::from_millis(600),
            total_time: Duration::from_mins(1),
        };
        Fetcher::new(limits, None, here())
    };
    let error = fetch(impatient(), &format!("{base}/down"), None).await.unwrap_err();
    assert!(error.to_string().contains("answered 500") && error.exit_code() == 69, "{error}");
    assert!(asked.load(Ordering::Relaxed) >= 2);
    // A port at which nobody listens.
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = fetch(impatient(), &format!("http://{closed}/a"), None).await.unwrap_err();
    assert!(error.to_string().contains("could not be fetched within") && error.exit_code() == 69, "{error}");
}

#[tokio::test]
async fn credentials_go_to_their_server_only() {
    let (base, _) = server().await;
    let bearer = || Some(Credentials::Bearer("hunter2".to_owned()));
    let basic = Some(Credentials::Basic { username: "user".to_owned(), password: "hunter2".to_owned() });
    assert!(fetch(fetcher(bearer()), &format!("{base}/bearer"), None).await.is_ok());
    assert!(fetch(fetcher(basic), &format!("{base}/basic"), None).await.is_ok());
    let error = fetch(fetcher(bearer()), &format!("{base}/elsewhere"), None).await.unwrap_err();
    assert!(error.to_string().contains("401") && !error.to_string().contains("hunter2"), "{error}");
    assert!(!format!("{:?}", fetcher(bearer())).contains("hunter2"));
}

#[tokio::test]
async fn size_is_bounded_for_files_and_downloads() {
    let (base, _) = server().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ARTIFACT).unwrap();
    let uris = [format!("{base}/model"), format!("file://{}", file.path().display())];
    for uri in &uris {
        let small = Limits { max_bytes: 10, retry_for: Duration::ZERO, total_time: Duration::from_mins(1) };
        let error = fetch(Fetcher::new(small, None, here()), uri, None).await.unwrap_err();
        assert!(matches!(error, FetchError::TooLarge { limit: 10, .. }), "{error}");
        // Memory binds what is kept there only, and where it is more than the limit, the limit binds.
        let error = fetch(fetcher(None).within_memory(Some(10)), uri, None).await.unwrap_err();
        assert!(error.to_string().contains("10 bytes that the container's memory limit leaves"), "{error}");
        assert_eq!(error.exit_code(), 65);
        assert!(fetcher(None).within_memory(Some(10)).digest(&uri.parse().unwrap()).await.is_ok());
        let error = fetch(Fetcher::new(small, None, here()).within_memory(Some(11)), uri, None).await;
        assert!(matches!(error, Err(FetchError::TooLarge { limit: 10, .. })), "{error:?}");
        assert_eq!(fetch(fetcher(None), uri, Some(digest_of(ARTIFACT))).await.unwrap(), ARTIFACT);
    }
}

#[tokio::test]
async fn files_that_are_not_there_or_not_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["", "missing.onnx"] {
        let path = folder.path().join(name);
        let location: Location = format!("file://{}", path.display()).parse().unwrap();
        let error = fetcher(None).digest(&location).await.unwrap_err();
        assert_eq!(error.exit_code(), 69);
        assert!(error.to_string().contains(path.to_str().unwrap().trim_end_matches('/')), "{error}");
    }
}

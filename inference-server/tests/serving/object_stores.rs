//! Object stores, played by a server of the test's own: what is asked, with which signature, and what errors say.
//! `e2e/s3/check` does the same with a real S3 server.

use std::io::Write as _;
use std::time::Duration;

use stoker_decide::address::Guard;
use stoker_server::artifact::{Credentials, FetchError, Fetcher, Limits, Location};

use crate::raw::{RawServer, answer, cut, header, ranged};
use crate::started::client;

const CANARY: &str = "canaryhunter2";
/// All stores say it, and Azure's client insists.
const DATED: &str = "Last-Modified: Sat, 01 Jan 2022 00:00:00 GMT\r\nETag: \"v1\"\r\n";

/// Files of a Secret: names and contents.
type Files = &'static [(&'static str, &'static str)];

/// Credentials as a Secret holds them.
fn read(uri: &str, files: &[(&str, &str)]) -> Credentials {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    Credentials::read(folder.path(), &uri.parse().unwrap()).unwrap()
}

fn fetcher(credentials: Credentials) -> Fetcher {
    // The ring provider is installed there.
    drop(client());
    let limits =
        Limits { max_bytes: 1 << 20, retry_for: Duration::from_secs(20), total_time: Duration::from_mins(1) };
    Fetcher::new(limits, Some(credentials), Guard::new(vec!["127.0.0.1".parse().unwrap()]))
}

async fn fetch(uri: &str, files: &[(&str, &str)]) -> Result<Vec<u8>, FetchError> {
    let location: Location = uri.parse().unwrap();
    fetcher(read(uri, files)).fetch(&location, None).await.map(|(bytes, _)| bytes)
}

/// A service account of a store without authorisation, as Google's emulators have it.
fn account(server: &str) -> String {
    serde_json::json!({
        "private_key": CANARY, "private_key_id": "1", "client_email": "a@b.example",
        "gcs_base_url": server, "disable_oauth": true,
    })
    .to_string()
}

/// `(uri, files of the Secret)` of each store, played by the server at `base`.
fn stores(base: &str) -> Vec<(&'static str, Vec<(&'static str, String)>)> {
    let endpoint = ("endpoint", base.to_owned());
    vec![
        (
            "s3://bucket/team/a%20b.onnx",
            vec![
                ("accessKeyId", "id".to_owned()),
                ("secretAccessKey", CANARY.to_owned()),
                ("region", "eu-west-1".to_owned()),
                endpoint.clone(),
            ],
        ),
        ("gs://bucket/team/a.onnx", vec![("serviceAccount", account(base))]),
        // "canaryhunter2" is base64 of something when it is padded.
        ("az://account/box/team/a.onnx", vec![("accountKey", format!("{CANARY}aaa")), endpoint.clone()]),
        ("az://account/box/a.onnx", vec![("sasToken", format!("?sv=2022-11-02&sig={CANARY}")), endpoint]),
    ]
}

fn borrowed<'a>(files: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    files.iter().map(|(name, text)| (*name, text.as_str())).collect()
}

#[tokio::test]
async fn each_store_is_asked_in_its_way() {
    let server = RawServer::of(answer("200 OK", DATED, b"model"));
    let base = server.url("");
    for (uri, files) in stores(&base) {
        assert_eq!(fetch(uri, &borrowed(&files)).await.unwrap(), b"model", "{uri}");
    }
    let heads = server.heads();
    let lines: Vec<_> = heads.iter().map(|head| head.lines().next().unwrap_or_default()).collect();
    let authorization = |at: usize| header(&heads[at], "authorization").unwrap_or_default();
    assert_eq!(lines[0], "GET /bucket/team/a%20b.onnx HTTP/1.1");
    assert!(authorization(0).starts_with("AWS4-HMAC-SHA256 Credential=id/"), "{}", authorization(0));
    assert!(authorization(0).contains("/eu-west-1/s3/aws4_request"), "{}", authorization(0));
    assert_eq!(lines[1], "GET /bucket/team%2Fa%2Eonnx HTTP/1.1");
    assert_eq!(lines[2], "GET /box/team/a.onnx HTTP/1.1");
    assert!(authorization(2).starts_with("SharedKey account:"), "{}", authorization(2));
    assert!(
        lines[3].starts_with("GET /box/a.onnx?") && lines[3].contains(&format!("sig={CANARY}")),
        "{}",
        lines[3]
    );
    assert_eq!(authorization(3), "");
}

#[tokio::test]
async fn public_buckets_and_temporary_keys() {
    let server = RawServer::of(answer("200 OK", DATED, b"model"));
    let base = server.url("");
    fetch("s3://bucket/a", &[("endpoint", &base)]).await.unwrap();
    fetch("az://account/box/a", &[("endpoint", &base)]).await.unwrap();
    let keys =
        [("accessKeyId", "id"), ("secretAccessKey", "s"), ("sessionToken", "temporary"), ("endpoint", &base)];
    fetch("s3://bucket/a", &keys).await.unwrap();
    let heads = server.heads();
    assert!(heads[..2].iter().all(|head| header(head, "authorization").is_none()), "{heads:?}");
    assert_eq!(header(&heads[2], "x-amz-security-token").as_deref(), Some("temporary"));
}

#[tokio::test]
async fn a_broken_download_goes_on_with_the_same_version() {
    let body: Vec<u8> = (0..200_000_u32).map(|at| u8::try_from(at / 3 % 251).unwrap()).collect();
    let held = body.clone();
    let server = RawServer::new(move |number, head, stream| {
        let whole = ranged(head, &held, "\"v1\"");
        drop(stream.write_all(&if number % 2 == 0 { cut(&whole, 90_000) } else { whole }));
    });
    let base = server.url("");
    let (uri, files) = &stores(&base)[0];
    assert_eq!(fetch(uri, &borrowed(files)).await.unwrap(), body);
    let second = &server.heads()[1];
    assert_eq!(header(second, "range").as_deref(), Some("bytes=90000-"));
    assert_eq!(header(second, "if-match").as_deref(), Some("\"v1\""));
}

#[tokio::test]
async fn a_new_version_begins_again() {
    let server = RawServer::new(|number, head, stream| {
        let answer = match (number, header(head, "if-match")) {
            (0, _) => cut(&answer("200 OK", "ETag: \"v1\"\r\n", &[1; 1000]), 500),
            (_, Some(_)) => answer("412 Precondition Failed", "", b""),
            _ => answer("200 OK", "ETag: \"v2\"\r\n", &[2; 1000]),
        };
        drop(stream.write_all(&answer));
    });
    let base = server.url("");
    let (uri, files) = &stores(&base)[0];
    assert_eq!(fetch(uri, &borrowed(files)).await.unwrap(), [2; 1000]);
    assert_eq!(server.connections(), 3);
}

/// Every answer that is no artifact repeats the request, signature included; no error does.
#[tokio::test]
async fn errors_say_what_happened_and_no_secret() {
    let elsewhere = RawServer::of(answer("200 OK", DATED, b"model"));
    let target = elsewhere.url("/stolen");
    let cases = [
        ("403 Forbidden", 69, "check the credentials"),
        ("404 Not Found", 69, "was uploaded"),
        ("400 Bad Request", 69, "answered 400"),
        ("307 Temporary Redirect", 69, "region and endpoint"),
        ("500 Internal Server Error", 69, "overloaded or down"),
    ];
    for (status, code, part) in cases {
        let location = format!("Location: {target}\r\n");
        let server = RawServer::new(move |_, head, stream| {
            drop(stream.write_all(&answer(status, &location, head.as_bytes())));
        });
        let base = server.url("");
        for (uri, files) in stores(&base) {
            let location: Location = uri.parse().unwrap();
            let limits =
                Limits { max_bytes: 100, retry_for: Duration::ZERO, total_time: Duration::from_mins(1) };
            let guard = Guard::new(vec!["127.0.0.1".parse().unwrap()]);
            drop(client());
            let fetcher = Fetcher::new(limits, Some(read(uri, &borrowed(&files))), guard);
            let error = fetcher.digest(&location).await.unwrap_err();
            let text = format!("{error} {error:?} {fetcher:?}");
            assert_eq!(error.exit_code(), code, "{error}");
            assert!(error.to_string().contains(part) && text.contains(&location.to_string()), "{error}");
            assert!(!text.contains(CANARY) && !text.contains("Signature"), "{text}");
        }
        assert_eq!(server.connections(), 4, "no request is repeated by the library");
    }
    assert_eq!(elsewhere.connections(), 0, "a signed request was sent elsewhere");
}

#[tokio::test]
async fn keys_that_cannot_be_used_are_named_without_their_content() {
    let cases: [(&str, Files, &str); 3] = [
        ("gs://bucket/a", &[("serviceAccount", "canaryhunter2")], "serviceAccount"),
        ("az://account/box/a", &[("accountKey", "canaryhunter2!")], "accountKey"),
        ("az://account/box/a", &[("sasToken", "canaryhunter2")], "sasToken"),
    ];
    for (uri, files, part) in cases {
        let error = fetch(uri, files).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(error.exit_code() == 64 && text.contains(part) && !text.contains(CANARY), "{text}");
    }
}

#[tokio::test]
async fn an_endpoint_leads_nowhere_else_than_a_url_does() {
    let inside = RawServer::at("127.0.0.2:0", |_, _, stream| {
        drop(stream.write_all(&answer("200 OK", DATED, b"internal")));
    });
    let base = inside.url("");
    for (uri, files) in stores(&base) {
        let error = fetch(uri, &borrowed(&files)).await.unwrap_err();
        assert!(matches!(error, FetchError::Forbidden { .. }), "{uri}: {error}");
    }
    let error = fetch("s3://bucket/a", &[("endpoint", "http://169.254.169.254")]).await.unwrap_err();
    assert!(error.to_string().contains("metadata"), "{error}");
    assert_eq!(inside.connections(), 0);
}

#[tokio::test]
async fn an_object_is_bounded_too() {
    for held in [answer("200 OK", DATED, &vec![0; 2 << 20]), answer("200 OK", DATED, b"")] {
        let empty = held.len() < 1000;
        let server = RawServer::of(held);
        let base = server.url("");
        let (uri, files) = &stores(&base)[0];
        match fetch(uri, &borrowed(files)).await {
            Err(FetchError::TooLarge { .. }) => assert!(!empty),
            Ok(bytes) => assert!(empty && bytes.is_empty()),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Also when everything is logged that all libraries have to say.
#[test]
fn no_log_holds_a_secret() {
    let server = RawServer::new(|_, head, stream| {
        drop(stream.write_all(&answer("403 Forbidden", "", head.as_bytes())));
    });
    let base = server.url("");
    for (uri, files) in stores(&base) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_stoker-server"))
            .args(["resolve", "--model-uri", uri, "--allow-network", "127.0.0.1", "--credentials"])
            .arg(folder.path())
            .env("RUST_LOG", "trace")
            .output()
            .unwrap();
        let text =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(text.contains("TRACE") && text.contains("answered 403"), "{text}");
        assert!(!text.contains(CANARY), "{text}");
    }
    assert_eq!(server.connections(), 4);
}

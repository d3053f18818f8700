//! What comes from a server that is not well. That a healthy Prometheus is understood, the cluster tests show with a real one.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A server that answers everything with the same bytes, or, without any, not at all.
async fn server(answer: impl Into<Option<Vec<u8>>>) -> SocketAddr {
    let answer = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            match &answer {
                Some(answer) => drop(stream.write_all(answer).await),
                None => kept.push(stream),
            }
        }
    });
    address
}

fn http(status: &str, body: &str) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body.as_bytes()].concat()
}

fn result(data: &str) -> Vec<u8> {
    http("200 OK", &format!(r#"{{"status":"success","data":{data}}}"#))
}

fn provider(address: &str) -> Result<Arc<Provider>, String> {
    let text = format!(
        "providers: [{{name: p, prometheus: {{address: '{address}', timeout: 500ms}}, alertmanager: {{address: '{address}', timeout: 500ms}}}}]"
    );
    let settings = Configuration::read(&text).unwrap().get("p").unwrap().clone();
    Provider::keep_or_make(settings, &Configuration::default())
}

async fn asked(answer: impl Into<Option<Vec<u8>>>) -> Result<Vec<f64>, String> {
    let address = server(answer).await;
    provider(&format!("http://{address}")).unwrap().values("team", "up", &Questions::default()).await
}

#[tokio::test]
async fn values_are_read_as_prometheus_writes_them() {
    let vector = r#"{"resultType":"vector","result":[{"metric":{"pod":"x"},"value":[1.5,"NaN"]},{"metric":{},"value":[1.5,"-Inf"]}]}"#;
    let found = asked(result(vector)).await.unwrap();
    assert!(found[0].is_nan() && found[1] == f64::NEG_INFINITY, "{found:?}");
    assert_eq!(asked(result(r#"{"resultType":"vector","result":[]}"#)).await, Ok(Vec::new()));
    assert_eq!(asked(result(r#"{"resultType":"scalar","result":[1.5,"0.25"]}"#)).await, Ok(vec![0.25]));
    let address = server(result(vector)).await;
    let found = provider(&format!("http://{address}")).unwrap().labels("up", &Questions::default()).await;
    assert_eq!(found.unwrap()[0], BTreeMap::from([("pod".to_owned(), "x".to_owned())]));
}

#[tokio::test]
async fn what_is_wrong_with_an_answer_is_said() {
    let bad_data =
        r#"{"status":"error","errorType":"bad_data","error":"parse error: unexpected end of input"}"#;
    let cases = [
        (http("400 Bad Request", bad_data), "answers 400 Bad Request: parse error: unexpected end of input"),
        (http("502 Bad Gateway", "upstream is away"), "answers 502 Bad Gateway: upstream is away"),
        (http("302 Found", ""), "answers 302 Found"),
        (http("200 OK", "<html>"), "answers what is not understood"),
        (result(r#"{"resultType":"matrix","result":[]}"#), "answers what is not understood"),
        (result(r#"{"resultType":"scalar","result":[1,"much"]}"#), r#"the value "much" is no number"#),
        (http("200 OK", &"x".repeat(LONGEST + 1)), "its answer is longer than 1 MiB"),
        (
            http("200 OK", r#"{"data":{"resultType":"vector","result":[]},"warnings":["store x is away"]}"#),
            "its answer is incomplete: store x is away",
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec(), "cannot be asked"),
        (b"SSH-2.0\r\n".to_vec(), "cannot be asked"),
    ];
    let cases = cases.map(|(answer, sentence)| (Some(answer), sentence));
    for (answer, sentence) in cases.into_iter().chain([(None, "no answer within 0.5 s")]) {
        let error = asked(answer).await.unwrap_err();
        assert!(error.starts_with("provider p: ") && error.contains(sentence), "{sentence}: {error}");
        assert!(error.len() < 700, "{error}");
    }
}

#[tokio::test]
async fn nobody_there_is_an_error_that_names_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let provider = provider(&format!("http://{address}")).unwrap();
    let error = provider.values("team", "up", &Questions::default()).await.unwrap_err();
    assert!(error.contains(&format!("http://{address} cannot be asked")), "{error}");
    assert!(provider.silences(&Questions::default()).await.is_err());
}

#[test]
fn addresses_that_cannot_be_asked_are_refused_with_the_reason() {
    for (address, sentence) in [
        ("prometheus:9090", "must be http://host:port"),
        ("file:///etc/passwd", "must be http://host:port"),
        ("https://prometheus:9090", "https needs caFile"),
        ("", "relative URL"),
    ] {
        let error = provider(address).err().unwrap();
        assert!(error.contains(sentence), "{address}: {error}");
    }
}

#[tokio::test]
async fn only_silences_that_hold_are_read() {
    let body = r#"[{"matchers":[{"name":"alertname","value":"A","isRegex":false,"isEqual":true}],"status":{"state":"active"},"createdBy":"ann","comment":"known"},
        {"matchers":[{"name":"alertname","value":"B","isRegex":false,"isEqual":true}],"status":{"state":"expired"},"createdBy":"ann","comment":"over"}]"#;
    let address = server(http("200 OK", body)).await;
    let found =
        provider(&format!("http://{address}")).unwrap().silences(&Questions::default()).await.unwrap();
    let why: Vec<String> = found.into_iter().flatten().map(|silence| silence.why).collect();
    assert_eq!(why, ["by ann: known"]);
}

#[test]
fn a_provider_goes_on_while_its_settings_and_certificates_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let write = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        std::fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
    };
    let read = |before: &Configuration<Result<Arc<Provider>, String>>| {
        let text = format!(
            "providers: [{{name: p, prometheus: {{address: 'https://p:1', caFile: {}}}}}]",
            ca.display()
        );
        Configuration::read(&text).unwrap().make(|settings| Provider::keep_or_make(settings, before))
    };
    let missing = read(&Configuration::default());
    assert!(missing.get("p").unwrap().as_ref().err().unwrap().contains("ca.pem"));
    write("a");
    let first = read(&missing);
    let second = read(&first);
    let of = |all: &Configuration<Result<Arc<Provider>, String>>| {
        Arc::clone(all.get("p").unwrap().as_ref().unwrap())
    };
    assert!(Arc::ptr_eq(&of(&first), &of(&second)));
    write("b");
    assert!(!Arc::ptr_eq(&of(&second), &of(&read(&second))));
}

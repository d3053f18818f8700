//! What is concluded from answers, which endpoints are asked, and how.

use std::convert::Infallible;

use http::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use jiff::Timestamp;
use serde_json::{Value, json};
use stoker_api::scrape::ArmState;
use stoker_edge::drain::Drain;
use stoker_edge::listen::{self, Options};
use stoker_edge::tls::Tls;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::trust::Authority;

fn table(uid: &str, generation: i64) -> TableVersion {
    TableVersion { uid: uid.into(), generation }
}

fn reply(serving: Option<TableVersion>, in_flight: &[(&str, u64)]) -> ScrapeReply {
    let arms = in_flight
        .iter()
        .map(|(revision, in_flight)| ArmState {
            revision: (*revision).into(),
            ready_endpoints: 1,
            in_flight: *in_flight,
        })
        .collect();
    ScrapeReply { process: "p".into(), serving, arms, ..ScrapeReply::default() }
}

fn view(replies: Vec<Result<ScrapeReply, &str>>) -> RouterView {
    let named = replies.into_iter().enumerate();
    RouterView {
        replies: named.map(|(i, reply)| (format!("pod-{i}"), reply.map_err(str::to_owned))).collect(),
    }
}

#[test]
fn a_table_is_verified_only_when_every_router_serves_it_or_a_later_one() {
    let serves = |uid: &str, generation| Ok(reply(Some(table(uid, generation)), &[]));
    let refusing =
        ScrapeReply { refused: Some("weights are wrong".into()), ..reply(Some(table("a", 2)), &[]) };
    let cases = [
        (view(vec![]), Some("no router is running yet")),
        (view(vec![serves("a", 3), serves("a", 4)]), None),
        (
            view(vec![serves("a", 3), serves("a", 2)]),
            Some("router pod-1 serves generation 2 of the table, not 3"),
        ),
        (
            view(vec![serves("b", 9)]),
            Some("router pod-0 serves the table of a deleted object of the same name"),
        ),
        (view(vec![Ok(reply(None, &[]))]), Some("router pod-0 has no table of this model yet")),
        (view(vec![Err("no answer within 1 s"), serves("a", 3)]), Some("router pod-0: no answer within 1 s")),
        (
            view(vec![Ok(refusing)]),
            Some("router pod-0 serves generation 2 of the table, not 3: weights are wrong"),
        ),
    ];
    for (view, sentence) in cases {
        assert_eq!(view.unverified(&table("a", 3)).as_deref(), sentence, "{view:?}");
    }
}

#[test]
fn requests_in_flight_are_summed_and_silence_is_told() {
    let both = view(vec![Ok(reply(None, &[("a", 2), ("b", 1)])), Err("gone"), Ok(reply(None, &[("a", 3)]))]);
    assert_eq!(both.in_flight(), BTreeMap::from([("a".into(), 5), ("b".into(), 1)]));
    assert_eq!(both.unreadable(), None);
    assert_eq!(view(vec![Err("gone")]).unreadable().as_deref(), Some("router pod-0: gone"));
    assert_eq!(view(vec![]).unreadable().as_deref(), Some("no router is running yet"));
}

#[test]
fn a_revision_is_reached_by_one_router_that_knows_a_ready_pod() {
    let knows = |pods: u32| {
        let mut answer = reply(Some(table("a", 3)), &[("digits-1", 0)]);
        answer.arms[0].ready_endpoints = pods;
        Ok(answer)
    };
    let nobody = Some("no router knows a ready pod of digits-1 yet");
    let cases = [
        (view(vec![]), Some("no router is running yet")),
        (view(vec![Err("no answer within 1 s")]), None),
        (view(vec![knows(0), Err("gone")]), nobody),
        (view(vec![knows(0), knows(2)]), None),
        (view(vec![Ok(reply(None, &[]))]), nobody),
    ];
    for (view, sentence) in cases {
        assert_eq!(view.unreachable("digits-1").as_deref(), sentence, "{view:?}");
    }
}

fn slice(namespace: &str, endpoints: &Value) -> Arc<EndpointSlice> {
    let metadata = json!({"name": "s", "namespace": namespace});
    Arc::new(
        serde_json::from_value(json!({"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints}))
            .unwrap(),
    )
}

#[test]
fn routers_that_may_hold_requests_are_asked_and_each_once() {
    let endpoint = |pod: &str, address: &str, conditions: Value| json!({"addresses": [address], "conditions": conditions, "targetRef": {"kind": "Pod", "name": pod}});
    let own = json!([
        endpoint("ready", "10.0.0.1", json!({"ready": true, "serving": true, "terminating": false})),
        endpoint("starting", "10.0.0.2", json!({"ready": false, "serving": false, "terminating": false})),
        endpoint("leaving", "10.0.0.3", json!({"ready": false, "serving": true, "terminating": true})),
        endpoint("gone", "10.0.0.4", json!({"ready": false, "serving": false, "terminating": true})),
        endpoint("unset", "10.0.0.5", json!({})),
        endpoint("nowhere", "x", json!({"serving": true})),
    ]);
    let twice = json!([endpoint("ready", "fd00::1", json!({"serving": true}))]);
    let foreign = json!([endpoint("foreign", "10.0.0.9", json!({"serving": true}))]);
    let found = endpoints(&[slice("team", &own), slice("team", &twice), slice("other", &foreign)], "team");
    let names: Vec<_> = found.iter().map(|(pod, endpoint)| (pod.as_str(), endpoint.terminating)).collect();
    assert_eq!(names, [("gone", true), ("leaving", true), ("ready", false), ("unset", false)]);
}

#[test]
fn host_names_hold_address_and_namespace() {
    for text in ["10.1.2.3", "2001:db8::1", "::1"] {
        let ip: IpAddr = text.parse().unwrap();
        let host = host("team-a", ip);
        assert_eq!(address(&host), Some(ip), "{host}");
        assert_eq!(server_name(&host).unwrap(), ServerName::try_from("stoker-router.team-a.svc").unwrap());
    }
    assert_eq!(host("team-a", [10, 1, 2, 3].into()), "10-1-2-3.team-a.pod");
    assert_eq!(address("router.example"), None);
}

/// A router of namespace `team`, as the edge of the real one serves its admin port.
async fn router(authority: &Authority, answer: &'static str, status: u16) -> (SocketAddr, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in authority.router_leaf("team", Timestamp::now()).unwrap().into_data() {
        std::fs::write(folder.path().join(name), text.0).unwrap();
    }
    let tls = Tls::mutual(folder.path(), &[objects::OPERATOR_IDENTITY]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = service_fn(move |request: Request<Incoming>| async move {
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", SCRAPE_PATH));
        let mut response = Response::new(Full::new(Bytes::from_static(answer.as_bytes())));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        Ok::<_, Infallible>(response)
    });
    let options = Options { tls: Some(tls), ..Options::small() };
    tokio::spawn(listen::serve(listener, service, options, Drain::new(Duration::ZERO)));
    (address, folder)
}

#[tokio::test]
async fn a_router_is_asked_over_mutual_tls_by_its_namespaces_name() {
    let (authority, _) = Authority::generate(Timestamp::now()).unwrap();
    let (stranger, _) = Authority::generate(Timestamp::now()).unwrap();
    let (address, _folder) = router(&authority, r#"{"process": "p", "serving": null}"#, 200).await;
    let ours = http_client(authority.client_config(Timestamp::now()).unwrap());
    let theirs = http_client(stranger.client_config(Timestamp::now()).unwrap());
    let to = |namespace: &str| format!("{}:{}", host(namespace, address.ip()), address.port());

    assert_eq!(ask(&ours, &to("team"), Bytes::new()).await, Ok(reply(None, &[])));
    // A second question goes over the same connection.
    assert_eq!(ask(&ours, &to("team"), Bytes::new()).await, Ok(reply(None, &[])));
    for (http, namespace) in [(&ours, "other"), (&theirs, "team")] {
        let answer = ask(http, &to(namespace), Bytes::new()).await;
        assert!(matches!(&answer, Err(Unanswered::Other(why)) if why.contains("certificate")), "{answer:?}");
    }
}

#[tokio::test]
async fn what_a_router_says_wrongly_is_told() {
    let (authority, _) = Authority::generate(Timestamp::now()).unwrap();
    let http = http_client(authority.client_config(Timestamp::now()).unwrap());
    for (answer, status, told) in
        [("{}", 200, "cannot be read"), ("no such route", 500, "500 Internal Server Error: no such")]
    {
        let (address, _folder) = router(&authority, answer, status).await;
        let to = format!("{}:{}", host("team", address.ip()), address.port());
        let answer = ask(&http, &to, Bytes::new()).await;
        assert!(matches!(&answer, Err(Unanswered::Other(why)) if why.contains(told)), "{answer:?}");
    }
}

#[tokio::test]
async fn a_process_that_is_gone_is_told_from_one_that_is_silent() {
    let (authority, _) = Authority::generate(Timestamp::now()).unwrap();
    let http = http_client(authority.client_config(Timestamp::now()).unwrap());
    // Bound and dropped: nobody listens there by now.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let to = format!("{}:{}", host("team", address.ip()), address.port());
    let answer = ask(&http, &to, Bytes::new()).await;
    assert!(matches!(answer, Err(Unanswered::Refused(_))), "{answer:?}");

    // A full queue of connections drops what comes, as a dead node does.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let listener = socket.listen(1).unwrap();
    let mut queue = Vec::new();
    while let Ok(Ok(stream)) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        queue.push(stream);
    }
    let to = format!("{}:{}", host("team", address.ip()), address.port());
    let answer = ask(&http, &to, Bytes::new()).await;
    assert!(matches!(answer, Err(Unanswered::Unreachable(_))), "{answer:?}");
    drop(listener);
}

#[test]
fn a_router_that_is_leaving_and_cannot_be_connected_to_is_not_waited_for() {
    let endpoint = |serving, terminating| Endpoint { address: [10, 0, 0, 1].into(), serving, terminating };
    let (ready, leaving, dead) = (endpoint(true, false), endpoint(true, true), endpoint(false, true));
    let refused = Unanswered::Refused(String::new());
    let unreachable = Unanswered::Unreachable(String::new());
    let silent = Unanswered::Other("no answer within 1 s".into());
    let gone = |why: &Unanswered| [ready, leaving, dead].map(|endpoint| endpoint.is_gone(why));
    assert_eq!(gone(&refused), [false, true, true]);
    assert_eq!(gone(&unreachable), [false, false, true]);
    assert_eq!(gone(&silent), [false, false, false]);
}

#[tokio::test]
async fn nothing_is_concluded_before_the_list_of_routers_is_read() {
    let client = crate::fake_api::Server::default().client();
    let routers = Routers::new(client, None);
    let request = ScrapeRequest { route: "digits".into(), expect: None };
    let view = routers.scrape("team", &request).await;
    assert_eq!(
        view.unreadable().as_deref(),
        Some("router stoker-router: the operator has no certificate yet")
    );
    let (authority, _) = Authority::generate(Timestamp::now()).unwrap();
    routers.trust(authority.client_config(Timestamp::now()).unwrap());
    let view = routers.scrape("team", &request).await;
    assert_eq!(
        view.unreadable().as_deref(),
        Some("router stoker-router: the list of routers has not been read yet")
    );
}

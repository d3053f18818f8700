//! The CA's life, and when a certificate is worn.

use serde_json::json;

use super::*;
use crate::fake_api::Server;

const CA: &str = "/api/v1/namespaces/stoker-system/secrets/stoker-ca";

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn after(days: i64) -> Timestamp {
    now() + SignedDuration::from_hours(24 * days)
}

async fn load(server: &Server, now: Timestamp) -> Result<Authority, Error> {
    Authority::load_or_create(&server.client(), &Calls::default(), "stoker-system", now).await
}

#[tokio::test]
async fn the_ca_is_made_once_and_read_from_then_on() {
    let server = Server::default();
    let first = load(&server, now()).await.unwrap();
    let asked = server.writes();
    assert_eq!(asked[0].0, "POST /api/v1/namespaces/stoker-system/secrets");
    assert_eq!(asked[0].1["metadata"]["name"], "stoker-ca");
    let second = load(&server, after(1)).await.unwrap();
    assert_eq!(server.writes().len(), 0);
    assert_eq!(first.0.pem, second.0.pem);
    // What one signed is good for the other.
    let leaf = first.router_leaf("team", now()).unwrap();
    assert_eq!(second.why_renew(Some(&leaf.into_data()), "team", after(1)), None);
}

#[tokio::test]
async fn of_two_that_start_at_once_both_end_with_the_same_ca() {
    let server = Server::default();
    let first = load(&server, now()).await.unwrap();
    server.hide_once(CA);
    let second = load(&server, now()).await.unwrap();
    assert_eq!(first.0.pem, second.0.pem);
}

#[tokio::test]
async fn a_ca_near_its_end_is_replaced() {
    let server = Server::default();
    let first = load(&server, now()).await.unwrap();
    let second = load(&server, after(9 * 365 + 1)).await.unwrap();
    assert_ne!(first.0.pem, second.0.pem);
    assert_eq!(load(&server, after(9 * 365 + 2)).await.unwrap().0.pem, second.0.pem);
}

#[tokio::test]
async fn a_secret_that_holds_no_ca_is_named_and_not_overwritten() {
    let server = Server::default();
    let bad = json!({"metadata": {"name": "stoker-ca"}, "data": {"ca.crt": "eA==", "ca.key": "eA=="}});
    server.put(CA, bad);
    let error = load(&server, now()).await.err().expect("it is no CA").to_string();
    assert!(error.contains("stoker-system/stoker-ca") && error.contains("delete it"), "{error}");
    assert_eq!(server.get(CA).unwrap()["data"]["ca.crt"], "eA==");
}

#[test]
fn a_certificate_is_renewed_for_a_reason() {
    let (authority, _) = Authority::generate(now()).unwrap();
    let (other, _) = Authority::generate(now()).unwrap();
    let data = |authority: &Authority| authority.router_leaf("team", now()).unwrap().into_data();
    // As an earlier release made them: for answering alone.
    let mut answering = data(&authority);
    let mut params = certificate::leaf(
        vec![objects::ROUTER_IDENTITY.into(), router_identity("team")],
        Kind::Both,
        Validity::starting(now(), LEAF_LIFETIME),
    )
    .unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let old = params.signed_by(&KeyPair::generate().unwrap(), &authority.0.issuer).unwrap();
    answering.insert("tls.crt".into(), ByteString(old.pem().into_bytes()));
    let mut broken = data(&authority);
    broken.insert("tls.crt".into(), ByteString(b"x".to_vec()));
    let cases = [
        (Some(data(&authority)), "team", now(), None),
        (Some(data(&authority)), "team", after(240), None),
        (Some(data(&authority)), "team", after(250), Some("last third")),
        (Some(data(&authority)), "team", after(400), Some("last third")),
        (Some(data(&authority)), "other", now(), Some("stoker-router.other.svc")),
        (Some(data(&other)), "team", now(), Some("another CA")),
        (Some(broken), "team", now(), Some("cannot be read")),
        (Some(answering), "team", now(), Some("cannot call each other")),
        (None, "team", now(), Some("there is none")),
    ];
    for (data, namespace, at, why) in cases {
        let told = authority.why_renew(data.as_ref(), namespace, at);
        assert_eq!(told.is_some(), why.is_some(), "{told:?} {why:?}");
        assert!(told.unwrap_or_default().contains(why.unwrap_or_default()), "{why:?}");
    }
}

#[test]
fn a_leaf_says_who_it_is_and_does_not_outlive_the_ca() {
    let (authority, _) = Authority::generate(now()).unwrap();
    let leaf = authority.router_leaf("team", after(3640)).unwrap();
    let read = certificate::read(leaf.certificate.as_bytes()).unwrap();
    assert_eq!(read.names, [objects::ROUTER_IDENTITY, "stoker-router.team.svc"]);
    assert_eq!(read.validity.not_after, authority.0.validity.not_after);
    let early =
        certificate::read(authority.router_leaf("team", now()).unwrap().certificate.as_bytes()).unwrap();
    assert_eq!(early.validity.not_after, now() + LEAF_LIFETIME);
    assert!(early.validity.not_before < now(), "clocks differ");
}

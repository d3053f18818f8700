//! The rule as a table, and the loop around it.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::*;
use crate::fake_api::Server;
use crate::fence::Closed;
use crate::fence::tests::Hand;

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/stoker-system/leases/stoker";

fn spec(holder: Option<&str>, seconds: Option<i32>) -> LeaseSpec {
    LeaseSpec {
        holder_identity: holder.map(str::to_owned),
        lease_duration_seconds: seconds,
        ..LeaseSpec::default()
    }
}

#[test]
fn a_lease_is_taken_only_when_it_is_free_or_was_seen_unchanged_for_its_duration() {
    let wait = |seconds| Action::Wait(Duration::from_secs(seconds));
    let cases = [
        (None, 0, Action::Create),
        (Some(spec(None, Some(15))), 0, Action::Take),
        (Some(spec(Some(""), Some(15))), 0, Action::Take),
        (Some(spec(Some("me"), Some(15))), 0, Action::Renew),
        (Some(spec(Some("you"), Some(15))), 0, wait(15)),
        (Some(spec(Some("you"), Some(15))), 14, wait(1)),
        (Some(spec(Some("you"), Some(15))), 15, Action::Take),
        // The holder's duration counts, not ours.
        (Some(spec(Some("you"), Some(60))), 20, wait(40)),
        (Some(spec(Some("you"), Some(1))), 2, Action::Take),
        // Without a duration, or with one that makes no sense, ours.
        (Some(spec(Some("you"), None)), 10, wait(5)),
        (Some(spec(Some("you"), Some(-1))), 10, wait(5)),
    ];
    for (lease, unchanged, action) in cases {
        let found = evaluate(lease.as_ref(), "me", Duration::from_secs(unchanged), Duration::from_secs(15));
        assert_eq!(found, action, "{lease:?} unchanged for {unchanged} s");
    }
}

#[test]
fn times_and_transitions_tell_renewing_from_taking_over() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let duration = Duration::from_secs(15);
    let first = held(None, "a", duration, at(10));
    assert_eq!((first.lease_transitions, first.lease_duration_seconds), (Some(0), Some(15)));
    let renewed = held(Some(&first), "a", duration, at(20));
    assert_eq!(
        (renewed.acquire_time.clone(), renewed.renew_time.clone()),
        (Some(MicroTime(at(10))), Some(MicroTime(at(20))))
    );
    assert_eq!(renewed.lease_transitions, Some(0));
    let taken = held(Some(&renewed), "b", duration, at(30));
    assert_eq!((taken.acquire_time, taken.lease_transitions), (Some(MicroTime(at(30))), Some(1)));
    let free = released(&renewed, at(40));
    assert_eq!(evaluate(Some(&free), "b", Duration::ZERO, duration), Action::Take);
}

fn seat(me: &str, watch: Option<&str>, duration: Duration) -> Seat {
    let namespace = "stoker-system".to_owned();
    Seat { name: name(&namespace, watch), namespace, me: me.to_owned(), duration }
}

fn election(server: &Server, duration: Duration) -> Election {
    Election::new(server.client(), Calls::default(), Fence::default(), seat("me", None, duration))
}

fn holder(server: &Server) -> Value {
    server.get(LEASE).unwrap()["spec"]["holderIdentity"].clone()
}

#[tokio::test]
async fn a_free_lease_is_won_and_given_back() {
    let server = Server::default();
    let lead = election(&server, Duration::from_mins(1)).win().await;
    assert_eq!(holder(&server), "me");
    assert_eq!(lead.keep(std::future::ready(())).await, Ended::Released);
    assert_eq!(holder(&server), "");
}

#[tokio::test]
async fn a_lead_that_another_took_is_lost() {
    let server = Server::default();
    let lead = election(&server, Duration::from_millis(30)).win().await;
    server.put(LEASE, json!({"metadata": {"name": "stoker"}, "spec": {"holderIdentity": "you"}}));
    assert_eq!(lead.keep(std::future::pending()).await, Ended::Lost("you leads now".to_owned()));
    assert_eq!(holder(&server), "you");
}

#[tokio::test]
async fn a_touch_by_somebody_who_does_not_take_it_is_no_loss() {
    let server = Server::default();
    let mut lead = election(&server, Duration::from_mins(1)).win().await;
    let mut touched = server.get(LEASE).unwrap();
    touched["metadata"]["annotations"] = json!({"note": "looked at"});
    server.put(LEASE, touched);
    assert!(lead.renew().await.is_ok());
    assert_eq!(holder(&server), "me");
}

/// A client of an API server that says nothing, or is not there.
fn away(silent: bool) -> Client {
    let service = tower::service_fn(move |_: http::Request<kube::client::Body>| async move {
        if silent {
            std::future::pending::<()>().await;
        }
        Err::<http::Response<kube::client::Body>, _>(std::io::Error::from(
            std::io::ErrorKind::ConnectionRefused,
        ))
    });
    Client::new(service, "default")
}

#[tokio::test]
async fn a_lead_that_cannot_be_renewed_in_time_is_given_up_for_now() {
    for silent in [true, false] {
        let (calls, fence) = (Calls::default(), Fence::default());
        let seat = seat("me", None, Duration::from_millis(30));
        let lead = Election::new(away(silent), calls, fence.clone(), seat);
        let lead = lead.leads(Lease::default(), fence.now());
        let ended = lead.keep(std::future::pending()).await;
        assert!(fence.check().is_err());
        assert!(matches!(&ended, Ended::Unrenewed(why) if why.contains("could not be renewed")), "{ended:?}");
    }
}

#[tokio::test]
async fn a_lead_is_regained_only_when_nobody_else_led_meanwhile() {
    let lease = |holder: &str| json!({"metadata": {"name": "stoker"}, "spec": {"holderIdentity": holder}});
    for (live, leads) in [
        (Some(lease("me")), Ok(())),
        (Some(lease("you")), Err("you".to_owned())),
        (Some(lease("")), Err("nobody".to_owned())),
        (None, Err("nobody".to_owned())),
    ] {
        let server = Server::default();
        if let Some(live) = live {
            server.put(LEASE, live);
        }
        server.writes();
        let again = election(&server, Duration::from_secs(15)).regain().await.map(drop);
        assert_eq!(again, leads);
        // What is not ours is not touched.
        assert_eq!(server.writes().is_empty(), leads.is_err());
    }
}

#[tokio::test]
async fn another_leader_is_waited_for_however_old_its_timestamps_are() {
    let server = Server::default();
    let stale = json!({"holderIdentity": "you", "leaseDurationSeconds": 15, "renewTime": "2001-01-01T00:00:00.000000Z"});
    server.put(LEASE, json!({"metadata": {"name": "stoker"}, "spec": stale}));
    let won =
        election(&server, Duration::from_secs(15)).try_once(&mut None, &mut String::new()).await.unwrap();
    assert!(won.is_none());
    assert_eq!(holder(&server), "you");
}

#[tokio::test]
async fn writes_pass_while_the_lead_is_young_and_never_after_it() {
    let (server, hand) = (Server::default(), Hand::default());
    let fence = hand.fence();
    let election = |duration| {
        Election::new(server.client(), Calls::default(), fence.clone(), seat("me", None, duration))
    };
    assert_eq!(fence.check(), Err(Closed::NoLead));
    let mut lead = election(Duration::from_secs(15)).win().await;
    // A third of the time is left for what is on its way.
    hand.pass(9);
    assert_eq!(fence.check(), Ok(()));
    hand.pass(1);
    let lasts = Duration::from_secs(10);
    assert_eq!(fence.check(), Err(Closed::Old { age: lasts, lasts }));
    // Nobody took it, so it goes on.
    assert!(lead.renew().await.is_ok());
    assert_eq!(fence.check(), Ok(()));
    // It counts from the beginning of the renewal, however long the answer takes.
    let slow = hand.clone();
    server.after(&format!("PUT {LEASE}"), move || slow.pass(10));
    assert!(lead.renew().await.is_ok());
    assert!(matches!(fence.check(), Err(Closed::Old { .. })));
    assert!(lead.renew().await.is_ok());
    // When the Lease is given back, nothing may follow.
    let open_at_release = Arc::new(Mutex::new(None));
    let (found, watched) = (Arc::clone(&open_at_release), fence.clone());
    server.after(&format!("PUT {LEASE}"), move || *found.lock().unwrap() = Some(watched.check()));
    assert_eq!(lead.keep(std::future::ready(())).await, Ended::Released);
    assert_eq!(*open_at_release.lock().unwrap(), Some(Err(Closed::NoLead)));
    // A lead that another took while this process slept, and one that is regained.
    let lead = election(Duration::from_millis(30)).win().await;
    let holds = |holder: &str| {
        let mut lease = server.get(LEASE).unwrap();
        lease["spec"]["holderIdentity"] = json!(holder);
        server.put(LEASE, lease);
    };
    holds("you");
    hand.pass(1);
    assert!(matches!(fence.check(), Err(Closed::Old { .. })), "it does not know yet");
    assert!(matches!(lead.keep(std::future::pending()).await, Ended::Unrenewed(_) | Ended::Lost(_)));
    assert_eq!(fence.check(), Err(Closed::NoLead));
    holds("me");
    assert!(election(Duration::from_secs(15)).regain().await.is_ok());
    assert_eq!(fence.check(), Ok(()));
}

/// Another controller had one Lease name for all its instances of a namespace, so that those for different objects waited for
/// each other for ever (Argo Rollouts 4768). Ours: one Lease for what is watched.
#[tokio::test]
async fn operators_that_watch_different_namespaces_do_not_wait_for_each_other() {
    let server = Server::default();
    let lead = async |me: &str, watch: Option<&str>| {
        let seat = seat(me, watch, Duration::from_secs(15));
        let election = Election::new(server.client(), Calls::default(), Fence::default(), seat);
        election.try_once(&mut None, &mut String::new()).await.unwrap().is_some()
    };
    assert!(lead("all", None).await);
    assert!(lead("red", Some("red")).await, "it waits for an operator of other objects");
    assert!(lead("blue", Some("blue")).await, "it waits for an operator of other objects");
    // Those of the same objects do.
    assert!(!lead("all-2", None).await);
    assert!(!lead("red-2", Some("red")).await);
    // The name is the same in a namespace of its own, so that an install of one namespace is like any other.
    assert_eq!(name("red", Some("red")), name("stoker-system", None));
    assert_eq!(holder(&server), "all");
}

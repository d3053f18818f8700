//! Which requests pass, by a clock that is set by hand.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use http::Method;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use super::*;
use crate::call::{CallError, Calls};
use crate::fake_api::Server;

const SECOND: Duration = Duration::from_secs(1);
const MAP: &str = "/api/v1/namespaces/team/configmaps/digits";

/// A clock that is set by hand, in seconds.
#[derive(Clone, Default)]
pub(crate) struct Hand(Arc<AtomicU64>);

impl Hand {
    /// A fence that goes by this clock.
    pub(crate) fn fence(&self) -> Fence {
        let clock = self.clone();
        Fence::new(move || Duration::from_secs(clock.0.load(Ordering::SeqCst)))
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

#[test]
fn a_lead_counts_until_it_is_old_or_given_up() {
    let hand = Hand::default();
    let fence = hand.fence();
    assert_eq!(fence.check(), Err(Closed::NoLead), "nobody has won it yet");
    hand.pass(100);
    fence.open(fence.now(), 10 * SECOND);
    hand.pass(9);
    assert_eq!(fence.check(), Ok(()));
    hand.pass(1);
    assert_eq!(fence.check(), Err(Closed::Old { age: 10 * SECOND, lasts: 10 * SECOND }));
    // What counts is when the renewal was begun, not when its answer came.
    fence.open(fence.now().checked_sub(4 * SECOND).unwrap(), 10 * SECOND);
    hand.pass(5);
    assert_eq!(fence.check(), Ok(()));
    hand.pass(1);
    assert!(fence.check().is_err());
    fence.open(fence.now(), 10 * SECOND);
    fence.close();
    assert_eq!(fence.check(), Err(Closed::NoLead));
}

#[test]
fn the_clock_of_the_machine_goes_on() {
    let fence = Fence::default();
    let (before, monotonic) = (fence.now(), clock_gettime(ClockId::Monotonic));
    assert!(!before.is_zero());
    assert!(fence.now() >= before);
    // It counts what the monotonic clock counts, and suspension beside that.
    assert!(fence.now() >= Duration::try_from(monotonic).unwrap());
}

#[tokio::test]
async fn with_an_old_lead_nothing_is_changed_and_everything_is_read() {
    let (server, hand) = (Server::default(), Hand::default());
    let fence = hand.fence();
    let client = guard(ClientBuilder::new(server.service(), "default"), &fence);
    let (api, calls) = (Api::<ConfigMap>::namespaced(client, "team"), Calls::default());
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "digits"}})).unwrap();
    let (post, apply) = (PostParams::default(), PatchParams::apply("test").force());
    fence.open(fence.now(), 10 * SECOND);
    calls.make("create ConfigMap", "digits", api.create(&post, &map)).await.unwrap();
    server.writes();
    hand.pass(17);
    let body = Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}}));
    let refused = [
        calls.make("create ConfigMap", "other", api.create(&post, &map)).await.map(drop),
        calls.make("replace ConfigMap", "digits", api.replace("digits", &post, &map)).await.map(drop),
        calls.make("apply ConfigMap", "digits", api.patch("digits", &apply, &body)).await.map(drop),
        calls.make("patch status", "digits", api.patch_status("digits", &apply, &body)).await.map(drop),
        calls
            .make("delete ConfigMap", "digits", api.delete("digits", &DeleteParams::default()))
            .await
            .map(drop),
    ];
    for one in refused {
        let error = one.unwrap_err();
        assert!(matches!(&error, CallError::NotSent { why: Closed::Old { .. }, .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("last renewed 17.0 s ago") && text.contains("10.0 s after"), "{text}");
    }
    assert_eq!(server.writes(), []);
    calls.make("get ConfigMap", "digits", api.get("digits")).await.unwrap();
    fence.open(fence.now(), 10 * SECOND);
    calls.make("apply ConfigMap", "digits", api.patch("digits", &apply, &body)).await.unwrap();
    assert_eq!(server.get(MAP).unwrap()["data"]["a"], "b");
}

#[tokio::test]
async fn a_write_that_is_to_be_repeated_is_asked_about_again() {
    let hand = Hand::default();
    let fence = hand.fence();
    let sent = Arc::new(AtomicUsize::new(0));
    let (count, clock) = (Arc::clone(&sent), hand.clone());
    // Too busy at first, and by the time of the repetition the lead is old.
    let busy = service_fn(move |_: Request<Body>| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        clock.pass(10);
        async move {
            let mut answer = Response::new(Body::from(b"{}".to_vec()));
            *answer.status_mut() =
                if number == 0 { http::StatusCode::TOO_MANY_REQUESTS } else { http::StatusCode::OK };
            Ok::<_, Infallible>(answer)
        }
    });
    let client = guard(ClientBuilder::new(busy, "default"), &fence);
    let request = |method: Method| {
        let request = Request::builder().method(method).uri("/api/v1/namespaces/team/configmaps/digits");
        request.body(Body::from(Vec::new())).unwrap()
    };
    fence.open(fence.now(), 10 * SECOND);
    let error = client.send(request(Method::PUT)).await.unwrap_err();
    assert!(matches!(error, kube::Error::Service(why) if why.is::<Closed>()));
    assert_eq!(sent.swap(0, Ordering::SeqCst), 1);
    // A read is repeated all the same.
    client.send(request(Method::GET)).await.unwrap();
    assert_eq!(sent.load(Ordering::SeqCst), 2);
}

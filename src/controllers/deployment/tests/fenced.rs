//! An operator that is paused in the middle of a look, past its Lease, and goes on without knowing.

use std::time::Duration;

use kube::client::ClientBuilder;

use super::*;
use crate::fence::tests::Hand;
use crate::fence::{Fence, guard};

const LASTS: Duration = Duration::from_secs(10);

/// A ModelDeployment that is looked at by an operator behind a fence.
fn fenced(fence: &Fence) -> Looking {
    let server = Server::default();
    fence.open(fence.now(), LASTS);
    let client = guard(ClientBuilder::new(server.service(), "default"), fence);
    Looking::with(server, client)
}

#[tokio::test]
async fn nothing_is_written_by_who_was_paused_past_its_lease() {
    // Where it is paused, and how many writes it had made by then.
    let places = [
        (format!("GET {MODEL}"), 0),
        (format!("GET {ROUTE}"), 0),
        (STATUS.to_owned(), 1),
        (format!("PUT {ROUTE}"), 2),
    ];
    for (place, before) in places {
        let hand = Hand::default();
        let fence = hand.fence();
        let mut looking = fenced(&fence);
        let (a, b) = looking.trying().await;
        // A rollback: status, table, pods and Events would be written.
        looking.kill_pod(&b);
        looking.server.writes();
        let clock = hand.clone();
        looking.server.after(&place, move || clock.pass(17));
        let asked = looking.look().await;
        assert_eq!(asked.len(), before, "paused after {place}: {asked:?}");
        // It looks again and again, and reads, and writes nothing: no status that blames the API server either.
        let status = looking.status();
        for _ in 0..3 {
            assert_eq!(looking.look().await, [], "paused after {place}");
        }
        assert_eq!(looking.status(), status);
        // When it turns out that nobody else has led, it goes on where it was.
        fence.open(fence.now(), LASTS);
        for _ in 0..3 {
            looking.look().await;
        }
        let status = looking.status();
        assert_eq!(
            (&status["stable"], &status["rejected"][0]["revision"]),
            (&json!(a), &json!(b)),
            "paused after {place}: {status}"
        );
        assert_eq!(arms(&looking.server), [a]);
        assert!(!status["message"].as_str().unwrap().contains("renewed"), "{status}");
    }
}

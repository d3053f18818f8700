//! Which requests count as writes, and what can happen to one.

use http::{Method, StatusCode};
use serde_json::Value;

/// What happens at a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The operator dies; the write does not reach the API server.
    KillBefore,
    /// The write is done, and the operator dies before it hears of it.
    KillAfter,
    /// The write is done, and the connection breaks instead of an answer.
    LoseReply,
    /// The API server answers this; the write is not done.
    Answer(StatusCode),
    /// All watches break off.
    DropWatches,
    /// All watches end with an event that says 410: what they would go on from is no longer there.
    ExpireWatches,
    /// All watches break off, and the next try of each is answered with the status 410.
    RefuseWatches,
}

impl Fault {
    /// All that the sweep tries, with a name for each. The first two are the kill points.
    pub const ALL: [(&'static str, Self); 9] = [
        ("killed-before", Self::KillBefore),
        ("killed-after", Self::KillAfter),
        ("reply-lost", Self::LoseReply),
        ("409", Self::Answer(StatusCode::CONFLICT)),
        ("429", Self::Answer(StatusCode::TOO_MANY_REQUESTS)),
        ("500", Self::Answer(StatusCode::INTERNAL_SERVER_ERROR)),
        ("watches-dropped", Self::DropWatches),
        ("410-in-stream", Self::ExpireWatches),
        ("410-as-status", Self::RefuseWatches),
    ];

    /// Whether the operator dies of it.
    pub fn kills(self) -> bool {
        matches!(self, Self::KillBefore | Self::KillAfter)
    }
}

/// Which writes are disturbed, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disturbance {
    /// What happens.
    pub fault: Fault,
    /// The first write that it happens to, counted from 1.
    pub from: usize,
    /// It happens again so many writes later, and so on; but never twice to the same kind of write, or an operator that
    /// repeats its work after each might never get beyond it.
    pub every: Option<usize>,
}

impl Disturbance {
    /// Once, at this write.
    pub fn once(fault: Fault, from: usize) -> Self {
        Self { fault, from, every: None }
    }

    /// Whether it happens to the write of this number, which was not hit before.
    pub(super) fn hits(self, number: usize) -> bool {
        let later = number.checked_sub(self.from);
        match self.every {
            None => later == Some(0),
            Some(every) => later.is_some_and(|later| later.is_multiple_of(every.max(1))),
        }
    }
}

/// A write that the operator sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Verb, place, and what tells it from others of the same place.
    pub what: String,
    /// What the API server answered; none when it was not asked.
    pub status: Option<u16>,
}

impl Write {
    /// Whether the API server did it.
    pub fn was_accepted(&self) -> bool {
        self.status.is_some_and(|status| status < 400)
    }
}

/// Whether a request is a write that counts. Renewals of the Lease do not: they come by the clock and change nothing.
pub(super) fn counts(method: &Method, path: &str) -> bool {
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    !reads && !path.starts_with("/apis/coordination.k8s.io/")
}

/// A write in a line for people: `PATCH modeldeployments/digits/status: Progressing 1/2`.
pub(super) fn describe(method: &Method, path: &str, body: &[u8]) -> String {
    let place = path.split_once("/namespaces/").map_or(path, |(_, rest)| rest);
    let place = place.split_once('/').map_or(place, |(_, rest)| rest);
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let more = if path.ends_with("/status") {
        format!("{} {}", text(&body["status"]["phase"]), text(&body["status"]["step"]))
    } else if path.contains("/events.k8s.io/") {
        text(&body["reason"])
    } else if *method == Method::POST {
        text(&body["metadata"]["name"])
    } else {
        String::new()
    };
    let line = format!("{method} {place}");
    if more.trim().is_empty() { line } else { format!("{line}: {}", more.trim()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_and_renewals_of_the_lease_do_not_count() {
        let cases = [
            (Method::GET, "/api/v1/namespaces/a/pods", false),
            (Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/a/leases/stoker", false),
            (Method::PUT, "/apis/stoker.dev/v1alpha1/namespaces/a/modelroutes/digits", true),
            (Method::DELETE, "/api/v1/namespaces/a/services/digits", true),
            (Method::POST, "/apis/events.k8s.io/v1/namespaces/a/events", true),
            (Method::PATCH, "/apis/apps/v1/namespaces/a/deployments/x", true),
        ];
        for (method, path, wanted) in cases {
            assert_eq!(counts(&method, path), wanted, "{method} {path}");
        }
    }

    #[test]
    fn a_disturbance_hits_once_or_again_and_again() {
        let once = Disturbance::once(Fault::LoseReply, 3);
        let again = Disturbance { every: Some(2), ..once };
        let hits = |one: Disturbance| (1..8).filter(|number| one.hits(*number)).collect::<Vec<_>>();
        assert_eq!(hits(once), [3]);
        assert_eq!(hits(again), [3, 5, 7]);
    }

    #[test]
    fn a_line_says_what_was_written() {
        let status = json!({"status": {"phase": "Progressing", "step": "1/2"}}).to_string();
        let path = "/apis/stoker.dev/v1alpha1/namespaces/a/modeldeployments/digits/status";
        let line = describe(&Method::PATCH, path, status.as_bytes());
        assert_eq!(line, "PATCH modeldeployments/digits/status: Progressing 1/2");
        let event = json!({"reason": "Promoted", "metadata": {"name": "x.1"}}).to_string();
        let path = "/apis/events.k8s.io/v1/namespaces/a/events";
        assert_eq!(describe(&Method::POST, path, event.as_bytes()), "POST events: Promoted");
        assert_eq!(describe(&Method::DELETE, "/api/v1/namespaces/a/pods/p", b""), "DELETE pods/p");
    }
}

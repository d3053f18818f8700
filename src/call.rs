//! Remote calls: each has a deadline and ends in one of four counters: ok, failed, timed out, or not sent at all.

use std::future::Future;
use std::time::Duration;

use kube::core::Status;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::fence::Closed;

/// Longest time that a call to the API server may take. The client retries 429 and 503 by itself within it.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why a remote call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The API server answered with an error, or could not be reached.
    #[error("{what}: {}", stoker_edge::causes(cause))]
    Failed {
        /// Verb, kind and name.
        what: String,
        /// What the client says.
        #[source]
        cause: Box<kube::Error>,
    },
    /// Nothing came within the deadline.
    #[error("{what}: no answer within {} s", DEADLINE.as_secs())]
    TimedOut {
        /// Verb, kind and name.
        what: String,
    },
    /// It would change something, and this operator may not lead any more.
    #[error("{what}: not sent: {why}")]
    NotSent {
        /// Verb, kind and name.
        what: String,
        /// What the fence says.
        why: Closed,
    },
}

impl CallError {
    /// What the API server answered; none when it could not be reached or did not answer.
    pub fn answer(&self) -> Option<&Status> {
        match self {
            Self::Failed { cause, .. } => match &**cause {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::TimedOut { .. } | Self::NotSent { .. } => None,
        }
    }

    /// The object was changed since it was read: read again and decide anew.
    pub fn is_conflict(&self) -> bool {
        self.answer().is_some_and(Status::is_conflict)
    }

    /// This operator may not lead any more: that is nothing to tell users.
    pub fn is_not_sent(&self) -> bool {
        matches!(self, Self::NotSent { .. })
    }

    /// An object of that name is there already.
    pub fn is_already_exists(&self) -> bool {
        self.answer().is_some_and(Status::is_already_exists)
    }

    /// The API server does not know the object.
    pub fn is_not_found(&self) -> bool {
        self.answer().is_some_and(Status::is_not_found)
    }

    /// The API server refused what we sent, and will refuse it again: the message is for the user.
    pub fn is_refusal(&self) -> bool {
        // 400: a value that cannot even be read, such as a quantity.
        self.answer().is_some_and(|status| status.is_forbidden() || status.is_invalid() || status.code == 400)
    }
}

/// What the fence says, when it let a request not pass.
fn closed(error: &kube::Error) -> Option<Closed> {
    match error {
        kube::Error::Service(cause) => cause.downcast_ref().copied(),
        _ => None,
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    call: &'static str,
    outcome: &'static str,
}

/// Counts the calls of this process.
#[derive(Clone, Debug, Default)]
pub struct Calls(Family<Labels, Counter>);

impl Calls {
    /// Shows the counters among the metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("stoker_operator_calls", "Calls to the API server by outcome", self.0.clone());
    }

    /// Makes a call. `call` is the verb and kind, the same for all objects (a metric label); `name` is the object's.
    pub async fn make<T>(
        &self,
        call: &'static str,
        name: &str,
        future: impl Future<Output = Result<T, kube::Error>> + Send,
    ) -> Result<T, CallError> {
        let what = || format!("{call} {name}");
        let (outcome, result) = match tokio::time::timeout(DEADLINE, future).await {
            Ok(Ok(value)) => ("ok", Ok(value)),
            Ok(Err(cause)) => match closed(&cause) {
                Some(why) => ("not_sent", Err(CallError::NotSent { what: what(), why })),
                None => ("failed", Err(CallError::Failed { what: what(), cause: Box::new(cause) })),
            },
            Err(_) => ("timed_out", Err(CallError::TimedOut { what: what() })),
        };
        self.0.get_or_create(&Labels { call, outcome }).inc();
        result
    }
}

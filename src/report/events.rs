//! Events: one for each transition. A failed publication is logged and dropped; it never fails a reconcile.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};
use stoker_api::names::reasons;
use stoker_decide::rollout::{Reason, Transition};
use stoker_decide::text::cut;

/// Longest note that the API server takes, in bytes.
const LONGEST: usize = 1024;

/// An Event that is not taken by then is dropped.
const PATIENCE: Duration = Duration::from_secs(5);

/// The word of a transition, for Events, the history and metrics.
pub fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::RunStarted => reasons::RUN_STARTED,
        Reason::StepStarted => reasons::STEP_STARTED,
        Reason::StableStopped => reasons::STABLE_STOPPED,
        Reason::PromoteRequested => reasons::PROMOTE_REQUESTED,
        Reason::Approved => reasons::APPROVED,
        Reason::Paused => reasons::PAUSED,
        Reason::Promoted => reasons::PROMOTED,
        Reason::RolledBack => reasons::ROLLED_BACK,
        Reason::GuardPassed => reasons::GUARD_PASSED,
        Reason::Resumed => reasons::RESUMED,
        Reason::Repinned => reasons::REPINNED,
        Reason::Aborted => reasons::ABORTED,
        Reason::Superseded => reasons::SUPERSEDED,
        Reason::Undone => reasons::UNDONE,
        Reason::Retried => reasons::RETRIED,
        Reason::RequestRefused => reasons::REQUEST_REFUSED,
    }
}

/// Publishes a transition.
pub async fn transition(recorder: &Recorder, about: &ObjectReference, transition: &Transition) {
    let warning =
        matches!(transition.reason, Reason::RolledBack | Reason::RequestRefused | Reason::StableStopped);
    let reason = word(transition.reason);
    // The recorder joins Events of one (reason, action) and keeps the first note, so the action differs for each.
    let action = format!("{reason} {}", transition.message);
    publish(recorder, about, warning, reason, &action, &transition.message).await;
}

/// Publishes something that is wrong or waited for.
pub async fn concern(recorder: &Recorder, about: &ObjectReference, reason: &'static str, message: &str) {
    news(recorder, about, true, reason, message).await;
}

/// Publishes something that happened.
pub async fn news(recorder: &Recorder, about: &ObjectReference, warning: bool, reason: &str, message: &str) {
    publish(recorder, about, warning, reason, &format!("{reason} {message}"), message).await;
}

async fn publish(
    recorder: &Recorder,
    about: &ObjectReference,
    warning: bool,
    reason: &str,
    action: &str,
    message: &str,
) {
    let event = Event {
        type_: if warning { EventType::Warning } else { EventType::Normal },
        reason: reason.to_owned(),
        note: Some(cut(message, LONGEST).to_owned()),
        action: cut(action, 128).to_owned(),
        secondary: None,
    };
    match tokio::time::timeout(PATIENCE, recorder.publish(&event, about)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(name = about.name, reason, %error, "an Event could not be published");
        }
        Err(_) => tracing::warn!(name = about.name, reason, "an Event could not be published within 5 s"),
    }
}

//! `status`: whether a ModelDeployment is settled, and how, as a code for pipelines. Pure.

use serde::Serialize;

use crate::exit::Exit;
use crate::picture::{Hold, Picture};

/// How a ModelDeployment stands. Its serialised form is the stable JSON of `status -o json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The phase; of an earlier generation when `observedGeneration` is behind.
    pub phase: String,
    /// Generation of the spec.
    pub generation: i64,
    /// The generation that phase and message speak of.
    pub observed_generation: i64,
    /// Whether nothing is under way.
    pub settled: bool,
    /// The code that `status` ends with.
    pub exit_code: u8,
    /// In a sentence.
    pub message: String,
    /// The one thing that is waited for.
    pub hold: Option<Hold>,
}

/// Judges a picture. With `through_guard`, a promotion is not settled before its guard is over.
pub fn judge(picture: &Picture, through_guard: bool) -> (Exit, Standing) {
    let exit = exit(picture, through_guard);
    let standing = Standing {
        name: picture.name.clone(),
        namespace: picture.namespace.clone(),
        phase: picture.phase.clone(),
        generation: picture.generation,
        observed_generation: picture.observed_generation,
        settled: exit != Exit::Unsettled,
        exit_code: exit.code(),
        message: picture.message.clone(),
        hold: picture.hold.clone(),
    };
    (exit, standing)
}

fn exit(picture: &Picture, through_guard: bool) -> Exit {
    // A status of an earlier generation says nothing of what was applied just now; nor does one from before a request.
    let asked = picture.request.as_ref().is_some_and(|request| !request.handled);
    if picture.is_behind() || asked {
        return Exit::Unsettled;
    }
    match picture.phase.as_str() {
        "Healthy" if through_guard && picture.guard.is_some() => Exit::Unsettled,
        "Healthy" => Exit::Well,
        "RolledBack" | "Degraded" | "Conflicted" => Exit::Unwell,
        _ => Exit::Unsettled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::{Guard, Request};

    fn of(phase: &str, generation: i64, observed_generation: i64) -> Picture {
        Picture { phase: phase.into(), generation, observed_generation, ..Picture::default() }
    }

    #[test]
    fn each_phase_has_its_code() {
        let cases = [
            ("Healthy", Exit::Well),
            ("RolledBack", Exit::Unwell),
            ("Degraded", Exit::Unwell),
            ("Conflicted", Exit::Unwell),
            ("Pending", Exit::Unsettled),
            ("Progressing", Exit::Unsettled),
        ];
        for (phase, wanted) in cases {
            assert_eq!(judge(&of(phase, 3, 3), false).0, wanted, "{phase}");
            assert_eq!(judge(&of(phase, 3, 2), false).0, Exit::Unsettled, "{phase}, not observed");
        }
    }

    #[test]
    fn the_guard_counts_where_it_is_asked_for() {
        let guarded = Picture { guard: Some(Guard::default()), ..of("Healthy", 1, 1) };
        assert_eq!(judge(&guarded, false).0, Exit::Well);
        assert_eq!(judge(&guarded, true).0, Exit::Unsettled);
    }

    #[test]
    fn a_request_that_is_not_handled_is_under_way() {
        let request = |handled| Some(Request { handled, ..Request::default() });
        let asked = |handled| Picture { request: request(handled), ..of("Healthy", 1, 1) };
        assert_eq!(judge(&asked(false), false).0, Exit::Unsettled);
        assert_eq!(judge(&asked(true), false).0, Exit::Well);
    }
}

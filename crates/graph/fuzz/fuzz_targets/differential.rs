//! Random bytes as a small graph, run by ours and by ONNX Runtime: where both answer, the answers must be the
//! same. Refusals are counted, by operator.
#![no_main]

use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};

use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use stoker_graph::{Graph, Value};
use stoker_graph_fuzz::agreement::difference;
use stoker_graph_fuzz::peer::{Answer, Peer};
use stoker_graph_fuzz::random_graph::{self, Case};
use stoker_graph_fuzz::tally::{Outcome, Tally};

/// Where to write the case, for the tests of the crate; nowhere when it is not set.
const KEEP: &str = "STOKER_FUZZ_KEEP";

static STATE: LazyLock<Mutex<(Peer, Tally)>> = LazyLock::new(Mutex::default);

fuzz_target!(init: go_on_after_panics(), |bytes: &[u8]| {
    if let Ok(Some(case)) = random_graph::make(&mut Unstructured::new(bytes)) {
        let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        let (peer, tally) = &mut *state;
        compare(&case, peer, tally);
    }
});

/// A case that is kept is one at which ours may panic: libFuzzer's way is to end the process at once, but the
/// other's answer is still wanted.
fn go_on_after_panics() {
    if std::env::var_os(KEEP).is_some() {
        std::panic::set_hook(Box::new(|_| {}));
    }
}

/// Compares the answers.
///
/// # Panics
/// Where they differ: that is a finding.
fn compare(case: &Case, peer: &mut Peer, tally: &mut Tally) {
    let keep = std::env::var_os(KEEP).map(PathBuf::from);
    let theirs = peer.run(&case.model, &case.inputs, keep.as_deref());
    let last = case.operators.last().copied().unwrap_or_default();
    match (ours(case), theirs) {
        (Ok(ours), Answer::Outputs(theirs)) => {
            for (position, (one, other)) in ours.iter().zip(&theirs).enumerate() {
                if let Some(found) = difference(&one.1, other) {
                    panic!("{} of {:?}, output {position}: {found}", one.0, case.operators);
                }
            }
            assert_eq!(ours.len(), theirs.len(), "outputs of {:?}", case.operators);
            for operator in &case.operators {
                tally.count(Outcome::Same, operator, "");
            }
        }
        // Node by node it went well, so that it must go well together.
        (Err(reason), Answer::Outputs(_)) if case.refused.is_none() => {
            panic!("{:?} is refused as a whole only: {reason}", case.operators)
        }
        (Err(reason), Answer::Outputs(_)) => tally.count(Outcome::OursRefused, last, &reason),
        (Err(reason), Answer::Refused(theirs)) => {
            tally.count(Outcome::BothRefused, last, &format!("{reason} / {theirs}"));
        }
        (Ok(_), Answer::Refused(reason)) => {
            tally.count(Outcome::TheirsRefused, named(case, &reason).unwrap_or(last), &reason);
        }
        (_, Answer::Gone) => tally.count(Outcome::TheirsGone, last, &format!("{:?}", case.operators)),
    }
}

fn ours(case: &Case) -> Result<Vec<(String, Value)>, String> {
    if let Some(reason) = &case.refused {
        return Err(reason.clone());
    }
    let graph = Graph::from_bytes(&case.model).map_err(|error| error.to_string())?;
    graph.run(case.inputs.clone()).map_err(|error| error.to_string())
}

/// The operator that a message names, or whose node it names.
fn named(case: &Case, message: &str) -> Option<&'static str> {
    let mut words = message.split(|letter: char| !letter.is_alphanumeric());
    words.find_map(|word| {
        let position = || case.operators.get(word.strip_prefix('n')?.parse::<usize>().ok()?);
        case.operators.iter().find(|operator| **operator == word).or_else(position).copied()
    })
}

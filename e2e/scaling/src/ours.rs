//! Stoker's own scaler: the code that runs in the operator.

use std::collections::BTreeMap;
use std::time::Duration;

use stoker_decide::autoscale::load::Counted;
use stoker_decide::autoscale::{Aim, Bounds, Change, Interval, Look, Pods, Scaler};

use crate::MOST;
use crate::plant::Second;
use crate::run::Controller;

/// The name of the one revision.
const REVISION: &str = "a";

/// A second as routers count it.
pub fn counted(seen: &Second) -> Counted {
    let mut counted = Counted {
        answered: seen.latencies.len() as u64,
        overloaded: seen.refused,
        in_flight: seen.in_flight,
        ..Counted::default()
    };
    for took in &seen.latencies {
        counted.latency.record(Duration::from_secs_f64(*took));
    }
    counted
}

/// The scaler of one revision.
#[derive(Debug)]
pub struct Ours {
    scaler: Scaler,
    aim: Aim,
    bounds: Bounds,
    now: Duration,
    /// What changed, and when in seconds.
    pub changes: Vec<(u64, Change)>,
}

impl Ours {
    /// Begins without knowing anything but the pods that are there.
    pub fn new(target: f64, pods: u32) -> Self {
        Self {
            scaler: Scaler::resume([(REVISION.to_owned(), pods, None)], false),
            aim: Aim { quantile: 0.99, target: Duration::from_secs_f64(target) },
            bounds: Bounds { min: 1, max: MOST, zero_after: None, down_window: Duration::from_mins(5) },
            now: Duration::ZERO,
            changes: Vec::new(),
        }
    }
}

impl Controller for Ours {
    fn name(&self) -> String {
        "stoker".to_owned()
    }

    fn second(&mut self, seen: &Second) -> u32 {
        self.now += Duration::from_secs(1);
        let interval = Interval {
            took: Duration::from_secs(1),
            offered: seen.offered,
            revisions: BTreeMap::from([(REVISION.to_owned(), counted(seen))]),
            ..Interval::default()
        };
        let pods = BTreeMap::from([(REVISION.to_owned(), Pods { wanted: seen.wanted, ready: seen.ready })]);
        let look = Look {
            now: self.now,
            counted: Ok(&interval),
            pods: &pods,
            main: REVISION,
            in_run: false,
            wake: false,
        };
        let decision = self.scaler.look(&look, self.aim, self.bounds);
        let second = self.now.as_secs();
        self.changes.extend(decision.changes.into_iter().map(|change| (second, change)));
        self.scaler.sizes()[REVISION]
    }
}

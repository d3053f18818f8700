//! Whether a server has more work than it can do, or is only behind.
//!
//! A queue that is full after a pause (a stopped machine, a burst) empties by itself: those in it are answered late, which is
//! more than not at all. A queue that does not empty is overload: to answer late is then to answer everybody late, for ever.
//! What tells them apart is time, as in CoDel (Nichols and Jacobson, ACM Queue 10(5), 2012): lateness counts once it lasted for
//! longer than [`patience`] without a run that took all that waited and was in time, or where the work that waits takes half as
//! long to do. It then counts until nobody was late for as long again, since a queue from which others are turned away is empty
//! now and then; or until the server had nothing to do for a tenth of that time, which one with too much never has.

/// How many targets a queue may stand.
const TARGETS: f64 = 10.0;
/// At least so many seconds: pauses of a machine do not become shorter with the target.
const LEAST: f64 = 1.0;
/// At most so many, or one target: clients do not wait for longer.
const MOST: f64 = 10.0;
/// Work of more than that part of the patience is overload at once: no pause leaves so much behind.
const FLOOD: f64 = 0.5;
/// A server that had nothing to do for that part of the patience has no overload any more.
const REST: f64 = 0.1;

/// How long a queue may stand before its requests are held to a target of `target` seconds.
pub fn patience(target: f64) -> f64 {
    (TARGETS * target).clamp(LEAST, MOST).max(target)
}

/// What is known of a queue's lateness. Times are seconds on any clock that does not go back.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Standing {
    /// The first late request since the queue was empty.
    since: Option<f64>,
    /// The last late request that counted.
    counted: Option<f64>,
}

impl Standing {
    /// A run took all that waited, in time.
    pub fn emptied(&mut self) {
        self.since = None;
    }

    /// Nothing waited and nothing ran for `idle` seconds.
    pub fn rested(&mut self, idle: f64, patience: f64) {
        self.emptied();
        if idle >= REST * patience {
            self.counted = None;
        }
    }

    /// A request is late at `now`, with so many seconds of waiting work before it or beside it. Whether that is held against it.
    pub fn is_late(&mut self, now: f64, work: f64, patience: f64) -> bool {
        let since = *self.since.get_or_insert(now);
        let stands = now - since >= patience || work >= FLOOD * patience;
        let is_overload = stands || self.counted.is_some_and(|counted| now - counted < patience);
        // Late by the run that goes on, with nothing before it: so are many where the target is short, at any load.
        if stands || (is_overload && work > 0.0) {
            self.counted = Some(now);
        }
        is_overload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_may_stand_for_ten_targets_and_at_least_a_second() {
        for (target, seconds) in [(0.001, 1.0), (0.1, 1.0), (0.5, 5.0), (2.0, 10.0), (60.0, 60.0)] {
            assert!((patience(target) - seconds).abs() < 1e-9, "{target}");
        }
    }

    #[test]
    fn lateness_counts_when_the_queue_does_not_empty_and_until_it_is_over() {
        let mut standing = Standing::default();
        assert!(!standing.is_late(5.0, 0.1, 1.0) && !standing.is_late(5.9, 0.4, 1.0));
        standing.emptied();
        assert!(!standing.is_late(6.1, 0.0, 1.0), "it was only behind");
        assert!(standing.is_late(7.1, 0.0, 1.0));
        standing.emptied();
        assert!(standing.is_late(8.0, 0.1, 1.0), "empty since others are turned away");
        standing.emptied();
        standing.rested(0.05, 1.0);
        assert!(standing.is_late(8.9, 0.1, 1.0), "a short rest");
        standing.rested(0.1, 1.0);
        assert!(!standing.is_late(9.0, 0.0, 1.0), "a long one");
        standing.emptied();
        assert!(standing.is_late(9.1, 0.5, 1.0));
        standing.emptied();
        assert!(!standing.is_late(10.1, 0.0, 1.0), "nobody was late for a second");
    }

    #[test]
    fn work_for_half_of_the_patience_is_overload() {
        let mut standing = Standing::default();
        assert!(!standing.is_late(5.0, 0.49, 1.0) && standing.is_late(5.0, 0.5, 1.0));
        assert!(standing.is_late(5.9, 0.0, 1.0), "until it is over");
        standing.emptied();
        assert!(!standing.is_late(6.1, 0.0, 1.0), "nothing waited for a second");
    }

    #[test]
    fn without_patience_lateness_counts_at_once() {
        assert!(Standing::default().is_late(0.0, 0.0, 0.0));
    }
}

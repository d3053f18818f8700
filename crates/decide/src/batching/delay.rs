//! Whether an executor that could run a batch waits for more requests. By default it never does: while all executors are
//! busy batches grow by themselves, and waiting beyond that was measured to change little.

/// Weight of a new gap between requests in the mean.
const NEW: f64 = 0.1;

/// How quickly requests come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Arrivals {
    last: Option<f64>,
    gap: Option<f64>,
}

impl Arrivals {
    /// A request came at `now`, in seconds on any clock that does not go back.
    pub fn came(&mut self, now: f64) {
        if let Some(last) = self.last.replace(now) {
            let new = (now - last).max(0.0);
            self.gap = Some(self.gap.map_or(new, |gap| gap + NEW * (new - gap)));
        }
    }

    /// Seconds between two requests on average; `None` before the second one.
    pub fn gap(&self) -> Option<f64> {
        self.gap
    }
}

/// The batch that an executor could run now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Waiting {
    /// The longest that a request may wait for others, in seconds.
    pub delay: f64,
    /// How long the oldest request has waited, in seconds.
    pub age: f64,
    /// Seconds until the run must begin for all of them to make their deadlines; `None` without a deadline.
    pub slack: Option<f64>,
}

/// How many seconds the executor waits for more, at most; `None` when the batch runs now: the delay is over, no request is
/// expected within it, or the next one would come too late for the deadline.
pub fn hold(waiting: Waiting, arrivals: &Arrivals) -> Option<f64> {
    let gap = arrivals.gap()?;
    if waiting.age >= waiting.delay || gap > waiting.delay {
        return None;
    }
    let left = waiting.delay - waiting.age;
    match waiting.slack {
        Some(slack) => (slack > gap).then(|| left.min(slack)),
        None => Some(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_request_that_comes_in_time_is_waited_for() {
        let every = |gap: f64| {
            let mut arrivals = Arrivals::default();
            (0..50).for_each(|number| arrivals.came(f64::from(number) * gap));
            arrivals
        };
        let waiting = Waiting { delay: 0.01, age: 0.0, slack: None };
        assert_eq!(hold(waiting, &Arrivals::default()), None, "nothing is known of the next request");
        assert_eq!(hold(waiting, &every(0.001)), Some(0.01));
        assert_eq!(hold(Waiting { age: 0.004, ..waiting }, &every(0.001)), Some(0.006));
        assert_eq!(hold(Waiting { age: 0.01, ..waiting }, &every(0.001)), None, "the delay is over");
        assert_eq!(hold(waiting, &every(0.02)), None, "nobody comes within the delay");
        assert_eq!(hold(Waiting { slack: Some(0.005), ..waiting }, &every(0.001)), Some(0.005));
        assert_eq!(hold(Waiting { slack: Some(0.0005), ..waiting }, &every(0.001)), None, "it would be late");
        assert_eq!(hold(Waiting { delay: 0.0, ..waiting }, &every(0.001)), None, "no delay is the default");
    }

    #[test]
    fn the_mean_gap_follows_the_requests() {
        let mut arrivals = Arrivals::default();
        let mut now = 0.0;
        for gap in [0.001_f64; 60].iter().chain(&[0.1; 60]) {
            now += gap;
            arrivals.came(now);
        }
        assert!((arrivals.gap().unwrap() - 0.1).abs() < 0.001, "{arrivals:?}");
    }
}

//! How long to wait before the API server is asked again. One rule for all watches of operator and routers.

use std::time::{Duration, Instant};

use kube::runtime::utils::Backoff;

/// First and longest pause after a failed read.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// After this long without a failure the pause is the first one again.
const CALM: Duration = Duration::from_secs(20);

/// The pause after a failed read: doubled each time, and varied so that not all come back at once.
#[derive(Debug, Default)]
pub struct Pause {
    last: Option<(Instant, Duration)>,
}

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let (first, longest) = PAUSE;
        let pause = match self.last {
            Some((at, pause)) if at.elapsed() < CALM => (pause * 2).min(longest),
            _ => first,
        };
        self.last = Some((Instant::now(), pause));
        Some(pause.mul_f64(rand::random_range(0.5..1.0)))
    }
}

impl Backoff for Pause {
    /// Does nothing: a success says little, since the watcher reports one before it has asked for anything. An API
    /// server that is away would be asked without end at the first pause. Only quiet time counts.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_though_the_watcher_begins_anew_each_time() {
        let mut pause = Pause::default();
        let pauses: Vec<_> = (0..10)
            .filter_map(|_| {
                pause.reset();
                pause.next()
            })
            .collect();
        assert!(pauses[0] <= PAUSE.0, "{pauses:?}");
        assert!(pauses[9] >= PAUSE.1 / 2 && pauses[9] <= PAUSE.1, "{pauses:?}");
        pause.last = pause.last.map(|(at, pause)| (at.checked_sub(CALM).unwrap(), pause));
        assert!(pause.next() <= Some(PAUSE.0));
    }
}

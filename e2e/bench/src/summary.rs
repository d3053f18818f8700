//! What a run of the load generator found.

use std::time::Duration;

use serde::Serialize;

/// Counts and exact percentiles. Latencies are in microseconds.
#[derive(Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Answers with 200.
    pub requests: usize,
    /// Everything else.
    pub errors: u64,
    /// Answers with 200 per second.
    pub per_second: f64,
    /// Refusals, where they are allowed.
    pub refused: usize,
    /// Answers with 200 that came within the target, per second; all of them where there is no target.
    pub goodput: f64,
    /// Latencies.
    pub latency_us: Latency,
}

/// Latencies in microseconds.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Longest.
    pub max: f64,
}

impl Summary {
    /// Of all latencies that were seen within `time`.
    pub fn of(
        mut latencies: Vec<Duration>,
        refused: usize,
        errors: u64,
        time: Duration,
        target: Option<Duration>,
    ) -> Self {
        latencies.sort_unstable();
        let micros = |latency: &Duration| latency.as_secs_f64() * 1e6;
        // The nearest rank: the smallest latency that at least this many thousandths of all do not exceed.
        let rank = |thousandths: usize| {
            let position = (latencies.len() * thousandths).div_ceil(1000).max(1) - 1;
            latencies.get(position).map_or(0.0, micros)
        };
        let requests = latencies.len();
        let within =
            target.map_or(requests, |target| latencies.partition_point(|latency| *latency <= target));
        Self {
            requests,
            errors,
            per_second: requests as f64 / time.as_secs_f64(),
            refused,
            goodput: within as f64 / time.as_secs_f64(),
            latency_us: Latency {
                mean: latencies.iter().map(micros).sum::<f64>() / (requests.max(1)) as f64,
                p50: rank(500),
                p90: rank(900),
                p99: rank(990),
                p999: rank(999),
                max: latencies.last().map_or(0.0, micros),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let latencies = (1..=1000).rev().map(Duration::from_millis).collect();
        let summary = Summary::of(latencies, 3, 2, Duration::from_secs(10), Some(Duration::from_millis(250)));
        assert_eq!((summary.requests, summary.refused, summary.errors), (1000, 3, 2));
        assert!((summary.goodput - 25.0).abs() < 1e-9);
        assert!((summary.per_second - 100.0).abs() < 1e-9);
        let latency = summary.latency_us;
        let seen = [latency.p50, latency.p90, latency.p99, latency.p999, latency.max];
        for (seen, wanted) in seen.into_iter().zip([500.0, 900.0, 990.0, 999.0, 1000.0]) {
            assert!((seen / 1000.0 - wanted).abs() < 1e-6, "{seen}");
        }
    }

    #[test]
    fn nothing_is_zero() {
        assert_eq!(Summary::of(vec![], 0, 0, Duration::from_secs(1), None).latency_us, Latency::default());
    }
}

//! The autoscalers that people use today, by their published rules.

use std::collections::VecDeque;

use crate::plant::Second;
use crate::run::{Controller, percentile};

/// Seconds between two looks of the HPA.
const SYNC: u64 = 15;

/// Kubernetes' `HorizontalPodAutoscaler` v2 with the default behaviour: `ceil(ready * metric / target)`, a tolerance of 10 %,
/// at most twice as many or four more in 15 s, down to the highest recommendation of 300 s.
/// Source: Kubernetes documentation, "Horizontal Pod Autoscaling".
#[derive(Clone, Debug)]
pub struct Hpa {
    metric: Metric,
    now: u64,
    /// The last minute.
    seen: VecDeque<Second>,
    recommended: VecDeque<(u64, u32)>,
    wanted: u32,
    most: u32,
}

/// What the HPA goes by.
#[derive(Clone, Copy, Debug)]
pub enum Metric {
    /// The p99 of the last minute in seconds, and its target: what people configure with Prometheus.
    Latency(f64),
    /// The share of the pods' executors that was busy in the last half minute, and its target.
    Cpu {
        /// The share that is wanted.
        target: f64,
        /// Executors of a pod.
        executors: usize,
    },
}

impl Hpa {
    /// So many pods at the start.
    pub fn new(metric: Metric, pods: u32, most: u32) -> Self {
        Self { metric, now: 0, seen: VecDeque::new(), recommended: VecDeque::new(), wanted: pods, most }
    }

    /// Pods by one metric: `ready` of `wanted` are there.
    pub fn desired(ratio: f64, ready: u32, wanted: u32) -> u32 {
        if (ratio - 1.0).abs() <= 0.1 {
            return wanted;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let pods = (ratio * f64::from(ready)).ceil() as u32;
        if ratio > 1.0 { pods.max(wanted) } else { pods.min(wanted) }
    }

    fn ratio(&self) -> Option<f64> {
        match self.metric {
            Metric::Latency(target) => {
                let mut latencies: Vec<f64> =
                    self.seen.iter().flat_map(|second| second.latencies.clone()).collect();
                // Prometheus sees answers alone.
                (!latencies.is_empty()).then(|| percentile(&mut latencies, 0) / target)
            }
            Metric::Cpu { target, executors } => {
                let recent = self.seen.iter().rev().take(30);
                let (busy, pods) = recent.fold((0.0, 0.0), |(busy, pods), second| {
                    (busy + second.busy, pods + f64::from(second.ready))
                });
                (pods > 0.0).then(|| (busy / (pods * executors as f64)).min(1.0) / target)
            }
        }
    }
}

impl Controller for Hpa {
    fn name(&self) -> String {
        match self.metric {
            Metric::Latency(_) => "HPA on p99".to_owned(),
            Metric::Cpu { .. } => "HPA on CPU".to_owned(),
        }
    }

    fn second(&mut self, seen: &Second) -> u32 {
        self.now += 1;
        self.seen.push_back(seen.clone());
        if self.seen.len() > 60 {
            self.seen.pop_front();
        }
        if !self.now.is_multiple_of(SYNC) {
            return self.wanted;
        }
        let Some(ratio) = self.ratio() else { return self.wanted };
        let desired = Self::desired(ratio, seen.ready, self.wanted).clamp(1, self.most);
        self.recommended.push_back((self.now, desired));
        while self.recommended.front().is_some_and(|(when, _)| self.now - when > 300) {
            self.recommended.pop_front();
        }
        let stable = self.recommended.iter().map(|(_, pods)| *pods).max().unwrap_or(desired);
        self.wanted = if desired > self.wanted {
            desired.min((self.wanted * 2).max(self.wanted + 4))
        } else {
            stable.min(self.wanted)
        };
        self.wanted
    }
}

/// Knative's pod autoscaler with its defaults: average concurrency of 60 s over the target, every 2 s; panic with the average
/// of 6 s where that needs twice the pods that are ready, and then never down for 60 s.
/// Source: Knative documentation, "Additional autoscaling configuration", and its KPA.
#[derive(Clone, Debug)]
pub struct Kpa {
    /// Requests at once that a pod should have.
    target: f64,
    now: u64,
    in_flight: VecDeque<f64>,
    panics: Option<u64>,
    panic_pods: u32,
    wanted: u32,
    most: u32,
}

impl Kpa {
    /// So many pods at the start.
    pub fn new(target: f64, pods: u32, most: u32) -> Self {
        // It starts in panic: nothing is known, and nothing may shrink.
        Self {
            target,
            now: 0,
            in_flight: VecDeque::new(),
            panics: Some(0),
            panic_pods: pods,
            wanted: pods,
            most,
        }
    }

    fn mean(&self, seconds: usize) -> f64 {
        let recent = self.in_flight.iter().rev().take(seconds);
        let count = self.in_flight.len().min(seconds).max(1);
        recent.sum::<f64>() / count as f64
    }
}

impl Controller for Kpa {
    fn name(&self) -> String {
        "KPA".to_owned()
    }

    fn second(&mut self, seen: &Second) -> u32 {
        self.now += 1;
        self.in_flight.push_back(seen.in_flight as f64 + seen.refused as f64 * 0.1);
        if self.in_flight.len() > 60 {
            self.in_flight.pop_front();
        }
        if !self.now.is_multiple_of(2) {
            return self.wanted;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let pods = |concurrency: f64| (concurrency / self.target).ceil() as u32;
        let ready = f64::from(seen.ready.max(1));
        // At most half of what is there goes in one look.
        let least = seen.ready / 2;
        let (stable, panic) = (pods(self.mean(60)).max(least), pods(self.mean(6)).max(least));
        if f64::from(panic) / ready >= 2.0 {
            self.panics = Some(self.now);
        } else if self.panics.is_some_and(|since| self.now - since >= 60) {
            self.panics = None;
            self.panic_pods = 0;
        }
        self.wanted = if self.panics.is_some() {
            self.panic_pods = self.panic_pods.max(panic).max(stable);
            self.panic_pods
        } else {
            stable
        }
        .clamp(1, self.most);
        self.wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hpa_follows_its_documentation() {
        // "if the current metric value is 200m, and the desired value is 100m, the number of replicas will be doubled"
        assert_eq!(Hpa::desired(2.0, 3, 3), 6);
        // "If the current value is instead 50m, you'll halve the number of replicas"
        assert_eq!(Hpa::desired(0.5, 4, 4), 2);
        // "skips any scaling action if the ratio is sufficiently close to 1.0 (within a tolerance, 0.1 by default)"
        assert_eq!(Hpa::desired(1.09, 10, 10), 10);
        assert_eq!(Hpa::desired(0.91, 10, 10), 10);
        assert_eq!(Hpa::desired(1.11, 10, 10), 12);
        // Pods that are not ready do not make it shrink while the metric is above.
        assert_eq!(Hpa::desired(1.5, 2, 4), 4);
    }

    fn second(latency: f64, ready: u32) -> Second {
        Second { latencies: vec![latency; 100], ready, wanted: ready, ..Second::default() }
    }

    #[test]
    fn hpa_grows_by_its_policy_and_shrinks_after_its_window() {
        let mut hpa = Hpa::new(Metric::Latency(0.1), 1, 100);
        let mut pods = 1;
        let mut sizes = Vec::new();
        for now in 1..=900_u64 {
            pods = hpa.second(&second(if now <= 60 { 10.0 } else { 0.01 }, pods));
            if now % 15 == 0 {
                sizes.push(pods);
            }
        }
        // max(4 more, double) in each 15 s.
        assert_eq!(&sizes[..4], [5, 10, 20, 40]);
        // 300 s after the last look that saw the high latency.
        let fall = sizes.iter().rposition(|size| *size >= 40).unwrap() as u64 * 15;
        assert!((360..=450).contains(&fall), "{fall}");
        assert_eq!(*sizes.last().unwrap(), 1);
    }

    #[test]
    fn kpa_follows_its_documentation() {
        // Concurrency 50 at a target of 10: five pods, after the panic that it starts in.
        let mut kpa = Kpa::new(10.0, 5, 100);
        let seen = |in_flight, ready| Second { in_flight, ready, ..Second::default() };
        for _ in 0..120 {
            assert_eq!(kpa.second(&seen(50, 5)), 5);
        }
        // Twice what is there within six seconds: panic, by the short window.
        let mut pods = 5;
        for _ in 0..8 {
            pods = kpa.second(&seen(200, 5));
        }
        assert_eq!(pods, 20);
        // In panic nothing shrinks for 60 s.
        for _ in 0..40 {
            assert_eq!(kpa.second(&seen(10, 20)), 20);
        }
        for _ in 0..60 {
            pods = kpa.second(&seen(10, pods));
        }
        assert!(pods <= 2, "{pods}");
    }
}

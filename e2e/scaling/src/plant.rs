//! Pods of one revision in simulated time: each works on some requests at once and lets the others wait in line.
//!
//! A request goes to the pod that would begin with it first, as Stoker's router and any least-loaded balancer has it. Because
//! lines are first come, first served, the end of a request is known when it arrives.

use std::collections::VecDeque;

use crate::random::Random;

/// What a pod can do. Times in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// Requests that a pod works on at once.
    pub executors: usize,
    /// What one of them takes on average.
    pub mean: f64,
    /// Of that, the share that scatters (exponentially); the rest is constant.
    pub scatter: f64,
    /// A pod that would answer later than this refuses.
    pub refuse_after: f64,
}

#[derive(Debug)]
struct Pod {
    /// When each executor is free.
    free: Vec<f64>,
    ready: f64,
}

/// What happened in one second.
#[derive(Clone, Debug, Default)]
pub struct Second {
    /// Requests that came.
    pub offered: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Latencies of requests that ended in it, in seconds.
    pub latencies: Vec<f64>,
    /// Executors' seconds of work that began in it.
    pub busy: f64,
    /// Requests that were at pods at its end.
    pub in_flight: u64,
    /// Pods that were ready at its end.
    pub ready: u32,
    /// Pods that should be there.
    pub wanted: u32,
}

/// The pods of a revision.
#[derive(Debug)]
pub struct Plant {
    /// What each of them can do.
    pub service: Service,
    /// How long a new one takes to get ready.
    pub start: f64,
    pods: Vec<Pod>,
    /// Latencies by the second in which they end; the first is the current one.
    ends: VecDeque<Vec<f64>>,
    now: f64,
    in_flight: u64,
}

impl Plant {
    /// So many pods, ready at once.
    pub fn new(service: Service, start: f64, pods: u32) -> Self {
        let pods = (0..pods).map(|_| Pod { free: vec![0.0; service.executors], ready: 0.0 }).collect();
        Self { service, start, pods, ends: VecDeque::new(), now: 0.0, in_flight: 0 }
    }

    /// Pods that should be there.
    pub fn wanted(&self) -> u32 {
        u32::try_from(self.pods.len()).unwrap_or(u32::MAX)
    }

    /// Pods that are ready.
    pub fn ready(&self) -> u32 {
        u32::try_from(self.pods.iter().filter(|pod| pod.ready <= self.now).count()).unwrap_or(u32::MAX)
    }

    /// From now on so many pods. The newest go first, those that are not ready among them; what they work on they finish.
    pub fn scale(&mut self, wanted: u32) {
        let wanted = wanted as usize;
        self.pods.truncate(wanted);
        while self.pods.len() < wanted {
            self.pods
                .push(Pod { free: vec![self.now; self.service.executors], ready: self.now + self.start });
        }
    }

    /// One second with requests at a rate.
    pub fn second(&mut self, rate: f64, random: &mut Random) -> Second {
        let mut second = Second::default();
        let end = self.now + 1.0;
        let mut at = self.now;
        loop {
            at += random.exponential(1.0 / rate.max(1e-9));
            if at >= end {
                break;
            }
            second.offered += 1;
            match self.arrives(at, random) {
                None => second.refused += 1,
                Some((done, took)) => {
                    second.busy += took;
                    self.in_flight += 1;
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "not negative"
                    )]
                    let slot = (done - self.now).floor() as usize;
                    while self.ends.len() <= slot {
                        self.ends.push_back(Vec::new());
                    }
                    self.ends[slot].push(done - at);
                }
            }
        }
        second.latencies = self.ends.pop_front().unwrap_or_default();
        self.in_flight -= second.latencies.len() as u64;
        self.now = end;
        (second.in_flight, second.ready, second.wanted) = (self.in_flight, self.ready(), self.wanted());
        second
    }

    /// When a request ends, and what it takes; none when it is refused.
    fn arrives(&mut self, at: f64, random: &mut Random) -> Option<(f64, f64)> {
        let Service { mean, scatter, refuse_after, .. } = self.service;
        let ready = self.pods.iter_mut().filter(|pod| pod.ready <= at);
        let free = ready.flat_map(|pod| pod.free.iter_mut()).min_by(|a, b| a.total_cmp(b))?;
        let took = mean * (1.0 - scatter) + random.exponential(mean * scatter);
        let begins = free.max(at);
        if begins + mean - at > refuse_after {
            return None;
        }
        *free = begins + took;
        Some((*free, took))
    }
}

//! A trace, pods and a controller of their number.

use crate::plant::{Plant, Second, Service};
use crate::random::Random;
use crate::traces::Trace;

/// Decides how many pods there are.
pub trait Controller {
    /// Its name in tables.
    fn name(&self) -> String;
    /// One second has passed: how many pods there should be from now on.
    fn second(&mut self, seen: &Second) -> u32;
}

/// One run.
#[derive(Clone, Debug)]
pub struct Setting {
    /// What a pod can do.
    pub service: Service,
    /// What users are promised for 99 of 100 answers, in seconds.
    pub target: f64,
    /// How long pods take to get ready, in seconds.
    pub start: f64,
    /// Pods at the start.
    pub pods: u32,
    /// Seconds at the start that are not counted: controllers learn.
    pub ignored: usize,
}

/// What came of it, without the seconds that are ignored.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Share of the windows of ten seconds in which the percentile was above the target, refusals counted as late.
    pub violation: f64,
    /// Share of all requests that were late or refused.
    pub late: f64,
    /// Pods on average, those that start included.
    pub replicas: f64,
    /// The most pods.
    pub most: u32,
    /// Changes from growing to shrinking or back.
    pub turns: u32,
    /// By window of ten seconds: demand, pods, p99 in seconds.
    pub drawn: Vec<(f64, u32, f64)>,
}

/// Seconds of a window.
pub const WINDOW: usize = 10;

/// Runs a trace.
pub fn run(setting: &Setting, trace: &Trace, controller: &mut dyn Controller) -> Outcome {
    let mut random = Random(42);
    let mut plant = Plant::new(setting.service, setting.start, setting.pods);
    let mut outcome = Outcome::default();
    let (mut window, mut refused, mut offered) = (Vec::new(), 0, 0.0);
    let (mut windows, mut missed, mut late, mut total) = (0_u32, 0_u32, 0_u64, 0_u64);
    let (mut pod_seconds, mut counted) = (0.0, 0_u32);
    let (mut last, mut direction) = (setting.pods, 0);
    for (number, rate) in trace.rates.iter().enumerate() {
        let second = plant.second(*rate, &mut random);
        let wanted = controller.second(&second);
        plant.scale(wanted);
        let turn = (i64::from(wanted) - i64::from(last)).signum();
        last = wanted;
        if number >= setting.ignored {
            if turn != 0 {
                outcome.turns += u32::from(direction != 0 && turn != direction);
                direction = turn;
            }
            pod_seconds += f64::from(second.wanted);
            counted += 1;
            outcome.most = outcome.most.max(wanted);
            late += second.latencies.iter().filter(|took| **took > setting.target).count() as u64
                + second.refused;
            total += second.latencies.len() as u64 + second.refused;
        }
        window.extend_from_slice(&second.latencies);
        refused += second.refused;
        offered += second.offered as f64;
        if (number + 1) % WINDOW == 0 {
            let p99 = percentile(&mut window, refused);
            outcome.drawn.push((offered / WINDOW as f64, wanted, p99));
            if number >= setting.ignored {
                windows += 1;
                missed += u32::from(p99 > setting.target);
            }
            window.clear();
            (refused, offered) = (0, 0.0);
        }
    }
    outcome.violation = f64::from(missed) / f64::from(windows.max(1));
    outcome.late = late as f64 / total.max(1) as f64;
    outcome.replicas = pod_seconds / f64::from(counted.max(1));
    outcome
}

/// The 99th percentile; refused requests take for ever.
pub fn percentile(latencies: &mut [f64], refused: u64) -> f64 {
    latencies.sort_by(f64::total_cmp);
    let total = latencies.len() as u64 + refused;
    let rank = (total * 99).div_ceil(100);
    let index = usize::try_from(rank.saturating_sub(1)).unwrap_or(usize::MAX);
    latencies.get(index).copied().unwrap_or(if total == 0 { 0.0 } else { f64::INFINITY })
}

/// The highest rate that one of `pods` pods carries within the target, by trying.
pub fn capacity(setting: &Setting, pods: u32) -> f64 {
    let (mut low, mut high) = (0.0, setting.service.executors as f64 / setting.service.mean);
    for _ in 0..12 {
        let rate = f64::midpoint(low, high);
        let mut plant = Plant::new(setting.service, 0.0, pods);
        let mut random = Random(1);
        let mut latencies = Vec::new();
        let mut refused = 0;
        for second in 0..120 {
            let seen = plant.second(rate * f64::from(pods), &mut random);
            if second >= 20 {
                latencies.extend(seen.latencies);
                refused += seen.refused;
            }
        }
        if percentile(&mut latencies, refused) <= setting.target { low = rate } else { high = rate }
    }
    low
}

/// Somebody who knows the future: at each second as many pods as the demand of the time until pods would be ready needs.
#[derive(Clone, Debug)]
pub struct Clairvoyant {
    wanted: Vec<u32>,
    second: usize,
}

impl Clairvoyant {
    /// For a trace.
    pub fn new(setting: &Setting, trace: &Trace) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole seconds, few pods"
        )]
        let (ahead, whole) = (setting.start.ceil() as usize + 1, |pods: f64| pods.ceil() as u32);
        // Larger groups carry a little more each; one table for all sizes that can come.
        let table: Vec<f64> = (1..=12).map(|pods| capacity(setting, pods) * f64::from(pods)).collect();
        let pods = |rate: f64| {
            let fits = table.iter().position(|carried| *carried >= rate);
            fits.map_or_else(|| whole(rate * 12.0 / table[11]), |index| u32::try_from(index).unwrap_or(0) + 1)
        };
        let wanted = (0..trace.rates.len()).map(|now| {
            let until = (now + ahead).min(trace.rates.len());
            trace.rates[now..until].iter().map(|rate| pods(*rate)).max().unwrap_or(1)
        });
        Self { wanted: wanted.collect(), second: 0 }
    }
}

impl Controller for Clairvoyant {
    fn name(&self) -> String {
        "clairvoyant".to_owned()
    }

    fn second(&mut self, _: &Second) -> u32 {
        self.second += 1;
        self.wanted[self.second.min(self.wanted.len()) - 1]
    }
}

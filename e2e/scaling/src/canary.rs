//! A canary in the middle of a ramp: two revisions under one demand, the new one slower by half.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use stoker_decide::autoscale::{Aim, Bounds, Interval, Look, Pods, Scaler};

use crate::MOST;
use crate::ours::counted;
use crate::plant::{Plant, Service};
use crate::random::Random;
use crate::run::{Setting, WINDOW, percentile};

/// Seconds of the run, and when the candidate comes.
const LASTS: u32 = 1800;
const COMES: u32 = 600;
/// Seconds of a step, and the weights of the steps.
const STEP: u32 = 120;
const WEIGHTS: [f64; 4] = [0.1, 0.3, 0.6, 1.0];

/// One of the two.
struct Side {
    name: &'static str,
    plant: Plant,
    latencies: Vec<f64>,
    refused: u64,
    windows: u32,
    missed: u32,
    drawn: Vec<Value>,
}

impl Side {
    fn new(name: &'static str, service: Service, start: f64, pods: u32) -> Self {
        let plant = Plant::new(service, start, pods);
        Self { name, plant, latencies: Vec::new(), refused: 0, windows: 0, missed: 0, drawn: Vec::new() }
    }

    fn close(&mut self, target: f64, counts: bool) {
        let asked = self.latencies.len() as u64 + self.refused;
        let p99 = percentile(&mut self.latencies, self.refused);
        if counts && asked > 0 {
            self.windows += 1;
            self.missed += u32::from(p99 > target);
        }
        self.drawn.push(json!([asked as f64 / WINDOW as f64, self.plant.wanted(), p99]));
        self.latencies.clear();
        self.refused = 0;
    }
}

/// Plays it. The weight goes up when the time of a step is over and the candidate has all its pods, as a rollout does.
pub fn play(setting: &Setting) -> Value {
    let slower = Service { mean: setting.service.mean * 1.5, ..setting.service };
    let mut sides = [
        Side::new("stable", setting.service, setting.start, setting.pods),
        Side::new("candidate", slower, setting.start, 0),
    ];
    let aim = Aim { quantile: 0.99, target: Duration::from_secs_f64(setting.target) };
    let bounds = Bounds { min: 1, max: MOST, zero_after: None, down_window: Duration::from_mins(5) };
    let mut scaler = Scaler::resume([("stable".to_owned(), setting.pods, None)], false);
    let mut random = Random(42);
    let (mut step, mut since) = (0, COMES);
    for now in 0..LASTS {
        let tried = now >= COMES;
        let weight = if tried { [0.0].iter().chain(&WEIGHTS).nth(step).copied().unwrap_or(1.0) } else { 0.0 };
        // 400 to 1,000 in fifteen minutes.
        let rate = 400.0 + 600.0 * (f64::from(now.saturating_sub(COMES)) / 900.0).min(1.0);
        let shares = [rate * (1.0 - weight), rate * weight];
        let mut interval = Interval { took: Duration::from_secs(1), ..Interval::default() };
        for (side, share) in sides.iter_mut().zip(shares) {
            let seen = side.plant.second(share, &mut random);
            interval.offered += seen.offered;
            interval.revisions.insert(side.name.to_owned(), counted(&seen));
            side.latencies.extend(&seen.latencies);
            side.refused += seen.refused;
        }
        let kept = sides.iter().filter(|side| tried || side.name == "stable");
        let pods: BTreeMap<_, _> = kept
            .map(|side| {
                (side.name.to_owned(), Pods { wanted: side.plant.wanted(), ready: side.plant.ready() })
            })
            .collect();
        let promoted = step >= WEIGHTS.len();
        let main = if promoted { "candidate" } else { "stable" };
        let look = Look {
            now: Duration::from_secs(u64::from(now) + 1),
            counted: Ok(&interval),
            pods: &pods,
            main,
            in_run: tried && !promoted,
            wake: false,
        };
        scaler.look(&look, aim, bounds);
        let wanted = scaler.sizes();
        for side in &mut sides {
            if let Some(size) = wanted.get(side.name) {
                side.plant.scale(*size);
            }
        }
        let candidate = &sides[1].plant;
        if tried
            && !promoted
            && now >= since + STEP
            && candidate.ready() >= candidate.wanted()
            && candidate.wanted() > 0
        {
            (step, since) = (step + 1, now);
        }
        if (now as usize + 1).is_multiple_of(WINDOW) {
            for side in &mut sides {
                side.close(setting.target, now >= 300);
            }
        }
    }
    let results = sides.iter().map(|side| {
        let violation = f64::from(side.missed) / f64::from(side.windows.max(1));
        json!({"who": side.name, "tuned": "", "violation": violation, "drawn": side.drawn})
    });
    json!({
        "trace": "canary", "start": setting.start, "target": setting.target, "window": WINDOW,
        "results": results.collect::<Vec<_>>(), "changes": [],
    })
}

//! Demand over time.

use std::f64::consts::TAU;

use anyhow::{Context as _, Result};

use crate::random::Random;

/// Requests per second, second by second.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Its name in tables.
    pub name: String,
    /// Requests per second.
    pub rates: Vec<f64>,
}

fn trace(name: &str, seconds: u32, rate: impl Fn(f64) -> f64) -> Trace {
    Trace { name: name.to_owned(), rates: (0..seconds).map(|second| rate(f64::from(second))).collect() }
}

/// Three times the demand at once, for ten minutes, and back.
pub fn step() -> Trace {
    trace("step", 2400, |t| if (600.0..1200.0).contains(&t) { 1500.0 } else { 500.0 })
}

/// From 300 to 1,800 in ten minutes, and back.
pub fn ramp() -> Trace {
    trace("ramp", 2400, |t| match t {
        t if t < 300.0 => 300.0,
        t if t < 900.0 => 2.5_f64.mul_add(t - 300.0, 300.0),
        t if t < 1200.0 => 1800.0,
        t if t < 1800.0 => 2.5_f64.mul_add(-(t - 1200.0), 1800.0),
        _ => 300.0,
    })
}

/// Two days of six hours each: 100 at night, 900 at noon.
pub fn daily() -> Trace {
    trace("daily", 2 * 21_600, |t| 400.0_f64.mul_add(1.0 - (TAU * t / 21_600.0).cos(), 100.0))
}

/// A burst of 20 s at three times the demand, every five minutes.
pub fn spikes() -> Trace {
    trace("spikes", 2400, |t| if t % 300.0 >= 280.0 { 1200.0 } else { 400.0 })
}

/// Eight times the demand within half a minute, which then falls off slowly.
pub fn crowd() -> Trace {
    trace("crowd", 2400, |t| match t - 600.0 {
        since if since < 0.0 => 250.0,
        since if since < 30.0 => 1750.0_f64.mul_add(since / 30.0, 250.0),
        since => 1750.0_f64.mul_add((-(since - 30.0) / 400.0).exp(), 250.0),
    })
}

/// Two minutes of demand and two of nearly none.
pub fn on_off() -> Trace {
    trace("on-off", 2400, |t| if t % 240.0 < 120.0 { 1000.0 } else { 20.0 })
}

/// An even demand that sways by 5 %, besides the chance of arrivals.
pub fn noise() -> Trace {
    let mut random = Random(7);
    let sways: Vec<f64> = (0..2400).map(|_| 0.1_f64.mul_add(random.uniform(), 0.95)).collect();
    Trace { name: "noise".to_owned(), rates: sways.into_iter().map(|sway| 800.0 * sway).collect() }
}

/// How much higher and slower a recorded trace is played, and for how long its first second is played before.
const HIGHER: f64 = 40.0;
const SLOWER: usize = 4;
const LEAD: usize = 300;

/// Arrivals by second in runs of our own: `e2e/scaling/traces/`, whose README says which.
pub fn recorded() -> Result<Vec<Trace>> {
    let files = [("recorded, step", include_str!("../traces/step-test.json"))];
    files
        .into_iter()
        .map(|(name, text)| {
            let seconds: Vec<f64> = serde_json::from_str(text)
                .with_context(|| format!("the trace {name:?} is no list of numbers"))?;
            let first = seconds.first().copied().unwrap_or_default();
            let played = seconds.into_iter().flat_map(|rate| [rate; SLOWER]);
            let rates = std::iter::repeat_n(first, LEAD).chain(played).map(|rate| rate * HIGHER).collect();
            Ok(Trace { name: name.to_owned(), rates })
        })
        .collect()
}

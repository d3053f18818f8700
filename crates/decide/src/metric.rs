//! A metric of the user's own: what one number from a monitoring system, measured again and again, says about a candidate.
//!
//! No data is never Pass: an empty result, a value that is no number, a stale sample, several series and an error all hold the
//! rollout. Only a measured value that breaks a bound, so many times in a row as the user says, is Fail.

use std::fmt;
use std::time::Duration;

use crate::verdict::Verdict;

/// The bounds of a metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The value must not be below.
    pub min: Option<f64>,
    /// The value must not be above.
    pub max: Option<f64>,
    /// The candidate's value against stable's.
    pub regression: Option<Regression>,
    /// So many measurements in a row must break a bound.
    pub failures: u32,
    /// What is older is no measurement.
    pub max_age: Duration,
    /// For how long a measurement stands.
    pub lasts: Duration,
}

/// By how much the candidate's value may be worse than stable's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Regression {
    /// A higher value is worse; else a lower one is.
    pub higher_is_worse: bool,
    /// Percent of stable's value.
    pub percent: f64,
}

/// What a query gave for one revision.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// One number, and the age of the newest sample that it was made from.
    Value {
        /// The number: NaN and infinities are possible.
        value: f64,
        /// None where the query names no series, so that nothing can be old.
        age: Option<Duration>,
    },
    /// No series.
    Nothing,
    /// So many series where one is wanted.
    Several(usize),
    /// The provider, or the query, is at fault.
    Broken(String),
}

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// For the revision that is judged.
    pub candidate: Reading,
    /// For the one that it is compared with, where there is a `regression`.
    pub stable: Option<Reading>,
}

/// All measurements of a metric in a run and its guard.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Course {
    /// Measurements in a row that broke a bound.
    breaks: u32,
    /// Why it failed: that stays.
    failed: Option<String>,
    /// What the last one of this step said.
    last: Option<Verdict>,
}

impl Course {
    /// A new step began: what was measured before it says nothing about it. Breaches in a row are counted on.
    pub fn turn(&mut self) {
        self.last = None;
    }

    /// Takes in a measurement.
    pub fn note(&mut self, rule: &Rule, measurement: &Measurement) {
        let verdict = match breach(rule, measurement) {
            Err(verdict) => verdict,
            Ok((figures, None)) => {
                self.breaks = 0;
                Verdict::Pass(figures)
            }
            Ok((_, Some(why))) => {
                self.breaks = self.breaks.saturating_add(1);
                let (seen, wanted) = (self.breaks, rule.failures.max(1));
                if seen >= wanted {
                    let times = if wanted == 1 { String::new() } else { format!(", {seen} times in a row") };
                    self.failed.get_or_insert_with(|| format!("{why}{times}"));
                }
                Verdict::Doubtful(format!("{why}, {seen} of the {wanted} times in a row that take it back"))
            }
        };
        self.last = Some(verdict);
    }

    /// What they say. `since`: time since the last one.
    pub fn verdict(&self, rule: &Rule, since: Option<Duration>) -> Verdict {
        if let Some(why) = &self.failed {
            return Verdict::Fail(why.clone());
        }
        match (&self.last, since) {
            (Some(Verdict::Pass(_)), Some(since)) if since > rule.lasts => {
                Verdict::Inconclusive(format!("was last measured {} s ago", since.as_secs()))
            }
            (Some(verdict), _) => verdict.clone(),
            (None, _) => Verdict::Inconclusive("was not measured in this step yet".into()),
        }
    }
}

/// The figures, with the bound that the value breaks, if it does; or why there is no value to compare.
fn breach(rule: &Rule, measurement: &Measurement) -> Result<(String, Option<String>), Verdict> {
    let value = number(rule, &measurement.candidate, "")?;
    let against = match (&rule.regression, &measurement.stable) {
        (Some(regression), Some(stable)) => Some((regression, number(rule, stable, " for stable")?)),
        (Some(_), None) => return Err(Verdict::Error("was not measured for stable".into())),
        (None, _) => None,
    };
    let is = format!("is {}", Figure(value));
    if let Some(min) = rule.min.filter(|min| value < *min) {
        return Ok((is.clone(), Some(format!("{is}, below {}", Figure(min)))));
    }
    if let Some(max) = rule.max.filter(|max| value > *max) {
        return Ok((is.clone(), Some(format!("{is}, above {}", Figure(max)))));
    }
    let Some((regression, stable)) = against else { return Ok((is, None)) };
    let is = format!("{is}, stable's {}", Figure(stable));
    let worse = if regression.higher_is_worse { value - stable } else { stable - value };
    if stable == 0.0 && worse > 0.0 {
        // Any value is infinitely worse than none.
        if rule.min.or(rule.max).is_some() {
            return Ok((is, None));
        }
        return Err(Verdict::Inconclusive(format!(
            "{is}: percent of nothing say nothing; give max or min beside regression, which then decides"
        )));
    }
    let percent = regression.percent;
    let why = format!("{is}: worse by more than {} %", Figure(percent));
    // What is as much worse as is allowed, but for the rounding of floating-point numbers, is allowed.
    let allowed = stable.abs() * percent / 100.0 + stable.abs().max(value.abs()) * 1e-12;
    Ok((is, (worse > allowed).then_some(why)))
}

/// A finite number that is not too old, or why there is none.
fn number(rule: &Rule, reading: &Reading, of: &str) -> Result<f64, Verdict> {
    match reading {
        Reading::Value { value, .. } if !value.is_finite() => Err(Verdict::Inconclusive(format!(
            "is {value}{of}, which is no number; a division by a rate of nothing gives that: wait for requests, or write the query so that it gives a value without them"
        ))),
        Reading::Value { age: Some(age), .. } if *age > rule.max_age => Err(Verdict::Inconclusive(format!(
            "is stale{of}: its newest sample is {} s old, {} s are allowed (maxAge); see whether its target is still scraped",
            age.as_secs(),
            rule.max_age.as_secs()
        ))),
        Reading::Value { value, .. } => Ok(*value),
        Reading::Nothing => Err(Verdict::Inconclusive(format!(
            "has no data{of}: the query gives no series; see whether its names and labels are right and its target is scraped"
        ))),
        Reading::Several(series) => Err(Verdict::Error(format!(
            "has {series} series{of} where one is wanted; join them in the query, by sum() or max()"
        ))),
        Reading::Broken(why) => Err(Verdict::Error(format!("cannot be measured{of}: {why}"))),
    }
}

/// The verdict on a candidate: what the routers' counts say, joined with metrics that decide, by name. Harm that one of them saw is
/// harm; a Pass needs all of them.
pub fn join(counts: &Verdict, metrics: &[(String, Verdict)]) -> Verdict {
    let of = |wanted: fn(&Verdict) -> bool| {
        let found = metrics.iter().find(|(_, verdict)| wanted(verdict));
        found.map(|(name, verdict)| format!("metric {name} {}", verdict.because()))
    };
    if let Verdict::Fail(_) = counts {
        return counts.clone();
    }
    if let Some(why) = of(|verdict| matches!(verdict, Verdict::Fail(_))) {
        return Verdict::Fail(why);
    }
    let doubt = of(|verdict| matches!(verdict, Verdict::Doubtful(_)));
    if let Some(why) = doubt.filter(|_| matches!(counts, Verdict::Pass(_) | Verdict::Inconclusive(_))) {
        return Verdict::Doubtful(why);
    }
    let Verdict::Pass(figures) = counts else { return counts.clone() };
    if let Some(why) = of(|verdict| matches!(verdict, Verdict::Error(_))) {
        return Verdict::Error(why);
    }
    if let Some(why) = of(|verdict| matches!(verdict, Verdict::Inconclusive(_))) {
        return Verdict::Inconclusive(why);
    }
    let all = metrics.iter().map(|(name, verdict)| format!("; metric {name} {}", verdict.because()));
    Verdict::Pass(std::iter::once(figures.clone()).chain(all).collect())
}

/// A number with as many digits as people can use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure(pub f64);

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.0.abs();
        if size >= 1e15 {
            return write!(f, "{:.3e}", self.0);
        }
        if size != 0.0 && size < 1e-4 {
            // Without an exponent: figures are left out where sentences are compared.
            return write!(f, "{:.12}", self.0);
        }
        let digits = match size {
            ..0.01 => 6,
            ..1.0 => 4,
            ..100.0 => 3,
            ..10_000.0 => 1,
            _ => 0,
        };
        let text = format!("{:.digits$}", self.0);
        f.write_str(if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text })
    }
}

#[cfg(test)]
mod tests;

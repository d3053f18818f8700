//! `stoker-verdicts [ROLLOUTS [SEED]]`: simulated rollouts through the real decision code, as a table; the last line says whether
//! all bounds hold, and the exit status is 1 when one is broken.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the result, for a person")]

use std::process::ExitCode;
use std::thread;

use stoker_decide::harm::{budget, power};
use stoker_verdicts::study::{Kind, Result, groups, play};
use stoker_verdicts::trial::End;

const ROLLOUTS: u64 = 10_000;
const SEED: u64 = 20_261_121;

fn main() -> ExitCode {
    let numbers: std::result::Result<Vec<u64>, _> =
        std::env::args().skip(1).map(|argument| argument.parse()).collect();
    let (rollouts, seed) = match numbers.as_deref() {
        Ok([]) => (ROLLOUTS, SEED),
        Ok([rollouts]) if *rollouts >= ROLLOUTS / 10 => (*rollouts, SEED),
        Ok([rollouts, seed]) if *rollouts >= ROLLOUTS / 10 => (*rollouts, *seed),
        _ => {
            eprintln!("usage: stoker-verdicts [ROLLOUTS [SEED]], with at least {} rollouts", ROLLOUTS / 10);
            return ExitCode::from(2);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    println!(
        "{rollouts} rollouts, seed {seed}; steps of 10 % and 50 %, a minute each; budget {:.0} % for each rollout; \
         a promotion needs evidence that would show {:.0} points of harm with {:.0} %\n",
        budget::PER_ROLLOUT * 100.0,
        power::HARM * 100.0,
        power::POWER * 100.0
    );
    println!(
        "{:>6} {:>10} | {:>6} {:>8} {:>6} {:>5} | {:>9} {:>8} | {:>17} | {:>17} | {:>7}",
        "req/s",
        "harm",
        "trials",
        "promoted",
        "back",
        "held",
        "back <=",
        "in time",
        "requests to back",
        "seconds to end",
        "harmed"
    );
    let mut broken = Vec::new();
    for group in groups(rollouts) {
        let result = play(group, seed, threads);
        row(&result);
        broken.extend(result.broken());
    }
    println!(
        "\nback <=: upper 95 % bound of Clopper and Pearson. in time: promoted within the plan's time + 20 %. requests: of the \
         candidate until the rollback, median and p90. seconds: until the rollback, for healthy ones until the promotion, median \
         and p90. harmed: share of all requests. 2 points are tolerated."
    );
    for what in &broken {
        println!("broken: {what}");
    }
    println!("{} rollouts, {} bounds broken", rollouts, broken.len());
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn row(result: &Result) {
    let group = result.group;
    let name = match group.kind {
        Kind::Healthy => "healthy".to_owned(),
        Kind::Edge | Kind::Harmful(_) => format!("{:.0} points", group.points() * 100.0),
    };
    let harmful = matches!(group.kind, Kind::Harmful(_));
    let bound = if harmful { "-".to_owned() } else { format!("{:.2} %", result.rollback_bound() * 100.0) };
    let in_time =
        if group.kind == Kind::Healthy { format!("{:.2} %", result.in_time() * 100.0) } else { "-".into() };
    let end = if harmful { End::RolledBack } else { End::Promoted };
    let pair = |end, measure: fn(&stoker_verdicts::trial::Outcome) -> f64| {
        format!("{:.0} / {:.0}", result.quantile(end, 0.5, measure), result.quantile(end, 0.9, measure))
    };
    let requests =
        if harmful { pair(End::RolledBack, |outcome| outcome.requests as f64) } else { "-".to_owned() };
    println!(
        "{:>6} {:>10} | {:>6} {:>8} {:>6} {:>5} | {:>9} {:>8} | {:>17} | {:>17} | {:>6.2} %",
        group.rate,
        name,
        group.trials,
        result.count(End::Promoted),
        result.count(End::RolledBack),
        result.count(End::Held),
        bound,
        in_time,
        requests,
        pair(end, |outcome| outcome.seconds),
        result.harmed() * 100.0
    );
}

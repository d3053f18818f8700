//! Runs the autoscalers over the traces and prints what came of it as JSON; `make bench-autoscale` makes tables and drawings of it.
//!
//! Without arguments all traces are run; with some, those.

mod canary;
mod ours;
mod peers;
mod plant;
mod random;
mod run;
mod traces;

use std::io::Write as _;

use anyhow::Result;
use ours::Ours;
use peers::{Hpa, Kpa, Metric};
use plant::Service;
use run::{Clairvoyant, Controller, Outcome, Setting, run};
use serde_json::{Value, json};
use traces::Trace;

/// The most pods that any of them may have.
pub const MOST: u32 = 40;

/// A server that takes requests one by one: 5 ms each, half of which scatters. The target is 80 ms.
const SERVICE: Service = Service { executors: 1, mean: 0.005, scatter: 0.5, refuse_after: f64::INFINITY };

/// A trace, what pods are like, and whether all settings of the peers are tried.
struct Scenario {
    trace: Trace,
    setting: Setting,
    sweep: bool,
}

fn setting(start: f64) -> Setting {
    Setting { service: SERVICE, target: 0.08, start, pods: 4, ignored: 300 }
}

fn scenarios() -> Result<Vec<Scenario>> {
    let plain = |trace: Trace, start: f64| Scenario { trace, setting: setting(start), sweep: true };
    let mut all = vec![
        plain(traces::step(), 20.0),
        plain(Trace { name: "step, pods start in 5 s".into(), ..traces::step() }, 5.0),
        plain(Trace { name: "step, pods start in 60 s".into(), ..traces::step() }, 60.0),
        plain(traces::ramp(), 20.0),
        plain(traces::spikes(), 20.0),
        plain(traces::crowd(), 20.0),
        plain(traces::on_off(), 20.0),
        plain(traces::noise(), 20.0),
        Scenario { sweep: false, ..plain(traces::daily(), 20.0) },
    ];
    // As Stoker's own server: four requests at once, and what would be late is refused.
    let service = Service { executors: 4, mean: 0.02, scatter: 0.5, refuse_after: 0.08 };
    let refusing = Setting { service, ..setting(20.0) };
    all.push(Scenario {
        trace: Trace { name: "step, pods refuse".into(), ..traces::step() },
        setting: refusing,
        sweep: true,
    });
    // A target so far away that latency says little before the wall.
    for (name, trace) in [("step, far target", traces::step()), ("daily, far target", traces::daily())] {
        let far = Setting { target: 1.0, ..setting(20.0) };
        let sweep = name.starts_with("step");
        all.push(Scenario { trace: Trace { name: name.into(), ..trace }, setting: far, sweep });
    }
    for trace in traces::recorded()? {
        all.push(plain(trace, 20.0));
    }
    Ok(all)
}

/// What one autoscaler made of a trace.
fn result(who: &str, tuned: &str, outcome: &Outcome, drawn: bool) -> Value {
    let drawn = drawn.then(|| {
        outcome.drawn.iter().map(|(demand, pods, p99)| json!([demand, pods, p99])).collect::<Vec<_>>()
    });
    json!({
        "who": who, "tuned": tuned,
        "violation": outcome.violation, "late": outcome.late,
        "replicas": outcome.replicas, "most": outcome.most, "turns": outcome.turns,
        "drawn": drawn,
    })
}

/// The peers, each as it comes (first) and over its target.
fn peers(setting: &Setting, sweep: bool) -> Vec<(String, Box<dyn Controller>)> {
    let pods = setting.pods;
    let executors = setting.service.executors;
    let mut all: Vec<(String, Box<dyn Controller>)> = Vec::new();
    let shares: &[f64] = if sweep { &[1.0, 0.8, 0.6, 0.4, 0.3] } else { &[1.0] };
    for share in shares {
        let metric = Metric::Latency(share * setting.target);
        all.push((format!("{:.0} % of the target", share * 100.0), Box::new(Hpa::new(metric, pods, MOST))));
    }
    let targets: &[f64] = if sweep { &[0.7, 0.85, 0.8, 0.6, 0.5, 0.4, 0.3] } else { &[0.7] };
    for target in targets {
        let metric = Metric::Cpu { target: *target, executors };
        all.push((format!("{:.0} % busy", target * 100.0), Box::new(Hpa::new(metric, pods, MOST))));
    }
    let targets: &[f64] = if sweep { &[0.7, 1.0, 2.0, 4.0, 0.5] } else { &[0.7] };
    for target in targets {
        let concurrency = target * executors as f64;
        all.push((format!("{concurrency:.1} at once"), Box::new(Kpa::new(concurrency, pods, MOST))));
    }
    all
}

fn play(scenario: &Scenario) -> Value {
    let Scenario { trace, setting, sweep } = scenario;
    let mut own = Ours::new(setting.target, setting.pods);
    let outcome = run(setting, trace, &mut own);
    let mut results = vec![result("stoker", "", &outcome, true)];
    let mut drawn: Vec<String> = Vec::new();
    for (tuned, mut peer) in peers(setting, *sweep) {
        let name = peer.name();
        let outcome = run(setting, trace, peer.as_mut());
        // Each peer is drawn as it comes.
        let is_first = !drawn.contains(&name);
        if is_first {
            drawn.push(name.clone());
        }
        results.push(result(&name, &tuned, &outcome, is_first));
    }
    let mut knows = Clairvoyant::new(setting, trace);
    results.push(result("clairvoyant", "", &run(setting, trace, &mut knows), true));
    let changes: Vec<Value> = own
        .changes
        .iter()
        .map(|(at, change)| json!([at, change.from, change.to, change.rule.as_str(), change.because]))
        .collect();
    json!({
        "trace": trace.name, "start": setting.start, "target": setting.target, "window": run::WINDOW,
        "results": results, "changes": changes,
    })
}

fn main() -> Result<()> {
    let only: Vec<String> = std::env::args().skip(1).collect();
    let asked = |name: &str| only.is_empty() || only.iter().any(|wanted| wanted == name);
    let mut all: Vec<Value> =
        scenarios()?.iter().filter(|scenario| asked(&scenario.trace.name)).map(play).collect();
    if asked("canary") {
        all.push(canary::play(&setting(20.0)));
    }
    serde_json::to_writer(std::io::stdout().lock(), &all)?;
    writeln!(std::io::stdout())?;
    Ok(())
}

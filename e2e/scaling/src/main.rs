//! `make bench-autoscale`.

mod ours;
mod peers;
mod plant;
mod random;
mod run;
mod traces;

use ours::Ours;
use peers::{Hpa, Kpa, Metric};
use plant::Service;
use run::{Clairvoyant, Controller, Outcome, Setting, run};

fn main() {
    let only: Vec<String> = std::env::args().skip(1).collect();
    let service = Service { executors: 1, mean: 0.005, scatter: 0.5, refuse_after: f64::INFINITY };
    let setting = Setting { service, target: 0.08, start: 20.0, pods: 4, ignored: 300 };
    println!("capacity of a pod: alone {:.0}, of ten {:.0}", run::capacity(&setting, 1), run::capacity(&setting, 10));
    for trace in [traces::step(), traces::ramp(), traces::spikes(), traces::crowd(), traces::on_off(), traces::noise(), traces::daily()] {
        if !only.is_empty() && !only.contains(&trace.name.to_owned()) { continue; }
        let mut ours = Ours::new(setting.target, setting.pods);
        let mut all: Vec<(String, Outcome)> = vec![("stoker".into(), run(&setting, &trace, &mut ours))];
        let peers: Vec<Box<dyn Controller>> = vec![
            Box::new(Hpa::new(Metric::Latency(setting.target), setting.pods, 40)),
            Box::new(Hpa::new(Metric::Cpu { target: 0.7, executors: 1 }, setting.pods, 40)),
            Box::new(Kpa::new(2.0, setting.pods, 40)),
            Box::new(Clairvoyant::new(&setting, &trace)),
        ];
        for mut peer in peers {
            let name = peer.name();
            all.push((name, run(&setting, &trace, peer.as_mut())));
        }
        println!("{}", trace.name);
        for (name, outcome) in all {
            println!(
                "  {name:12} violation {:.4} late {:.4} replicas {:.2} most {} turns {}",
                outcome.violation, outcome.late, outcome.replicas, outcome.most, outcome.turns
            );
        }
        for (second, change) in ours.changes.iter().take(20) {
            println!("    {second} s: {} -> {} {}: {}", change.from, change.to, change.rule.as_str(), change.because);
        }
    }
}

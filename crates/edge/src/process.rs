//! What the process itself takes, under the names that Prometheus' own clients use. Read from `/proc` when Prometheus asks;
//! what cannot be read is left out.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Ticks of a second in `/proc/PID/stat`: the same on every Linux that Rust runs on, whatever the kernel's own clock does.
const TICKS: f64 = 100.0;

/// Memory, processor time, open files and the start of the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process;

/// Processor time and start from `/proc/PID/stat`, in seconds; the start counts from when the machine started.
fn times(stat: &str) -> Option<(f64, f64)> {
    // The name of the program comes second, in brackets, and may hold spaces and brackets.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some(((ticks(11)? + ticks(12)?) / TICKS, ticks(19)? / TICKS))
}

/// The value of a line `name   123 ...`.
fn line(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let read = |path| std::fs::read_to_string(path).ok();
        let times = read("/proc/self/stat").and_then(|stat| times(&stat));
        let resident =
            read("/proc/self/status").and_then(|status| line(&status, "VmRSS:")).map(|kib| kib * 1024.0);
        let started = read("/proc/stat").and_then(|stat| line(&stat, "btime"));
        let files = std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as f64);
        let cpu = times.map(|(cpu, _)| cpu);
        let began = started.zip(times).map(|(machine, (_, process))| machine + process);
        let name = "process_cpu_seconds";
        let family =
            encoder.encode_descriptor(name, "Processor time of the process", None, MetricType::Counter)?;
        if let Some(cpu) = cpu {
            ConstCounter::new(cpu).encode(family)?;
        }
        for (name, help, value) in [
            ("process_open_fds", "Files and sockets that the process has open", files),
            ("process_resident_memory_bytes", "Memory that the process holds", resident),
            ("process_start_time_seconds", "When the process started, since 1970", began),
        ] {
            let family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            if let Some(value) = value {
                ConstGauge::new(value).encode(family)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn the_name_of_the_program_may_hold_anything() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 4 0 12345 0 0";
        assert_eq!(times(stat), Some((2.0, 123.45)));
        assert_eq!(times("7 (a"), None);
    }

    #[test]
    fn this_process_has_memory_files_and_a_start() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let value = |name: &str| {
            line(&text, &format!("{name} ")).unwrap_or_else(|| panic!("{name} is not in:\n{text}"))
        };
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_resident_memory_bytes") > 1e5);
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let began = value("process_start_time_seconds");
        assert!(began > 1e9 && began <= now + 2.0, "{began} of {now}");
    }
}

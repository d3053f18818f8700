//! Partitions: packets between two sides are dropped in the cluster's own network, until the partition is healed.
//!
//! Nothing is refused and no connection is closed: whoever waits for an answer waits. Connections that were there before are
//! cut too. Everything else, probes of the kubelet for one, goes on.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Marks the rules, so that those of a run that was killed are found.
const MARK: &str = "stoker-partition";

/// A partition. It heals when the value is dropped.
pub struct Partition {
    /// Each a chain and the rest of a rule.
    rules: Vec<(&'static str, Vec<String>)>,
}

impl Partition {
    /// Between pods of two sides, both ways.
    pub fn of_pods(one: &[IpAddr], other: &[IpAddr]) -> Result<Self> {
        let pairs = one.iter().flat_map(|a| other.iter().flat_map(move |b| [(a, b), (b, a)]));
        let rules = pairs.map(|(from, to)| {
            (
                "FORWARD",
                vec!["--source".to_owned(), from.to_string(), "--destination".to_owned(), to.to_string()],
            )
        });
        Self::begin(rules.collect())
    }

    /// Between pods and the API server, which runs on this node.
    pub fn from_api(pods: &[IpAddr], api: SocketAddr) -> Result<Self> {
        let (host, port) = (api.ip().to_string(), api.port().to_string());
        let rules = pods.iter().flat_map(|pod| {
            let rule = |chain, from: &str, to: &str, side: &str| {
                let words = ["--source", from, "--destination", to, "--protocol", "tcp", side, &port];
                (chain, words.map(str::to_owned).to_vec())
            };
            let pod = pod.to_string();
            [rule("INPUT", &pod, &host, "--destination-port"), rule("OUTPUT", &host, &pod, "--source-port")]
        });
        Self::begin(rules.collect())
    }

    fn begin(rules: Vec<(&'static str, Vec<String>)>) -> Result<Self> {
        ensure!(!rules.is_empty(), "a partition needs two sides");
        let mut partition = Self { rules: Vec::new() };
        for (chain, words) in rules {
            change("--insert", chain, &words)?;
            partition.rules.push((chain, words));
        }
        Ok(partition)
    }

    /// Lets the packets through again.
    pub fn heal(mut self) -> Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        for (chain, words) in self.rules.drain(..) {
            outcome = change("--delete", chain, &words).and(outcome);
        }
        outcome
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        // What stays is found by `heal_all`, and goes with the cluster.
        self.remove().ok();
    }
}

/// Ends what an earlier run, that was killed, left in this network.
pub fn heal_all() -> Result<()> {
    let listed = Command::new("iptables").arg("--list-rules").output().context("the program iptables")?;
    for line in String::from_utf8_lossy(&listed.stdout).lines().filter(|line| line.contains(MARK)) {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        iptables(&[&["--delete"], words.as_slice()].concat())?;
    }
    Ok(())
}

fn change(what: &str, chain: &str, words: &[String]) -> Result<()> {
    let words = words.iter().map(String::as_str);
    let end = ["--match", "comment", "--comment", MARK, "--jump", "DROP"];
    let rule: Vec<&str> = [what, chain].into_iter().chain(words).chain(end).collect();
    iptables(&rule)
}

fn iptables(words: &[&str]) -> Result<()> {
    let done = Command::new("iptables").arg("--wait").args(words).output().context("the program iptables")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "iptables {}: {}", words.join(" "), said.trim());
    Ok(())
}

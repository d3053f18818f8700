//! `stoker-bench-cut`: for how long a revision that begins to do harm goes on serving behind routers that look for harm.
//!
//! Pods of two revisions and an open loop of requests in one thread. After a healthy time the candidate gets bad; from its
//! first bad answer to the last one that it gives is what counts, as clients see it. One trial, printed as JSON.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Parser;
use http::StatusCode;
use serde::Serialize;
use stoker_bench::arrivals::Poisson;
use stoker_bench::connection::{Connection, Target};
use stoker_bench::pods::{Mood, serve_in_mood};
use tokio::task::LocalSet;

/// What every request asks.
const BODY: &[u8] = br#"{"inputs":[]}"#;
/// Where it goes at every router.
const PATH: &str = "/v2/models/digits/infer";

/// One trial.
#[derive(Debug, Parser)]
#[command(name = "stoker-bench-cut", version)]
struct Settings {
    /// Where a router listens. May be repeated: requests go to them in turn.
    #[arg(long = "router", required = true)]
    routers: Vec<SocketAddr>,
    /// Where stable's pod is to listen.
    #[arg(long)]
    stable: SocketAddr,
    /// Where the candidate's pod is to listen.
    #[arg(long)]
    candidate: SocketAddr,
    /// Name of the candidate's revision.
    #[arg(long, default_value = "digits-1")]
    revision: String,
    /// Requests due per second, of both revisions together.
    #[arg(long, default_value = "1000")]
    rate: f64,
    /// Share of bad answers of stable, and of the candidate at first.
    #[arg(long, default_value = "0.001")]
    base: f64,
    /// Share of bad answers of the candidate after that.
    #[arg(long, default_value = "0.3")]
    harm: f64,
    /// A bad answer comes so late; else it is a failure.
    #[arg(long, value_parser = humantime::parse_duration)]
    slow: Option<Duration>,
    /// How long the candidate is as good as stable.
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    healthy: Duration,
    /// The candidate is cut when it has not answered for so long.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    quiet: Duration,
    /// Longest time of harm: a trial without a cut fails.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    longest: Duration,
    /// Seed of arrivals and of bad answers.
    #[arg(long, default_value = "1")]
    seed: u64,
}

/// What clients saw.
#[derive(Debug, Default)]
struct Seen {
    /// Set once the candidate is bad.
    harming: bool,
    first_bad: Option<Instant>,
    last: Option<Instant>,
    candidate: u64,
    bad: u64,
    requests: u64,
    /// Failures that no revision answers for.
    lost: u64,
    first_lost: Option<String>,
}

/// The result.
#[derive(Debug, Serialize)]
struct Trial {
    /// From the first bad answer of the candidate to the last answer that it gave.
    seconds: f64,
    /// Answers of the candidate in that time.
    candidate: u64,
    /// Of these, bad.
    bad: u64,
    /// Requests of the whole trial.
    requests: u64,
    /// Requests that failed and that no revision answers for.
    lost: u64,
    /// What the first of them was told.
    first_lost: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let trial = LocalSet::new().block_on(&runtime, run(&settings))?;
    #[expect(clippy::print_stdout, reason = "the result")]
    {
        println!("{}", serde_json::to_string(&trial)?);
    }
    Ok(())
}

async fn run(settings: &Settings) -> anyhow::Result<Trial> {
    let Settings { base, harm, slow, seed, .. } = *settings;
    let good = Mood { bad: base, slow };
    let mood = Rc::new(Cell::new(good));
    serve_in_mood(settings.stable, Rc::new(Cell::new(good)), seed.wrapping_mul(3)).await?;
    serve_in_mood(settings.candidate, Rc::clone(&mood), seed.wrapping_mul(5)).await?;
    let mut targets = Vec::new();
    for router in &settings.routers {
        let url = format!("http://{router}{PATH}").parse()?;
        targets.push((Target::new(&url, Some("digits"))?, Rc::new(RefCell::new(VecDeque::new()))));
    }

    let seen = Rc::new(RefCell::new(Seen::default()));
    let mut arrivals = Poisson::new(settings.rate, seed);
    let begun = Instant::now();
    let turning = begun + settings.healthy;
    let mut due = begun;
    for number in 0.. {
        due += arrivals.gap();
        // Yielding polls the sockets: pods and answers go on meanwhile.
        while Instant::now() < due {
            tokio::task::yield_now().await;
        }
        if due >= turning && !seen.borrow().harming {
            ensure!(seen.borrow().candidate > 0, "the candidate got no request in {:?}", settings.healthy);
            mood.set(Mood { bad: harm, slow });
            let mut seen = seen.borrow_mut();
            (seen.harming, seen.candidate, seen.bad) = (true, 0, 0);
        }
        let quiet_since = seen.borrow().last.filter(|_| seen.borrow().first_bad.is_some());
        if quiet_since.is_some_and(|last| due.saturating_duration_since(last) > settings.quiet) {
            break;
        }
        ensure!(due < turning + settings.longest, "nothing was cut within {:?}", settings.longest);
        let (target, idle) = &targets[number % targets.len()];
        let (target, idle, seen) = (target.clone(), Rc::clone(idle), Rc::clone(&seen));
        let (revision, slow) = (settings.revision.clone(), slow);
        tokio::task::spawn_local(async move {
            let kept: Option<Connection> = idle.borrow_mut().pop_front();
            let outcome = ask(kept, &target).await;
            let mut seen = seen.borrow_mut();
            seen.requests += 1;
            match outcome {
                Ok((connection, answer, took)) => {
                    idle.borrow_mut().push_back(connection);
                    seen.note(&answer, took, &revision, slow);
                }
                Err(error) => seen.lost(format!("{error:#}")),
            }
        });
    }
    let seen = seen.borrow();
    let (first, last) = (seen.first_bad.context("no bad answer")?, seen.last.context("no answer")?);
    Ok(Trial {
        seconds: last.saturating_duration_since(first).as_secs_f64(),
        candidate: seen.candidate,
        bad: seen.bad,
        requests: seen.requests,
        lost: seen.lost,
        first_lost: seen.first_lost.clone(),
    })
}

type Answer = stoker_bench::connection::Answer;

/// One request, on a connection that was kept or on a new one.
async fn ask(kept: Option<Connection>, target: &Target) -> anyhow::Result<(Connection, Answer, Duration)> {
    let mut connection = match kept {
        Some(connection) => connection,
        None => Connection::open(target).await?,
    };
    let sent = Instant::now();
    let answer = connection.ask(Bytes::from_static(BODY)).await?;
    Ok((connection, answer, sent.elapsed()))
}

impl Seen {
    fn note(&mut self, answer: &Answer, took: Duration, candidate: &str, slow: Option<Duration>) {
        let Some(revision) = &answer.revision else {
            return self.lost(format!("{} by no revision", answer.status));
        };
        let is_bad = answer.status != StatusCode::OK || slow.is_some_and(|slow| took >= slow);
        if revision != candidate {
            return;
        }
        self.candidate += 1;
        self.bad += u64::from(is_bad);
        if self.harming {
            let now = Instant::now();
            if is_bad {
                self.first_bad.get_or_insert(now);
            }
            self.last = Some(now);
        }
    }

    fn lost(&mut self, why: String) {
        self.lost += 1;
        self.first_lost.get_or_insert(why);
    }
}

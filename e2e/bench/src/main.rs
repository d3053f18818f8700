//! `stoker-load`: HTTP/1.1 load over keep-alive connections, closed-loop or open-loop, and exact percentiles as JSON.
//!
//! Closed loop: each connection sends its next request when it has the answer to the last one; that measures capacity.
//! Open loop: requests are due at times that do not depend on answers (a Poisson process with a fixed seed), and a
//! latency counts from the time at which the request was due. A server that stalls cannot hide it by holding up the
//! generator (coordinated omission).
//!
//! With `--pod` it is what a router sends the requests to, as well.
//!
//! One thread. In the open loop it never sleeps, because a timer of a millisecond would be most of what it measures:
//! give it a core of its own.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::{Parser, ValueEnum};
use http::StatusCode;
use stoker_bench::arrivals::Poisson;
use stoker_bench::connection::{Connection, Target};
use stoker_bench::pods::Pod;
use stoker_bench::summary::Summary;
use tokio::task::LocalSet;

/// What to send, where, and how fast.
#[derive(Debug, Parser)]
#[command(name = "stoker-load", version)]
struct Settings {
    /// Where to: http://address:port/path.
    #[arg(long)]
    url: http::Uri,
    /// What the Host header says; the address of --url when not given.
    #[arg(long)]
    host: Option<String>,
    /// A pod to serve beside, for a router at --url to send requests to: address:port, or address:port=4ms for one that
    /// works on one request after the other, each for an exponential time of that mean. May be repeated.
    #[arg(long = "pod")]
    pods: Vec<Pod>,
    /// Bodies to POST, one in each line; taken in turn.
    #[arg(long)]
    bodies: PathBuf,
    /// Closed or open loop.
    #[arg(long, value_enum, default_value = "closed")]
    mode: Mode,
    /// Connections: all are busy in the closed loop; in the open loop the most that may be.
    #[arg(long, default_value = "16", value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    /// Open loop: requests due per second.
    #[arg(long, default_value = "1000")]
    rate: f64,
    /// Time before counting begins.
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    warm_up: Duration,
    /// Time that is counted.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Answers that come later than this after their request was due are of no use; counts those that are.
    #[arg(long, value_parser = humantime::parse_duration)]
    target: Option<Duration>,
    /// Counts answers of 503 as refused, and goes on: for a server that is given more than it can do.
    #[arg(long)]
    may_refuse: bool,
    /// Seed of the open loop's arrivals.
    #[arg(long, default_value = "1")]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Closed,
    Open,
}

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    /// Of the time that counts.
    latencies: Vec<Duration>,
    /// Of the time that counts: answers of 503, where they are allowed.
    refused: usize,
    /// Answers other than 200, and requests without an answer, whenever: after one in the warm-up, the rest would be measured
    /// with fewer connections.
    errors: u64,
    first_error: Option<String>,
}

impl Seen {
    fn add(&mut self, outcome: anyhow::Result<Sent>, latency: Duration, counts: bool) {
        match outcome {
            Ok(Sent::Answered) if counts => self.latencies.push(latency),
            Ok(Sent::Refused) if counts => self.refused += 1,
            Ok(_) => {}
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert(format!("{error:#}"));
            }
        }
    }
}

/// How a request ended that got an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Answered,
    Refused,
}

/// Sends a request. Any answer other than 200 is an error; but 503, where it is allowed.
async fn send(connection: &mut Connection, body: Bytes, may_refuse: bool) -> anyhow::Result<Sent> {
    let answer = connection.ask(body).await?;
    if may_refuse && answer.status == StatusCode::SERVICE_UNAVAILABLE {
        return Ok(Sent::Refused);
    }
    answer.must_be_ok().map(|()| Sent::Answered)
}

fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let text = std::fs::read_to_string(&settings.bodies)
        .with_context(|| format!("--bodies {}", settings.bodies.display()))?;
    let bodies: Vec<Bytes> = text.lines().map(|line| Bytes::from(line.to_owned())).collect();
    ensure!(!bodies.is_empty(), "--bodies {} holds no line", settings.bodies.display());
    let bodies = Rc::new(Bodies { all: bodies, next: Cell::new(0) });
    let target = Target::new(&settings.url, settings.host.as_deref())?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seen = LocalSet::new().block_on(&runtime, async {
        for (pod, seed) in settings.pods.iter().zip(settings.seed * 1000..) {
            pod.serve(seed).await?;
        }
        match settings.mode {
            Mode::Closed => closed_loop(&settings, &target, &bodies).await,
            Mode::Open => open_loop(&settings, &target, &bodies).await,
        }
    })?;
    let summary = Summary::of(seen.latencies, seen.refused, seen.errors, settings.duration, settings.target);
    if let Some(error) = seen.first_error {
        anyhow::bail!("{} of the requests failed; the first: {error}", summary.errors);
    }
    #[expect(clippy::print_stdout, reason = "the result")]
    {
        println!("{}", serde_json::to_string(&summary)?);
    }
    Ok(())
}

/// The bodies, taken in turn by all connections.
struct Bodies {
    all: Vec<Bytes>,
    next: Cell<usize>,
}

impl Bodies {
    fn next(&self) -> Bytes {
        let position = self.next.get();
        self.next.set((position + 1) % self.all.len());
        self.all[position].clone()
    }
}

/// Every connection sends as soon as it has its answer.
async fn closed_loop(settings: &Settings, target: &Target, bodies: &Rc<Bodies>) -> anyhow::Result<Seen> {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let begun = Instant::now();
    let counted = begun + settings.warm_up..begun + settings.warm_up + settings.duration;
    let mut senders = Vec::new();
    for _ in 0..settings.connections {
        let mut connection = Connection::open(target).await?;
        let (seen, bodies, counted) = (Rc::clone(&seen), Rc::clone(bodies), counted.clone());
        let may_refuse = settings.may_refuse;
        senders.push(tokio::task::spawn_local(async move {
            loop {
                let sent = Instant::now();
                if sent >= counted.end {
                    return;
                }
                let outcome = send(&mut connection, bodies.next(), may_refuse).await;
                let answered = Instant::now();
                let failed = outcome.is_err();
                // An answer counts when it came within the time, so that the rate is that of the time.
                seen.borrow_mut().add(outcome, answered - sent, counted.contains(&answered));
                if failed {
                    return;
                }
            }
        }));
    }
    for sender in senders {
        sender.await?;
    }
    Ok(seen.take())
}

/// Requests are due at the times of a Poisson process, whatever the answers do.
async fn open_loop(settings: &Settings, target: &Target, bodies: &Rc<Bodies>) -> anyhow::Result<Seen> {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let idle = Rc::new(RefCell::new(VecDeque::new()));
    for _ in 0..settings.connections {
        let connection = Connection::open(target).await?;
        idle.borrow_mut().push_back(connection);
    }
    let in_flight = Rc::new(Cell::new(0_usize));
    let mut arrivals = Poisson::new(settings.rate, settings.seed);
    let begun = Instant::now();
    let counted = begun + settings.warm_up..begun + settings.warm_up + settings.duration;
    let mut due = begun + arrivals.gap();
    while due < counted.end {
        // Yielding polls the sockets, so answers are read while the next request is not due yet. A request that finds no
        // idle connection waits for one, and that time counts.
        let connection = loop {
            if Instant::now() >= due
                && let Some(connection) = idle.borrow_mut().pop_front()
            {
                break connection;
            }
            if in_flight.get() == 0 && idle.borrow().is_empty() {
                // All of them failed: there is nothing to wait for.
                return Ok(seen.take());
            }
            tokio::task::yield_now().await;
        };
        let (seen, idle, counted) = (Rc::clone(&seen), Rc::clone(&idle), counted.clone());
        let (in_flight, body) = (Rc::clone(&in_flight), bodies.next());
        let may_refuse = settings.may_refuse;
        in_flight.set(in_flight.get() + 1);
        tokio::task::spawn_local(async move {
            let mut connection = connection;
            let outcome = send(&mut connection, body, may_refuse).await;
            let latency = due.elapsed();
            if outcome.is_ok() {
                idle.borrow_mut().push_back(connection);
            }
            seen.borrow_mut().add(outcome, latency, counted.contains(&due));
            in_flight.set(in_flight.get() - 1);
        });
        due += arrivals.gap();
    }
    while in_flight.get() > 0 {
        tokio::task::yield_now().await;
    }
    Ok(seen.take())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// A server that answers each connection once, with that status, and then closes it.
    fn closing_server(status: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                // The request is short and comes whole. Whether the answer arrives does not matter here.
                assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                drop(stream.write_all(answer.as_bytes()));
            }
        });
        url
    }

    fn run(mode: &str, status: &'static str, options: &[&str]) -> Seen {
        let url = closing_server(status);
        let arguments = ["stoker-load", "--url", &url, "--bodies", "-", "--mode", mode, "--connections", "2"];
        let settings = Settings::parse_from(arguments.iter().chain(options));
        let bodies = Rc::new(Bodies { all: vec![Bytes::from_static(b"{}")], next: Cell::new(0) });
        let target = Target::new(&settings.url, None).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let seen = LocalSet::new().block_on(&runtime, async {
            match settings.mode {
                Mode::Closed => closed_loop(&settings, &target, &bodies).await,
                Mode::Open => open_loop(&settings, &target, &bodies).await,
            }
        });
        seen.unwrap()
    }

    #[test]
    fn a_connection_that_fails_in_the_warm_up_is_an_error() {
        for mode in ["closed", "open"] {
            let times = ["--warm-up", "300ms", "--duration", "100ms", "--rate", "200"];
            let seen = run(mode, "200 OK", &times);
            assert_eq!((seen.errors, seen.latencies.len()), (2, 0), "{mode}");
            assert!(seen.first_error.is_some(), "{mode}");
        }
    }
    #[test]
    fn refusals_are_counted_where_they_are_allowed_and_are_errors_where_not() {
        let times = ["--warm-up", "0s", "--duration", "300ms", "--rate", "200"];
        let refused = "503 Service Unavailable";
        for mode in ["closed", "open"] {
            let seen = run(mode, refused, &[&times[..], &["--may-refuse"]].concat());
            assert_eq!((seen.refused, seen.latencies.len()), (2, 0), "{mode}");
            // The connections are closed after it, and that is no refusal.
            assert_eq!(seen.errors, 2, "{mode}");
            let seen = run(mode, refused, &times);
            assert_eq!((seen.refused, seen.errors), (0, 2), "{mode}");
        }
    }
}

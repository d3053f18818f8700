//! Real images at a fixed rate, as clients of a Service send them.
//!
//! Open loop: a request is sent when it is due, whether or not earlier ones are answered, and its latency counts from when it
//! was due. Nothing is ever sent twice. Most requests share a few kept-alive connections, each used in turn; some open a
//! connection of their own. What is in flight, what is kept and how long it runs are bounded.

mod connection;
mod http2;
pub mod ledger;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use http::StatusCode;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use crate::digits::{self, Digits};
use connection::Pool;
use http2::Shared;
use ledger::{Ledger, Outcome};

/// Requests that may be under way; more means that the load is far beyond what is served.
const MOST_IN_FLIGHT: usize = 4_000;
/// Requests of one load at most, some 40 bytes each.
const MOST_REQUESTS: usize = 500_000;
/// A body that is longer than any answer of a digits model.
pub(crate) const LONGEST_BODY: usize = 1 << 20;

/// Where requests go and how many.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Address of the Service.
    pub address: SocketAddr,
    /// The Host header: `<model>.<namespace>.svc`.
    pub host: String,
    /// The path of the infer endpoint.
    pub path: String,
    /// Requests a second.
    pub rate: u32,
    /// Connections that are kept alive.
    pub connections: usize,
    /// Every so many requests, one opens a connection of its own.
    pub fresh_every: usize,
    /// Every so many requests, one goes over an HTTP/2 connection that these share; 0: none.
    pub http2_every: usize,
    /// How long an answer may take before the request counts as failed.
    pub deadline: Duration,
}

impl Plan {
    /// Requests for `model` of `namespace` at `address`: 8 connections, and one request in ten on its own.
    pub fn of(address: SocketAddr, namespace: &str, model: &str, rate: u32) -> Self {
        Self {
            address,
            host: format!("{model}.{namespace}.svc"),
            path: format!("/v2/models/{model}/infer"),
            rate,
            connections: 8,
            fresh_every: 10,
            http2_every: 0,
            deadline: Duration::from_secs(10),
        }
    }
}

/// A load that is running.
pub struct Load {
    started: Instant,
    ledger: Arc<Mutex<Ledger>>,
    stop: watch::Sender<bool>,
    bright: Arc<AtomicBool>,
    running: JoinHandle<Result<()>>,
}

impl Load {
    /// Begins to send.
    pub fn start(plan: Plan) -> Result<Self> {
        ensure!(
            plan.rate > 0 && plan.connections > 0 && plan.fresh_every > 0,
            "a load needs a rate and connections"
        );
        let digits = Digits::load()?;
        let pool = Pool::new(plan.address, plan.connections);
        let shared = Shared::new(plan.address);
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let (stop, stopped) = watch::channel(false);
        let started = Instant::now();
        let bright = Arc::new(AtomicBool::new(false));
        let sender =
            Sender { plan, digits, pool, shared, ledger: ledger.clone(), bright: bright.clone(), started };
        let running = tokio::spawn(send_all(Arc::new(sender), stopped));
        Ok(Self { started, ledger, stop, bright, running })
    }

    /// Whether only bright images are sent from now on. At first all are.
    pub fn only_bright(&self, yes: bool) {
        self.bright.store(yes, Ordering::Relaxed);
    }

    /// Since the load began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits until so many requests have ended.
    pub async fn ended(&self, requests: usize) {
        while self.ledger().answers().len() < requests && !self.running.is_finished() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The ledger so far. Do not hold it across an await: the load waits for it.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Sends nothing more, waits for what is under way, and hands the ledger over.
    pub async fn finish(self) -> Result<Ledger> {
        // The task may have ended by itself, with an error that the next line returns.
        self.stop.send(true).ok();
        self.running.await??;
        let ledger = std::mem::take(&mut *lock(&self.ledger));
        Ok(ledger)
    }

    /// As [`Load::finish`], and fails when any request failed.
    pub async fn finish_without_failure(self) -> Result<Ledger> {
        let ledger = self.finish().await?;
        ensure!(!ledger.answers().is_empty(), "no request was sent");
        ensure!(ledger.failed_but_for(None) == 0, "requests failed: {}", ledger.explain());
        Ok(ledger)
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    // A writer cannot panic half-way: each writes one line.
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all requests of a load share.
struct Sender {
    plan: Plan,
    digits: Digits,
    pool: Pool,
    shared: Shared,
    ledger: Arc<Mutex<Ledger>>,
    bright: Arc<AtomicBool>,
    started: Instant,
}

async fn send_all(sender: Arc<Sender>, mut stopped: watch::Receiver<bool>) -> Result<()> {
    let (started, rate) = (sender.started, sender.plan.rate);
    let in_flight = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let mut due = tokio::time::interval(Duration::from_secs(1) / rate);
    // A late tick is made up for at once: what is due is sent.
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0..MOST_REQUESTS {
        let at = tokio::select! {
            at = due.tick() => at.into_std().saturating_duration_since(started),
            _ = stopped.changed() => break,
        };
        ensure!(
            in_flight.fetch_add(1, Ordering::Relaxed) < MOST_IN_FLIGHT,
            "{MOST_IN_FLIGHT} requests are under way and not answered: {rate} a second are not served"
        );
        let (sender, in_flight) = (sender.clone(), in_flight.clone());
        tasks.spawn(async move {
            let (outcome, moved) = sender.send_one(number).await;
            let latency = started.elapsed().saturating_sub(at);
            let mut ledger = lock(&sender.ledger);
            ledger.moved += u64::from(moved);
            ledger.record(at, latency, outcome);
            in_flight.fetch_sub(1, Ordering::Relaxed);
        });
        while tasks.try_join_next().is_some() {}
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

impl Sender {
    /// One request to its end. The flag tells that it had to look for another connection.
    async fn send_one(&self, number: usize) -> (Outcome, bool) {
        let Self { plan, digits, pool, .. } = self;
        let bright = self.bright.load(Ordering::Relaxed);
        let (body, label) = if bright { digits.bright_request(number) } else { digits.request(number) };
        let fresh = number % plan.fresh_every == plan.fresh_every - 1;
        let deadline = tokio::time::Instant::now() + plan.deadline;
        let reply = if plan.http2_every > 0 && number.is_multiple_of(plan.http2_every) {
            self.shared.send(&plan.host, &plan.path, body, deadline).await
        } else {
            pool.send(&plan.host, &plan.path, body, fresh, deadline).await
        };
        match reply {
            Ok(reply) => {
                let right =
                    (reply.status == StatusCode::OK).then(|| digits::predicted(&reply.body)).flatten();
                let message = right.is_none().then(|| {
                    let body: String = String::from_utf8_lossy(&reply.body).chars().take(300).collect();
                    format!("{}: {body}", reply.status)
                });
                let answer = Some((reply.status.as_u16(), reply.revision));
                (Outcome { answer, right: right.map(|answered| answered == label), message }, reply.moved)
            }
            Err(error) => (Outcome { answer: None, right: None, message: Some(format!("{error:#}")) }, false),
        }
    }
}

#[cfg(test)]
mod tests;

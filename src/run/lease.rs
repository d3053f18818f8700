//! Who leads: one operator at a time for the same objects, by a Lease. The rule is pure; the loop around it writes (client
//! required).
//!
//! Time is measured on the local monotonic clock alone: a Lease is given up for dead when it was *seen unchanged* for its
//! duration, whatever its timestamps say. A leader that cannot renew for two thirds of that time stops its work, so that it is
//! silent before another one starts; from then on the [`Fence`] lets nothing pass either, for whoever has not heard of it. When the
//! API server is back it leads again, if nobody else has led meanwhile; else its process ends.

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout};

use crate::call::{CallError, Calls};
use crate::fence::Fence;

/// Name of the Lease, or what it begins with.
const NAME: &str = "stoker";
/// Time between two looks of one who waits, and between two tries to renew after a failure.
const LOOK: Duration = Duration::from_secs(2);
/// How long the release may take when the process ends.
const RELEASE: Duration = Duration::from_secs(3);

/// The Lease of an operator in `namespace` that watches one other namespace, or all.
///
/// Operators that have nothing to do with each other must not wait for each other: beside one for all namespaces there may be
/// others in this one, each for a namespace of its own.
pub fn name(namespace: &str, watch: Option<&str>) -> String {
    match watch {
        Some(watch) if watch != namespace => format!("{NAME}-{watch}"),
        _ => NAME.to_owned(),
    }
}

/// After this time without a renewal a leader is silent, of the time after which another may lead. What is left is for what is
/// on its way to the API server.
fn silent_after(duration: Duration) -> Duration {
    duration * 2 / 3
}

/// What to do about a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// There is none: make it.
    Create,
    /// It was given up, or was not renewed for its duration: take it over.
    Take,
    /// It is ours already.
    Renew,
    /// Somebody leads; at the earliest in this time it may be taken.
    Wait(Duration),
}

/// The rule. `unchanged` is how long this process has seen `lease` as it is; `ours` is the duration that we would set.
pub fn evaluate(lease: Option<&LeaseSpec>, me: &str, unchanged: Duration, ours: Duration) -> Action {
    let Some(lease) = lease else { return Action::Create };
    let lasts = lease.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let lasts = lasts.map_or(ours, Duration::from_secs);
    match lease.holder_identity.as_deref() {
        None | Some("") => Action::Take,
        Some(holder) if holder == me => Action::Renew,
        Some(_) if unchanged >= lasts => Action::Take,
        Some(_) => Action::Wait(lasts.saturating_sub(unchanged)),
    }
}

/// The Lease as `me` holds it. Times in it are for people.
pub fn held(before: Option<&LeaseSpec>, me: &str, duration: Duration, now: Timestamp) -> LeaseSpec {
    let same = before.filter(|before| before.holder_identity.as_deref() == Some(me));
    let transitions = before.map_or(0, |before| before.lease_transitions.unwrap_or(0));
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: same.and_then(|same| same.acquire_time.clone()).or(Some(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if same.is_some() || before.is_none() {
            transitions
        } else {
            transitions.saturating_add(1)
        }),
        ..LeaseSpec::default()
    }
}

/// The Lease as one who leaves writes it: the next one need not wait.
fn released(before: &LeaseSpec, now: Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        renew_time: Some(MicroTime(now)),
        ..before.clone()
    }
}

/// What a candidate wants to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who wants it; must differ between processes that live at the same time.
    pub me: String,
    /// Another one waits for this long.
    pub duration: Duration,
}

/// A candidate for the lead.
#[derive(Clone)]
pub struct Election {
    api: Api<Lease>,
    calls: Calls,
    fence: Fence,
    seat: Seat,
}

/// The lead, as long as it is kept.
pub struct Lead {
    election: Election,
    lease: Lease,
    /// When the last renewal that succeeded was begun, on the fence's clock.
    renewed: Duration,
}

/// How the lead ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// We gave it back.
    Released,
    /// Somebody else has it: this process must not act any more.
    Lost(String),
    /// It could not be renewed, and may be somebody else's soon: this process must not act until it knows.
    Unrenewed(String),
}

impl Election {
    /// `client` is one that the fence does not hold back; `fence` is open while this process leads.
    pub fn new(client: Client, calls: Calls, fence: Fence, seat: Seat) -> Self {
        Self { api: Api::namespaced(client, &seat.namespace), calls, fence, seat }
    }

    fn leads(self, lease: Lease, renewed: Duration) -> Lead {
        self.fence.open(renewed, silent_after(self.seat.duration));
        Lead { election: self, lease, renewed }
    }

    /// Waits until this process leads.
    pub async fn win(self) -> Lead {
        let mut seen: Option<(LeaseSpec, Instant)> = None;
        let mut told = String::new();
        loop {
            match self.try_once(&mut seen, &mut told).await {
                Ok(Some((lease, renewed))) => return self.leads(lease, renewed),
                Ok(None) => sleep(LOOK).await,
                Err(error) => {
                    tracing::warn!(%error, "the Lease cannot be read or written; tried again");
                    sleep(LOOK).await;
                }
            }
        }
    }

    /// After a time in which the Lease could not be renewed: leads again if it is still ours, else says who has it.
    pub async fn regain(self) -> Result<Lead, String> {
        loop {
            match self.try_ours().await {
                Ok(Ours::Renewed(lease, renewed)) => return Ok(self.leads(lease, renewed)),
                Ok(Ours::Touched) => {}
                Ok(Ours::No(holder)) => return Err(holder),
                Err(error) => {
                    tracing::warn!(%error, "whose the Lease is cannot be found out; tried again");
                    sleep(LOOK).await;
                }
            }
        }
    }

    async fn try_ours(&self) -> Result<Ours, CallError> {
        let Seat { name, me, duration, .. } = &self.seat;
        let live = self.calls.make("get Lease", name, self.api.get_opt(name)).await?;
        let begun = self.fence.now();
        let ours = |lease: &Lease| {
            lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref()).is_some_and(|it| it == me)
        };
        let mut lease = match live {
            Some(lease) if ours(&lease) => lease,
            // Given back by somebody, or deleted: whoever led meanwhile is not known, so this is as if they still did.
            other => {
                let holder = other.and_then(|lease| lease.spec?.holder_identity);
                return Ok(Ours::No(
                    holder.filter(|it| !it.is_empty()).unwrap_or_else(|| "nobody".to_owned()),
                ));
            }
        };
        lease.spec = Some(held(lease.spec.as_ref(), me, *duration, Timestamp::now()));
        match self.write(&lease).await {
            Ok(lease) => Ok(Ours::Renewed(lease, begun)),
            Err(error) if error.is_conflict() => Ok(Ours::Touched),
            Err(error) if error.is_not_found() => Ok(Ours::No("nobody".to_owned())),
            Err(error) => Err(error),
        }
    }

    async fn try_once(
        &self,
        seen: &mut Option<(LeaseSpec, Instant)>,
        told: &mut String,
    ) -> Result<Option<(Lease, Duration)>, CallError> {
        let Seat { name, me, duration, .. } = &self.seat;
        let live = self.calls.make("get Lease", name, self.api.get_opt(name)).await?;
        let (now, begun) = (Instant::now(), self.fence.now());
        let spec = live.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
        let unchanged = match (&spec, &*seen) {
            (Some(spec), Some((before, since))) if spec == before => now.duration_since(*since),
            _ => {
                *seen = spec.clone().map(|spec| (spec, now));
                Duration::ZERO
            }
        };
        let action = evaluate(spec.as_ref(), me, unchanged, *duration);
        if let Action::Wait(left) = action {
            let holder = spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
            if *told != holder {
                tracing::info!(holder, left_s = left.as_secs_f64(), "another operator leads; this one waits");
                *told = holder;
            }
            return Ok(None);
        }
        let lease = Lease {
            metadata: live.map_or_else(
                || ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
                |live| live.metadata,
            ),
            spec: Some(held(spec.as_ref(), me, *duration, Timestamp::now())),
        };
        let written = if action == Action::Create {
            self.calls.make("create Lease", name, self.api.create(&PostParams::default(), &lease)).await
        } else {
            self.write(&lease).await
        };
        match written {
            Ok(lease) => Ok(Some((lease, begun))),
            // Somebody else was faster.
            Err(error) if error.is_conflict() || error.is_already_exists() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the Lease; refused when it has changed since it was read.
    async fn write(&self, lease: &Lease) -> Result<Lease, CallError> {
        let name = &self.seat.name;
        self.calls.make("update Lease", name, self.api.replace(name, &PostParams::default(), lease)).await
    }
}

impl Lead {
    /// Renews until `stop`, and gives the Lease back then.
    pub async fn keep(self, stop: impl Future<Output = ()>) -> Ended {
        let fence = self.election.fence.clone();
        let ended = self.renewing(stop).await;
        fence.close();
        ended
    }

    async fn renewing(mut self, stop: impl Future<Output = ()>) -> Ended {
        let mut stop = std::pin::pin!(stop);
        let duration = self.election.seat.duration;
        let limit = silent_after(duration);
        let mut pause = duration / 3;
        loop {
            tokio::select! {
                () = &mut stop => return self.release().await,
                () = sleep(pause) => {}
            }
            let tried = timeout(limit.saturating_sub(self.age()), self.renew()).await;
            let left = limit.saturating_sub(self.age());
            match tried {
                Ok(Ok(())) => pause = duration / 3,
                Ok(Err(Refusal::Deposed(holder))) => return Ended::Lost(format!("{holder} leads now")),
                Ok(Err(Refusal::Call(error))) if !left.is_zero() => {
                    let left_s = left.as_secs_f64();
                    tracing::warn!(%error, left_s, "the Lease cannot be renewed; tried again");
                    pause = LOOK.min(left);
                }
                Ok(Err(Refusal::Call(_))) | Err(_) => {
                    let silent = self.age().as_secs_f64();
                    return Ended::Unrenewed(format!("the Lease could not be renewed for {silent:.0} s"));
                }
            }
        }
    }

    /// Time since the last renewal that succeeded was begun.
    fn age(&self) -> Duration {
        self.election.fence.now().saturating_sub(self.renewed)
    }

    async fn renew(&mut self) -> Result<(), Refusal> {
        let election = self.election.clone();
        let begun = election.fence.now();
        let Seat { name, me, duration, .. } = &election.seat;
        self.lease.spec = Some(held(self.lease.spec.as_ref(), me, *duration, Timestamp::now()));
        let written = match election.write(&self.lease).await {
            Err(error) if error.is_conflict() => {
                let live = election.calls.make("get Lease", name, election.api.get(name)).await?;
                let holder =
                    live.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
                if holder != *me {
                    return Err(Refusal::Deposed(holder));
                }
                // Somebody touched our Lease without taking it.
                self.lease.metadata = live.metadata;
                election.write(&self.lease).await?
            }
            // Deleted by somebody: whoever makes it next leads, and that may be another.
            Err(error) if error.is_not_found() => return Err(Refusal::Deposed("nobody".to_owned())),
            other => other?,
        };
        (self.lease, self.renewed) = (written, begun);
        election.fence.open(begun, silent_after(*duration));
        Ok(())
    }

    async fn release(self) -> Ended {
        let Self { election, mut lease, .. } = self;
        // Whoever has the Lease next may begin at once.
        election.fence.close();
        lease.spec = Some(released(&lease.spec.unwrap_or_default(), Timestamp::now()));
        match timeout(RELEASE, election.write(&lease)).await {
            Ok(Ok(_)) => tracing::info!("the Lease is given back"),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the Lease could not be given back; the next operator waits for its end");
            }
            Err(_) => tracing::warn!(
                "the Lease could not be given back in time; the next operator waits for its end"
            ),
        }
        Ended::Released
    }
}

/// Whose a Lease is that was ours.
#[expect(clippy::large_enum_variant, reason = "one of them exists at a time, for a moment")]
enum Ours {
    /// Ours still; renewed by a call that was begun then, on the fence's clock.
    Renewed(Lease, Duration),
    /// Ours when it was read, and changed since: read again.
    Touched,
    /// Somebody else's.
    No(String),
}

/// Why a renewal did not succeed.
enum Refusal {
    /// Somebody else leads.
    Deposed(String),
    /// The API server said no, or nothing.
    Call(CallError),
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

#[cfg(test)]
mod tests;

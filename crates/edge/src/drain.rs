//! Leaving without failing a request: readiness fails first, connections close last.
//!
//! Kubernetes tells the kubelet and the endpoint controllers at the same time that a pod ends, so requests still come
//! after SIGTERM. The order is therefore: [`Phase::Leaving`] (not ready, still accepting, every answer asks the client to
//! close its connection), then [`Phase::Closing`] (no new connections, the rest finishes within a limit).

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How far the process is on its way out. The order of the variants is the order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Everything is served.
    Serving = 0,
    /// Not ready any more; still accepts; answers carry `Connection: close`.
    Leaving = 1,
    /// No new connections; those that are there finish.
    Closing = 2,
}

/// A handle on the phase of this process. Clones share it.
#[derive(Clone, Debug)]
pub struct Drain(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// A copy of the phase for the hot path: a watch channel takes a lock to be read.
    fast: AtomicU8,
    phase: watch::Sender<Phase>,
    timeout: Duration,
}

impl Drain {
    /// Starts in [`Phase::Serving`]. `timeout` bounds how long connections may take to finish in [`Phase::Closing`].
    pub fn new(timeout: Duration) -> Self {
        let (phase, _) = watch::channel(Phase::Serving);
        Self(Arc::new(Shared { fast: AtomicU8::new(Phase::Serving as u8), phase, timeout }))
    }

    /// How long connections may take to finish in [`Phase::Closing`].
    pub fn timeout(&self) -> Duration {
        self.0.timeout
    }

    /// The phase by now.
    pub fn phase(&self) -> Phase {
        match self.0.fast.load(Ordering::Acquire) {
            0 => Phase::Serving,
            1 => Phase::Leaving,
            _ => Phase::Closing,
        }
    }

    /// Readiness fails from here on; requests are still served.
    pub fn leave(&self) {
        self.advance(Phase::Leaving);
    }

    /// Stops accepting; connections finish.
    pub fn close(&self) {
        self.advance(Phase::Closing);
    }

    /// Waits until the process has come to `phase` or further.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.0.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    fn advance(&self, to: Phase) {
        self.0.fast.fetch_max(to as u8, Ordering::AcqRel);
        self.0.phase.send_if_modified(|now| {
            let later = to > *now;
            *now = (*now).max(to);
            later
        });
    }
}

/// A [`Drain`] that SIGTERM or SIGINT drives: at once [`Phase::Leaving`], after `delay` [`Phase::Closing`]. A second
/// signal ends the delay. Needs a Tokio runtime; fails when the signal handlers cannot be installed.
pub fn on_signal(delay: Duration, timeout: Duration) -> std::io::Result<Drain> {
    let drain = Drain::new(timeout);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let driven = drain.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        tracing::info!(delay_s = delay.as_secs_f64(), "leaving: readiness fails, requests are still served");
        driven.leave();
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = next() => {}
        }
        tracing::info!("closing: no new connections");
        driven.close();
    });
    Ok(drain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_only_go_forward() {
        let drain = Drain::new(Duration::from_secs(1));
        assert_eq!(drain.phase(), Phase::Serving);
        drain.close();
        drain.leave();
        assert_eq!(drain.phase(), Phase::Closing);
        drain.reached(Phase::Leaving).await;
        drain.reached(Phase::Closing).await;
    }
}

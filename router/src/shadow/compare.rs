//! The thread that compares answers, on time that nobody else wants.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use stoker_decide::compare::{Comparison, compare};

use crate::shadow::lane::Place;
use crate::shadow::tee::{Copied, Kept};
use crate::shadow::{answer, step_back};

/// How many pairs may wait. Any more are skipped, and the next ones tell as much.
const WAITING: usize = 256;

/// The answers of both revisions to one request.
#[derive(Debug)]
pub struct Pair {
    /// The copy's place, held until here.
    pub place: Place,
    /// With the answer that the client got.
    pub copied: Arc<Copied>,
    /// The shadow's answer.
    pub answer: Kept,
}

/// Starts the thread. It ends when all senders are dropped.
pub fn start() -> std::io::Result<SyncSender<Pair>> {
    let (pairs, queue) = sync_channel(WAITING);
    std::thread::Builder::new().name("shadow-compare".into()).spawn(move || run(&queue))?;
    Ok(pairs)
}

fn run(queue: &Receiver<Pair>) {
    step_back();
    while let Ok(Pair { place, copied, answer }) = queue.recv() {
        let (shadow, _shares) = answer.into_parts();
        let primary = copied.answer.as_deref().unwrap_or_default();
        place.mirror().count.compared(judge(primary, &shadow));
    }
}

/// Reads and compares two answers. `None` when one is not of the protocol.
fn judge(primary: &[Bytes], shadow: &[Bytes]) -> Option<Comparison> {
    let read = |pieces: &[Bytes]| {
        answer::read(pieces).inspect_err(|error| tracing::debug!(%error, "an answer cannot be compared")).ok()
    };
    Some(compare(&read(primary)?, &read(shadow)?))
}

//! Messages of calls while they come: each bounded by the limit of a body, all of them counted with the bodies of HTTP.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tonic::Status;

use super::super::bodies::Counted;
use super::super::{App, Models, Refusal};
use crate::metrics::Requests;

/// Bytes of the messages of one call, counted against the bound of all bodies until whoever took them is done.
#[derive(Debug)]
pub(super) struct Account {
    models: Arc<Models>,
    /// The model that the message names, once it was read.
    app: OnceLock<Arc<App>>,
    /// Held for a sum at a time.
    counted: Mutex<Counted>,
    /// The message that the call begins with is there.
    was_read: AtomicBool,
}

impl Account {
    /// Nothing yet.
    pub(super) fn new(models: Arc<Models>) -> Self {
        let counted = Counted::new(Arc::clone(&models.body_bytes), models.limits.max_body_total);
        Self { models, app: OnceLock::new(), counted: Mutex::new(counted), was_read: AtomicBool::new(false) }
    }

    /// The message is for this model. A call of one message names one.
    pub(super) fn is_for(&self, app: &Arc<App>) {
        let _ = self.app.set(Arc::clone(app));
    }

    /// Where the call is counted: with its model, where it is known which one that is.
    pub(super) fn counts(&self) -> &Requests {
        self.app.get().map_or(&self.models.unnamed, |app| app.metrics.requests())
    }

    /// Counts further bytes, unless the bound would be passed.
    fn add(&self, bytes: u64) -> Result<(), Refusal> {
        self.counted().add(bytes).map_err(|_| Refusal::BodiesFull)
    }

    /// The bytes that came so far, for as long as the message that they were is in work.
    pub(super) fn take(&self) -> Counted {
        self.counted().take()
    }

    /// The message is there, and what takes long from here on is the answer.
    pub(super) fn read(&self) {
        self.was_read.store(true, Ordering::Relaxed);
    }

    /// Whether it is.
    pub(super) fn was_read(&self) -> bool {
        self.was_read.load(Ordering::Relaxed)
    }

    /// Nothing panics under the lock.
    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of a call, counted and bounded while it comes.
pub(super) struct Messages {
    body: Incoming,
    account: Arc<Account>,
    framing: Framing,
    /// They are infer requests, whose refusals are counted.
    infer: bool,
}

impl Messages {
    /// The messages in `body`, each of at most `limit` bytes. `single` is a call that takes one, and `infer` one of infer
    /// requests.
    pub(super) fn new(
        body: Incoming,
        account: Arc<Account>,
        limit: usize,
        single: bool,
        infer: bool,
    ) -> Self {
        Self { body, account, framing: Framing::new(limit, single), infer }
    }

    /// Counts and bounds what came.
    fn follow(&mut self, frame: hyper::Result<Frame<Bytes>>) -> Result<Frame<Bytes>, Refusal> {
        let frame = frame.map_err(|error| Refusal::Broken(error.into()))?;
        if let Some(data) = frame.data_ref() {
            self.account.add(data.len() as u64)?;
            self.framing.follow(data)?;
        }
        Ok(frame)
    }

    /// Counts a request that was refused before it was whole. A stream that breaks between two requests is none.
    fn refused(&self, refusal: &Refusal) {
        let breaks_off = matches!(refusal, Refusal::Broken(_)) && !self.framing.single;
        if self.infer && (!breaks_off || self.framing.is_within()) {
            self.account.counts().refused(refusal.reason());
        }
    }
}

impl Body for Messages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            let followed = this.follow(frame).inspect_err(|refusal| this.refused(refusal));
            followed.map_err(Status::from)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Where messages begin and end in the bytes of a body.
struct Framing {
    limit: usize,
    single: bool,
    /// Bytes of the prefix, while it is not whole.
    prefix: Vec<u8>,
    /// Bytes of the message that are still to come.
    left: usize,
    /// A message has begun.
    begun: bool,
}

impl Framing {
    fn new(limit: usize, single: bool) -> Self {
        Self { limit, single, prefix: Vec::with_capacity(PREFIX), left: 0, begun: false }
    }

    /// A message has begun and has not ended.
    fn is_within(&self) -> bool {
        self.left > 0 || !self.prefix.is_empty()
    }

    /// Goes on by some bytes of the body.
    fn follow(&mut self, mut data: &[u8]) -> Result<(), Refusal> {
        while !data.is_empty() {
            if self.left > 0 {
                let skipped = self.left.min(data.len());
                self.left -= skipped;
                data = data.split_at(skipped).1;
                continue;
            }
            if self.single && self.begun {
                return Err(Refusal::Broken("this call takes one message, and more came".into()));
            }
            let (part, rest) = data.split_at((PREFIX - self.prefix.len()).min(data.len()));
            self.prefix.extend_from_slice(part);
            data = rest;
            if let [_, length @ ..] = self.prefix.as_slice()
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                self.prefix.clear();
                self.begun = true;
                // Refused before room is made for it.
                self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                if self.left > self.limit {
                    return Err(Refusal::TooLarge(self.limit));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let prefix = u32::try_from(length).unwrap().to_be_bytes();
        [&[0], &prefix[..], &vec![7; length]].concat()
    }

    /// Follows a body that comes in pieces.
    fn followed(body: &[u8], piece: usize, single: bool) -> Result<(), Refusal> {
        let mut framing = Framing::new(10, single);
        body.chunks(piece).try_for_each(|data| framing.follow(data))
    }

    #[test]
    fn messages_up_to_the_limit_pass_in_pieces_of_any_size() {
        let body = [message(10), message(0), message(3)].concat();
        let mut framing = Framing::new(10, false);
        let within: Vec<_> = body
            .iter()
            .map(|byte| {
                framing.follow(&[*byte]).unwrap();
                framing.is_within()
            })
            .collect();
        let ends: Vec<_> = (0..body.len()).filter(|place| !within[*place]).collect();
        assert_eq!(ends, [14, 19, 27]);
        for piece in 1..=body.len() {
            assert!(followed(&body, piece, false).is_ok(), "{piece}");
            assert!(followed(&message(10), piece, true).is_ok(), "{piece}");
        }
    }

    #[test]
    fn a_longer_message_is_refused_by_its_prefix_alone() {
        let body = [message(10), message(11)].concat();
        for piece in 1..=body.len() {
            let refused = followed(&body[..message(10).len() + PREFIX], piece, false);
            assert!(matches!(refused, Err(Refusal::TooLarge(10))), "{piece}: {refused:?}");
        }
    }

    #[test]
    fn a_second_message_is_refused_where_a_call_takes_one() {
        let refused = followed(&[message(3), message(3)].concat(), 4, true).unwrap_err();
        assert!(refused.to_string().contains("takes one message"), "{refused}");
    }
}

//! Messages of calls while they come: each bounded by the limit of a body, all of them counted with the bodies of HTTP.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tonic::Status;

use super::super::{App, Refusal};

/// Bytes of the messages of one call, counted against the bound of all bodies until they are released.
#[derive(Debug)]
pub(super) struct Account {
    app: Arc<App>,
    own: AtomicU64,
}

impl Account {
    /// Nothing yet.
    pub(super) fn new(app: Arc<App>) -> Self {
        Self { app, own: AtomicU64::new(0) }
    }

    /// Bytes that came and were not released.
    pub(super) fn bytes(&self) -> u64 {
        self.own.load(Ordering::Relaxed)
    }

    /// Counts further bytes, unless the bound would be passed.
    fn add(&self, bytes: u64) -> Result<(), Refusal> {
        let before = self.app.body_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.own.fetch_add(bytes, Ordering::Relaxed);
        let within = before.saturating_add(bytes) <= self.app.limits.max_body_total;
        if within { Ok(()) } else { Err(Refusal::BodiesFull) }
    }

    /// The messages that came so far are dealt with.
    pub(super) fn release(&self) {
        let own = self.own.swap(0, Ordering::Relaxed);
        self.app.body_bytes.fetch_sub(own, Ordering::Relaxed);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.release();
    }
}

/// The body of a call, counted and bounded while it comes.
pub(super) struct Messages {
    body: Incoming,
    account: Arc<Account>,
    framing: Framing,
}

impl Messages {
    /// The messages in `body`, each of at most `limit` bytes. `single` is a call that takes one.
    pub(super) fn new(body: Incoming, account: Arc<Account>, limit: usize, single: bool) -> Self {
        Self { body, account, framing: Framing::new(limit, single) }
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
            let frame = frame.map_err(|error| Refusal::Broken(error.into()))?;
            if let Some(data) = frame.data_ref() {
                this.account.add(data.len() as u64)?;
                this.framing.follow(data)?;
            }
            Ok(frame)
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

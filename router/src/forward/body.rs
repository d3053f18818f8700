//! The body of a request on its way to a pod: kept whole where it is short, passed on as it comes where it is long.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures::task::AtomicWaker;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use stoker_edge::BoxError;

use crate::forward::headers;

/// Bytes that all kept bodies of the process may take together.
#[derive(Clone, Debug)]
pub struct Budget {
    left: Arc<AtomicUsize>,
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub struct Share {
    left: Arc<AtomicUsize>,
    bytes: usize,
}

impl Budget {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(bytes)) }
    }

    /// Takes `bytes`, if they are there.
    pub fn take(&self, bytes: usize) -> Option<Share> {
        let less = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(Share { left: Arc::clone(&self.left), bytes })
    }
}

impl Share {
    /// Takes so many bytes more, if they are there.
    fn grow(&mut self, more: usize) -> bool {
        let less = |left: usize| left.checked_sub(more);
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
        self.bytes += if taken { more } else { 0 };
        taken
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// Why a body cannot be sent on.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Longer than allowed; the limit in bytes.
    #[error("the body is longer than the limit of {0} bytes")]
    TooLong(u64),
    /// The client went away or sent garbage.
    #[error("the body could not be read: {0}")]
    Broken(#[from] hyper::Error),
    /// The client cancelled its request.
    #[error("the body broke off")]
    Cancelled,
}

/// A body that was looked at.
pub enum Prepared {
    /// Here as a whole; can be sent as often as needed.
    Whole(Whole, Option<Share>),
    /// Longer than what is kept; can be sent once.
    Long(Passing),
}

/// A whole body.
#[derive(Clone, Debug, Default)]
pub struct Whole {
    /// What it holds.
    pub bytes: Bytes,
    /// What came after it.
    pub trailers: Option<Box<HeaderMap>>,
}

/// What a body comes over, and what becomes of it.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Over HTTP/2. There hyper ends a body whose stream was reset with NO_ERROR as if it were whole.
    pub http2: bool,
    /// What comes after the body is passed on. No part of the protocol over HTTP uses it.
    pub trailers: bool,
}

impl Kind {
    /// Whether a body that gives nothing more is whole.
    fn is_whole(self, body: &Incoming) -> bool {
        !self.http2 || body.is_end_stream()
    }
}

/// A body that is not kept: what was read already, and the rest as it comes.
pub struct Passing {
    read: Bytes,
    /// Given away when the body is too long.
    rest: Option<Incoming>,
    left: u64,
    limit: u64,
    verdict: Verdict,
    kind: Kind,
}

/// Says afterwards whether it was the client that broke a long body off, and ends it when nobody wants the rest.
#[derive(Clone, Debug, Default)]
pub struct Verdict(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    too_long: AtomicBool,
    broken: AtomicBool,
    unwanted: AtomicBool,
    reader: AtomicWaker,
}

impl Verdict {
    /// The body turned out to be longer than allowed.
    pub fn is_too_long(&self) -> bool {
        self.0.too_long.load(Ordering::Relaxed)
    }

    /// The client did not send the whole body.
    pub fn is_broken(&self) -> bool {
        self.0.broken.load(Ordering::Relaxed)
    }

    /// Nobody wants the rest: the call has ended, and its client may go on sending forever.
    pub fn stop(&self) {
        self.0.unwanted.store(true, Ordering::Release);
        self.0.reader.wake();
    }
}

impl Passing {
    /// The body of a stream, as it comes, of any length, with its trailers.
    pub fn stream(body: Incoming) -> Self {
        let (left, limit) = (u64::MAX, u64::MAX);
        let (read, verdict) = (Bytes::new(), Verdict::default());
        let kind = Kind { http2: true, trailers: true };
        Self { read, rest: Some(body), left, limit, verdict, kind }
    }

    /// How the body ended, to be asked later.
    pub fn verdict(&self) -> Verdict {
        self.verdict.clone()
    }
}

/// Reads a body up to `keep` bytes. When there is more, or the budget is spent, the rest is passed on. `limit` bounds
/// the whole body.
pub async fn prepare(
    mut body: Incoming,
    keep: usize,
    limit: u64,
    budget: &Budget,
    kind: Kind,
) -> Result<Prepared, BodyError> {
    if body.is_end_stream() {
        return Ok(Prepared::Whole(Whole::default(), None));
    }
    let hint = body.size_hint();
    if hint.lower() > limit {
        return Err(BodyError::TooLong(limit));
    }
    // A body of unknown length takes its part of the budget as it grows.
    let likely = hint.exact().and_then(|length| usize::try_from(length).ok());
    let pass = |read: Bytes, rest: Incoming| {
        let left = limit.saturating_sub(read.len() as u64);
        let verdict = Verdict::default();
        Ok(Prepared::Long(Passing { read, rest: Some(rest), left, limit, verdict, kind }))
    };
    let share = likely.is_none_or(|likely| likely <= keep).then(|| budget.take(likely.unwrap_or(0)));
    let Some(mut share) = share.flatten() else { return pass(Bytes::new(), body) };
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    let mut trailers = None;
    loop {
        let Some(frame) = body.frame().await else {
            if kind.is_whole(&body) {
                break;
            }
            return Err(BodyError::Cancelled);
        };
        let data = match frame?.into_data() {
            Ok(data) => data,
            Err(frame) => {
                trailers = frame.into_trailers().ok().filter(|_| kind.trailers).map(Box::new);
                continue;
            }
        };
        let length = first.len() + more.len() + data.len();
        if length as u64 > limit {
            return Err(BodyError::TooLong(limit));
        }
        if first.is_empty() && more.is_empty() {
            first = data;
        } else {
            if more.is_empty() {
                more.reserve(likely.unwrap_or(0).max(length));
                more.extend_from_slice(&std::mem::take(&mut first));
            }
            more.extend_from_slice(&data);
        }
        if length > keep || (likely.is_none() && !share.grow(length - share.bytes)) {
            let read = if more.is_empty() { first } else { more.freeze() };
            return pass(read, body);
        }
        if body.is_end_stream() {
            break;
        }
    }
    let bytes = if more.is_empty() { first } else { more.freeze() };
    Ok(Prepared::Whole(Whole { bytes, trailers }, Some(share)))
}

/// The body of a request to a pod.
pub enum ToPod {
    /// All of it.
    Whole(Whole),
    /// As it comes.
    Long(Passing),
}

impl Body for ToPod {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Whole(whole) if whole.bytes.has_remaining() => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut whole.bytes)))))
            }
            Self::Whole(whole) => {
                Poll::Ready(whole.trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))))
            }
            Self::Long(passing) => passing.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.bytes.is_empty() && whole.trailers.is_none(),
            Self::Long(passing) => {
                passing.read.is_empty() && passing.rest.as_ref().is_none_or(Body::is_end_stream)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => SizeHint::with_exact(whole.bytes.len() as u64),
            Self::Long(passing) => {
                let rest = passing.rest.as_ref().map(Body::size_hint).unwrap_or_default();
                let read = passing.read.len() as u64;
                let mut hint = SizeHint::new();
                hint.set_lower(read + rest.lower());
                if let Some(upper) = rest.upper() {
                    hint.set_upper(read + upper);
                }
                hint
            }
        }
    }
}

impl Passing {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if !self.read.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.read)))));
        }
        self.verdict.0.reader.register(cx.waker());
        loop {
            if self.verdict.0.unwanted.load(Ordering::Acquire) {
                self.rest = None;
                return Poll::Ready(Some(Err("the call has ended".into())));
            }
            let Some(rest) = self.rest.as_mut() else { return Poll::Ready(None) };
            let frame = match ready!(Pin::new(rest).poll_frame(cx)) {
                None if self.rest.as_ref().is_none_or(|rest| self.kind.is_whole(rest)) => {
                    return Poll::Ready(None);
                }
                None => {
                    self.verdict.0.broken.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(BodyError::Cancelled.into())));
                }
                Some(Err(error)) => {
                    self.verdict.0.broken.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(error.into())));
                }
                Some(Ok(frame)) => frame,
            };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(mut frame) if self.kind.trailers => {
                    frame.trailers_mut().into_iter().for_each(headers::strip);
                    return Poll::Ready(Some(Ok(frame)));
                }
                Err(_) => continue,
            };
            let Some(left) = self.left.checked_sub(data.len() as u64) else {
                self.verdict.0.too_long.store(true, Ordering::Relaxed);
                // The client is still sending; it shall get to read the refusal.
                self.rest.take().into_iter().for_each(stoker_edge::body::discard);
                return Poll::Ready(Some(Err(BodyError::TooLong(self.limit).into())));
            };
            self.left = left;
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_shared_and_given_back() {
        let budget = Budget::new(10);
        let share = budget.take(6).unwrap();
        assert!(budget.take(5).is_none());
        assert!(budget.take(4).is_some());
        drop(share);
        let mut growing = budget.take(0).unwrap();
        assert!(growing.grow(7) && !growing.grow(4) && growing.grow(3));
        assert!(budget.take(1).is_none());
        drop(growing);
        assert!(budget.take(10).is_some());
    }
}

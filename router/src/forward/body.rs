//! The body of a request on its way to a pod: kept whole where it is short, passed on as it comes where it is long.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use stoker_edge::BoxError;

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
}

/// A body that was looked at.
pub enum Prepared {
    /// Here as a whole; can be sent as often as needed.
    Whole(Bytes, Option<Share>),
    /// Longer than what is kept; can be sent once.
    Long(Passing),
}

/// A long body: what was read already, and the rest as it comes.
pub struct Passing {
    read: Bytes,
    /// Given away when the body is too long.
    rest: Option<Incoming>,
    left: u64,
    limit: u64,
    verdict: Verdict,
}

/// Says afterwards whether it was the client that broke a long body off.
#[derive(Clone, Debug, Default)]
pub struct Verdict(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    too_long: AtomicBool,
    broken: AtomicBool,
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
}

impl Passing {
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
) -> Result<Prepared, BodyError> {
    if body.is_end_stream() {
        return Ok(Prepared::Whole(Bytes::new(), None));
    }
    let hint = body.size_hint();
    if hint.lower() > limit {
        return Err(BodyError::TooLong(limit));
    }
    // A body of unknown length may grow to all that is kept.
    let likely = hint.exact().and_then(|length| usize::try_from(length).ok()).unwrap_or(keep);
    let pass = |read: Bytes, rest: Incoming| {
        let left = limit.saturating_sub(read.len() as u64);
        Ok(Prepared::Long(Passing { read, rest: Some(rest), left, limit, verdict: Verdict::default() }))
    };
    let share = if likely <= keep { budget.take(likely) } else { None };
    let Some(share) = share else { return pass(Bytes::new(), body) };
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    loop {
        let Some(frame) = body.frame().await else { break };
        // Trailers of a request are not forwarded: no part of the protocol uses them.
        let Ok(data) = frame?.into_data() else { continue };
        let length = first.len() + more.len() + data.len();
        if length as u64 > limit {
            return Err(BodyError::TooLong(limit));
        }
        if first.is_empty() && more.is_empty() {
            first = data;
        } else {
            if more.is_empty() {
                more.reserve(likely.max(length));
                more.extend_from_slice(&std::mem::take(&mut first));
            }
            more.extend_from_slice(&data);
        }
        if length > keep {
            let read = if more.is_empty() { first } else { more.freeze() };
            return pass(read, body);
        }
        if body.is_end_stream() {
            break;
        }
    }
    let whole = if more.is_empty() { first } else { more.freeze() };
    Ok(Prepared::Whole(whole, Some(share)))
}

/// The body of a request to a pod.
pub enum ToPod {
    /// All of it.
    Whole(Bytes),
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
            Self::Whole(bytes) if bytes.has_remaining() => {
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes)))))
            }
            Self::Whole(_) => Poll::Ready(None),
            Self::Long(passing) => passing.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Long(passing) => {
                passing.read.is_empty() && passing.rest.as_ref().is_none_or(Body::is_end_stream)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
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
        loop {
            let Some(rest) = self.rest.as_mut() else { return Poll::Ready(None) };
            let frame = match ready!(Pin::new(rest).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => {
                    self.verdict.0.broken.store(true, Ordering::Relaxed);
                    return Poll::Ready(Some(Err(error.into())));
                }
                Some(Ok(frame)) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
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
        assert!(budget.take(10).is_some());
    }
}

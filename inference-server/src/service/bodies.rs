//! Bodies of requests, counted while they come, and of answers, until they are written: against the bound of all that are in the process.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http::header::EXPECT;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use stoker_edge::{BoxError, body};

/// Bytes of a body, counted against the bound of all bodies for as long as this lives.
#[derive(Debug)]
pub struct Counted {
    all: Arc<AtomicU64>,
    limit: u64,
    own: u64,
}

impl Counted {
    /// Nothing yet of the `all` bytes, of which there may be `limit`.
    pub fn new(all: Arc<AtomicU64>, limit: u64) -> Self {
        Self { all, limit, own: 0 }
    }

    /// Those that are counted here.
    pub fn bytes(&self) -> u64 {
        self.own
    }

    /// What is counted so far, as a count of its own; here it begins anew.
    pub fn take(&mut self) -> Self {
        Self { all: Arc::clone(&self.all), limit: self.limit, own: std::mem::take(&mut self.own) }
    }

    /// Counts further bytes, unless the bound would be passed.
    pub fn add(&mut self, bytes: u64) -> Result<(), BodiesFull> {
        let before = self.all.fetch_add(bytes, Ordering::Relaxed);
        self.own += bytes;
        if before.saturating_add(bytes) > self.limit { Err(BodiesFull) } else { Ok(()) }
    }
}

/// Answers up to this are given whatever else is in the process.
const SMALL: usize = 64 << 10;

/// An answer on its way to the client. It counts until the last byte of it is written, or its connection has ended.
pub struct Written {
    bytes: Vec<u8>,
    _counted: Counted,
}

impl Written {
    /// Counts an answer, with a count in which nothing is yet. A small one is never refused: connections bound how many there are. One
    /// larger than the bound has its turn when nothing else is there.
    pub fn new(bytes: Vec<u8>, mut counted: Counted) -> Result<Self, BodiesFull> {
        let is_full = counted.add(bytes.len() as u64).is_err() && bytes.len() > SMALL;
        let others = counted.all.load(Ordering::Relaxed).saturating_sub(counted.own);
        if is_full && others > 0 { Err(BodiesFull) } else { Ok(Self { bytes, _counted: counted }) }
    }
}

impl AsRef<[u8]> for Written {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

/// The bound of all bodies is reached.
#[derive(Debug, thiserror::Error)]
#[error("too many bytes of request bodies are in work")]
pub struct BodiesFull;

/// A body whose bytes are counted while they come.
pub struct Metered<'a> {
    body: &'a mut Incoming,
    counted: &'a mut Counted,
}

impl<'a> Metered<'a> {
    /// Counts what is read of `body`.
    pub fn new(body: &'a mut Incoming, counted: &'a mut Counted) -> Self {
        Self { body, counted }
    }
}

impl hyper::body::Body for Metered<'_> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut *this.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            let frame = frame?;
            let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
            this.counted.add(bytes)?;
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

/// Throws away the body of a request that is refused without reading it, so that the client gets to read the refusal.
/// A client that waits for `100 Continue` has not sent it.
pub fn refuse_body(headers: &HeaderMap, rest: Incoming) {
    if !rest.is_end_stream() && !headers.contains_key(EXPECT) {
        body::discard(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_until_its_last_byte_is_gone() {
        let all = Arc::new(AtomicU64::new(0));
        let counted = || Counted::new(Arc::clone(&all), 100 << 10);
        let written = |bytes: usize| Written::new(vec![b'x'; bytes], counted());
        let mut first = Bytes::from_owner(written(70 << 10).unwrap());
        assert!(written(65 << 10).is_err(), "no room beside the first");
        assert_eq!(all.load(Ordering::Relaxed), 70 << 10);
        assert!(written(64 << 10).is_ok(), "a small one");
        let rest = first.split_off(1);
        drop(first);
        assert_eq!(
            (all.load(Ordering::Relaxed), rest.len()),
            (70 << 10, (70 << 10) - 1),
            "it is still in memory"
        );
        drop(rest);
        let large = written(1000 << 10).unwrap();
        assert_eq!(all.load(Ordering::Relaxed), 1000 << 10, "it is alone");
        drop(large);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}

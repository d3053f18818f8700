//! Bodies of requests: counted while they come, against the bound of all that are in the process.

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

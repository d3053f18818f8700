//! What is kept of a request and of its answer, for a copy to be made when the answer has ended.

use std::sync::Arc;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Uri};

use crate::forward::body::{Budget, Share};
use crate::shadow::answer;
use crate::shadow::count::Dropped;
use crate::shadow::{Shadow, drop_all};
use crate::table::snapshot::Mirror;

/// What a copy takes besides its bodies: headers, and the rest of the buffers that its bodies lie in.
const OVERHEAD: usize = 8 << 10;

/// A request, ready to be sent once more, and the answer that its client got.
#[derive(Debug)]
pub struct Copied {
    /// The path and query.
    pub uri: Uri,
    /// As a pod gets them.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// What the client got, in pieces; `None` when it cannot be compared.
    pub answer: Option<Vec<Bytes>>,
    size: usize,
    _shares: Vec<Share>,
}

impl Copied {
    /// Bytes that it takes.
    pub fn size(&self) -> usize {
        self.size
    }
}

/// Goes along with a request until its answer has ended.
#[derive(Debug)]
pub struct Tee {
    shadow: Arc<Shadow>,
    targets: Vec<Arc<Mirror>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
    /// Of the budget for requests; given back when the copy is on its own.
    kept: Option<Share>,
    answer: Option<Kept>,
}

/// The pieces of a body, within a limit and a budget.
#[derive(Debug, Default)]
pub struct Kept {
    pieces: Vec<Bytes>,
    length: usize,
    shares: Vec<Share>,
}

impl Kept {
    /// Keeps one more piece. Gives nothing back when there is no room: then no part of it is of use.
    #[must_use]
    pub fn and(mut self, piece: &Bytes, limit: usize, budget: &Budget) -> Option<Self> {
        self.length += piece.len();
        if self.length > limit {
            return None;
        }
        self.shares.push(budget.take(piece.len())?);
        self.pieces.push(piece.clone());
        Some(self)
    }

    /// The pieces, and their parts of the budget.
    pub fn into_parts(self) -> (Vec<Bytes>, Vec<Share>) {
        (self.pieces, self.shares)
    }
}

impl Tee {
    /// For a request that went to a pod, and whose copies go to `targets`.
    pub fn new(
        shadow: &Arc<Shadow>,
        targets: Vec<Arc<Mirror>>,
        uri: Uri,
        headers: HeaderMap,
        (body, kept): (Bytes, Option<Share>),
    ) -> Self {
        Self { shadow: Arc::clone(shadow), targets, uri, headers, body, kept, answer: None }
    }

    /// The head of the answer came.
    pub fn head(&mut self, parts: &Parts) {
        self.answer = answer::is_readable(parts.status, &parts.headers).then(Kept::default);
    }

    /// A piece of the answer came.
    pub fn piece(&mut self, piece: &Bytes) {
        if let Some(kept) = self.answer.take() {
            let shared = &self.shadow.shared;
            self.answer = kept.and(piece, shared.limits.longest_answer, &shared.budget);
        }
    }

    /// The answer ended as it should.
    pub fn ended(self) {
        let Self { shadow, targets, uri, headers, body, kept, answer } = self;
        drop(kept);
        let (length, answer) = answer.map_or((0, None), |kept| (kept.length, Some(kept.into_parts())));
        let (answer, mut shares) =
            answer.map_or((None, Vec::new()), |(pieces, shares)| (Some(pieces), shares));
        let request = body.len() + OVERHEAD;
        let copied = shadow.shared.budget.take(request).ok_or(Dropped::Memory).map(|share| {
            shares.push(share);
            Copied { uri, headers, body, answer, size: request + length, _shares: shares }
        });
        shadow.offer(&targets, copied);
    }

    /// There was no answer, or it broke off: the copy is made, and compared with nothing.
    pub fn broke(mut self) {
        self.answer = None;
        self.ended();
    }

    /// The client went away.
    pub fn aborted(self) {
        drop_all(&self.targets, Dropped::Aborted);
    }
}

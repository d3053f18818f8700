//! Brings an artifact in over as many tries as it takes: each goes on where the one before broke off, as long as the server says
//! that it is still the same version.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use reqwest::{Response, Url};
use sha2::{Digest as _, Sha256};
use stoker_decide::download::hopeless;
use tokio::time::Instant;

use super::error::{Trouble, Why};
use super::keep::Keep;
use super::object::{self, Seen};
use super::web::{self, Web};
use super::{Credentials, Digest, FetchError, Limits, Location};

/// The pause before the second try; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is asked for the bytes.
pub(super) enum Source<'a> {
    /// A web server.
    Web {
        /// The client.
        web: Web,
        /// Where it begins.
        url: &'a Url,
        /// For its server only, not where it redirects to.
        credentials: Option<&'a Credentials>,
    },
    /// An object store.
    Object(object::Source),
}

/// The rest of a version is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resume<'a> {
    /// The first byte that is wanted.
    pub(super) from: u64,
    /// The version (RFC 9110 §8.8.3).
    pub(super) etag: &'a str,
}

/// An answer that holds an artifact or the rest of one.
pub(super) struct Part {
    /// The place of its first byte in the artifact.
    pub(super) from: u64,
    /// Bytes of the whole artifact, where the server says it.
    pub(super) total: Option<u64>,
    /// The version, where the server says it.
    pub(super) etag: Option<String>,
    /// The bytes.
    pub(super) body: Body,
}

/// Bytes that come in.
pub(super) enum Body {
    /// From a web server.
    Web(Response),
    /// From an object store, with what its client sees.
    Object(BoxStream<'static, object_store::Result<Bytes>>, Arc<Seen>),
}

impl Source<'_> {
    async fn open(&self, resume: Option<Resume<'_>>) -> Result<Part, Trouble> {
        match self {
            Self::Web { web, url, credentials } => web.open(url, *credentials, resume).await,
            Self::Object(source) => source.open(resume).await,
        }
    }
}

impl Body {
    async fn chunk(&mut self) -> Result<Option<Bytes>, Trouble> {
        match self {
            Self::Web(answer) => answer.chunk().await.map_err(|error| web::trouble(&error.without_url())),
            Self::Object(stream, seen) => object::chunk(stream, seen).await,
        }
    }
}

/// What is there already.
struct Progress<'a> {
    keep: &'a mut dyn Keep,
    hash: Sha256,
    length: u64,
    total: Option<u64>,
    etag: Option<String>,
    /// When the first byte of this copy could come.
    since: Instant,
}

impl<'a> Progress<'a> {
    fn new(keep: &'a mut dyn Keep) -> Self {
        Self { keep, hash: Sha256::new(), length: 0, total: None, etag: None, since: Instant::now() }
    }

    /// What to ask for next: the rest, where that can be asked for safely. A weak tag is no proof of equal bytes.
    fn resume(&self) -> Option<Resume<'_>> {
        let etag = self.etag.as_deref().filter(|etag| !etag.starts_with("W/"))?;
        (self.length > 0).then_some(Resume { from: self.length, etag })
    }

    fn restart(&mut self) -> Result<(), Trouble> {
        (self.hash, self.length, self.total, self.etag) = (Sha256::new(), 0, None, None);
        self.keep.restart().map_err(|error| Trouble::ForGood(Why::NotKept(error)))
    }

    /// Joins an answer to what is there, or begins with it.
    fn join(&mut self, part: &Part) -> Result<(), Trouble> {
        if part.from > 0 {
            let same_version = part.etag == self.etag && (part.total.is_none() || part.total == self.total);
            return if part.from == self.length && same_version { Ok(()) } else { Err(Trouble::Changed) };
        }
        if self.length > 0 {
            self.restart()?;
        }
        (self.total, self.etag, self.since) = (part.total, part.etag.clone(), Instant::now());
        if let Some(total) = part.total {
            self.keep.expect(total);
        }
        Ok(())
    }

    fn add(&mut self, chunk: &[u8]) -> Result<(), Trouble> {
        self.hash.update(chunk);
        self.length += chunk.len() as u64;
        self.keep.write(chunk).map_err(|error| Trouble::ForGood(Why::NotKept(error)))
    }
}

/// Tries until it works, cannot work, or time is over. `path` is where the bytes are kept, for the error.
pub(super) async fn download(
    source: &Source<'_>,
    location: &Location,
    limits: Limits,
    keep: &mut dyn Keep,
    path: Option<PathBuf>,
) -> Result<Digest, FetchError> {
    let begun = Instant::now();
    let mut progress = Progress::new(keep);
    let (mut tries, mut pause) = (0, FIRST_PAUSE);
    let (mut furthest, mut last_progress) = (0, begun);
    loop {
        tries += 1;
        let attempt = attempt(source, &limits, begun, &mut progress);
        let trouble = match tokio::time::timeout_at(begun + limits.total_time, attempt).await {
            Ok(Ok(())) => return Ok(Digest::from_raw(progress.hash.finalize().into())),
            Ok(Err(trouble)) => trouble,
            Err(_) => {
                Trouble::lasting(format!("it took longer than {:?} (--fetch-timeout)", limits.total_time))
            }
        };
        // The same bytes once more are no progress.
        if progress.length > furthest {
            (furthest, last_progress, pause) = (progress.length, Instant::now(), FIRST_PAUSE);
        }
        let (why, heals) = match trouble {
            Trouble::ForGood(why) => (why, false),
            Trouble::ForNow(why) => (why, true),
            Trouble::Changed => match progress.restart() {
                Err(Trouble::ForGood(why) | Trouble::ForNow(why)) => (why, false),
                _ => (Why::Because("it changed while it was downloaded".to_owned()), true),
            },
        };
        let error = why.at(location, path.clone(), limits.max_bytes, tries);
        if !heals || last_progress.elapsed() + pause >= limits.retry_for {
            return Err(error);
        }
        tracing::warn!(%error, bytes = progress.length, pause_s = pause.as_secs_f64(), "fetching again after a pause");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One try.
async fn attempt(
    source: &Source<'_>,
    limits: &Limits,
    begun: Instant,
    progress: &mut Progress<'_>,
) -> Result<(), Trouble> {
    let mut part = source.open(progress.resume()).await?;
    if part.total.is_some_and(|total| total > limits.max_bytes) {
        return Err(Trouble::ForGood(Why::TooLarge));
    }
    progress.join(&part)?;
    while let Some(chunk) = part.body.chunk().await? {
        let after = progress.length.saturating_add(chunk.len() as u64);
        if after > limits.max_bytes {
            return Err(Trouble::ForGood(Why::TooLarge));
        }
        if progress.total.is_some_and(|total| after > total) {
            return Err(Trouble::Changed);
        }
        progress.add(&chunk)?;
        // What a copy that was given up took is not this one's rate: it has what is left of the time.
        let (elapsed, left) =
            (progress.since.elapsed(), limits.total_time.saturating_sub(progress.since - begun));
        if hopeless(progress.length, progress.total, elapsed, left) {
            let (length, total) = (progress.length, progress.total.unwrap_or_default());
            return Err(Trouble::lasting(format!(
                "it comes too slowly: {length} of {total} bytes in {elapsed:.0?}, which cannot end within {:?} (--fetch-timeout)",
                limits.total_time
            )));
        }
    }
    match progress.total {
        Some(total) if progress.length < total => {
            Err(Trouble::passing(format!("it ended after {} of {total} bytes", progress.length)))
        }
        _ => Ok(()),
    }
}

//! Fetches an artifact: bounded, hashed while it streams, tried again where that can help.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use stoker_decide::address::Guard;

use super::download::{Source, download};
use super::guard::{Lookup, System};
use super::keep::{Keep, Nowhere, Temporary};
use super::object;
use super::web::Web;
use super::{Credentials, Digest, FetchError, Location};

/// How much of a file is read at a time.
const CHUNK: usize = 1 << 20;

/// What a fetch may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest artifact, in bytes.
    pub max_bytes: u64,
    /// No try begins later than this after the last byte that had not come before; at first, after the beginning.
    pub retry_for: Duration,
    /// The whole fetch ends by then.
    pub total_time: Duration,
}

/// Fetches artifacts.
#[derive(Debug)]
pub struct Fetcher {
    limits: Limits,
    credentials: Option<Credentials>,
    guard: Guard,
    proxies: bool,
    lookup: Arc<dyn Lookup>,
    memory: Option<u64>,
}

impl Fetcher {
    /// `credentials` go to the artifact's server only, not where it redirects to. Addresses are those that `guard` lets through.
    pub fn new(limits: Limits, credentials: Option<Credentials>, guard: Guard) -> Self {
        Self { limits, credentials, guard, proxies: false, lookup: Arc::new(System), memory: None }
    }

    /// Goes through the proxies that the environment names. They look names up themselves, so that only addresses in URLs and
    /// those of the proxies are checked.
    #[must_use]
    pub fn through_proxies(self, proxies: bool) -> Self {
        Self { proxies, ..self }
    }

    /// Looks names up in another way than the operating system's.
    #[must_use]
    pub fn looking_up(self, lookup: Arc<dyn Lookup>) -> Self {
        Self { lookup, ..self }
    }

    /// Keeps no artifact in memory that is larger than this many bytes; `None` for what the limits allow.
    #[must_use]
    pub fn within_memory(self, memory: Option<u64>) -> Self {
        Self { memory, ..self }
    }

    /// The bytes at `location` and their digest, which is checked against `expected`. What is too large for the memory is refused
    /// before it is allocated, where its size is known.
    pub async fn fetch(
        &self,
        location: &Location,
        expected: Option<Digest>,
    ) -> Result<(Vec<u8>, Digest), FetchError> {
        let mut bytes = Vec::new();
        let max = self.limits.max_bytes;
        let room = self.memory.filter(|room| *room < max);
        let read = self.read(location, &mut bytes, None, room.unwrap_or(max)).await;
        let actual = read.map_err(|error| match (error, room) {
            (FetchError::TooLarge { location, .. }, Some(room)) => FetchError::NoRoom { location, room },
            (error, _) => error,
        })?;
        match expected {
            Some(expected) => check(location, expected, actual).map(|()| (bytes, actual)),
            None => Ok((bytes, actual)),
        }
    }

    /// Puts the artifact into `folder` under its own file name ([`Location::file_name`]), and returns its path. The file is there
    /// when its digest was right and it is on the disk, and else nothing is.
    pub async fn fetch_into(
        &self,
        location: &Location,
        expected: Digest,
        folder: &Path,
    ) -> Result<PathBuf, FetchError> {
        let target = folder.join(location.file_name());
        let not_kept =
            |error: std::io::Error| FetchError::Kept { path: target.clone(), reason: error.to_string() };
        let mut file = Temporary::beside(&target).map_err(not_kept)?;
        let actual = self.read(location, &mut file, Some(target.clone()), self.limits.max_bytes).await?;
        check(location, expected, actual)?;
        file.keep(&target).map_err(not_kept)?;
        Ok(target)
    }

    /// The digest of what is at `location`; the bytes are thrown away.
    pub async fn digest(&self, location: &Location) -> Result<Digest, FetchError> {
        self.read(location, &mut Nowhere, None, self.limits.max_bytes).await
    }

    /// Reads the artifact, of `max` bytes at most. `path` is where it is kept, for the error.
    async fn read(
        &self,
        location: &Location,
        keep: &mut dyn Keep,
        path: Option<PathBuf>,
        max: u64,
    ) -> Result<Digest, FetchError> {
        let credentials = self.credentials.as_ref();
        let web = || Web::new(&self.guard, self.proxies, Arc::clone(&self.lookup));
        let source = match location {
            // Nothing is served yet, so nobody waits while this blocks.
            Location::File(file) => {
                return read_file(file, max, keep).map_err(|error| error.at(location, path, max));
            }
            Location::Http(url) => Source::Web { web: web()?, url, credentials },
            Location::Object(object) => {
                let source = object::Source::new(object, credentials, web()?);
                Source::Object(source.map_err(|why| why.at(location, path.clone(), max, 0))?)
            }
        };
        download(&source, location, Limits { max_bytes: max, ..self.limits }, keep, path).await
    }
}

/// Compares what came with what was pinned.
fn check(location: &Location, expected: Digest, actual: Digest) -> Result<(), FetchError> {
    if expected == actual {
        return Ok(());
    }
    Err(FetchError::Digest { location: location.clone(), expected, actual })
}

/// Why a file was not read.
enum Unread {
    TooLarge,
    Because(String),
    NotKept(std::io::Error),
}

impl Unread {
    fn at(self, location: &Location, path: Option<PathBuf>, limit: u64) -> FetchError {
        let location = location.clone();
        match self {
            Self::TooLarge => FetchError::TooLarge { location, limit },
            Self::Because(reason) => FetchError::File { location, reason },
            Self::NotKept(error) => {
                FetchError::Kept { path: path.unwrap_or_default(), reason: error.to_string() }
            }
        }
    }
}

impl From<std::io::Error> for Unread {
    fn from(error: std::io::Error) -> Self {
        Self::Because(error.to_string())
    }
}

/// Reads a regular file of at most `max` bytes.
fn read_file(path: &Path, max: u64, keep: &mut dyn Keep) -> Result<Digest, Unread> {
    // Asked before opening: opening a pipe waits for a writer.
    let about = std::fs::metadata(path)?;
    if !about.is_file() {
        return Err(Unread::Because("it is not a regular file".to_owned()));
    }
    if about.len() > max {
        return Err(Unread::TooLarge);
    }
    keep.expect(about.len());
    let mut file = File::open(path)?;
    let (mut hash, mut length, mut chunk) = (Sha256::new(), 0_u64, vec![0; CHUNK]);
    loop {
        let count = file.read(&mut chunk)?;
        let Some(bytes) = chunk.get(..count).filter(|bytes| !bytes.is_empty()) else {
            return Ok(Digest::from_raw(hash.finalize().into()));
        };
        length += count as u64;
        if length > max {
            return Err(Unread::TooLarge);
        }
        hash.update(bytes);
        keep.write(bytes).map_err(Unread::NotKept)?;
    }
}

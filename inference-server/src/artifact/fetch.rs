//! Fetches an artifact: bounded, hashed while it streams, tried again where that can help.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use reqwest::{Client, StatusCode, Url, redirect};
use sha2::{Digest as _, Sha256};
use stoker_edge::exit;
use tokio::time::Instant;

use super::{Credentials, Digest, Location};

/// Time to connect, TLS included.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Time without a byte after which a download is given up and tried again.
const SILENCE: Duration = Duration::from_secs(30);
/// How many redirects are followed.
const REDIRECTS: usize = 5;
/// The pause before the second try; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How much of a file is read at a time.
const CHUNK: usize = 1 << 20;

/// What a fetch may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest artifact, in bytes.
    pub max_bytes: u64,
    /// No try begins later than this after the first.
    pub retry_for: Duration,
    /// The whole fetch ends by then.
    pub total_time: Duration,
}

/// Why an artifact is not there. Each message says which place, what happened there and what to do.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The bytes are others than those that were pinned.
    #[error(
        "the artifact at {location} has the digest {actual}, but {expected} was expected; it was changed after the digest was pinned"
    )]
    Digest {
        /// Where it came from.
        location: Location,
        /// What was pinned.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// More bytes than allowed.
    #[error(
        "the artifact at {location} is larger than the limit of {limit} bytes; raise --max-artifact if it is the right one"
    )]
    TooLarge {
        /// Where it came from.
        location: Location,
        /// The limit.
        limit: u64,
    },
    /// The file cannot be read.
    #[error(
        "the artifact at {location} cannot be read: {reason}; check that the volume or ConfigMap holds it"
    )]
    File {
        /// Where it should be.
        location: Location,
        /// What the operating system said.
        reason: String,
    },
    /// The server answered, but not with the artifact.
    #[error("the server of {location} answered {status}; {advice}")]
    Status {
        /// What was asked for.
        location: Location,
        /// What came.
        status: StatusCode,
        /// What to do about it.
        advice: &'static str,
    },
    /// There was no answer, or not all of it.
    #[error(
        "{location} could not be fetched within {tries} tries: {reason}; check address, network policy and certificate"
    )]
    Unreachable {
        /// What was asked for.
        location: Location,
        /// How often it was tried.
        tries: u32,
        /// What happened the last time.
        reason: String,
    },
    /// No client could be made, such as without any root certificates.
    #[error("no HTTP client could be made: {0}")]
    Client(String),
}

impl FetchError {
    /// The code to end the process with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Digest { .. } | Self::TooLarge { .. } => exit::BAD_ARTIFACT,
            Self::File { .. } | Self::Status { .. } | Self::Unreachable { .. } => exit::UNAVAILABLE,
            Self::Client(_) => exit::INTERNAL,
        }
    }
}

/// How one try ended without the artifact.
enum Failed {
    /// Another try may do better.
    ForNow(FetchError),
    /// It will not.
    ForGood(FetchError),
}

/// Fetches artifacts.
#[derive(Debug)]
pub struct Fetcher {
    limits: Limits,
    credentials: Option<Credentials>,
}

impl Fetcher {
    /// `credentials` go to the artifact's server only, not where it redirects to.
    pub fn new(limits: Limits, credentials: Option<Credentials>) -> Self {
        Self { limits, credentials }
    }

    /// The bytes at `location` and their digest, which is checked against `expected`.
    pub async fn fetch(
        &self,
        location: &Location,
        expected: Option<Digest>,
    ) -> Result<(Vec<u8>, Digest), FetchError> {
        let mut bytes = Vec::new();
        let actual = self.read(location, Some(&mut bytes)).await?;
        match expected {
            Some(expected) if expected != actual => {
                Err(FetchError::Digest { location: location.clone(), expected, actual })
            }
            _ => Ok((bytes, actual)),
        }
    }

    /// The digest of what is at `location`; the bytes are thrown away.
    pub async fn digest(&self, location: &Location) -> Result<Digest, FetchError> {
        self.read(location, None).await
    }

    /// Reads the artifact, into `keep` where it is wanted.
    async fn read(&self, location: &Location, keep: Option<&mut Vec<u8>>) -> Result<Digest, FetchError> {
        match location {
            // Nothing is served yet, so nobody waits while this blocks.
            Location::File(path) => read_file(path, self.limits.max_bytes, keep)
                .map_err(|error| error.at(location, self.limits.max_bytes)),
            Location::Http(url) => self.download(location, url, keep).await,
        }
    }

    /// Tries until it works, cannot work, or time is over.
    async fn download(
        &self,
        location: &Location,
        url: &Url,
        mut keep: Option<&mut Vec<u8>>,
    ) -> Result<Digest, FetchError> {
        let client = client()?;
        let begun = Instant::now();
        let (mut tries, mut pause) = (0, FIRST_PAUSE);
        loop {
            tries += 1;
            if let Some(bytes) = keep.as_deref_mut() {
                bytes.clear();
            }
            let unreachable = |reason| FetchError::Unreachable { location: location.clone(), tries, reason };
            let attempt = self.attempt(&client, location, url, keep.as_deref_mut(), &unreachable);
            let failed = match tokio::time::timeout_at(begun + self.limits.total_time, attempt).await {
                Ok(Ok(digest)) => return Ok(digest),
                Ok(Err(failed)) => failed,
                Err(_) => {
                    Failed::ForGood(unreachable(format!("it took longer than {:?}", self.limits.total_time)))
                }
            };
            match failed {
                Failed::ForNow(error) if begun.elapsed() + pause < self.limits.retry_for => {
                    tracing::warn!(%error, pause_s = pause.as_secs_f64(), "fetching again after a pause");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Failed::ForNow(error) | Failed::ForGood(error) => return Err(error),
            }
        }
    }

    /// One try.
    async fn attempt(
        &self,
        client: &Client,
        location: &Location,
        url: &Url,
        mut keep: Option<&mut Vec<u8>>,
        unreachable: &impl Fn(String) -> FetchError,
    ) -> Result<Digest, Failed> {
        let mut request = client.get(url.clone());
        if let Some(credentials) = &self.credentials {
            request = credentials.apply(request);
        }
        let too_large = || {
            Failed::ForGood(FetchError::TooLarge { location: location.clone(), limit: self.limits.max_bytes })
        };
        let broken = |error: reqwest::Error| {
            let refused = error.is_redirect() || error.is_builder();
            let error = unreachable(causes(&error.without_url()));
            if refused { Failed::ForGood(error) } else { Failed::ForNow(error) }
        };
        let mut answer = request.send().await.map_err(broken)?;
        check_status(location, answer.status())?;
        if let Some(length) = answer.content_length() {
            if length > self.limits.max_bytes {
                return Err(too_large());
            }
            // A lie costs address space only: pages that are never written are never given.
            if let (Some(bytes), Ok(length)) = (keep.as_deref_mut(), usize::try_from(length)) {
                bytes.reserve_exact(length);
            }
        }
        let (mut hash, mut length) = (Sha256::new(), 0_u64);
        while let Some(chunk) = answer.chunk().await.map_err(broken)? {
            length += chunk.len() as u64;
            if length > self.limits.max_bytes {
                return Err(too_large());
            }
            hash.update(&chunk);
            if let Some(bytes) = keep.as_deref_mut() {
                bytes.extend_from_slice(&chunk);
            }
        }
        Ok(Digest::from_raw(hash.finalize().into()))
    }
}

/// A client that follows few redirects and none from https to http.
fn client() -> Result<Client, FetchError> {
    let follow = redirect::Policy::custom(|attempt| {
        let from_tls = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
        if from_tls && attempt.url().scheme() != "https" {
            attempt.error("it redirects from https to http")
        } else if attempt.previous().len() > REDIRECTS {
            attempt.error("it redirects too often")
        } else {
            attempt.follow()
        }
    });
    Client::builder()
        .user_agent(concat!("stoker-server/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIME)
        .read_timeout(SILENCE)
        .redirect(follow)
        .build()
        .map_err(|error| FetchError::Client(causes(&error)))
}

/// Only 200 carries an artifact. Which other statuses may heal is as in RFC 9110 §15.
fn check_status(location: &Location, status: StatusCode) -> Result<(), Failed> {
    if status == StatusCode::OK {
        return Ok(());
    }
    let heals = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        );
    let advice = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "check the credentials in the Secret",
        StatusCode::NOT_FOUND | StatusCode::GONE => "check model.uri and that the artifact was uploaded",
        _ if heals => "it may be overloaded or down",
        _ => "200 with the artifact was expected",
    };
    let error = FetchError::Status { location: location.clone(), status, advice };
    Err(if heals { Failed::ForNow(error) } else { Failed::ForGood(error) })
}

/// An error with all its causes: the outermost one of reqwest says little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// Why a file was not read.
enum Unread {
    TooLarge,
    Because(String),
}

impl Unread {
    fn at(self, location: &Location, limit: u64) -> FetchError {
        let location = location.clone();
        match self {
            Self::TooLarge => FetchError::TooLarge { location, limit },
            Self::Because(reason) => FetchError::File { location, reason },
        }
    }
}

impl From<std::io::Error> for Unread {
    fn from(error: std::io::Error) -> Self {
        Self::Because(error.to_string())
    }
}

/// Reads a regular file of at most `max` bytes.
fn read_file(path: &Path, max: u64, mut keep: Option<&mut Vec<u8>>) -> Result<Digest, Unread> {
    // Asked before opening: opening a pipe waits for a writer.
    let about = std::fs::metadata(path)?;
    if !about.is_file() {
        return Err(Unread::Because("it is not a regular file".to_owned()));
    }
    if about.len() > max {
        return Err(Unread::TooLarge);
    }
    if let (Some(bytes), Ok(length)) = (keep.as_deref_mut(), usize::try_from(about.len())) {
        bytes.reserve_exact(length);
    }
    let mut file = File::open(path)?;
    let (mut hash, mut length, mut chunk) = (Sha256::new(), 0_u64, vec![0; CHUNK]);
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return Ok(Digest::from_raw(hash.finalize().into()));
        }
        length += count as u64;
        if length > max {
            return Err(Unread::TooLarge);
        }
        hash.update(&chunk[..count]);
        if let Some(bytes) = keep.as_deref_mut() {
            bytes.extend_from_slice(&chunk[..count]);
        }
    }
}

//! Why an artifact is not there.

use std::path::PathBuf;

use reqwest::StatusCode;
use stoker_decide::address::Forbidden;
use stoker_edge::exit;

use super::{Digest, Location};

/// Why an artifact is not there. Each message says which place, what happened there and what to do. None holds what a server
/// wrote, or credentials.
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
    /// More bytes than there is memory for.
    #[error(
        "the artifact at {location} is larger than the {room} bytes that the container's memory limit leaves for it; raise the limit (in a cluster: runtime.resources.limits.memory)"
    )]
    NoRoom {
        /// Where it came from.
        location: Location,
        /// What there is, in bytes.
        room: u64,
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
    /// The name, or a redirect, leads where nothing may be fetched from.
    #[error(
        "{location} was not fetched: it leads to {forbidden}, which no artifact may come from; if it is yours, allow its network with --allow-network (in a cluster: --artifact-networks of the operator)"
    )]
    Forbidden {
        /// What was asked for.
        location: Location,
        /// Where it leads.
        forbidden: Forbidden,
    },
    /// The credentials cannot be used with the place.
    #[error("{location} cannot be asked for: {reason}; check the Secret's keys")]
    Keys {
        /// What was asked for.
        location: Location,
        /// What is wrong with them; never their content.
        reason: &'static str,
    },
    /// The artifact cannot be written down.
    #[error(
        "the artifact cannot be kept at {path}: {reason}; check that the folder is there, may be written to and has room"
    )]
    Kept {
        /// Where it should be.
        path: PathBuf,
        /// What the operating system said.
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
            Self::Digest { .. } | Self::TooLarge { .. } | Self::NoRoom { .. } => exit::BAD_ARTIFACT,
            Self::File { .. } | Self::Status { .. } | Self::Unreachable { .. } | Self::Kept { .. } => {
                exit::UNAVAILABLE
            }
            Self::Forbidden { .. } | Self::Keys { .. } => exit::BAD_CONFIGURATION,
            Self::Client(_) => exit::INTERNAL,
        }
    }
}

/// How a try ended without the artifact.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Another try may do better.
    ForNow(Why),
    /// It will not.
    ForGood(Why),
    /// The rest is not of the same version as what is there: another try begins at the start.
    Changed,
}

/// What happened, before it is known where and how often.
#[derive(Debug)]
pub(super) enum Why {
    Status(StatusCode, &'static str),
    Because(String),
    Forbidden(Forbidden),
    Keys(&'static str),
    TooLarge,
    NotKept(std::io::Error),
}

impl From<Forbidden> for Trouble {
    fn from(forbidden: Forbidden) -> Self {
        Self::ForGood(Why::Forbidden(forbidden))
    }
}

impl Trouble {
    /// Another try may help.
    pub(super) fn passing(reason: impl Into<String>) -> Self {
        Self::ForNow(Why::Because(reason.into()))
    }

    /// No other try will help.
    pub(super) fn lasting(reason: impl Into<String>) -> Self {
        Self::ForGood(Why::Because(reason.into()))
    }

    /// What a status other than that of an artifact means. Which ones may heal is as in RFC 9110 §15.
    pub(super) fn of_status(status: StatusCode) -> Self {
        let heals = status.is_server_error()
            || matches!(
                status,
                StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
            );
        let advice = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "check the credentials in the Secret",
            StatusCode::NOT_FOUND | StatusCode::GONE => "check model.uri and that the artifact was uploaded",
            _ if status.is_redirection() => "check the address, and for a bucket its region and endpoint",
            _ if heals => "it may be overloaded or down",
            _ => "200 with the artifact was expected",
        };
        let why = Why::Status(status, advice);
        if heals { Self::ForNow(why) } else { Self::ForGood(why) }
    }
}

impl Why {
    /// The error, now that place, limit and tries are known.
    pub(super) fn at(self, location: &Location, path: Option<PathBuf>, limit: u64, tries: u32) -> FetchError {
        let location = location.clone();
        match self {
            Self::Status(status, advice) => FetchError::Status { location, status, advice },
            Self::Because(reason) => FetchError::Unreachable { location, tries, reason },
            Self::Forbidden(forbidden) => FetchError::Forbidden { location, forbidden },
            Self::Keys(reason) => FetchError::Keys { location, reason },
            Self::TooLarge => FetchError::TooLarge { location, limit },
            // Memory takes all, so there is a path.
            Self::NotKept(error) => {
                FetchError::Kept { path: path.unwrap_or_default(), reason: error.to_string() }
            }
        }
    }
}

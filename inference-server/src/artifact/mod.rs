//! Where the model comes from: places, digests, and fetching with both bounded and checked.
//!
//! The operator has mounted ConfigMaps and volumes by the time this runs, so there are files, web servers and object stores. All
//! that is remote goes through one client (`web`), whose every connection the guard (`guard`) has let through: neither a name
//! nor a redirect leads into networks that the configuration does not allow. Bytes are hashed while they stream; nothing of an
//! artifact is looked at before its digest is right.

mod credentials;
mod digest;
mod download;
mod error;
mod fetch;
mod format;
mod guard;
mod keep;
mod location;
mod object;
mod web;

pub use credentials::{AzureKey, Credentials, CredentialsError, S3Keys};
pub use digest::{Digest, DigestError};
pub use error::FetchError;
pub use fetch::{Fetcher, Limits};
pub use format::Format;
pub use guard::{Looking, Lookup, System};
pub use location::{Location, LocationError, Object, Service};

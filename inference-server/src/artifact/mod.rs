//! Where the model comes from: places, digests, and fetching with both bounded and checked.
//!
//! The operator has mounted ConfigMaps and volumes by the time this runs, so there are two places only: a file, and a
//! web server. Bytes are hashed while they stream; nothing of an artifact is looked at before its digest is right.

mod credentials;
mod digest;
mod fetch;
mod location;

pub use credentials::{Credentials, CredentialsError};
pub use digest::{Digest, DigestError};
pub use fetch::{FetchError, Fetcher, Limits};
pub use location::{Location, LocationError};

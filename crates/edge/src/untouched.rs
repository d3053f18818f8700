//! The word of a pod that it has not begun with a request: `stoker-untouched: queue`.
//!
//! A pod that turns a request away before any work on it says so in this header of its answer, with the reason. The router
//! then sends the request to another pod, which it may not do with a request that failed: that one may have been run. Status
//! 503 alone does not say it. Clients never see the header: the router takes out all with its prefix.
//!
//! A reason of [`ALONE`] says that nothing was before the request: it takes longer than its limit by itself. That another pod
//! refuses it as well says nothing about how busy that one is.

use http::HeaderMap;
use http::header::HeaderName;

/// The header's name, for gRPC's metadata.
pub const NAME: &str = "stoker-untouched";
/// The header.
pub const UNTOUCHED: HeaderName = HeaderName::from_static(NAME);

/// The reason that is the request's own.
pub const ALONE: &str = "alone";

/// Whether an answer with these headers says so.
pub fn is_said(headers: &HeaderMap) -> bool {
    headers.contains_key(&UNTOUCHED)
}

/// Whether the reason is that the request takes too long by itself.
pub fn is_alone(headers: &HeaderMap) -> bool {
    headers.get(&UNTOUCHED).is_some_and(|reason| reason == ALONE)
}

//! The unit of a request: what stays at one arm while weights only grow.
//!
//! A rule names a header, whose value is hashed, or a cookie, which carries the unit itself: 128 random bits that this
//! router chose and nothing else knows of. No cookie ever names an arm: the arm follows from unit, salt and weights by
//! [`stoker_decide::traffic::choose`], the same in every router.

pub mod cookie;
pub mod once;

use std::sync::Arc;

use http::HeaderMap;
use http::header::HeaderName;
use stoker_api::route;
use stoker_decide::traffic;

/// Where a rule finds the unit.
#[derive(Clone, Debug)]
pub enum Source {
    /// The value of this header.
    Header(HeaderName),
    /// The cookie of this name.
    Cookie(Arc<str>),
}

impl Source {
    /// As a table names it. `None` when it names nothing that can be in a request.
    pub fn new(unit: &route::Unit) -> Option<Self> {
        match (&unit.header, &unit.cookie) {
            (Some(header), _) => HeaderName::from_bytes(header.as_bytes()).ok().map(Self::Header),
            (None, Some(cookie)) => Some(Self::Cookie(cookie.as_str().into())),
            (None, None) => None,
        }
    }

    /// The unit of a request, when it has one. Of several values of a header the first counts.
    pub fn read(&self, headers: &HeaderMap) -> Option<u128> {
        match self {
            Self::Header(name) => traffic::unit(headers.get(name)?.as_bytes()),
            Self::Cookie(name) => cookie::read(headers, name),
        }
    }

    /// The cookie's name, if it is one.
    pub fn cookie(&self) -> Option<&Arc<str>> {
        match self {
            Self::Header(_) => None,
            Self::Cookie(name) => Some(name),
        }
    }
}

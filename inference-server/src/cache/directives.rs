//! What a request says about the cache, and what an answer says about it.

use std::time::Duration;

use http::HeaderMap;
use http::header::{AGE, CACHE_CONTROL, HeaderName, HeaderValue};

/// In a request `bypass`: it must run the model, and its answer is not kept. In an answer `hit` or `miss`. The router
/// sets it on copies of requests, and strips it from what clients send and get.
pub const CACHE_HEADER: HeaderName = HeaderName::from_static("stoker-cache");
/// In an answer: seconds since it was computed, as in HTTP.
pub const AGE_HEADER: HeaderName = AGE;

/// What a request lets the cache do. gRPC's metadata have the same names.
///
/// Source: RFC 9111, section 5.2.1. `no-cache`: an answer that is kept is not given, and the new one is kept. `no-store`:
/// the answer is not kept; one that is kept would be allowed and is not given either, because who says so wants the model.
/// `max-age=N`: one that is older than N seconds is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directives {
    /// An answer that is kept may be given.
    pub reads: bool,
    /// The answer may be kept.
    pub writes: bool,
    /// An answer that is older than this is not given.
    pub max_age: Option<Duration>,
}

impl Default for Directives {
    fn default() -> Self {
        Self { reads: true, writes: true, max_age: None }
    }
}

impl Directives {
    /// The model runs, and nothing is kept.
    pub const BYPASS: Self = Self { reads: false, writes: false, max_age: None };

    /// What a request's headers say. What is not understood is ignored, as HTTP has it.
    pub fn of(headers: &HeaderMap) -> Self {
        let bypass = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"bypass");
        if headers.get_all(CACHE_HEADER).iter().any(bypass) {
            return Self::BYPASS;
        }
        let mut directives = Self::default();
        let texts = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
        for directive in texts.flat_map(|text| text.split(',')).map(str::trim) {
            let (name, argument) = directive.split_once('=').unwrap_or((directive, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "no-store" => return Self::BYPASS,
                "no-cache" => directives.reads = false,
                "max-age" => {
                    // A number that does not fit is a long time.
                    let argument = argument.trim().trim_matches('"');
                    if !argument.is_empty() && argument.bytes().all(|byte| byte.is_ascii_digit()) {
                        let limit = Duration::from_secs(argument.parse().unwrap_or(u64::MAX));
                        directives.max_age = Some(directives.max_age.map_or(limit, |other| other.min(limit)));
                    }
                }
                _ => {}
            }
        }
        directives
    }

    /// True when an answer of this age may be given.
    pub fn takes(&self, age: Duration) -> bool {
        self.reads && self.max_age.is_none_or(|most| age <= most)
    }
}

/// The cache's part in an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheStatus {
    /// None: there is no cache, or it was passed by.
    #[default]
    Off,
    /// It did not have it: the model ran.
    Miss,
    /// The answer is another request's.
    Hit {
        /// How long ago it was computed.
        age: Duration,
    },
}

impl CacheStatus {
    /// As in labels of metrics, and in the header.
    pub fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Miss => "miss",
            Self::Hit { .. } => "hit",
        }
    }

    /// Says it in an answer's headers; nothing where the cache had no part.
    pub fn write_to(self, headers: &mut HeaderMap) {
        if self != Self::Off {
            headers.insert(CACHE_HEADER, HeaderValue::from_static(self.word()));
        }
        if let Self::Hit { age } = self {
            headers.insert(AGE_HEADER, HeaderValue::from(age.as_secs()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_http_has_it() {
        let all = Directives::default();
        let no_read = Directives { reads: false, ..all };
        let aged = |seconds| Directives { max_age: Some(Duration::from_secs(seconds)), ..all };
        let cases: [(&[(&str, &str)], Directives); 12] = [
            (&[], all),
            (&[("cache-control", "no-cache")], no_read),
            (&[("cache-control", "No-Cache")], no_read),
            (&[("cache-control", "no-store")], Directives::BYPASS),
            (&[("cache-control", "max-age=5, no-store")], Directives::BYPASS),
            (&[("cache-control", "max-age=5"), ("cache-control", "max-age=3")], aged(3)),
            (&[("cache-control", " max-age = \"7\" ,x")], aged(7)),
            (&[("cache-control", "max-age=99999999999999999999999")], aged(u64::MAX)),
            (&[("cache-control", "max-age=-1, max-age=soon, max-age")], all),
            (&[("cache-control", "only-when-it-rains, private=\"a\"")], all),
            (&[("stoker-cache", "bypass")], Directives::BYPASS),
            (&[("stoker-cache", "hit")], all),
        ];
        for (headers, directives) in cases {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(Directives::of(&map), directives, "{headers:?}");
        }
    }

    #[test]
    fn answers_say_what_the_cache_did() {
        let cases = [
            (CacheStatus::Off, None, None),
            (CacheStatus::Miss, Some("miss"), None),
            (CacheStatus::Hit { age: Duration::from_millis(2900) }, Some("hit"), Some("2")),
        ];
        for (status, word, age) in cases {
            let mut headers = HeaderMap::new();
            status.write_to(&mut headers);
            let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap());
            assert_eq!((text(CACHE_HEADER), text(AGE_HEADER)), (word, age), "{status:?}");
        }
    }
}

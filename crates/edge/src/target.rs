//! The latency target on its way from the router to a pod: `stoker-latency-target: 100`, in whole milliseconds.
//!
//! The router writes it into each request that it forwards for a model with a target, so that a new target needs no
//! restart of pods. It strips the header from clients: only the router says it.

use std::time::Duration;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

/// The header.
pub const LATENCY_TARGET: HeaderName = HeaderName::from_static("stoker-latency-target");

/// The longest target, in milliseconds: that of `slo.latency.target`.
const LONGEST: u64 = 600_000;

/// The header's value for a target: milliseconds, rounded to the nearest, 1 at least.
pub fn value(target: Duration) -> HeaderValue {
    let millis = (target + Duration::from_micros(500)).as_millis();
    HeaderValue::from(u64::try_from(millis).unwrap_or(LONGEST).clamp(1, LONGEST))
}

/// The target that the headers of a request name. What is no whole number between 1 and 600000 is as if it were not there.
pub fn read(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(&LATENCY_TARGET)?.to_str().ok()?;
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let millis = text.parse::<u64>().ok().filter(|millis| is_number && (1..=LONGEST).contains(millis))?;
    Some(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (target, millis) in
            [(100_000, 100), (1_000, 1), (1, 1), (1_499, 1), (1_500, 2), (u64::MAX / 2, 600_000)]
        {
            let headers = HeaderMap::from_iter([(LATENCY_TARGET, value(Duration::from_micros(target)))]);
            assert_eq!(read(&headers), Some(Duration::from_millis(millis)), "{target}");
        }
    }

    #[test]
    fn what_is_no_number_of_milliseconds_is_no_target() {
        for text in ["", "0", "-1", "+5", "1.5", "100ms", " 7", "600001", "99999999999999999999", "\u{661}"] {
            let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
            assert_eq!(read(&HeaderMap::from_iter([(LATENCY_TARGET, value)])), None, "{text:?}");
        }
        assert_eq!(read(&HeaderMap::new()), None);
    }
}

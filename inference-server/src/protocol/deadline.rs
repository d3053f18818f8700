//! How long a client waits, as headers say it. Pure, and the same for HTTP and gRPC.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

/// What gateways built on Envoy send: milliseconds that they wait for the answer.
const ENVOY: &str = "x-envoy-expected-rq-timeout-ms";
/// What clients of gRPC send.
const GRPC: &str = "grpc-timeout";
/// The most digits that gRPC's form has.
const MOST_DIGITS: usize = 8;

/// The shortest time that the headers of a request name. What cannot be read bounds nothing: gateways write these
/// headers, and the client could not mend them.
pub fn asked(headers: &HeaderMap) -> Option<Duration> {
    let all = |name: &str, read: fn(&str) -> Option<Duration>| {
        headers.get_all(name).iter().filter_map(move |value: &HeaderValue| read(value.to_str().ok()?)).min()
    };
    shorter(all(ENVOY, envoy), all(GRPC, grpc))
}

/// The shorter of two times, where none is no bound.
pub fn shorter(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    a.into_iter().chain(b).min()
}

/// Whole milliseconds. Envoy's 0 switches its time limit off.
fn envoy(text: &str) -> Option<Duration> {
    let milliseconds = digits(text)?.parse().ok().filter(|milliseconds| *milliseconds > 0)?;
    Some(Duration::from_millis(milliseconds))
}

/// `TimeoutValue TimeoutUnit` of gRPC over HTTP/2: up to 8 digits, and one of `H`, `M`, `S`, `m`, `u`, `n`.
fn grpc(text: &str) -> Option<Duration> {
    let (unit_at, unit) = text.char_indices().next_back()?;
    let value = digits(text.get(..unit_at)?).filter(|value| value.len() <= MOST_DIGITS)?;
    let value: u64 = value.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(value * 60 * 60),
        'M' => Duration::from_secs(value * 60),
        'S' => Duration::from_secs(value),
        'm' => Duration::from_millis(value),
        'u' => Duration::from_micros(value),
        'n' => Duration::from_nanos(value),
        _ => return None,
    })
}

/// The text itself, when it is digits only: `parse` would take a sign.
fn digits(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&'static str, &'static str)]) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        asked(&headers)
    }

    #[test]
    fn the_shortest_time_wins() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[(ENVOY, "1500")]), Some(Duration::from_millis(1500)));
        assert_eq!(of(&[(ENVOY, "1500"), (GRPC, "1S")]), Some(Duration::from_secs(1)));
        assert_eq!(of(&[(ENVOY, "1500"), (GRPC, "2S")]), Some(Duration::from_millis(1500)));
        assert_eq!(of(&[(GRPC, "2S"), (GRPC, "7m")]), Some(Duration::from_millis(7)));
        let second = Some(Duration::from_secs(1));
        assert_eq!(
            (shorter(None, second), shorter(second, None), shorter(None, None)),
            (second, second, None)
        );
    }

    #[test]
    fn units_are_those_of_grpc() {
        for (text, time) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("0S", Duration::ZERO),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(grpc(text), Some(time), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_bounds_nothing() {
        for text in ["", "S", "1", "1s", "1 S", "-1S", "+1S", "1.5S", "123456789S", "1é", "é", "S1"] {
            assert_eq!(grpc(text), None, "{text}");
        }
        for text in ["", "0", "-1", "+1", "1.5", "1ms", " 1", "99999999999999999999"] {
            assert_eq!(envoy(text), None, "{text}");
        }
        assert_eq!(of(&[(ENVOY, "soon"), (GRPC, "2S")]), Some(Duration::from_secs(2)));
    }
}

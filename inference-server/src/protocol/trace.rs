//! W3C Trace Context: the header `traceparent` (https://www.w3.org/TR/trace-context/, section 3.2).

use std::fmt;

use http::HeaderMap;

/// The header.
pub const TRACEPARENT: &str = "traceparent";
/// Length of the header in version 00: the version, 32 + 16 digits of ids, the flags, and 3 hyphens.
const LENGTH: usize = 55;
/// The flags that are passed on: sampled, and random trace id (level 2, 3.2.2.5). The others have no meaning yet, and
/// are to be sent as 0.
const KNOWN_FLAGS: u8 = 0b11;

/// Where in a trace a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Of the whole trace; never 0.
    id: u128,
    /// Of the caller's span; never 0.
    parent: u64,
    flags: u8,
}

impl Trace {
    /// What a request says. A header that is malformed or there twice is as if it were not there, as the recommendation
    /// has it.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?;
        if values.next().is_some() { None } else { Self::parse(value.as_bytes()) }
    }

    /// Reads the value of a header.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (known, rest) = value.split_at_checked(LENGTH)?;
        let mut parts = known.split(|byte| *byte == b'-');
        let (version, trace_id) = (hex(parts.next()?, 2)?, hex(parts.next()?, 32)?);
        let (parent_id, flags) = (hex(parts.next()?, 16)?, hex(parts.next()?, 2)?);
        // A later version may have more behind a hyphen; this one has nothing; 255 is forbidden.
        let ends_well = match version {
            0 => rest.is_empty(),
            255 => false,
            _ => rest.first().is_none_or(|byte| *byte == b'-'),
        };
        if !ends_well || parts.next().is_some() || trace_id == 0 || parent_id == 0 {
            return None;
        }
        let parent_id = u64::try_from(parent_id).ok()?;
        Some(Self { id: trace_id, parent: parent_id, flags: u8::try_from(flags).ok()? & KNOWN_FLAGS })
    }

    /// The same trace, seen from a span of our own. `span_id` is drawn by chance; 0, which no span may have, becomes 1.
    #[must_use]
    pub fn with_span(self, span_id: u64) -> Self {
        Self { parent: span_id.max(1), ..self }
    }

    /// The id of the trace, as logs and other systems write it.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.id)
    }
}

impl fmt::Display for Trace {
    /// As a header of version 00.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, parent, flags } = self;
        write!(formatter, "00-{id:032x}-{parent:016x}-{flags:02x}")
    }
}

/// A number of exactly `digits` hexadecimal digits in small letters.
fn hex(text: &[u8], digits: usize) -> Option<u128> {
    let small = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != digits || !text.iter().all(small) {
        return None;
    }
    u128::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// The example of the recommendation, 3.2.2.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_examples_of_the_recommendation_are_read() {
        let trace = Trace::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((trace.parent, trace.flags), (0x00f0_67aa_0ba9_02b7, 1));
        assert_eq!(trace.to_string(), EXAMPLE);
        let not_sampled = EXAMPLE.replace("-01", "-00");
        assert_eq!(Trace::parse(not_sampled.as_bytes()).unwrap().to_string(), not_sampled);
        // A span of our own is in the same trace.
        let ours = trace.with_span(0xb7ad_6b71_6920_3331);
        assert_eq!(ours.to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01");
        assert_eq!(trace.with_span(0).parent, 1);
    }

    #[test]
    fn later_versions_may_have_more() {
        for text in
            [EXAMPLE.replacen("00", "cc", 1), EXAMPLE.replacen("00", "cc", 1) + "-what-the-future-holds"]
        {
            // Sent on as the version that we know.
            assert_eq!(Trace::parse(text.as_bytes()).unwrap().to_string(), EXAMPLE, "{text}");
        }
        // Flags without a meaning are not passed on.
        let flags = EXAMPLE.replace("-01", "-ff");
        assert!(Trace::parse(flags.as_bytes()).unwrap().to_string().ends_with("-03"));
    }

    #[test]
    fn what_is_malformed_is_no_trace() {
        for text in [
            String::new(),
            "00".to_owned(),
            EXAMPLE[..54].to_owned(),
            format!("{EXAMPLE}-"),
            format!("{EXAMPLE}-00"),
            format!("{EXAMPLE} "),
            format!(" {EXAMPLE}"),
            EXAMPLE.to_uppercase(),
            EXAMPLE.replace('-', "_"),
            EXAMPLE.replacen("00", "ff", 1),
            EXAMPLE.replacen("00", "0g", 1),
            EXAMPLE.replacen("00", "cc", 1) + "x",
            EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            EXAMPLE.replace("00f067aa0ba902b7", &"0".repeat(16)),
            EXAMPLE.replace("4bf92f3577b34da6", "+bf92f3577b34da6"),
            EXAMPLE.replace("4bf92f3577b34da6", "-bf92f3577b34da6"),
            EXAMPLE.replace("-01", "-1x"),
            EXAMPLE.replace("4bf92f3", "é92f3"),
        ] {
            assert_eq!(Trace::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn two_headers_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(Trace::of(&headers), None);
        headers.append(TRACEPARENT, HeaderValue::from_static(EXAMPLE));
        assert!(Trace::of(&headers).is_some());
        headers.append(TRACEPARENT, HeaderValue::from_static(EXAMPLE));
        assert_eq!(Trace::of(&headers), None);
    }
}

//! Which paths are forwarded: those of the Open Inference Protocol v2, and nothing else.

use http::Method;

/// What the answer to any other path says.
pub const HELP: &str = "this path is not forwarded; there are GET /v2, /v2/health/live, /v2/health/ready, \
/v2/models/<name>[/versions/<version>][/ready|/stats], POST /v2/models/<name>[/versions/<version>]/infer, and over \
HTTP/2 the gRPC service inference.GRPCInferenceService";

/// A path that is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The model in the path.
    pub model: Option<&'a str>,
    /// Whether it asks for an inference; all else is read with GET.
    pub infers: bool,
}

impl Target<'_> {
    /// The method that fits.
    pub fn method(&self) -> Method {
        if self.infers { Method::POST } else { Method::GET }
    }
}

/// Reads a path. `None` when it is not one of the protocol's.
pub fn parse(path: &str) -> Option<Target<'_>> {
    let rest = path.strip_prefix("/v2")?;
    let server = Target { model: None, infers: false };
    match rest {
        "" | "/" | "/health/live" | "/health/ready" => return Some(server),
        _ => {}
    }
    let mut parts = rest.strip_prefix("/models/")?.split('/');
    let model = parts.next().filter(|part| is_plain(part))?;
    let mut next = parts.next();
    if next == Some("versions") {
        parts.next().filter(|part| is_plain(part))?;
        next = parts.next();
    }
    let infers = match next {
        None | Some("ready" | "stats") => false,
        Some("infer") => true,
        Some(_) => return None,
    };
    parts.next().is_none().then_some(Target { model: Some(model), infers })
}

/// A part of a path that means the same to everybody: nothing encoded, no `.` or `..`.
fn is_plain(part: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    !part.is_empty() && part.bytes().all(known) && part.bytes().any(|b| b != b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protocol_is_forwarded() {
        for (path, model, infers) in [
            ("/v2", None, false),
            ("/v2/", None, false),
            ("/v2/health/live", None, false),
            ("/v2/health/ready", None, false),
            ("/v2/models/digits", Some("digits"), false),
            ("/v2/models/digits/ready", Some("digits"), false),
            ("/v2/models/digits/stats", Some("digits"), false),
            ("/v2/models/digits/infer", Some("digits"), true),
            ("/v2/models/digits/versions/1", Some("digits"), false),
            ("/v2/models/digits/versions/1.2/infer", Some("digits"), true),
        ] {
            assert_eq!(parse(path), Some(Target { model, infers }), "{path}");
        }
    }

    #[test]
    fn nothing_else_is() {
        for path in [
            "",
            "/",
            "/v1/models",
            "/v20",
            "/v2x",
            "/v2/models",
            "/v2/models/",
            "/v2/models//infer",
            "/v2/models/../infer",
            "/v2/models/a%2fb/infer",
            "/v2/models/digits/infer/",
            "/v2/models/digits/load",
            "/v2/models/digits/versions",
            "/v2/models/digits/versions//infer",
            "/v2/repository/index",
            "/v2/health",
            "/metrics",
            "/v2/models/a/ready/x",
        ] {
            assert_eq!(parse(path), None, "{path}");
        }
    }
}

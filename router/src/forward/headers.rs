//! Which headers cross the router: hop-by-hop ones and its own prefix do not.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use stoker_api::names::headers::{PREFIX, REVISION};

/// Headers of one connection, besides those that `Connection` names (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// What is wrong with the headers of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// RFC 9112, 3.2: more than one Host, or none in HTTP/1.1.
    #[error("a request must have exactly one Host header")]
    Host,
}

/// Makes a client's headers fit for a pod. The length of the body is set anew by whoever sends it.
pub fn to_pod(headers: &mut HeaderMap, host: &str) -> Result<(), HeaderError> {
    if headers.get_all(HOST).iter().nth(1).is_some() {
        return Err(HeaderError::Host);
    }
    strip(headers);
    headers.remove(CONTENT_LENGTH);
    // Answered by this router already.
    headers.remove(EXPECT);
    if !headers.contains_key(HOST) {
        headers.insert(HOST, HeaderValue::from_str(host).map_err(|_| HeaderError::Host)?);
    }
    Ok(())
}

/// Makes a pod's headers fit for the client, and says which revision answered.
pub fn to_client(headers: &mut HeaderMap, revision: &HeaderValue) {
    strip(headers);
    headers.insert(HeaderName::from_static(REVISION), revision.clone());
}

/// Takes out hop-by-hop headers and those that only the router may write.
fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            // A client must not take out what frames the message or says where it goes.
            .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if headers.keys().any(|name| name.as_str().starts_with(PREFIX)) {
        let own: Vec<HeaderName> =
            headers.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned().collect();
        for name in own {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn hop_by_hop_and_own_headers_do_not_reach_the_pod() {
        let mut headers = map(&[
            ("host", "digits"),
            ("connection", "close, X-Secret"),
            ("connection", "keep-alive"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "x"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("expect", "100-continue"),
            ("stoker-model", "digits"),
            ("stoker-revision", "forged"),
            ("stoker-anything", "x"),
            ("authorization", "kept"),
            ("content-type", "application/json"),
        ]);
        to_pod(&mut headers, "unused").unwrap();
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "content-type", "host"]);
    }

    #[test]
    fn connection_cannot_take_out_the_host() {
        let mut headers = map(&[("host", "digits"), ("connection", "host, content-length")]);
        to_pod(&mut headers, "other").unwrap();
        assert_eq!(headers[HOST], "digits");
    }

    #[test]
    fn two_hosts_are_refused_and_a_missing_one_is_filled_in() {
        let mut two = map(&[("host", "a"), ("host", "b")]);
        assert_eq!(to_pod(&mut two, "a"), Err(HeaderError::Host));
        let mut none = map(&[]);
        to_pod(&mut none, "digits").unwrap();
        assert_eq!(none[HOST], "digits");
    }

    #[test]
    fn the_client_learns_the_revision_from_the_router_alone() {
        let mut headers =
            map(&[("stoker-revision", "forged"), ("connection", "close"), ("content-length", "3")]);
        to_client(&mut headers, &HeaderValue::from_static("digits-1"));
        assert_eq!(headers["stoker-revision"], "digits-1");
        assert_eq!(headers["content-length"], "3");
        assert!(!headers.contains_key("connection"));
    }
}

//! Which headers cross the router: hop-by-hop ones and its own prefix do not.
//! And which answers of pods are framed so that nobody could read them in another way.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Response, StatusCode, Uri, Version};
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

/// Makes a client's headers fit for a pod. The length of the body is set anew by whoever sends it. The host is the
/// `authority` of the request's target where it has one (RFC 9112, 3.2.2), else what Host says, else `model`.
pub fn to_pod(
    headers: &mut HeaderMap,
    authority: Option<&Authority>,
    model: &str,
) -> Result<(), HeaderError> {
    if headers.get_all(HOST).iter().nth(1).is_some() {
        return Err(HeaderError::Host);
    }
    if let Some(authority) = authority {
        headers.insert(HOST, HeaderValue::from_str(host(authority)).map_err(|_| HeaderError::Host)?);
    }
    // HTTP/2 may cut a cookie into several fields, HTTP/1 may not (RFC 9113, 8.2.3).
    if headers.get_all(COOKIE).iter().nth(1).is_some() {
        let pieces: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(cookie) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
            headers.insert(COOKIE, cookie);
        }
    }
    strip(headers);
    headers.remove(CONTENT_LENGTH);
    // Answered by this router already.
    headers.remove(EXPECT);
    if !headers.contains_key(HOST) {
        headers.insert(HOST, HeaderValue::from_str(model).map_err(|_| HeaderError::Host)?);
    }
    Ok(())
}

/// Makes the headers of [`to_pod`] those of a gRPC call, and gives its target: over HTTP/2 the host stands there.
pub fn to_call(headers: &mut HeaderMap, target: &Uri) -> Result<Uri, HeaderError> {
    headers.insert(TE, HeaderValue::from_static("trailers"));
    let host = headers.remove(HOST).ok_or(HeaderError::Host)?;
    let path = target.path_and_query().map_or("/", PathAndQuery::as_str);
    let uri = Uri::builder().scheme(Scheme::HTTP).authority(host.as_bytes()).path_and_query(path);
    uri.build().map_err(|_| HeaderError::Host)
}

/// Host and port, without the name of a user.
fn host(authority: &Authority) -> &str {
    let text = authority.as_str();
    text.rsplit_once('@').map_or(text, |(_, host)| host)
}

/// Whether the head of a pod's answer over HTTP/1 leaves open where the answer ends. hyper takes a coding before
/// `chunked`, a length beside it, a repeated length, and a length or coding where there is no body.
pub fn is_ambiguous<B>(answer: &Response<B>) -> bool {
    let headers = answer.headers();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let (length, coding) = (lengths.next(), codings.next());
    if lengths.next().is_some() || codings.next().is_some() {
        return true;
    }
    match (length, coding) {
        (Some(_), Some(_)) => true,
        (Some(length), None) => {
            !length.as_bytes().iter().all(u8::is_ascii_digit)
                || (answer.status() == StatusCode::NO_CONTENT && length != "0")
        }
        (None, Some(coding)) => {
            answer.version() < Version::HTTP_11
                || answer.status() == StatusCode::NO_CONTENT
                || !coding.as_bytes().eq_ignore_ascii_case(b"chunked")
        }
        (None, None) => false,
    }
}

/// Makes a pod's headers fit for the client, and says which revision answered.
pub fn to_client(headers: &mut HeaderMap, revision: &HeaderValue) {
    strip(headers);
    headers.insert(HeaderName::from_static(REVISION), revision.clone());
}

/// Takes out hop-by-hop headers and those that only the router may write; of trailers as well.
pub fn strip(headers: &mut HeaderMap) {
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
        to_pod(&mut headers, None, "unused").unwrap();
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "content-type", "host"]);
    }

    #[test]
    fn connection_cannot_take_out_the_host() {
        let mut headers = map(&[("host", "digits"), ("connection", "host, content-length")]);
        to_pod(&mut headers, None, "other").unwrap();
        assert_eq!(headers[HOST], "digits");
    }

    #[test]
    fn the_target_says_the_host_and_cookies_are_one() {
        let mut headers = map(&[("host", "other"), ("cookie", "a=1"), ("cookie", "b=2")]);
        to_pod(&mut headers, Some(&"user@digits:8080".parse().unwrap()), "model").unwrap();
        assert_eq!(
            (&headers[HOST], &headers[COOKIE]),
            (&"digits:8080".parse().unwrap(), &"a=1; b=2".parse().unwrap())
        );
        assert_eq!(headers.get_all(COOKIE).iter().count(), 1);
    }

    #[test]
    fn answers_that_end_in_two_places_are_ambiguous() {
        let answer = |status: u16, version, fields: &[(&str, &str)]| {
            let mut answer = Response::new(());
            *answer.status_mut() = StatusCode::from_u16(status).unwrap();
            *answer.version_mut() = version;
            *answer.headers_mut() = map(fields);
            is_ambiguous(&answer)
        };
        let (length, chunked) = (("content-length", "5"), ("transfer-encoding", "chunked"));
        for fields in [&[][..], &[length], &[chunked], &[("transfer-encoding", "Chunked")]] {
            assert!(!answer(200, Version::HTTP_11, fields), "{fields:?}");
        }
        for fields in [
            &[length, chunked][..],
            &[length, length],
            &[chunked, chunked],
            &[("content-length", "5, 5")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "identity")],
        ] {
            assert!(answer(200, Version::HTTP_11, fields), "{fields:?}");
        }
        assert!(answer(200, Version::HTTP_10, &[chunked]));
        assert!(answer(204, Version::HTTP_11, &[chunked]) && answer(204, Version::HTTP_11, &[length]));
        assert!(!answer(204, Version::HTTP_11, &[("content-length", "0")]));
    }

    #[test]
    fn two_hosts_are_refused_and_a_missing_one_is_filled_in() {
        let mut two = map(&[("host", "a"), ("host", "b")]);
        assert_eq!(to_pod(&mut two, None, "a"), Err(HeaderError::Host));
        let mut none = map(&[]);
        to_pod(&mut none, None, "digits").unwrap();
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

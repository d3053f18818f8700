//! The one HTTP client of all remote places, and downloads from web servers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_RANGE, ETAG, IF_RANGE, LOCATION, RANGE};
use reqwest::{Client, Request, Response, StatusCode, Url, redirect};
use stoker_decide::address::{Forbidden, Guard};
use stoker_edge::causes;

use super::download::{Body, Part, Resume};
use super::error::Trouble;
use super::guard::{GuardedResolver, Lookup};
use super::{Credentials, FetchError};

/// Time to connect, name lookup and TLS included.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Time without a byte after which a download is given up and tried again.
const SILENCE: Duration = Duration::from_secs(30);
/// How many redirects are followed.
const REDIRECTS: usize = 5;

/// An HTTP client that connects to no address that the guard refuses, and follows no redirect by itself.
#[derive(Clone, Debug)]
pub(super) struct Web {
    client: Client,
    guard: Guard,
}

impl Web {
    /// A client. A proxy would look names up itself, behind the guard's back: it is used only when `proxies` are asked for.
    pub(super) fn new(guard: &Guard, proxies: bool, lookup: Arc<dyn Lookup>) -> Result<Self, FetchError> {
        let resolver = GuardedResolver { guard: guard.clone(), lookup };
        let mut builder = Client::builder()
            .user_agent(concat!("stoker-server/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIME)
            .read_timeout(SILENCE)
            .redirect(redirect::Policy::none())
            .dns_resolver(resolver);
        if !proxies {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| FetchError::Client(causes(&error)))?;
        Ok(Self { client, guard: guard.clone() })
    }

    /// Sends a request.
    pub(super) async fn send(&self, request: Request) -> Result<Response, Trouble> {
        // Addresses in a URL are not looked up, so the resolver does not see them.
        if let Some(address) = literal(request.url()) {
            self.guard.check(address)?;
        }
        self.client.execute(request).await.map_err(|error| trouble(&error.without_url()))
    }

    /// Asks a web server for an artifact, or for the rest of it.
    pub(super) async fn open(
        &self,
        first: &Url,
        credentials: Option<&Credentials>,
        resume: Option<Resume<'_>>,
    ) -> Result<Part, Trouble> {
        let mut url = first.clone();
        let mut credentials = credentials;
        for _ in 0..=REDIRECTS {
            let mut request = self.client.get(without_user(&url, credentials));
            if let Some(credentials) = credentials {
                request = credentials.apply(request);
            }
            if let Some(Resume { from, etag }) = resume {
                request = request.header(RANGE, format!("bytes={from}-")).header(IF_RANGE, etag);
            }
            let request = request.build().map_err(|error| Trouble::lasting(causes(&error.without_url())))?;
            let answer = self.send(request).await?;
            match answer.status() {
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => {
                    let next = target(&url, &answer)?;
                    if !same_origin(first, &next) {
                        // For good: a server that got none must not be able to send them anywhere by sending the client back.
                        credentials = None;
                    }
                    url = next;
                }
                status => return part(answer, status, resume),
            }
        }
        Err(Trouble::lasting("it redirects too often"))
    }
}

/// Where a redirect leads. Never from https to http: what was safe to send would not be any more.
fn target(from: &Url, answer: &Response) -> Result<Url, Trouble> {
    let location = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let next = location.and_then(|location| from.join(location).ok());
    let Some(next) = next else { return Err(Trouble::of_status(answer.status())) };
    match (from.scheme(), next.scheme()) {
        ("https", "http") => Err(Trouble::lasting("it redirects from https to http")),
        (_, "http" | "https") => Ok(next),
        _ => Err(Trouble::lasting("it redirects to something that is neither http nor https")),
    }
}

/// RFC 6454 §4.
fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host_str() == other.host_str()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// The URL without the user in it, where there are credentials: two headers `Authorization` are none.
fn without_user(url: &Url, credentials: Option<&Credentials>) -> Url {
    let mut url = url.clone();
    if credentials.is_some() {
        // Both fail only for URLs without a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
    }
    url
}

/// What an answer other than a redirect holds.
fn part(answer: Response, status: StatusCode, resume: Option<Resume<'_>>) -> Result<Part, Trouble> {
    let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (from, total) = match (status, resume) {
        (StatusCode::OK, _) => (0, answer.content_length()),
        (StatusCode::PARTIAL_CONTENT, Some(_)) => {
            let range = header(CONTENT_RANGE).as_deref().and_then(content_range);
            range.ok_or(Trouble::Changed)?
        }
        (StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PRECONDITION_FAILED, Some(_)) => {
            return Err(Trouble::Changed);
        }
        _ => return Err(Trouble::of_status(status)),
    };
    Ok(Part { from, total, etag: header(ETAG), body: Body::Web(answer) })
}

/// First byte and whole length in `bytes <first>-<last>/<length or *>` (RFC 9110 §14.4).
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, length) = text.strip_prefix("bytes ")?.split_once('/')?;
    let from = range.split_once('-')?.0.parse().ok()?;
    Some((from, if length == "*" { None } else { Some(length.parse().ok()?) }))
}

/// The address that a URL names without a name.
fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    // The parser of URLs has written all forms (127.1, 0x7f000001, ::ffff:7f00:1) in the usual one by now.
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

/// What an error of the client means.
pub(super) fn trouble(error: &reqwest::Error) -> Trouble {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(inner) = cause {
        if let Some(forbidden) = inner.downcast_ref::<Forbidden>() {
            return Trouble::from(*forbidden);
        }
        cause = inner.source();
    }
    if error.is_builder() { Trouble::lasting(causes(error)) } else { Trouble::passing(causes(error)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_urls_are_seen_in_every_notation() {
        for (url, address) in [
            ("http://127.0.0.1/a", Some("127.0.0.1")),
            ("http://127.1/a", Some("127.0.0.1")),
            ("http://0x7f.0.0.1/a", Some("127.0.0.1")),
            ("http://2130706433/a", Some("127.0.0.1")),
            ("http://0177.0.0.1:80/a", Some("127.0.0.1")),
            ("http://[::1]/a", Some("::1")),
            ("http://[::ffff:127.0.0.1]/a", Some("::ffff:127.0.0.1")),
            ("http://１２７.0.0.1/a", Some("127.0.0.1")),
            ("http://localhost/a", None),
            ("http://127.0.0.1.example/a", None),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(literal(&url), address.map(|address| address.parse().unwrap()), "{url}");
        }
    }

    #[test]
    fn redirects_lead_to_the_web_and_never_out_of_tls() {
        let to = |from: &str, location: &str| {
            let answer = http::Response::builder().status(302).header(LOCATION, location).body("").unwrap();
            target(&Url::parse(from).unwrap(), &Response::from(answer)).map(|url| url.to_string())
        };
        for (from, location, wanted) in [
            ("https://a/x", "/y", Some("https://a/y")),
            ("https://a/x", "//b/y", Some("https://b/y")),
            ("http://a/x", "https://b/y", Some("https://b/y")),
            ("https://a/x", "http://a/y", None),
            ("https://a/x", "HTTP://b/y", None),
            ("https://a/x", "file:///etc/passwd", None),
            ("http://a/x", "http://", None),
        ] {
            assert_eq!(to(from, location).ok().as_deref(), wanted, "{from} to {location}");
        }
        let Err(Trouble::ForGood(why)) = to("https://a/x", "http://a/y") else { panic!("it was followed") };
        assert!(format!("{why:?}").contains("from https to http"), "{why:?}");
    }

    #[test]
    fn ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes */10", "bytes 5/10", "5-9/10", "bytes 5-9", "bytes -1-9/10", "bytes 5-9/x"] {
            assert_eq!(content_range(bad), None, "{bad:?}");
        }
    }
}

//! A place that a model is read from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use object_store::path::Path as Key;
use reqwest::Url;

/// A place that a model is read from. Its text form holds no password and no query, so that it may be logged.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// A file on this machine.
    File(PathBuf),
    /// Downloaded with GET.
    Http(Box<Url>),
    /// An object of a store with a protocol of its own.
    Object(Box<Object>),
}

/// An object of a store: which service, which bucket or container, which key.
#[derive(Clone, PartialEq, Eq)]
pub struct Object {
    /// The store's protocol.
    pub service: Service,
    /// The bucket; Azure calls it container.
    pub bucket: String,
    /// The object's name in it. `%XX` of the URI is decoded.
    pub key: Key,
}

/// The protocol of an object store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// `s3://bucket/key`: Amazon S3 and what speaks like it. The region and the endpoint come with the credentials; without
    /// them it is Amazon's us-east-1.
    S3,
    /// `gs://bucket/object`: Google Cloud Storage.
    Google,
    /// `az://account/container/blob`: Azure Blob Storage, at `https://account.blob.core.windows.net` unless the credentials
    /// hold another endpoint.
    Azure {
        /// The storage account.
        account: String,
    },
}

/// Why a URI is not such a place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{reason}; use https://host/path, http://host/path, s3://bucket/key, gs://bucket/object, az://account/container/blob or file:///path"
)]
pub struct LocationError {
    // The URI itself may hold a password, and a wrong one cannot be taken apart to hide it.
    reason: String,
}

/// Longest name of a bucket: Google's, with dots.
const LONGEST_BUCKET: usize = 222;

impl Location {
    /// Whom credentials for it are shown to: the same text means the same server, or the same bucket of a store.
    pub fn place(&self) -> String {
        match self {
            Self::File(_) => "file".to_owned(),
            Self::Http(url) => url.origin().ascii_serialization(),
            Self::Object(object) => format!("{:?} {}", object.service, object.bucket),
        }
    }

    /// The name of the artifact's file: the last part of the path. What a file system or a shell could take for more than a
    /// name becomes `_`.
    pub fn file_name(&self) -> String {
        let last = match self {
            Self::File(path) => path.file_name().map(|name| name.to_string_lossy().into_owned()),
            Self::Http(url) => url.path_segments().and_then(|mut parts| parts.next_back()).map(str::to_owned),
            Self::Object(object) => object.key.filename().map(str::to_owned),
        };
        let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        // File systems take 255 bytes, of which the temporary name needs some.
        let mut name: String = last.unwrap_or_default().chars().take(200).map(safe).collect();
        if name.is_empty() {
            name.push_str("model");
        }
        // Neither hidden, nor an option, nor `..`.
        if name.starts_with(['.', '-']) {
            name.replace_range(..1, "_");
        }
        name
    }
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        let error = |reason: &str| LocationError { reason: reason.to_owned() };
        // Before the parser takes them away: who wrote the URI and who reads it must mean the same place.
        if dots(text, true) {
            return Err(error("a part of its path is an encoded `.` or `..` (%2e)"));
        }
        let url = Url::parse(text).map_err(|reason| error(&format!("it is not a URI ({reason})")))?;
        match url.scheme() {
            "http" | "https" => Ok(Self::Http(Box::new(url))),
            "file" => url
                .to_file_path()
                .map(Self::File)
                .map_err(|()| error("a file URI has three slashes and no host")),
            "s3" | "gs" | "az" if dots(text, false) => {
                Err(error("the object's name has an empty part, or `.` or `..` as a part"))
            }
            "s3" | "gs" | "az" => object(&url).map(|object| Self::Object(Box::new(object))).map_err(error),
            scheme => Err(error(&format!("the scheme {scheme:?} is not known"))),
        }
    }
}

/// Whether a part of a URI's path is `.` or `..`, with a dot that is written `%2e` where only `encoded` ones count. URL parsers take
/// such parts for steps in the tree (WHATWG URL §4.4).
fn dots(text: &str, encoded: bool) -> bool {
    // As the parser does it, which also skips line ends and tabs.
    let text: String = text.chars().filter(|c| !matches!(c, '\t' | '\n' | '\r')).collect();
    let path = text.split(['?', '#']).next().unwrap_or_default();
    path.split(['/', '\\']).any(|part| {
        let plain = part.replace("%2e", ".").replace("%2E", ".");
        matches!(plain.as_str(), "." | "..") && (!encoded || plain != part)
    })
}

/// The object that a URI of a store names.
fn object(url: &Url) -> Result<Object, &'static str> {
    if !url.username().is_empty() || url.password().is_some() || url.port().is_some() {
        return Err("a bucket has no user and no port; credentials and the endpoint come from --credentials");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("an object has no query; write ? and # of its name as %3F and %23");
    }
    let host = url.host_str().unwrap_or_default();
    let path = url.path().strip_prefix('/').unwrap_or_default();
    let (service, bucket, path) = match url.scheme() {
        "s3" => (Service::S3, host, path),
        "gs" => (Service::Google, host, path),
        _ => {
            let (container, path) = path.split_once('/').unwrap_or((path, ""));
            let is_account = (3..=24).contains(&host.len())
                && host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            if !is_account {
                return Err("the storage account has 3 to 24 lower-case letters and digits");
            }
            (Service::Azure { account: host.to_owned() }, container, path)
        }
    };
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_bucket = (3..=LONGEST_BUCKET).contains(&bucket.len())
        && bucket.bytes().all(|b| inside(b) || b"-_.".contains(&b))
        && bucket.bytes().next().is_some_and(inside);
    if !is_bucket {
        return Err("a bucket has 3 to 222 lower-case letters, digits, hyphens, underscores and dots");
    }
    if path.is_empty() || path.ends_with('/') {
        return Err("it names no object");
    }
    let key = Key::from_url_path(path)
        .map_err(|_| "the object's name has an empty part, or `.` or `..` as a part")?;
    Ok(Object { service, bucket: bucket.to_owned(), key })
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file://{}", path.display()),
            Self::Http(url) => {
                write!(f, "{}://{}", url.scheme(), url.host_str().unwrap_or_default())?;
                if let Some(port) = url.port() {
                    write!(f, ":{port}")?;
                }
                f.write_str(url.path())?;
                // A query is where signed URLs keep their signature.
                if url.query().is_some() { f.write_str("?...") } else { Ok(()) }
            }
            Self::Object(object) => {
                let Object { service, bucket, key } = &**object;
                match service {
                    Service::S3 => write!(f, "s3://{bucket}/{key}"),
                    Service::Google => write!(f, "gs://{bucket}/{key}"),
                    Service::Azure { account } => write!(f, "az://{account}/{bucket}/{key}"),
                }
            }
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        assert_eq!("file:///models/a.onnx".parse(), Ok(Location::File("/models/a.onnx".into())));
        for web in ["http://127.0.0.1:9/a", "https://host/a%2eb/..%2e/c?d=/%2e%2e/", "https://host/a#/%2e"] {
            assert!(matches!(web.parse(), Ok(Location::Http(_))), "{web}");
        }
        for (text, service, bucket, key) in [
            ("s3://bucket/a%20b/c.onnx", Service::S3, "bucket", "a b/c.onnx"),
            ("gs://my.bucket_1/c.onnx", Service::Google, "my.bucket_1", "c.onnx"),
            ("az://account/box/a/c.onnx", Service::Azure { account: "account".into() }, "box", "a/c.onnx"),
        ] {
            let Ok(Location::Object(object)) = text.parse() else { panic!("{text}") };
            assert_eq!(
                (&object.service, object.bucket.as_str(), object.key.as_ref()),
                (&service, bucket, key)
            );
            assert_eq!(Location::Object(object).to_string(), text.replace("%20", " "));
        }
    }

    #[test]
    fn what_names_no_place_is_refused() {
        for bad in [
            "",
            "a.onnx",
            "/models/a.onnx",
            "file://host/a",
            "https://",
            "ftp://host/a",
            "s3://bucket",
            "s3://bucket/",
            "s3://bucket/a/",
            "s3://bucket/a//b",
            "s3:///a",
            "s3://user:hunter2@bucket/a",
            "s3://bucket:1/a",
            "s3://bucket/a?versionId=1",
            "s3://Bucket/a",
            "s3://b/a",
            "az://account/container",
            "az://a/container/blob",
            "az://acc-ount/container/blob",
            "gs://-bucket/a",
            "s3://bucket/a%2F..%2Fb",
            "s3://bucket/a/../b",
            "s3://bucket/./b",
            "s3://bucket/a/%2e%2E/b",
            "az://account/box/%2e./b",
            "https://host/a/%2e%2e/b",
            "https://host/a/.%2E?b",
            "https://host/a/%2\te/b",
            "https://host\\%2e\\b",
            "file:///models/%2E%2e/b",
        ] {
            let parsed = bad.parse::<Location>();
            assert!(parsed.is_err(), "{bad:?} was accepted");
            assert!(!format!("{parsed:?}").contains("hunter2"));
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let place: Location =
            "https://user:hunter2@models.example:8443/a.onnx?X-Signature=abc".parse().unwrap();
        assert_eq!(
            format!("{place} {place:?}"),
            "https://models.example:8443/a.onnx?... ".repeat(2).trim_end()
        );
    }

    #[test]
    fn file_names_are_only_names() {
        for (uri, name) in [
            ("https://host/team/a.onnx?sig=1", "a.onnx"),
            ("https://host/", "model"),
            ("https://host/..%2F..%2Fetc%2Fpasswd", "_.%2F..%2Fetc%2Fpasswd".replace('%', "_").as_str()),
            ("https://host/.hidden", "_hidden"),
            ("https://host/-rf", "_rf"),
            ("s3://bucket/a%20b/c%20d.onnx", "c_d.onnx"),
            ("file:///models/a.onnx", "a.onnx"),
        ] {
            assert_eq!(uri.parse::<Location>().unwrap().file_name(), name, "{uri}");
        }
        let long: Location = format!("https://host/{}", "a".repeat(1000)).parse().unwrap();
        assert_eq!(long.file_name().len(), 200);
    }
}

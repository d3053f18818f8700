//! A place that a model is read from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use reqwest::Url;

/// A place that a model is read from. Its text form holds no password and no query, so that it may be logged.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// A file on this machine.
    File(PathBuf),
    /// Downloaded with GET.
    Http(Box<Url>),
}

/// Why a URI is not such a place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--model-uri: {reason}; use https://host/path, http://host/path or file:///path")]
pub struct LocationError {
    // The URI itself may hold a password, and a wrong one cannot be taken apart to hide it.
    reason: String,
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        let error = |reason: &str| LocationError { reason: reason.to_owned() };
        let url = Url::parse(text).map_err(|reason| error(&format!("it is not a URI ({reason})")))?;
        match url.scheme() {
            "http" | "https" => Ok(Self::Http(Box::new(url))),
            "file" => url
                .to_file_path()
                .map(Self::File)
                .map_err(|()| error("a file URI has three slashes and no host")),
            scheme => Err(error(&format!("the scheme {scheme:?} is not known"))),
        }
    }
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
        assert!(matches!("http://127.0.0.1:9/a".parse(), Ok(Location::Http(_))));
        for bad in ["", "a.onnx", "/models/a.onnx", "s3://bucket/a", "file://host/a", "https://"] {
            assert!(bad.parse::<Location>().is_err(), "{bad:?} was accepted");
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
}

//! Where a model comes from and what it must be: URIs and digests.

use std::fmt;
use std::str::FromStr;

/// What a `model.uri` may look like. The same expression is in the CRD, so the API server refuses what we cannot read.
pub const URI_PATTERN: &str = r"^(https?://[A-Za-z0-9._~:@%/?#\[\]!$&'()*+,;=-]+|configmap://[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9._-]+|pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9._/-]+)$";

/// What a `model.digest` may look like.
pub const DIGEST_PATTERN: &str = "^sha256:[0-9a-f]{64}$";

/// A place that an artifact is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uri {
    /// Downloaded by the pod with GET.
    Http(String),
    /// A key of a ConfigMap of the same namespace, mounted into the pod. Good for models below 1 MiB.
    ConfigMap {
        /// Name of the ConfigMap.
        name: String,
        /// Key that holds the file (`binaryData` or `data`).
        key: String,
    },
    /// A file in a PersistentVolumeClaim of the same namespace, mounted read only.
    Claim {
        /// Name of the claim.
        name: String,
        /// Path within the volume, relative, without `..`.
        path: String,
    },
}

/// Why a URI cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("model.uri {uri:?}: {reason}; use https://host/path, configmap://name/key or pvc://claim/path")]
pub struct UriError {
    uri: String,
    reason: &'static str,
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let error = |reason| UriError { uri: text.to_owned(), reason };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| error("it has no scheme"))?;
        if rest.is_empty() {
            return Err(error("nothing follows the scheme"));
        }
        match scheme {
            "http" | "https" => Ok(Self::Http(text.to_owned())),
            "configmap" | "pvc" => {
                let (name, path) = rest.split_once('/').ok_or_else(|| error("it names no file"))?;
                let climbs = path.split('/').any(|part| part.is_empty() || part == "." || part == "..");
                if name.is_empty() || climbs {
                    return Err(error("the path must be relative, without empty parts, `.` or `..`"));
                }
                let (name, path) = (name.to_owned(), path.to_owned());
                match scheme {
                    "configmap" if path.contains('/') => Err(error("a ConfigMap has keys, not folders")),
                    "configmap" => Ok(Self::ConfigMap { name, key: path }),
                    _ => Ok(Self::Claim { name, path }),
                }
            }
            _ => Err(error("the scheme is not known")),
        }
    }
}

/// A SHA-256 digest, written `sha256:<64 lower-case hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

/// Why a digest cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("digest {0:?} is not sha256: followed by 64 lower-case hex digits")]
pub struct DigestError(String);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// From the raw 32 bytes of a SHA-256, for those who hash while they stream.
    pub fn from_raw(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let error = || DigestError(text.chars().take(80).collect());
        let digits = text.strip_prefix("sha256:").ok_or_else(error)?;
        if digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(error());
        }
        let mut raw = [0; 32];
        hex::decode_to_slice(digits, &mut raw).map_err(|_| error())?;
        Ok(Self(raw))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_read() {
        let cases = [
            ("https://models.example/a.onnx", Uri::Http("https://models.example/a.onnx".into())),
            ("configmap://digits/v1.onnx", Uri::ConfigMap { name: "digits".into(), key: "v1.onnx".into() }),
            ("pvc://models/team/a.onnx", Uri::Claim { name: "models".into(), path: "team/a.onnx".into() }),
        ];
        for (text, uri) in cases {
            assert_eq!(text.parse(), Ok(uri), "{text}");
        }
    }

    #[test]
    fn uris_that_could_leave_their_place_are_refused() {
        for text in [
            "",
            "a.onnx",
            "ftp://a/b",
            "https://",
            "pvc://claim/../x",
            "pvc://claim//x",
            "pvc://claim",
            "configmap://a/b/c",
            "file:///etc/passwd",
        ] {
            assert!(text.parse::<Uri>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn digests_round_trip_and_bad_ones_are_refused() {
        // SHA-256 of the empty string, FIPS 180-4 examples.
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), empty);
        assert_eq!(empty.parse(), Ok(Digest::of(b"")));
        for bad in
            ["", "sha256:", "md5:d41d8cd98f00b204e9800998ecf8427e", &empty.to_uppercase(), &empty[..70]]
        {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?} was accepted");
        }
    }
}

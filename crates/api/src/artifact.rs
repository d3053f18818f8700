//! Where a model comes from and what it must be: URIs and digests.

use std::fmt;
use std::str::FromStr;

/// What a `model.uri` looks like: the CRD's rule, so that the API server refuses what [`Uri`] cannot read. A test holds the
/// two together.
pub fn uri_pattern() -> String {
    let user = "([A-Za-z0-9._~%!$&()*+,;=:-]*@)?";
    let host = r"([A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?";
    let rest = "([/?#][A-Za-z0-9._~:@%/?#!$&()*+,;=-]*)?";
    // The name of an object: DNS labels with dots between them.
    let label = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
    let name = format!("{label}([.]{label})*");
    // A key or a part of a path: one dot may come first, so it is neither `.` nor `..`.
    let part = "[.]?[A-Za-z0-9_-][A-Za-z0-9._-]*";
    let bucket = "[a-z0-9][a-z0-9._-]{2,221}";
    // Of an object's name: as above, and what URLs have besides.
    let piece = "[.]?[A-Za-z0-9_~%!$&()*+,;=:@-][A-Za-z0-9._~%!$&()*+,;=:@-]*";
    let object = format!("((s3|gs)://|az://[a-z0-9]{{3,24}}/){bucket}(/{piece})+");
    format!("^(https?://{user}{host}{rest}|{object}|configmap://{name}/{part}|pvc://{name}(/{part})+)$")
}

/// What no `model.uri` may match: a part of the path is `.` or `..`, with a dot that is written as `%2e`. URL parsers take such parts
/// for steps in the tree (WHATWG URL §4.4), so that the URI would name another place than it seems to.
pub const ENCODED_DOTS_PATTERN: &str = "^[^?#]*/(%2[eE]|[.]%2[eE]|%2[eE]([.]|%2[eE]))([/?#]|$)";

/// Longest name, key and part of a path in a `model.uri`: what Kubernetes and file systems take.
pub const LONGEST_NAME: usize = 253;

/// Longest name of a bucket: Google's, with dots.
const LONGEST_BUCKET: usize = 222;

/// What a `model.digest` looks like: the CRD's rule.
pub const DIGEST_PATTERN: &str = "^sha256:[0-9a-f]{64}$";

/// A place that an artifact is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uri {
    /// Downloaded by the pod with GET.
    Http(String),
    /// An object of a store, downloaded by the pod: `s3://bucket/key`, `gs://bucket/object` or `az://account/container/blob`.
    Object(String),
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
#[error(
    "model.uri {uri:?}: {reason}; use https://host/path, s3://bucket/key, gs://bucket/object, az://account/container/blob, configmap://name/key or pvc://claim/path"
)]
pub struct UriError {
    uri: String,
    reason: &'static str,
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let error = |reason| UriError { uri: text.to_owned(), reason };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| error("it has no scheme"))?;
        if has_encoded_dots(rest) {
            return Err(error("a part of its path is an encoded `.` or `..` (%2e)"));
        }
        match scheme {
            "http" | "https" => {
                check_address(rest).map_err(error)?;
                Ok(Self::Http(text.to_owned()))
            }
            "s3" | "gs" | "az" => {
                check_object(scheme, rest).map_err(error)?;
                Ok(Self::Object(text.to_owned()))
            }
            "configmap" | "pvc" => {
                let (name, path) = rest.split_once('/').ok_or_else(|| error("it names no file"))?;
                if !is_name(name) {
                    return Err(error("the name before the path is not one that an object can have"));
                }
                if !path.split('/').all(is_part) {
                    return Err(error(
                        "the path must be relative, of A-Z, a-z, 0-9, `.`, `_` and `-`, without empty parts, `.` or `..`",
                    ));
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

/// Whether [`ENCODED_DOTS_PATTERN`] fits.
fn has_encoded_dots(text: &str) -> bool {
    let path = text.split(['?', '#']).next().unwrap_or_default();
    path.split('/').any(|part| {
        let plain = part.replace("%2e", ".").replace("%2E", ".");
        plain != part && matches!(plain.as_str(), "." | "..")
    })
}

/// Whether all of `text` is letters, digits or of `others`.
fn is_of(text: &str, others: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

/// What follows `http://`: someone, a host, a port, and the rest.
fn check_address(text: &str) -> Result<(), &'static str> {
    let (authority, rest) = text.split_at(text.find(['/', '?', '#']).unwrap_or(text.len()));
    let (user, place) = authority.split_once('@').unwrap_or(("", authority));
    let (host, port) = match place.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((address, port)) if !address.is_empty() => {
            if !address.chars().all(|c| c.is_ascii_hexdigit() || ":.".contains(c)) {
                return Err("it names no host");
            }
            ("ipv6", port)
        }
        _ => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    if !host.starts_with(|c: char| c.is_ascii_alphanumeric()) || !is_of(host, "._-") {
        return Err("it names no host");
    }
    let digits = port.strip_prefix(':').unwrap_or("0");
    let is_port = (1..=5).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_port || (!port.is_empty() && !port.starts_with(':')) {
        return Err("its port is not a number");
    }
    if !is_of(user, "._~%!$&()*+,;=:-") || !is_of(rest, "._~:@%/?#!$&()*+,;=-") {
        return Err("it holds a character that a URL cannot have; write it as %XX");
    }
    Ok(())
}

/// What follows `s3://`, `gs://` or `az://`: an account where Azure wants it, a bucket, and a name in it.
fn check_object(scheme: &str, text: &str) -> Result<(), &'static str> {
    let missing = "it names no object in a bucket";
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let rest = if scheme == "az" {
        let (account, rest) = text.split_once('/').ok_or(missing)?;
        if !(3..=24).contains(&account.len()) || !account.bytes().all(inside) {
            return Err("the storage account has 3 to 24 lower-case letters and digits");
        }
        rest
    } else {
        text
    };
    let (bucket, key) = rest.split_once('/').ok_or(missing)?;
    let is_bucket = (3..=LONGEST_BUCKET).contains(&bucket.len())
        && bucket.bytes().next().is_some_and(inside)
        && bucket.bytes().all(|b| inside(b) || b"._-".contains(&b));
    if !is_bucket {
        return Err("a bucket has 3 to 222 lower-case letters, digits, hyphens, underscores and dots");
    }
    if !key.split('/').all(is_piece) {
        return Err(
            "the object's name has an empty part, `.` or `..` as a part, or a character that a URL cannot have; write it as %XX",
        );
    }
    Ok(())
}

/// A part of an object's name.
fn is_piece(text: &str) -> bool {
    let after = text.strip_prefix('.').unwrap_or(text);
    text.len() <= LONGEST_NAME
        && !after.is_empty()
        && !after.starts_with('.')
        && is_of(after, "._~%!$&()*+,;=:@-")
}

/// A name that an object can have: DNS labels with dots between them.
fn is_name(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_label = |label: &str| {
        label.bytes().all(|b| inside(b) || b == b'-')
            && label.bytes().next().is_some_and(inside)
            && label.bytes().last().is_some_and(inside)
    };
    text.len() <= LONGEST_NAME && text.split('.').all(is_label)
}

/// A key or a part of a path: one dot may come first.
fn is_part(text: &str) -> bool {
    let after = text.strip_prefix('.').unwrap_or(text);
    text.len() <= LONGEST_NAME && !after.is_empty() && !after.starts_with('.') && is_of(after, "._-")
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
            ("s3://models/team/a.onnx", Uri::Object("s3://models/team/a.onnx".into())),
            ("az://account/box/a.onnx", Uri::Object("az://account/box/a.onnx".into())),
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
            "configmap://a/..data",
            "pvc://claim/a/",
            "pvc://claim/./x",
            "pvc://a..b/x",
            "pvc://Claim/x",
            "https:///x",
            "https://host:port/x",
            "https://host/a b",
            "file:///etc/passwd",
            "s3://models/../x",
            "s3://user:word@models/x",
            "gs://models",
            "az://account/box",
            "https://host/a/%2e%2E/b",
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

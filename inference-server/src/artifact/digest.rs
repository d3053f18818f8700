//! SHA-256 digests as text, the same form as in the operator's API.

use std::fmt;
use std::str::FromStr;

/// A SHA-256 digest, written `sha256:<64 lower-case hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("digest {0:?} is not sha256: followed by 64 lower-case hex digits")]
pub struct DigestError(String);

/// Hex digits of a digest that name a version: enough to tell the versions of one model apart.
const VERSION_DIGITS: usize = 12;

impl Digest {
    /// From the 32 bytes of a SHA-256.
    pub fn from_raw(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The first 12 hex digits: the model's version in the Open Inference Protocol.
    pub fn version(self) -> String {
        let mut digits = hex::encode(self.0);
        digits.truncate(VERSION_DIGITS);
        digits
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let error = || DigestError(text.chars().take(80).collect());
        let digits = text.strip_prefix("sha256:").ok_or_else(error)?;
        if digits.bytes().any(|byte| byte.is_ascii_uppercase()) {
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
    fn digests_round_trip_and_bad_ones_are_refused() {
        // SHA-256 of the empty string, FIPS 180-4 examples.
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let digest: Digest = empty.parse().unwrap();
        assert_eq!((digest.to_string().as_str(), digest.version().as_str()), (empty, "e3b0c44298fc"));
        for bad in
            ["", "sha256:", "md5:d41d8cd98f00b204e9800998ecf8427e", &empty.to_uppercase(), &empty[..70]]
        {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?} was accepted");
        }
    }
}

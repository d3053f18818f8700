//! What certificates say and for how long they hold (no client, no clock).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use x509_parser::extensions::GeneralName;

/// Clocks of other machines may be behind by this much.
const SKEW: SignedDuration = SignedDuration::from_hours(1);

/// From when to when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First instant.
    pub not_before: Timestamp,
    /// Last instant.
    pub not_after: Timestamp,
}

impl Validity {
    /// From now on for `lifetime`.
    pub fn starting(now: Timestamp, lifetime: SignedDuration) -> Self {
        let from = now.saturating_sub(SKEW).unwrap_or(now);
        Self { not_before: from, not_after: now.saturating_add(lifetime).unwrap_or(now) }
    }

    /// The part of it that lies in `other`.
    #[must_use]
    pub fn within(self, other: Self) -> Self {
        Self {
            not_before: self.not_before.max(other.not_before),
            not_after: self.not_after.min(other.not_after),
        }
    }

    /// Time left; negative when it is over.
    pub fn remaining(self, now: Timestamp) -> SignedDuration {
        self.not_after.duration_since(now)
    }

    /// Whether less than a third of the time is left: late enough to be rare, early enough for weeks without an operator.
    pub fn is_worn(self, now: Timestamp) -> bool {
        self.remaining(now) < self.not_after.duration_since(self.not_before) / 3
    }
}

/// Which side of a connection a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Calls.
    Client,
    /// Answers and calls.
    Both,
}

/// A CA that signs leaves and no further CA.
pub fn authority(validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "stoker");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    hold(&mut params, validity);
    params
}

/// A certificate for the DNS names `names`.
pub fn leaf(names: Vec<String>, kind: Kind, validity: Validity) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    // Names are in the extension; an empty subject says nothing twice.
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match kind {
        Kind::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Kind::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    };
    hold(&mut params, validity);
    Ok(params)
}

fn hold(params: &mut CertificateParams, validity: Validity) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since = |time: Timestamp| Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0));
    params.not_before = epoch + since(validity.not_before);
    params.not_after = epoch + since(validity.not_after);
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// From when to when it holds.
    pub validity: Validity,
    /// Its DNS names.
    pub names: Vec<String>,
    /// Whether it is good for the side that calls.
    pub calls: bool,
}

/// Why a certificate cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not a certificate in PEM ({0})")]
pub struct Unreadable(String);

/// Reads the first certificate of a PEM text.
pub fn read(pem: &[u8]) -> Result<Read, Unreadable> {
    let unreadable = |error: &dyn std::fmt::Display| Unreadable(error.to_string());
    let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|error| unreadable(&error))?;
    let certificate = block.parse_x509().map_err(|error| unreadable(&error))?;
    let names = certificate.subject_alternative_name().map_err(|error| unreadable(&error))?;
    let names = names.map_or(&[][..], |names| names.value.general_names.as_slice());
    let usage = certificate.extended_key_usage().map_err(|error| unreadable(&error))?;
    let time = |seconds: i64| Timestamp::from_second(seconds).map_err(|error| unreadable(&error));
    Ok(Read {
        validity: Validity {
            not_before: time(certificate.validity().not_before.timestamp())?,
            not_after: time(certificate.validity().not_after.timestamp())?,
        },
        names: names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            })
            .collect(),
        // One that restricts nothing is good for either side.
        calls: usage.is_none_or(|usage| usage.value.any || usage.value.client_auth),
    })
}

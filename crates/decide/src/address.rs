//! Which network addresses a stranger's name may lead to.
//!
//! A model's URI comes from whoever may write a ModelDeployment, and the name in it from whoever runs that name's DNS. Both could
//! point a pod at what only the pod can reach: its own ports, the cloud's metadata service, the cluster's network. So every
//! address is sorted into a [`Kind`] first, by IANA's special-purpose registries (RFC 6890 and its updates), and only public
//! ones pass without a word of configuration.
//!
//! Addresses that carry an IPv4 address inside (IPv4-mapped, NAT64, 6to4, Teredo, ISATAP) are of the kind of that address too.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;
use std::str::FromStr;

/// What an address is for, other than the public internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This machine.
    Loopback,
    /// No address: `0.0.0.0/8`, `::`. Connecting to it reaches this machine.
    Unspecified,
    /// This link only.
    LinkLocal,
    /// Where clouds hand out credentials to whoever asks.
    Metadata,
    /// A network of its owner: RFC 1918, unique local.
    Private,
    /// Behind a provider's NAT, or a cluster's pods (RFC 6598).
    Shared,
    /// Many receivers.
    Multicast,
    /// Set aside by IANA for documentation, benchmarks or the future.
    Reserved,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::Unspecified => "the unspecified address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "the address of a cloud's metadata service",
            Self::Private => "a private address",
            Self::Shared => "an address of the shared space 100.64.0.0/10",
            Self::Multicast => "a multicast address",
            Self::Reserved => "a reserved address",
        })
    }
}

/// Addresses of metadata services that no wider network may let through: AWS, Google and most others, AWS for tasks and for pods,
/// Scaleway over IPv6, Alibaba, Oracle, Azure's wire server, Google over IPv6. All of AWS over IPv6 is [`AWS_V6`].
const METADATA: [IpAddr; 8] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0042, 0, 0, 0, 0, 0, 0x42)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x254)),
];

/// The network in which AWS has its services of an instance over IPv6: `fd00:ec2::254` gives metadata, `fd00:ec2::23` the
/// credentials of pods. The others are no place for artifacts either.
const AWS_V6: [u16; 2] = [0xfd00, 0x0ec2];

/// The kind of an address; `None` for one of the public internet.
pub fn kind(address: IpAddr) -> Option<Kind> {
    let address = plain(address);
    if METADATA.contains(&address) {
        return Some(Kind::Metadata);
    }
    match address {
        IpAddr::V4(address) => kind_v4(address),
        IpAddr::V6(address) => kind_v6(address),
    }
}

/// An IPv4-mapped address as what it is to the operating system: IPv4.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

fn kind_v4(address: Ipv4Addr) -> Option<Kind> {
    match address.octets() {
        [0, ..] => Some(Kind::Unspecified),
        [127, ..] => Some(Kind::Loopback),
        [169, 254, ..] => Some(Kind::LinkLocal),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some(Kind::Private),
        [100, 64..=127, ..] => Some(Kind::Shared),
        [224..=239, ..] => Some(Kind::Multicast),
        // Protocol assignments, three networks for documentation, 6to4 relays, benchmarks, class E with broadcast.
        [192, 0, 0 | 2, _]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [192, 88, 99, _]
        | [198, 18..=19, ..]
        | [240..=255, ..] => Some(Kind::Reserved),
        _ => None,
    }
}

/// The IPv4 address of two segments.
fn v4(high: u16, low: u16) -> IpAddr {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// The kind of an address that is of two: a metadata service's before all others, since no wider network lets it through.
fn both(one: Option<Kind>, other: Option<Kind>) -> Option<Kind> {
    if other == Some(Kind::Metadata) { other } else { one.or(other) }
}

fn kind_v6(address: Ipv6Addr) -> Option<Kind> {
    let segments = address.segments();
    let outside = kind_by_prefix(segments);
    match segments {
        // ISATAP (RFC 5214 §6.1): behind any prefix, so that it takes nothing from what the prefix says.
        [_, _, _, _, 0 | 0x0200, 0x5efe, high, low] => both(outside, kind(v4(high, low))),
        _ => outside,
    }
}

/// The kind that the first segments of an address say.
fn kind_by_prefix(segments: [u16; 8]) -> Option<Kind> {
    match segments {
        [first, second, ..] if [first, second] == AWS_V6 => Some(Kind::Metadata),
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(Kind::Unspecified),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Kind::Loopback),
        [0xfe80..=0xfebf, ..] => Some(Kind::LinkLocal),
        // Site-local is deprecated (RFC 3879), and was private.
        // The network's own NAT64 prefix (RFC 8215) holds the address at a place that only the network knows.
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] | [0x0064, 0xff9b, 1, ..] => Some(Kind::Private),
        [0xff00..=0xffff, ..] => Some(Kind::Multicast),
        // With an IPv4 address at the end, NAT64 (RFC 6052 §2.1); behind the prefix, 6to4 (RFC 3056 §2).
        [0x0064, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => kind(v4(high, low)),
        // Teredo (RFC 4380 §4): the server, and the client with its bits turned.
        [0x2001, 0, server_high, server_low, _, _, high, low] => {
            both(kind(v4(server_high, server_low)), kind(v4(!high, !low)))
        }
        // IPv4-compatible (deprecated), IPv4-translated, discard, documentation, benchmarks, ORCHID.
        [0, 0, 0, 0, 0 | 0xffff, 0, ..]
        | [0x0100, 0, 0, 0, ..]
        | [0x2001, 0x0db8 | 0x0010..=0x002f, ..]
        | [0x2001, 2, 0, ..]
        | [0x3fff, 0..=0x0fff, ..] => Some(Kind::Reserved),
        _ => None,
    }
}

/// A network in CIDR notation (RFC 4632): `10.0.0.0/8`, `fd12::/48`. An address without a length is itself alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    length: u8,
}

/// Why a text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network; write 10.0.0.0/8, 192.168.1.7 or fd12:3456::/32, with zeros after the prefix")]
pub struct NetworkError(String);

impl Network {
    /// Whether an address is in it. An IPv4-mapped address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, plain(address)) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                (base.to_bits() ^ address.to_bits()).leading_zeros() >= self.length.into()
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                (base.to_bits() ^ address.to_bits()).leading_zeros() >= self.length.into()
            }
            _ => false,
        }
    }

    /// Whether it is one address.
    fn is_single(&self) -> bool {
        self.length == if self.base.is_ipv4() { 32 } else { 128 }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let error = || NetworkError(text.chars().take(80).collect());
        let (base, length) = text.split_once('/').map_or((text, None), |(base, length)| (base, Some(length)));
        let base: IpAddr = base.parse().map_err(|_| error())?;
        let longest = if base.is_ipv4() { 32 } else { 128 };
        let length = match length {
            // `+8` and `08` are numbers to Rust, and nobody's notation.
            Some(digits)
                if digits.bytes().all(|b| b.is_ascii_digit())
                    && (digits == "0" || !digits.starts_with('0')) =>
            {
                digits.parse().ok().filter(|length| *length <= longest).ok_or_else(error)?
            }
            Some(_) => return Err(error()),
            None => longest,
        };
        let rest = match base {
            IpAddr::V4(base) => base.to_bits().checked_shl(length.into()).unwrap_or(0) != 0,
            IpAddr::V6(base) => base.to_bits().checked_shl(length.into()).unwrap_or(0) != 0,
        };
        if rest || plain(base) != base {
            return Err(error());
        }
        Ok(Self { base, length })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.length)
    }
}

/// Refuses addresses that are not public, but for networks that its owner named.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    allowed: Vec<Network>,
}

/// An address that must not be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {kind}")]
pub struct Forbidden {
    /// The address.
    pub address: IpAddr,
    /// Why.
    pub kind: Kind,
}

impl Guard {
    /// Lets `allowed` through besides public addresses. A metadata service is let through only by an entry of its one address:
    /// who allows a large network does not mean that.
    pub fn new(allowed: Vec<Network>) -> Self {
        Self { allowed }
    }

    /// Refuses an address that is not public and in no allowed network.
    pub fn check(&self, address: IpAddr) -> Result<(), Forbidden> {
        let Some(kind) = kind(address) else { return Ok(()) };
        let named =
            |network: &Network| network.contains(address) && (kind != Kind::Metadata || network.is_single());
        if self.allowed.iter().any(named) { Ok(()) } else { Err(Forbidden { address, kind }) }
    }
}

#[cfg(test)]
#[path = "address/tests.rs"]
mod tests;

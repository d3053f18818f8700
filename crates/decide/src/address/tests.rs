use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn addresses_are_of_the_kind_that_iana_says() {
    let cases = [
        (Kind::Loopback, &["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"][..]),
        (Kind::Unspecified, &["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0"]),
        (Kind::LinkLocal, &["169.254.0.1", "fe80::1", "febf::1", "::ffff:169.254.1.1"]),
        (
            Kind::Metadata,
            &[
                "169.254.169.254",
                "fd00:ec2::254",
                "::ffff:169.254.169.254",
                "64:ff9b::a9fe:a9fe",
                "168.63.129.16",
                "169.254.170.23",
                "fd00:ec2::23",
                "fd00:ec2:1::1",
                "fd00:42::42",
                // In the ISATAP part of a private network, and of a Teredo client's with a private server.
                "fd12::5efe:169.254.169.254",
                "2001:0:a00:1::5601:5601",
            ],
        ),
        (Kind::Private, &["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "fc00::1", "fdff::1"]),
        (
            Kind::Private,
            &["::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "2002:c0a8:1::1", "64:ff9b:1::8.8.8.8", "fec0::1"],
        ),
        // Prefixes count also where ISATAP's part follows.
        (Kind::Loopback, &["2002:7f00:1::5efe:808:808"]),
        (Kind::Private, &["64:ff9b:1::5efe:808:808", "2001:0:a00:1:0:5efe:808:808", "fd12::5efe:808:808"]),
        (Kind::Reserved, &["2001:db8::5efe:808:808", "2001:db8::200:5efe:808:808", "3fff::5efe:808:808"]),
        // The Teredo client 192.168.0.1, and ISATAP.
        (Kind::Private, &["2001:0:808:808::3f57:fffe", "2a00::5efe:10.0.0.1"]),
        (Kind::Shared, &["100.64.0.1", "100.127.255.255"]),
        (Kind::Multicast, &["224.0.0.1", "239.255.255.255", "ff02::1"]),
        (
            Kind::Reserved,
            &["192.0.2.1", "198.18.0.1", "240.0.0.1", "255.255.255.255", "2001:db8::1", "::7f00:1", "100::1"],
        ),
    ];
    for (wanted, texts) in cases {
        for text in texts {
            assert_eq!(kind(ip(text)), Some(wanted), "{text}");
        }
    }
    for text in [
        "8.8.8.8",
        "172.15.255.255",
        "172.32.0.1",
        "100.63.255.255",
        "100.128.0.1",
        "169.253.255.255",
        "192.167.255.255",
        "223.255.255.255",
        "2600::1",
        "2002:808:808::1",
        "64:ff9b::8.8.8.8",
        "::ffff:8.8.8.8",
    ] {
        assert_eq!(kind(ip(text)), None, "{text}");
    }
}

#[test]
fn networks_are_read_and_printed() {
    for (text, printed) in [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.168.1.7", "192.168.1.7/32"),
        ("::/0", "::/0"),
        ("fd12::/16", "fd12::/16"),
    ] {
        assert_eq!(text.parse::<Network>().map(|network| network.to_string()).as_deref(), Ok(printed));
    }
    for bad in [
        "",
        "10",
        "10.0.0.0/",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.1/8",
        "10.0.0.0/+8",
        "10.0.0.0/08",
        "host/8",
        "::1/64",
        "::ffff:10.0.0.0/104",
        "10.0.0.0/8/8",
    ] {
        assert!(bad.parse::<Network>().is_err(), "{bad:?} was accepted");
    }
}

#[test]
fn only_what_was_named_passes() {
    let guard = |networks: &[&str]| Guard::new(networks.iter().map(|text| text.parse().unwrap()).collect());
    let none = guard(&[]);
    assert_eq!(none.check(ip("8.8.8.8")), Ok(()));
    let refused = none.check(ip("10.1.2.3")).unwrap_err();
    assert_eq!(refused.to_string(), "10.1.2.3 is a private address");
    let ten = guard(&["10.0.0.0/8"]);
    for (address, passes) in [
        ("10.1.2.3", true),
        ("::ffff:10.1.2.3", true),
        ("11.0.0.1", true),
        ("192.168.0.1", false),
        ("64:ff9b::10.1.2.3", false),
    ] {
        assert_eq!(ten.check(ip(address)).is_ok(), passes, "{address}");
    }
}

#[test]
fn a_metadata_service_passes_only_by_its_own_address() {
    let guard = |network: &str| Guard::new(vec![network.parse().unwrap()]);
    for wide in ["169.254.0.0/16", "0.0.0.0/0", "169.254.169.254/31"] {
        assert!(guard(wide).check(ip("169.254.169.254")).is_err(), "{wide}");
    }
    assert!(guard("169.254.0.0/16").check(ip("169.254.170.23")).is_err());
    for address in ["fd00:ec2::254", "fd00:ec2::23", "fd00:42::42", "fd00::5efe:169.254.169.254"] {
        assert!(guard("fc00::/7").check(ip(address)).is_err(), "{address}");
        assert!(guard(address).check(ip(address)).is_ok(), "{address}");
    }
    assert!(guard("fc00::/7").check(ip("fd00:ec3::254")).is_ok());
    assert!(guard("169.254.169.254").check(ip("169.254.169.254")).is_ok());
}

proptest! {
    #[test]
    fn what_carries_an_ipv4_address_is_of_its_kind(bits in any::<u32>(), rest in any::<[u16; 5]>(), isatap in any::<bool>()) {
        let v4 = Ipv4Addr::from_bits(bits);
        let wanted = kind(IpAddr::V4(v4));
        let [high, low] = [bits >> 16, bits & 0xffff].map(|half| u16::try_from(half).unwrap());
        for carrier in [
            v4.to_ipv6_mapped(),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
        ] {
            prop_assert_eq!(kind(IpAddr::V6(carrier)), wanted, "{} in {}", v4, carrier);
        }
        // 6to4 leaves room for anything, and for ISATAP with another address.
        let [a, b, c, d, e] = rest;
        let (b, c) = if isatap { (0, 0x5efe) } else { (b, c) };
        let carrier = Ipv6Addr::new(0x2002, high, low, a, b, c, d, e);
        let actual = kind(IpAddr::V6(carrier));
        prop_assert!(actual == Some(Kind::Metadata) || wanted.is_none() || actual == wanted, "{} in {}", v4, carrier);
        if c != 0x5efe {
            prop_assert_eq!(actual, wanted, "{} in {}", v4, carrier);
        }
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_others(bits in any::<u32>(), length in 0_u8..=32, other in any::<u32>()) {
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        let network: Network = format!("{}/{length}", Ipv4Addr::from_bits(bits & mask)).parse().unwrap();
        let other = Ipv4Addr::from_bits(other);
        prop_assert_eq!(network.contains(IpAddr::V4(other)), other.to_bits() & mask == bits & mask);
        prop_assert!(network.contains(IpAddr::V4(Ipv4Addr::from_bits(bits))));
    }
}

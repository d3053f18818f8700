//! A CA as the operator has one, and what it signs.

use std::path::Path;

use rcgen::{CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use stoker_api::names::{objects, router_identity};

pub type Authority = CertifiedIssuer<'static, KeyPair>;

pub fn new() -> Authority {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for a DNS name, with its key.
pub fn leaf(
    authority: &Authority,
    name: &str,
    usage: ExtendedKeyUsagePurpose,
) -> (rcgen::Certificate, KeyPair) {
    signed(authority, vec![name.to_owned()], vec![usage])
}

fn signed(
    authority: &Authority,
    names: Vec<String>,
    usages: Vec<ExtendedKeyUsagePurpose>,
) -> (rcgen::Certificate, KeyPair) {
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages = usages;
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, authority).unwrap(), key)
}

/// The files of a router in the namespace `team`: signed by `own`, trusting `others`.
pub fn write_router_files(folder: &Path, own: &Authority, others: &Authority) {
    let names = vec![objects::ROUTER_IDENTITY.to_owned(), router_identity("team")];
    let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let (certificate, key) = signed(own, names, usages);
    std::fs::write(folder.join("tls.crt"), certificate.pem()).unwrap();
    std::fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
    std::fs::write(folder.join("ca.crt"), others.pem()).unwrap();
}

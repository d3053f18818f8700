//! The operator's CA and what it signs (client required for the Secret only).
//!
//! Operator and routers speak mutual TLS. One CA, in a Secret of the operator's namespace, signs a certificate for the
//! routers of each namespace and one for the operator itself, whose key never leaves the process. A router's certificate
//! carries a name with its namespace, so that who can read one namespace's Secret cannot answer for another's routers. It
//! is for both sides of a connection: routers of a namespace call each other.

pub mod certificate;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use rcgen::{Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use stoker_api::names::{labels, objects, parts, router_identity};

use crate::call::{CallError, Calls};
use certificate::{Kind, Validity};

/// How long the CA is valid.
const AUTHORITY_LIFETIME: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
/// How long a router's certificate is valid. A CA with less left than this is replaced at the operator's next start.
const LEAF_LIFETIME: SignedDuration = SignedDuration::from_hours(365 * 24);

/// Keys of the CA's Secret.
mod keys {
    pub const CERTIFICATE: &str = "ca.crt";
    pub const KEY: &str = "ca.key";
}

/// Why there is no CA, or why it did not sign.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server said no, or nothing.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The Secret is there but holds no CA.
    #[error("Secret {namespace}/{}: {why}; delete it to have a new CA made", objects::CA)]
    Unusable {
        /// The operator's namespace.
        namespace: String,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate could not be made.
    #[error("a certificate could not be made: {0}")]
    Issue(#[from] rcgen::Error),
    /// The TLS settings of the operator's calls could not be made.
    #[error("TLS settings could not be made: {0}")]
    Tls(#[from] rustls::Error),
    /// What we made ourselves cannot be read: a bug.
    #[error("a certificate that was just made cannot be read: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
}

/// The CA. Clones share it.
#[derive(Clone)]
pub struct Authority(Arc<Inner>);

struct Inner {
    /// The CA's certificate.
    pem: String,
    validity: Validity,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, in PEM, as the keys of a `kubernetes.io/tls` Secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Leaf {
    /// `tls.crt`.
    pub certificate: String,
    /// `tls.key`.
    pub key: String,
    /// `ca.crt`.
    pub authority: String,
}

impl Leaf {
    /// The data of a Secret.
    pub fn into_data(self) -> BTreeMap<String, ByteString> {
        let entry = |name: &str, text: String| (name.to_owned(), ByteString(text.into_bytes()));
        BTreeMap::from([
            entry("tls.crt", self.certificate),
            entry("tls.key", self.key),
            entry("ca.crt", self.authority),
        ])
    }
}

/// When the certificate in `pem` ends; none where it cannot be read.
pub fn ends(pem: &[u8]) -> Option<Timestamp> {
    certificate::read(pem).ok().map(|read| read.validity.not_after)
}

impl Authority {
    /// Reads the CA from its Secret, or makes both. Two operators that start at once end with the same CA.
    pub async fn load_or_create(
        client: &Client,
        calls: &Calls,
        namespace: &str,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        if let Some(live) = calls.make("get secret", objects::CA, api.get_opt(objects::CA)).await? {
            let authority = Self::from_secret(&live, namespace)?;
            if authority.0.validity.remaining(now) > LEAF_LIFETIME {
                return Ok(authority);
            }
            tracing::warn!("the CA is near its end and is replaced; routers follow within minutes");
            let (authority, mut secret) = Self::generate(now)?;
            secret.metadata.resource_version = live.resource_version();
            return match calls
                .make(
                    "replace secret",
                    objects::CA,
                    api.replace(objects::CA, &PostParams::default(), &secret),
                )
                .await
            {
                Err(error) if error.is_conflict() => Self::read(&api, calls, namespace).await,
                Err(error) => Err(error.into()),
                Ok(_) => Ok(authority),
            };
        }
        let (authority, secret) = Self::generate(now)?;
        match calls.make("create secret", objects::CA, api.create(&PostParams::default(), &secret)).await {
            Ok(_) => Ok(authority),
            // Another operator was faster: its CA counts.
            Err(error) if error.is_already_exists() => Self::read(&api, calls, namespace).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn read(api: &Api<Secret>, calls: &Calls, namespace: &str) -> Result<Self, Error> {
        let live = calls.make("get secret", objects::CA, api.get(objects::CA)).await?;
        Self::from_secret(&live, namespace)
    }

    /// A new CA, and the Secret that keeps it.
    pub fn generate(now: Timestamp) -> Result<(Self, Secret), Error> {
        let validity = Validity::starting(now, AUTHORITY_LIFETIME);
        let params = certificate::authority(validity);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        let entry = |name: &str, text: &str| (name.to_owned(), ByteString(text.as_bytes().to_vec()));
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(objects::CA.to_owned()),
                labels: Some(BTreeMap::from([
                    (labels::PART.to_owned(), parts::OPERATOR.to_owned()),
                    (labels::MANAGED_BY.to_owned(), labels::STOKER.to_owned()),
                ])),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(BTreeMap::from([
                entry(keys::CERTIFICATE, &pem),
                entry(keys::KEY, &key.serialize_pem()),
            ])),
            ..Secret::default()
        };
        Ok((Self(Arc::new(Inner { pem, validity, issuer: Issuer::new(params, key) })), secret))
    }

    /// The CA that a Secret holds.
    fn from_secret(secret: &Secret, namespace: &str) -> Result<Self, Error> {
        let unusable = |why: String| Error::Unusable { namespace: namespace.to_owned(), why };
        let entry = |name: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(name));
            let bytes = bytes.ok_or_else(|| unusable(format!("it has no key {name}")))?;
            String::from_utf8(bytes.0.clone()).map_err(|_| unusable(format!("{name} is not PEM")))
        };
        let pem = entry(keys::CERTIFICATE)?;
        let key = KeyPair::from_pem(&entry(keys::KEY)?)
            .map_err(|error| unusable(format!("{}: {error}", keys::KEY)))?;
        let read = certificate::read(pem.as_bytes())
            .map_err(|error| unusable(format!("{}: {error}", keys::CERTIFICATE)))?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key)
            .map_err(|error| unusable(format!("{}: {error}", keys::CERTIFICATE)))?;
        Ok(Self(Arc::new(Inner { pem, validity: read.validity, issuer })))
    }

    /// A new certificate for the routers of `namespace`.
    pub fn router_leaf(&self, namespace: &str, now: Timestamp) -> Result<Leaf, Error> {
        let names = vec![objects::ROUTER_IDENTITY.to_owned(), router_identity(namespace)];
        let (certificate, key) = self.issue(names, Kind::Both, Validity::starting(now, LEAF_LIFETIME))?;
        Ok(Leaf { certificate, key, authority: self.0.pem.clone() })
    }

    /// Why the routers of `namespace` need a new certificate; none while the one in `data` is good.
    pub fn why_renew(
        &self,
        data: Option<&BTreeMap<String, ByteString>>,
        namespace: &str,
        now: Timestamp,
    ) -> Option<String> {
        let entry = |name: &str| data.and_then(|data| data.get(name)).map(|bytes| bytes.0.as_slice());
        let (Some(leaf), Some(_), Some(authority)) = (entry("tls.crt"), entry("tls.key"), entry("ca.crt"))
        else {
            return Some("there is none".to_owned());
        };
        if authority != self.0.pem.as_bytes() {
            return Some("another CA signed the present one".to_owned());
        }
        match certificate::read(leaf) {
            Err(error) => Some(format!("the present one cannot be read: {error}")),
            Ok(read) if !read.names.contains(&router_identity(namespace)) => {
                Some(format!("the present one does not name {}", router_identity(namespace)))
            }
            // Made by a release whose routers did not call each other.
            Ok(read) if !read.calls => Some("with the present one routers cannot call each other".to_owned()),
            Ok(read) => read
                .validity
                .is_worn(now)
                .then(|| "the present one is in the last third of its time".to_owned()),
        }
    }

    /// TLS settings for calls to routers: shows the operator's certificate, trusts this CA alone.
    ///
    /// The certificate lasts as long as the CA: its key is in this process only, and is gone with it.
    pub fn client_config(&self, now: Timestamp) -> Result<ClientConfig, Error> {
        let validity = Validity::starting(now, AUTHORITY_LIFETIME);
        let (certificate, key) =
            self.issue(vec![objects::OPERATOR_IDENTITY.to_owned()], Kind::Client, validity)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.0.pem.as_bytes())?)?;
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
        Ok(ClientConfig::builder_with_provider(stoker_edge::tls::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes())?)?)
    }

    /// Certificate and key in PEM. Nothing outlives the CA.
    fn issue(&self, names: Vec<String>, kind: Kind, validity: Validity) -> Result<(String, String), Error> {
        let key = KeyPair::generate()?;
        let params = certificate::leaf(names, kind, validity.within(self.0.validity))?;
        Ok((params.signed_by(&key, &self.0.issuer)?.pem(), key.serialize_pem()))
    }
}

#[cfg(test)]
mod tests;

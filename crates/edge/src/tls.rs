//! Certificates from a folder: reread when they change, and clients who are known by name.
//!
//! A folder holds `tls.crt`, `tls.key` and `ca.crt`, as a mounted Secret does. Kubernetes replaces the files when the
//! Secret changes, so they are compared every few seconds; a set that cannot be used is refused with a log line and the
//! one before stays.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};

/// How often the files are compared.
const INTERVAL: Duration = Duration::from_secs(5);

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path}: {error}; is the Secret mounted?")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file holds no PEM of the expected kind.
    #[error("{path}: {error}; a PEM file is expected")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        error: rustls::pki_types::pem::Error,
    },
    /// Key and certificate do not fit, or the like.
    #[error("the certificate in {path} cannot be used: {error}")]
    Rejected {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: rustls::Error,
    },
    /// The CA cannot be used to verify clients.
    #[error("the CA in {path} cannot be used: {error}")]
    Verifier {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: VerifierBuilderError,
    },
    /// The name that clients must carry is no DNS name.
    #[error("{0:?} is not a DNS name")]
    Name(String),
}

/// The provider of cryptography that all of Stoker uses.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Makes [`provider`] the default of this process, for libraries that ask for one. Call it first thing in `main`.
pub fn install_provider() {
    // Fails only when one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// What ALPN offers on a port, in order of preference: `h2` only where the listener speaks it.
pub fn protocols(http2: bool) -> Vec<Vec<u8>> {
    let first = http2.then(|| b"h2".to_vec());
    first.into_iter().chain([b"http/1.1".to_vec()]).collect()
}

/// The TLS settings of a listener, which may change while it listens. Clones share them.
#[derive(Clone, Debug)]
pub struct Tls(Arc<ArcSwap<ServerConfig>>);

impl Tls {
    /// Settings that are there already.
    pub fn new(config: ServerConfig) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(config)))
    }

    /// The settings for the next handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.0.load_full()
    }

    /// Mutual TLS from a folder with `tls.crt`, `tls.key` and `ca.crt`: only a client whose certificate is signed by
    /// that CA and carries the DNS name `client` gets through the handshake.
    pub fn mutual(folder: &Path, client: &str) -> Result<Self, TlsError> {
        Ok(Self::new(Files::read(folder)?.mutual(folder, client)?))
    }

    /// Follows the folder of [`Tls::mutual`].
    pub fn follow(&self, folder: PathBuf, client: String) -> Follower {
        let seen = Files::read(&folder).ok();
        Follower { tls: self.clone(), folder, client, seen }
    }
}

/// Takes over the files of a folder when they change.
pub struct Follower {
    tls: Tls,
    folder: PathBuf,
    client: String,
    seen: Option<Files>,
}

impl Follower {
    /// Compares every few seconds while the process runs; ends never.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            self.compare();
        }
    }

    /// Reads the files once and uses them when they are new and good.
    pub fn compare(&mut self) {
        let files = match Files::read(&self.folder) {
            Ok(files) if self.seen.as_ref() != Some(&files) => files,
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "certificates cannot be read; the ones in use stay");
                return;
            }
        };
        match files.mutual(&self.folder, &self.client) {
            Ok(config) => {
                tracing::info!(folder = %self.folder.display(), "certificates renewed");
                self.tls.0.store(Arc::new(config));
            }
            Err(error) => tracing::warn!(%error, "new certificates cannot be used; the ones in use stay"),
        }
        self.seen = Some(files);
    }
}

/// The files of a folder, compared byte by byte: a Secret volume swaps symbolic links, so times say little.
#[derive(PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authority: Vec<u8>,
}

impl Files {
    fn read(folder: &Path) -> Result<Self, TlsError> {
        let file = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|error| TlsError::Read { path, error })
        };
        Ok(Self { certificate: file("tls.crt")?, key: file("tls.key")?, authority: file("ca.crt")? })
    }

    fn mutual(&self, folder: &Path, client: &str) -> Result<ServerConfig, TlsError> {
        let pem = |name: &'static str| {
            let path = folder.join(name);
            move |error| TlsError::Pem { path, error }
        };
        let certificates = |text: &[u8]| CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
        let rejected = |error| TlsError::Rejected { path: folder.to_owned(), error };
        let chain = certificates(&self.certificate).map_err(pem("tls.crt"))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(pem("tls.key"))?;
        let mut roots = RootCertStore::empty();
        for root in certificates(&self.authority).map_err(pem("ca.crt"))? {
            roots.add(root).map_err(rejected)?;
        }
        let chains = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| TlsError::Verifier { path: folder.to_owned(), error })?;
        let name = ServerName::try_from(client.to_owned()).map_err(|_| TlsError::Name(client.to_owned()))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(rejected)?
            .with_client_cert_verifier(Arc::new(Named { chains, name }))
            .with_single_cert(chain, key)
            .map_err(rejected)?;
        config.alpn_protocols = protocols(false);
        // A resumed session would skip the verifier, and so outlive a change of the CA.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

/// Accepts a client whose chain is good and whose certificate carries one certain DNS name.
#[derive(Debug)]
struct Named {
    chains: Arc<dyn ClientCertVerifier>,
    name: ServerName<'static>,
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chains.verify_client_cert(end_entity, intermediates, now)?;
        // Compares subject alternative names only; that the certificate is a client's was checked with the chain.
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, &self.name)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

//! Certificates from a folder: reread when they change, and clients who are known by name.
//!
//! A folder holds `tls.crt`, `tls.key` and `ca.crt`, as a mounted Secret does. Kubernetes replaces the files when the
//! Secret changes, so they are compared every few seconds; a set that cannot be used is refused with a log line and the
//! one before stays. The same certificate is shown to those who call and to those who are called.

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
use rustls::{
    CertificateError, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, RootCertStore,
    ServerConfig, SignatureScheme,
};

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
pub struct Tls(Arc<ArcSwap<Sides>>);

/// One certificate, on both sides of a connection.
#[derive(Debug)]
struct Sides {
    server: Arc<ServerConfig>,
    client: Option<Arc<ClientConfig>>,
}

impl Tls {
    /// Settings that are there already, for a listener alone.
    pub fn new(config: ServerConfig) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Sides { server: Arc::new(config), client: None })))
    }

    /// The settings for the next handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.load().server)
    }

    /// The settings for calls to others who trust the same CA; none when there is no folder.
    pub fn client(&self) -> Option<Arc<ClientConfig>> {
        self.0.load().client.clone()
    }

    /// Mutual TLS from a folder with `tls.crt`, `tls.key` and `ca.crt`: only a client whose certificate is signed by
    /// that CA and carries one of the DNS names `clients` gets through the handshake. Which one it was, [`Peer`] says.
    pub fn mutual(folder: &Path, clients: &[&str]) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(Files::read(folder)?.mutual(folder, clients)?))))
    }

    /// Follows the folder of [`Tls::mutual`].
    pub fn follow(&self, folder: PathBuf, clients: &[&str]) -> Follower {
        let seen = Files::read(&folder).ok();
        let clients = clients.iter().map(|name| (*name).to_owned()).collect();
        Follower { tls: self.clone(), folder, clients, seen }
    }
}

/// Who is at the other end of a connection, as its certificate proved in the handshake. A listener with mutual TLS puts it
/// among the extensions of each request.
#[derive(Clone, Debug)]
pub struct Peer(Arc<CertificateDer<'static>>);

impl Peer {
    /// The peer of a connection whose handshake is over; none when it showed no certificate.
    pub fn of(connection: &CommonState) -> Option<Self> {
        let shown = connection.peer_certificates()?.first()?;
        Some(Self(Arc::new(shown.clone().into_owned())))
    }

    /// Whether its certificate carries this DNS name.
    pub fn is_named(&self, name: &str) -> bool {
        let (Ok(shown), Ok(name)) = (ParsedCertificate::try_from(&*self.0), ServerName::try_from(name))
        else {
            return false;
        };
        verify_server_name(&shown, &name).is_ok()
    }
}

/// Takes over the files of a folder when they change.
pub struct Follower {
    tls: Tls,
    folder: PathBuf,
    clients: Vec<String>,
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
        let clients: Vec<&str> = self.clients.iter().map(String::as_str).collect();
        match files.mutual(&self.folder, &clients) {
            Ok(sides) => {
                tracing::info!(folder = %self.folder.display(), "certificates renewed");
                self.tls.0.store(Arc::new(sides));
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

    fn mutual(&self, folder: &Path, clients: &[&str]) -> Result<Sides, TlsError> {
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
        let calls = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(rejected)?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(rejected)?;
        let chains = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| TlsError::Verifier { path: folder.to_owned(), error })?;
        let name = |name: &&str| {
            ServerName::try_from((*name).to_owned()).map_err(|_| TlsError::Name((*name).to_owned()))
        };
        let names = clients.iter().map(name).collect::<Result<_, _>>()?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(rejected)?
            .with_client_cert_verifier(Arc::new(Named { chains, names }))
            .with_single_cert(chain, key)
            .map_err(rejected)?;
        config.alpn_protocols = protocols(false);
        // A resumed session would skip the verifier, and so outlive a change of the CA.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Sides { server: Arc::new(config), client: Some(Arc::new(calls)) })
    }
}

/// Accepts a client whose chain is good and whose certificate carries one of certain DNS names.
#[derive(Debug)]
struct Named {
    chains: Arc<dyn ClientCertVerifier>,
    names: Vec<ServerName<'static>>,
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
        let shown = ParsedCertificate::try_from(end_entity)?;
        let mut refusal = CertificateError::ApplicationVerificationFailure.into();
        for name in &self.names {
            match verify_server_name(&shown, name) {
                Ok(()) => return Ok(verified),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
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

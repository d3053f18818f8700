//! The admin port: who may ask, and what it answers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use stoker_api::ModelRoute;
use stoker_api::names::objects;
use stoker_api::scrape::{SCRAPE_PATH, ScrapeReply, ScrapeRequest, TableVersion};
use stoker_edge::listen::Stats;
use stoker_edge::tls::{Tls, provider};
use stoker_router::admin::TABLE_PATH;
use stoker_router::watch::Lookup;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::world::{Pod, World, http, settings, table};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for a DNS name, with its key.
fn leaf(authority: &Authority, name: &str, usage: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, authority).unwrap(), key)
}

fn write_server_files(folder: &Path, server: &Authority, clients: &Authority) {
    let (certificate, key) = leaf(server, objects::ROUTER_IDENTITY, ExtendedKeyUsagePurpose::ServerAuth);
    std::fs::write(folder.join("tls.crt"), certificate.pem()).unwrap();
    std::fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
    std::fs::write(folder.join("ca.crt"), clients.pem()).unwrap();
}

/// A router with an admin port.
struct Office {
    world: World,
    address: SocketAddr,
    authority: Authority,
    _folder: tempfile::TempDir,
    task: tokio::task::JoinHandle<()>,
}

impl Office {
    async fn new(world: World, lookup: Lookup) -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), authority());
        write_server_files(folder.path(), &authority, &authority);
        let tls = Tls::mutual(folder.path(), objects::OPERATOR_IDENTITY).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Arc::clone(&world.router);
        let task =
            tokio::spawn(async move { router.serve_admin(listener, tls, Stats::default(), lookup).await });
        Self { world, address, authority, _folder: folder, task }
    }

    /// Asks with a client certificate, or none.
    async fn ask(
        &self,
        client: Option<(rcgen::Certificate, KeyPair)>,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<(u16, Bytes), String> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
                config.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
        };
        let stream = TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
        let name = ServerName::try_from(objects::ROUTER_IDENTITY).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", objects::ROUTER_IDENTITY);
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok((status, body))
    }

    fn operator(&self) -> (rcgen::Certificate, KeyPair) {
        leaf(&self.authority, objects::OPERATOR_IDENTITY, ExtendedKeyUsagePurpose::ClientAuth)
    }

    async fn scrape(&self, expect: Option<TableVersion>) -> ScrapeReply {
        let asked = ScrapeRequest { route: "digits".into(), expect };
        let body = serde_json::to_string(&asked).unwrap();
        let (status, body) = self.ask(Some(self.operator()), Method::POST, SCRAPE_PATH, body).await.unwrap();
        assert_eq!(status, 200);
        serde_json::from_slice(&body).unwrap()
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An API server that has this table, or none; counts how often it is read.
fn api(found: Option<ModelRoute>) -> (Lookup, Arc<AtomicU64>) {
    let reads = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&reads);
    let lookup: Lookup = Arc::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        let found = found.clone();
        async move { Ok(found.map(Into::into)) }.boxed()
    });
    (lookup, reads)
}

fn version(generation: i64) -> TableVersion {
    TableVersion { uid: "uid-digits".into(), generation }
}

#[tokio::test]
async fn only_the_operator_is_answered() {
    let office = Office::new(World::with_pods(settings(), &[]).await, api(None).0).await;
    let ask = |client| office.ask(client, Method::GET, TABLE_PATH, String::new());
    assert_eq!(ask(Some(office.operator())).await.unwrap().0, 200);
    assert!(ask(None).await.is_err(), "no certificate");
    let wrong_name = leaf(&office.authority, "someone.stoker.dev", ExtendedKeyUsagePurpose::ClientAuth);
    assert!(ask(Some(wrong_name)).await.is_err(), "wrong name");
    let wrong_usage =
        leaf(&office.authority, objects::OPERATOR_IDENTITY, ExtendedKeyUsagePurpose::ServerAuth);
    assert!(ask(Some(wrong_usage)).await.is_err(), "a server's certificate");
    let forged = leaf(&authority(), objects::OPERATOR_IDENTITY, ExtendedKeyUsagePurpose::ClientAuth);
    assert!(ask(Some(forged)).await.is_err(), "another CA");
    // Plain HTTP is not understood.
    let plain = http().get(format!("http://{}{TABLE_PATH}", office.address).parse().unwrap()).await;
    assert!(plain.is_err());
}

#[tokio::test]
async fn a_scrape_tells_the_table_the_arms_and_the_counts() {
    let pod = Pod::good().await;
    let office = Office::new(World::with_pods(settings(), &[pod.address]).await, api(None).0).await;
    office.world.infer(&http(), "{}").await.unwrap();
    let reply = office.scrape(Some(version(1))).await;
    assert_eq!(reply.serving, Some(version(1)));
    assert_eq!(reply.process.len(), 32);
    assert_eq!((reply.arms[0].revision.as_str(), reply.arms[0].ready_endpoints), ("digits-a", 1));
    assert_eq!((reply.counts[0].run, reply.counts[0].attempts, reply.counts[0].errors), (1, 1, 0));
    assert_eq!(office.scrape(None).await.process, reply.process);

    let (status, _) =
        office.ask(Some(office.operator()), Method::POST, SCRAPE_PATH, "{}".into()).await.unwrap();
    assert_eq!(status, 400);
    let (_, body) =
        office.ask(Some(office.operator()), Method::GET, TABLE_PATH, String::new()).await.unwrap();
    let tables: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(tables["tables"][0]["generation"], 1);
    assert_eq!(tables["tables"][0]["weights"][0]["ppm"], 1_000_000);
}

#[tokio::test]
async fn a_router_that_is_behind_reads_the_table_at_once() {
    let newer = table("digits", 5, (2, 1), &[("digits-b", 1_000_000, None)]);
    let (lookup, reads) = api(Some(newer));
    let office = Office::new(World::with_pods(settings(), &[]).await, lookup).await;
    assert_eq!(office.scrape(Some(version(1))).await.serving, Some(version(1)));
    assert_eq!(reads.load(Ordering::Relaxed), 0);
    let reply = office.scrape(Some(version(5))).await;
    assert_eq!((reply.serving, reads.load(Ordering::Relaxed)), (Some(version(5)), 1));
    assert_eq!(reply.arms[0].revision, "digits-b");
    // Expecting what does not exist does not hammer the API server.
    for _ in 0..5 {
        office.scrape(Some(version(6))).await;
    }
    assert!(reads.load(Ordering::Relaxed) <= 3, "{} reads", reads.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_table_that_cannot_be_served_is_reported() {
    let mut newer = table("digits", 2, (2, 1), &[("digits-b", 1_000_000, None)]);
    newer.spec.requires = vec!["teleport".into()];
    let pod = Pod::good().await;
    let office = Office::new(World::with_pods(settings(), &[pod.address]).await, api(Some(newer)).0).await;
    let reply = office.scrape(Some(version(2))).await;
    assert_eq!(reply.serving, Some(version(1)));
    assert!(reply.refused.is_some_and(|reason| reason.contains("teleport")));
    assert_eq!(office.world.infer(&http(), "{}").await.unwrap().revision(), "digits-a");
    assert_eq!(office.world.router.counts.tables_refused.get(), 1);
}

#[test]
fn renewed_certificates_are_used_and_bad_ones_are_not() {
    let (folder, old, new) = (tempfile::tempdir().unwrap(), authority(), authority());
    write_server_files(folder.path(), &old, &old);
    let tls = Tls::mutual(folder.path(), objects::OPERATOR_IDENTITY).unwrap();
    let first = tls.config();
    let mut follower = tls.follow(folder.path().to_owned(), objects::OPERATOR_IDENTITY.into());
    follower.compare();
    assert!(Arc::ptr_eq(&first, &tls.config()), "the same files were taken for new ones");
    std::fs::write(folder.path().join("tls.key"), "garbage").unwrap();
    follower.compare();
    assert!(Arc::ptr_eq(&first, &tls.config()), "garbage was used");
    write_server_files(folder.path(), &new, &new);
    follower.compare();
    assert!(!Arc::ptr_eq(&first, &tls.config()), "new certificates were not used");
}

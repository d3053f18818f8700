//! `stoker-bench-state`: what routers need to start without a cluster. It writes the tables that a router keeps on disk
//! for a start without the API server, and certificates by which routers trust each other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Parser;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use serde_json::json;
use stoker_api::ModelRoute;
use stoker_api::names::{objects, router_identity};
use stoker_decide::harm;
use stoker_decide::traffic::WHOLE;
use stoker_router::live::{Address, Addresses};
use stoker_router::table::disk::{self, Saved};

/// One model with its revisions.
#[derive(Debug, Parser)]
#[command(name = "stoker-bench-state", version)]
struct Settings {
    /// Where to: the folder for the router's --state-dir and --tls-dir.
    #[arg(long)]
    out: PathBuf,
    /// The router's --namespace.
    #[arg(long, default_value = "bench")]
    namespace: String,
    /// Name of the model.
    #[arg(long, default_value = "digits")]
    model: String,
    /// A revision: its share of the traffic in percent, and its pods. 90=127.0.0.1:8001,127.0.0.1:8002
    #[arg(long = "revision", required = true)]
    revisions: Vec<String>,
    /// Watch the second revision, with the first one as control.
    #[arg(long)]
    detect: bool,
    /// With --detect: milliseconds above which an answer is bad.
    #[arg(long)]
    slow_above_ms: Option<f64>,
    /// Pods of a shadow that gets a copy of every request.
    #[arg(long = "shadow", value_delimiter = ',')]
    shadow: Vec<SocketAddr>,
    /// Admin port of a router of the namespace. May be repeated.
    #[arg(long = "peer")]
    peers: Vec<SocketAddr>,
}

fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let (mut arms, mut pods) = (Vec::new(), BTreeMap::new());
    for (number, text) in settings.revisions.iter().enumerate() {
        let (percent, addresses) = text.split_once('=').context("--revision wants PERCENT=ADDRESS,...")?;
        let percent: u32 = percent.parse().with_context(|| format!("--revision {text}"))?;
        let revision = format!("{}-{number}", settings.model);
        // What fails goes to the first one.
        let fallback = (number > 0).then(|| format!("{}-0", settings.model));
        arms.push(json!({"revision": revision, "ppm": percent * 10_000, "fallback": fallback}));
        let ready = addresses.split(',').map(|address| {
            let socket: SocketAddr = address.parse().with_context(|| format!("--revision {text}"))?;
            Ok(Address { socket, pod: String::new() })
        });
        pods.insert(
            revision,
            Addresses { ready: ready.collect::<anyhow::Result<_>>()?, leaving: Vec::new() },
        );
    }
    let mut mirrors = Vec::new();
    if !settings.shadow.is_empty() {
        let revision = format!("{}-shadow", settings.model);
        for number in 0..settings.revisions.len() {
            let of = format!("{}-{number}", settings.model);
            mirrors.push(json!({"revision": revision, "of": of, "ppm": WHOLE}));
        }
        let ready = settings.shadow.iter().map(|pod| Address { socket: *pod, pod: String::new() }).collect();
        pods.insert(revision, Addresses { ready, leaving: Vec::new() });
    }
    let peers = settings.peers.iter().map(|peer| Address { socket: *peer, pod: peer.to_string() });
    pods.insert(objects::ROUTER.to_owned(), Addresses { ready: peers.collect(), leaving: Vec::new() });
    let detector = json!({"revision": format!("{}-1", settings.model), "control": format!("{}-0", settings.model),
        "alarmLog10": harm::ALARM_LOG10, "slowAboveMs": settings.slow_above_ms});
    let detectors = if settings.detect { vec![detector] } else { Vec::new() };
    let route: ModelRoute = serde_json::from_value(json!({
        "apiVersion": "stoker.dev/v1alpha1",
        "kind": "ModelRoute",
        "metadata": {"name": settings.model, "namespace": settings.namespace, "uid": "bench", "generation": 1},
        "spec": {"schema": 1, "run": 1, "step": 1, "rules": [{"salt": "bench/1", "arms": arms}],
            "detectors": detectors, "mirrors": mirrors},
    }))?;
    ensure!(route.spec.check().is_ok(), "the shares must sum to 100");

    std::fs::create_dir_all(&settings.out)?;
    let names = vec![objects::ROUTER_IDENTITY.to_owned(), router_identity(&settings.namespace)];
    let saved = Saved { namespace: settings.namespace, routes: vec![route], pods, ..Saved::default() };
    disk::save(&settings.out, &saved)?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let mut leaf = CertificateParams::new(names)?;
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    std::fs::write(settings.out.join("tls.crt"), leaf.signed_by(&key, &authority)?.pem())?;
    std::fs::write(settings.out.join("ca.crt"), authority.pem())?;
    std::fs::write(settings.out.join("tls.key"), key.serialize_pem())?;
    Ok(())
}

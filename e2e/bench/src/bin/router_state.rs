//! `stoker-bench-state`: what a router needs to start without a cluster. It writes the tables that a router keeps on disk
//! for a start without the API server, and a certificate for the admin port.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Parser;
use serde_json::json;
use stoker_api::ModelRoute;
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
}

fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let (mut arms, mut pods) = (Vec::new(), BTreeMap::new());
    for (number, text) in settings.revisions.iter().enumerate() {
        let (percent, addresses) = text.split_once('=').context("--revision wants PERCENT=ADDRESS,...")?;
        let percent: u32 = percent.parse().with_context(|| format!("--revision {text}"))?;
        let revision = format!("{}-{number}", settings.model);
        arms.push(json!({"revision": revision, "ppm": percent * 10_000}));
        let ready = addresses.split(',').map(|address| {
            let socket: SocketAddr = address.parse().with_context(|| format!("--revision {text}"))?;
            Ok(Address { socket, pod: String::new() })
        });
        pods.insert(
            revision,
            Addresses { ready: ready.collect::<anyhow::Result<_>>()?, leaving: Vec::new() },
        );
    }
    let route: ModelRoute = serde_json::from_value(json!({
        "apiVersion": "stoker.dev/v1alpha1",
        "kind": "ModelRoute",
        "metadata": {"name": settings.model, "namespace": settings.namespace, "uid": "bench", "generation": 1},
        "spec": {"schema": 1, "run": 1, "step": 0, "rules": [{"salt": "bench/1", "arms": arms}]},
    }))?;
    ensure!(route.spec.check().is_ok(), "the shares must sum to 100");

    std::fs::create_dir_all(&settings.out)?;
    disk::save(
        &settings.out,
        &Saved { namespace: settings.namespace, routes: vec![route], pods, cuts: vec![] },
    )?;
    // Nobody connects there: the router only wants one that is whole.
    let certified = rcgen::generate_simple_self_signed(["router.invalid".to_owned()])?;
    std::fs::write(settings.out.join("tls.crt"), certified.cert.pem())?;
    std::fs::write(settings.out.join("ca.crt"), certified.cert.pem())?;
    std::fs::write(settings.out.join("tls.key"), certified.signing_key.serialize_pem())?;
    Ok(())
}

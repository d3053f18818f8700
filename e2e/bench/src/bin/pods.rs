//! `stoker-bench-pods`: pods that answer at once, in a process of their own, until it is ended.
//!
//! For pods that must not take time from the thread of the load generator. See [`stoker_bench::pods`] for the others.

use clap::Parser;
use stoker_bench::pods::Pod;
use tokio::task::LocalSet;

/// Where to listen.
#[derive(Debug, Parser)]
#[command(name = "stoker-bench-pods", version)]
struct Settings {
    /// A pod: address:port, or address:port=4ms for one that takes an exponential time of that mean. May be repeated.
    #[arg(long = "pod", required = true)]
    pods: Vec<Pod>,
}

fn main() -> anyhow::Result<()> {
    let settings = Settings::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        for (pod, seed) in settings.pods.iter().zip(1..) {
            pod.serve(seed).await?;
        }
        std::future::pending().await
    })
}

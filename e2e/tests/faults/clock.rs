//! A clock that jumps by ten minutes, forth and back, under an operator in mid-run. Debian's libfaketime moves the wall clock that
//! the process reads; the monotonic one is left alone, as by any setting of a clock.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use serde_json::json;
use stoker_e2e::cluster::until;
use stoker_e2e::namespace::TestNamespace;
use stoker_e2e::proxy::Proxy;
use stoker_e2e::subject::PATIENCE;
use stoker_e2e::sweep::ground::Ground;
use stoker_e2e::sweep::scenario::Scenario;
use stoker_e2e::sweep::stage::Stage;

/// How long the step lasts: far less than a jump.
const STEP: Duration = Duration::from_secs(12);
/// How far the clock jumps, as `offset` says below.
const JUMP: Duration = Duration::from_secs(600);

/// Of Debian's package libfaketime, the one for programs with threads. `e2e/cluster/build` installs it.
fn library() -> Result<PathBuf> {
    let folders = ["/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime"];
    let found =
        folders.iter().map(|folder| Path::new(folder).join("libfaketimeMT.so.1")).find(|path| path.is_file());
    found.with_context(|| format!("libfaketime is not in {folders:?}: apt-get install faketime"))
}

pub async fn a_clock_that_jumps_ends_no_step_early(ground: &Ground) -> Result<()> {
    let namespace = TestNamespace::create(ground.client.clone(), "clock").await?;
    let mut stage = Stage::new(ground, &namespace);
    let proxy = Proxy::start(ground.upstream.clone()).await?;
    // Its content is read at each question for the time.
    let offset = stage.folder()?.join("offset");
    std::fs::write(&offset, "+0\n")?;
    let library = library()?;
    let operator = stage.operator("operator", &proxy, |settings| {
        settings.environment = [
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", offset.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
    })?;
    let mut spec = Scenario::Promote.spec(&stage);
    spec["rollout"]["steps"] = json!([{"weight": 50, "duration": format!("{}s", STEP.as_secs())}]);
    stage.subject.serve(&spec).await?;
    stage.begin_load().await?;

    // Taken before the step can have begun, and read again after it has ended: at least the step lies between.
    let before = Instant::now();
    Scenario::Promote.act(&mut stage).await?;
    stage.subject.at_step(1).await?;
    std::fs::write(&offset, "+600\n")?;
    let status = stage
        .subject
        .until("says how long the step has to go", PATIENCE, |status| status.message.contains("s to go"));
    let said = status.await?.status.unwrap_or_default().message;
    // What the operator writes there for people is its wall clock: the jump has reached it.
    let leases = Api::<Lease>::namespaced(namespace.client.clone(), &namespace.name);
    until("the operator's clock has jumped", PATIENCE, async || {
        let renewed = leases.get("stoker").await?.spec.and_then(|spec| spec.renew_time);
        Ok(renewed.filter(|renewed| renewed.0 > Timestamp::now() + JUMP / 2))
    })
    .await?;
    std::fs::write(&offset, "-600\n")?;
    let after = stage.subject.healthy().await?.status.unwrap_or_default();
    let took = before.elapsed();
    let told = after.history.first().map(|run| run.at.0);
    ensure!(
        told.is_some_and(|told| told < Timestamp::now() - JUMP / 2),
        "the clock did not jump back: {told:?}"
    );
    ensure!(
        took >= STEP,
        "the step of {} s was over after {} s; it said: {said}",
        STEP.as_secs(),
        took.as_secs()
    );
    ensure!(after.runs == 2 && after.rejected.is_empty(), "{} runs, {:?}", after.runs, after.rejected);
    ensure!(operator.ends().is_empty(), "the operator ended: {:?}", operator.ends());
    stage.end_load().await?;
    ground.node.vacate(&namespace.name);
    namespace.delete().await;
    Ok(())
}

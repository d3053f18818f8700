//! Two operators at once, the first of them stopped for longer than its Lease.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use stoker_e2e::cluster::until;
use stoker_e2e::namespace::TestNamespace;
use stoker_e2e::process::signal;
use stoker_e2e::proxy::{Proxy, Write};
use stoker_e2e::subject::PATIENCE;
use stoker_e2e::sweep::ground::Ground;
use stoker_e2e::sweep::scenario::Scenario;
use stoker_e2e::sweep::stage::Stage;

/// The shortest that there is.
const LEASE_SECONDS: u16 = 6;

async fn leads(namespace: &TestNamespace, name: &str) -> Result<()> {
    let api = Api::<Lease>::namespaced(namespace.client.clone(), &namespace.name);
    until(&format!("{name} leads"), PATIENCE, async || {
        let holder = api.get("stoker").await?.spec.and_then(|spec| spec.holder_identity);
        Ok((holder.as_deref() == Some(name)).then_some(()))
    })
    .await
}

pub async fn an_operator_that_was_stopped_past_its_lease_writes_nothing_more(ground: &Ground) -> Result<()> {
    let namespace = TestNamespace::create(ground.client.clone(), "leaders").await?;
    let mut stage = Stage::new(ground, &namespace);
    let (first_proxy, second_proxy) =
        (Proxy::start(ground.upstream.clone()).await?, Proxy::start(ground.upstream.clone()).await?);
    let first = stage.operator("first", &first_proxy, |settings| {
        settings.lease_seconds = LEASE_SECONDS;
        settings.restarts = false;
    })?;
    leads(&namespace, "first").await?;
    let story = Scenario::Promote;
    let spec = story.spec(&stage);
    stage.subject.serve(&spec).await?;
    stage.begin_load().await?;
    story.act(&mut stage).await?;
    stage.subject.at_step(1).await?;

    let id = first.id()?;
    signal(id, "STOP").await?;
    let second =
        stage.operator("second", &second_proxy, |settings| settings.lease_seconds = LEASE_SECONDS)?;
    leads(&namespace, "second").await?;
    // From here on, every write of the first is one of a leader that is none.
    first_proxy.arm(None);
    signal(id, "CONT").await?;
    until("the first operator has ended", Duration::from_secs(30), async || {
        Ok((!first.ends().is_empty()).then_some(()))
    })
    .await?;
    ensure!(first.ends() == ["exit status: 70"], "{:?}", first.ends());
    let late: Vec<Write> = first_proxy.writes().into_iter().filter(Write::was_accepted).collect();
    ensure!(late.is_empty(), "the first operator still wrote: {late:?}");

    let after = stage.subject.healthy().await?.status.unwrap_or_default();
    ensure!(after.runs == 2 && after.rejected.is_empty(), "{} runs, {:?}", after.runs, after.rejected);
    ensure!(second_proxy.writes().iter().any(Write::was_accepted), "the second operator did nothing");
    ensure!(second.ends().is_empty(), "{:?}", second.ends());
    stage.end_load().await?;
    let failed = stage.ledger().map(|ledger| ledger.failed_but_for(None));
    ensure!(failed == Some(0), "{failed:?} requests failed");
    ground.node.vacate(&namespace.name);
    namespace.delete().await;
    Ok(())
}

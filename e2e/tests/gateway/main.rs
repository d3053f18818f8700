//! Tests through a real gateway: Contour and two Envoys, which `e2e/gateway/up` puts on the cluster. Clients reach the model at
//! its host through the Service of the Envoys. There is one gateway for all of them, and one test takes it away: the others are done then.

mod grpc;
mod public;
mod routes;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use stoker_api::deployment::ModelDeploymentStatus;
use stoker_api::names::{conditions, reasons};
use stoker_e2e::digits;
use stoker_e2e::load::ledger::Figures;
use stoker_e2e::load::{Load, Plan};
use stoker_e2e::namespace::{TestNamespace, case};
use stoker_e2e::subject::{PATIENCE, Subject, condition, is_ready, patient_spec, revision, says};

use tokio::sync::RwLock;

use public::{Public, restart};
use routes::Routes;

/// Held by who needs the gateway, and alone by who takes it away.
static GATEWAY: RwLock<()> = RwLock::const_new(());

/// Serves v1 at `host`, by this reference to a gateway.
async fn serving<'a>(
    namespace: &'a TestNamespace,
    hosts: &[&str],
    gateway: &Value,
    steps: &Value,
) -> Result<Subject<'a>> {
    let files = [("v1.onnx", digits::V1), ("v2.onnx", digits::V2), ("v3.onnx", digits::V3)];
    namespace.config_map("digits", &files).await?;
    let digits = Subject::new(namespace, "digits");
    let mut spec = patient_spec("configmap://digits/v1.onnx");
    spec["traffic"] = json!({"hosts": hosts, "gatewayRef": gateway});
    spec["rollout"]["steps"] = steps.clone();
    digits.serve(&spec).await?;
    Ok(digits)
}

fn short_steps() -> Value {
    json!([{"weight": 20, "duration": "3s"}, {"weight": 50, "duration": "3s"}])
}

/// The gateway, at the listener for everybody.
fn web() -> Value {
    json!({"name": public::GATEWAY, "namespace": public::NAMESPACE, "sectionName": "web"})
}

/// Waits until the condition GatewayReady has this status and says all of `words`.
async fn gateway_is(subject: &Subject<'_>, wanted: &str, words: &[&str]) -> Result<ModelDeploymentStatus> {
    let is = |status: &ModelDeploymentStatus| says(status, conditions::GATEWAY_READY, wanted, words).is_ok();
    let what = format!("GatewayReady is {wanted} and says {words:?}");
    let found = subject.until(&what, PATIENCE, is).await;
    match found {
        Ok(found) => Ok(found.status.unwrap_or_default()),
        Err(error) => {
            // What it says instead explains the failure.
            says(&subject.status().await?, conditions::GATEWAY_READY, wanted, words)?;
            Err(error)
        }
    }
}

/// Sends real images to a host of the gateway, over HTTP/1.1 and HTTP/2.
fn load(public: &Public, host: &str, rate: u32) -> Result<Load> {
    let plan = Plan::of(public.address, "", "digits", rate);
    Load::start(Plan { host: host.to_owned(), http2_every: 5, ..plan })
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_canary_and_a_rollback_lose_no_request_and_leave_other_routes_alone() {
    case("gw-rollout", async |namespace| {
        let _stays = GATEWAY.read().await;
        let public = Public::find(namespace).await?;
        let host = format!("digits.{}.example", namespace.name);
        let elsewhere = format!("theirs.{}.example", namespace.name);
        let routes = Routes::of(namespace);
        let digits = serving(namespace, &[&host], &web(), &short_steps()).await?;
        routes.make_foreign("theirs", &elsewhere).await?;
        let before = routes.foreign("theirs").await?;
        let status =
            gateway_is(&digits, "True", &[&host, "is served through Gateway projectcontour/public"]).await?;
        let v1 = revision("stable", status.stable.as_ref())?;
        public.leads_to(&host, &v1).await?;

        let load = load(&public, &host, 40)?;
        digits.set_uri("configmap://digits/v2.onnx").await?;
        let after = digits.healthy().await?.status.unwrap_or_default();
        let v2 = revision("stable", after.stable.as_ref())?;
        ensure!(v2 != v1, "nothing was promoted");
        digits.set_uri("configmap://digits/v3.onnx").await?;
        let back = digits.rolled_back().await?.status.unwrap_or_default();
        let v3 = revision("target", back.target.as_ref())?;
        ensure!(back.stable.as_deref() == Some(v2.as_str()), "stable is {:?}", back.stable);

        let ledger = load.finish().await?;
        ensure!(ledger.failed_but_for(Some(&v3)) == 0, "requests failed: {}", ledger.explain());
        for one in [&v1, &v2, &v3] {
            ensure!(Figures::of(ledger.of(one)).requests > 0, "{one} answered nobody: {}", ledger.explain());
        }
        ensure!(routes.foreign("theirs").await? == before, "a route of somebody else was changed");
        // It leads to the Service as well, which takes any host for a model that the path names. Contour, which another test restarts,
        // may need a moment to know all routes again.
        public.leads_to(&elsewhere, &v2).await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn a_gateway_that_restarts_in_the_middle_of_a_rollout_costs_no_request() {
    case("gw-restart", async |namespace| {
        let _stays = GATEWAY.read().await;
        let public = Public::find(namespace).await?;
        let host = format!("digits.{}.example", namespace.name);
        let long = json!([{"weight": 30, "duration": "10m"}]);
        let digits = serving(namespace, &[&host], &web(), &long).await?;
        let status = gateway_is(&digits, "True", &[]).await?;
        let v1 = revision("stable", status.stable.as_ref())?;
        public.leads_to(&host, &v1).await?;
        let load = load(&public, &host, 40)?;
        digits.set_uri("configmap://digits/v2.onnx").await?;
        let running = digits.at_step(1).await?.status.unwrap_or_default();
        let v2 = revision("candidate", running.candidate.as_ref())?;

        restart(&namespace.client, "contour").await?;
        restart(&namespace.client, "envoy").await?;
        let meanwhile = load.ledger().failed_but_for(None);
        ensure!(meanwhile == 0, "requests failed in the restart: {}", load.ledger().explain());
        let through = digits.status().await?;
        ensure!(through.candidate.as_ref() == Some(&v2), "the rollout did not go on: {}", through.message);
        // Its wait is over; nothing is left to be found out.
        digits.request("promote", "after-the-restart").await?;
        let after = digits.healthy().await?.status.unwrap_or_default();
        ensure!(after.stable.as_ref() == Some(&v2), "stable is {:?}", after.stable);
        gateway_is(&digits, "True", &[]).await?;
        load.finish_without_failure().await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn what_the_gateway_refuses_or_another_hand_changes_is_told_and_put_right() {
    case("gw-refused", async |namespace| {
        let stays = GATEWAY.read().await;
        let public = Public::find(namespace).await?;
        let host = format!("digits.{}.example", namespace.name);
        let routes = Routes::of(namespace);
        let listener = |name: &str| json!({"spec": {"traffic": {"gatewayRef": {"sectionName": name}}}});

        let mut own = web();
        own["sectionName"] = json!("own");
        let digits = serving(namespace, &[&host], &own, &short_steps()).await?;
        let refusal =
            ["NotAllowedByListeners", "allowedRoutes take HTTPRoutes from namespace", &namespace.name];
        let status = gateway_is(&digits, "False", &refusal).await?;
        // Clients inside of the cluster are served all the same, and Ready says whom it is about.
        ensure!(is_ready(&status), "it is not Ready: {}", status.message);
        says(
            &status,
            conditions::READY,
            "True",
            &["clients inside of the cluster", conditions::GATEWAY_READY],
        )?;
        digits.event(reasons::ROUTE_NOT_ACCEPTED, &["NotAllowedByListeners"]).await?;
        digits.merge(&listener("private")).await?;
        gateway_is(&digits, "False", &["NoMatchingListenerHostname", "change traffic.hosts", &host]).await?;
        digits.merge(&listener("nowhere")).await?;
        gateway_is(&digits, "False", &["NoMatchingParent", "traffic.gatewayRef.sectionName"]).await?;
        digits.merge(&listener("web")).await?;
        let status = gateway_is(&digits, "True", &[&host]).await?;
        let v1 = revision("stable", status.stable.as_ref())?;
        public.leads_to(&host, &v1).await?;

        let before = routes.spec("digits").await?;
        routes.edit("digits", "somebody", &json!({"spec": {"hostnames": ["elsewhere.example"]}})).await?;
        digits.event(reasons::ROUTE_RESTORED, &["HTTPRoute digits was changed by somebody"]).await?;
        routes.is("digits", &before).await?;
        gateway_is(&digits, "True", &[&host]).await?;

        drop(stays);
        let alone = GATEWAY.write().await;
        let gateway = public.remove_gateway().await?;
        let noticed = gateway_is(&digits, "False", &["Gateway projectcontour/public does not exist"]).await;
        // Whatever comes of this test, the others need it.
        public.make_gateway(&gateway).await?;
        ensure!(is_ready(&noticed?), "it is not Ready without the gateway");
        gateway_is(&digits, "True", &[&host]).await?;
        public.leads_to(&host, &v1).await?;
        drop(alone);

        digits.merge(&json!({"spec": {"traffic": {"gatewayRef": null}}})).await?;
        routes.is_gone("digits").await?;
        let gone = |status: &ModelDeploymentStatus| condition(status, conditions::GATEWAY_READY).is_empty();
        digits.until("says nothing of a gateway any more", PATIENCE, gone).await?;
        Ok(())
    });
}

#[test]
#[ignore = "needs a cluster: e2e/run"]
fn grpc_calls_come_by_the_http_route_or_at_a_host_of_their_own() {
    case("gw-grpc", async |namespace| {
        let _stays = GATEWAY.read().await;
        let public = Public::find(namespace).await?;
        let host = format!("digits.{}.example", namespace.name);
        let calls = format!("grpc.{}.example", namespace.name);
        let mut shared = web();
        shared["grpc"] = json!({});
        let digits = serving(namespace, &[&host, &calls], &shared, &short_steps()).await?;
        let status = gateway_is(&digits, "True", &[&host, &calls]).await?;
        let v1 = revision("stable", status.stable.as_ref())?;
        public.leads_to(&host, &v1).await?;
        grpc::infers(public.address, &host, "digits", &v1).await?;

        digits.merge(&json!({"spec": {"traffic": {"gatewayRef": {"grpc": {"hosts": [&calls]}}}}})).await?;
        Routes::of(namespace).grpc_is_there("digits", &calls).await?;
        gateway_is(&digits, "True", &[&host, &calls]).await?;
        grpc::infers(public.address, &calls, "digits", &v1).await?;
        public.leads_to(&host, &v1).await?;
        // Of two routes that share no host, each takes its own alone.
        public.refuses(&calls).await
    });
}

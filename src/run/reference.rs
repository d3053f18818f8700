//! The reference of metrics in the docs is what an operator registers.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use stoker_edge::process::Process;
use stoker_edge::reference::Reference;

use super::assemble;
use crate::context::Settings;
use crate::controllers::scaling::metrics::Sample;
use crate::fake_api::Server;
use crate::report::rollouts::tests::fill;

#[tokio::test]
async fn the_reference_of_metrics_is_what_an_operator_registers() {
    let (ctx, _, mut registry) = assemble(Server::default().client(), Settings::sample());
    // Something in each family: one without a series is not exposed, and its labels are not known.
    let _ = ctx.calls.make("get Pod", "digits", std::future::ready(Ok(()))).await;
    ctx.routers.count("ok");
    ctx.metrics.reconciled("ModelDeployment", "ok", Duration::ZERO);
    ctx.metrics.transition("Promoted");
    ctx.metrics.certificate("team", Some(Timestamp::UNIX_EPOCH));
    ctx.monitoring.fill();
    fill(&ctx.rollouts);
    Reference::of(&registry).is_whole(&registry).unwrap();
    // Its scalers know nothing without routers.
    registry.register_collector(Box::new(Sample));
    registry.register_collector(Box::new(Process));
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics/operator.md");
    Reference::of(&registry).check(&page).unwrap();
}

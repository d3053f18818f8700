//! What monitoring systems say about what is compared, joined with what routers counted (no client: it is asked in the background).

use stoker_api::deployment::{Metric, Rollout};
use stoker_decide::alert::Alerts;
use stoker_decide::metric::join;
use stoker_decide::rollout::{Kind, State};
use stoker_decide::verdict::Verdict;

use super::evidence::Examined;
use crate::context::Context;
use crate::observe::monitoring::{About, Measured};
use crate::observe::world::World;

/// What is known by now.
#[derive(Clone, Debug, Default)]
pub(super) struct Signals {
    /// Metrics of the user's own, while something is compared.
    pub measured: Vec<Measured>,
    /// The alerts that are declared; none where none are, or no rollout is under way.
    pub alerts: Option<Alerts>,
}

/// Says what is wanted, and takes what is known. Alerts are asked for from the start of a run on: those that fire before the candidate
/// has traffic are not about it.
pub(super) fn ask(ctx: &Context, world: &World, state: &State, uid: &str) -> Signals {
    let Some(watched) = state.watched() else {
        ctx.monitoring.forget(uid);
        return Signals::default();
    };
    let meta = &world.md.metadata;
    let about = About {
        uid,
        namespace: meta.namespace.as_deref().unwrap_or_default(),
        name: meta.name.as_deref().unwrap_or_default(),
        run: state.runs,
        step: state.step(),
        compared: &watched,
    };
    let measured = match state.compared() {
        Some(_) => ctx.monitoring.measured(metrics(world, state), about),
        None => Vec::new(),
    };
    Signals { measured, alerts: ctx.monitoring.alerts(&world.md.spec.rollback.alerts, about) }
}

/// The metrics that are declared: for a run by the plan that it started with.
fn metrics<'a>(world: &'a World, state: &State) -> &'a [Metric] {
    let pinned = world.md.status.as_ref().and_then(|status| status.run.as_ref()?.plan.as_ref());
    let rollout: &Rollout = pinned.filter(|_| state.run.is_some()).unwrap_or(&world.md.spec.rollout);
    &rollout.analysis.metrics
}

/// Joins the verdict of the counts with those of the metrics that decide.
pub(super) fn judge(examined: Option<Examined>, state: &State, measured: &[Measured]) -> Option<Examined> {
    let mut examined = examined?;
    let kind = state.run.as_ref().and_then(|run| run.plan.step(run.step)).map(|step| step.kind);
    let copies = matches!(kind, Some(Kind::Shadow { .. }));
    // Whose answers reach nobody has no users to be measured by: that it has no data holds nothing up.
    let silent = |measured: &&Measured| copies && matches!(measured.verdict, Verdict::Inconclusive(_));
    let deciding: Vec<(String, Verdict)> = measured
        .iter()
        .filter(|measured| !measured.dry_run && !silent(measured))
        .map(|measured| (measured.name.clone(), measured.verdict.clone()))
        .collect();
    examined.verdict = join(&examined.verdict, &deciding);
    Some(examined)
}

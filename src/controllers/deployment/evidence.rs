//! What the routers' counts say about what is compared (no client).

use std::collections::BTreeMap;
use std::time::Duration;

use stoker_api::deployment::Rollout;
use stoker_api::deployment::rollout::probability;
use stoker_api::scrape::ScrapeReply;
use stoker_decide::agreement::{self, Agreement};
use stoker_decide::analysis::{Finding, Look, Report, Wanted};
use stoker_decide::evidence::{Counts, Key};
use stoker_decide::harm::{TOLERANCE, budget, power};
use stoker_decide::rollout::{Kind, State, Step, Watched};
use stoker_decide::traffic::WHOLE;
use stoker_decide::verdict::{self, Verdict};

use crate::build::route::Given;
use crate::controllers::memory::Remembered;
use crate::controllers::scaling::Scale;
use crate::observe::routers::RouterView;
use crate::observe::world::World;

/// What was found out about the compared revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Examined {
    /// By counts.
    pub finding: Finding,
    /// Pairs of answers, in a shadow step.
    pub agreement: Option<Agreement>,
    /// The verdict that follows from both.
    pub verdict: Verdict,
    /// Evidence of harm at which it is taken back, as a power of ten.
    pub alarm_log10: f64,
}

impl Examined {
    /// Bad answers of the compared revision, in parts per million; 0 while it has answered nothing.
    pub fn bad_ppm(&self) -> u32 {
        self.finding.candidate.bad_ppm(self.finding.slow_above).unwrap_or(0)
    }
}

/// What a table is made from, beside spec, status and state.
pub(super) fn given<'a>(
    world: &World,
    state: &State,
    taken: &'a BTreeMap<String, String>,
    scale: &'a Scale,
) -> Given<'a> {
    let (replicas, asleep) = (&scale.replicas, scale.calls);
    Given { taken, alarm_log10: alarm_log10(world, state), replicas, asleep }
}

/// The alarm's threshold, from the declared budget: for the blocks that the plan takes, with more for a run that takes longer,
/// and for a month of guard.
fn alarm_log10(world: &World, state: &State) -> f64 {
    let budgets = &world.md.spec.rollback.budget;
    let routers = world.routers.as_ref().map_or(0, |routers| routers.replies.len());
    // In steps, so that a router that comes or goes seldom changes the table.
    let routers = u32::try_from(routers.max(2).next_power_of_two()).unwrap_or(u32::MAX);
    let blocks = |time| budget::blocks(time, routers, 1);
    match &state.run {
        Some(run) => {
            let before: Duration =
                run.plan.steps.iter().take(run.step.saturating_sub(1)).filter_map(|step| step.lasts).sum();
            let (planned, taken) = (blocks(run.plan.duration()), blocks(before + run.in_step));
            budget::alarm_log10_after(probability(&budgets.per_rollout), planned, taken)
        }
        None => budget::alarm_log10(probability(&budgets.per_guard_month), blocks(budget::GUARD_MONTH)),
    }
}

/// Why routers gave the compared revision no more traffic in this run, if they did: as they say, or as they wrote it down.
pub(super) fn was_cut(world: &World, routers: &RouterView, state: &State) -> Option<String> {
    let compared = state.revocable()?;
    let written = world.route.as_ref().and_then(|route| route.status.as_ref()).map(|status| &status.cuts);
    let told = routers.answers().flat_map(|reply| &reply.cuts);
    let mut cuts = told.chain(written.into_iter().flatten());
    let cut = cuts.find(|cut| cut.run == state.runs && cut.revision == compared.revision)?;
    Some(format!("{} (cut by router {})", cut.because, cut.by))
}

/// Counts of the routers, and the verdict that follows. Also before anything is compared: what stable does before is the
/// measure of what is slow.
pub(super) fn examine(
    world: &World,
    state: &State,
    memory: &mut Remembered,
    elapsed: Duration,
) -> Option<Examined> {
    let routers = world.routers.as_ref()?;
    let run = state.run.as_ref();
    let Watched { revision, control } = state.watched()?;
    let kind = run.and_then(|run| run.plan.step(run.step)).map(|step| step.kind);
    let step = u32::try_from(state.step()).unwrap_or(u32::MAX);
    let weight = |name: &str| {
        let arms = state.traffic().arms;
        arms.iter().find(|arm| arm.revision == name).map_or(0, |arm| arm.ppm)
    };
    let copies = weight(&revision) == 0;
    let reports: Vec<Report> =
        routers.answers().flat_map(|reply| reports(reply, copies.then_some(&revision))).collect();
    let unreadable = routers.unreadable();
    let wanted = wanted(world, state, kind);
    let alarm_log10 = alarm_log10(world, state);
    let shadow = state.traffic().shadow.map_or(0.0, |shadow| share(shadow.ppm));
    let finding = memory.analysis.look(&Look {
        run: state.runs,
        step,
        stable: &control,
        candidate: &revision,
        reports: &reports,
        unreadable: unreadable.as_deref(),
        controlled: weight(&control) > 0,
        // Copies come beside the requests that they are copies of.
        share: if copies { shadow / (1.0 + shadow) } else { share(weight(&revision)) },
        target: world.md.spec.slo.latency.as_ref().map(|latency| latency.target.into()),
        wanted,
        alarm_log10,
        tolerance: TOLERANCE,
        in_step: run
            .map(|run| run.in_step)
            .or(state.guard.as_ref().map(|guard| guard.spent))
            .unwrap_or_default(),
        elapsed,
    });
    state.compared()?;
    let pairs = |percent: Option<u32>| {
        let found = agreement(routers, state.runs, step, &revision);
        (found, percent.map(|percent| agreement::judge(found, percent, finding.wanted)))
    };
    let (agreement, judged) = match kind {
        Some(Kind::Shadow { agreement, .. }) => {
            let (found, judged) = pairs(agreement);
            (Some(found), judged)
        }
        _ => (None, None),
    };
    // What the counts say goes first, unless they say that all is well.
    let verdict = match (&finding.verdict, judged) {
        (_, Some(Verdict::Fail(because))) => Verdict::Fail(because),
        (Verdict::Pass(_), Some(judged)) => judged,
        (verdict, _) => verdict.clone(),
    };
    // Who answers nobody, and gets no copies, has no counts to wait for.
    let is_idle = run.is_some() && copies && !matches!(kind, Some(Kind::Shadow { .. }));
    let verdict = if is_idle { verdict::of_an_idle(verdict) } else { verdict };
    Some(Examined { finding, agreement, verdict, alarm_log10 })
}

/// What one router counted. Where the compared revision has no traffic, its answers to copies stand for it: what it answers testers,
/// at its preview or by their header, is no evidence.
fn reports(reply: &ScrapeReply, copied: Option<&String>) -> impl Iterator<Item = Report> {
    let report = |run, step, revision: &String, attempts, errors, latency: &_| Report {
        process: reply.process.clone(),
        key: Key { run, step, revision: revision.clone() },
        counts: Counts { attempts, errors, latency: Clone::clone(latency) },
    };
    let arms = reply.counts.iter().filter(|arm| Some(&arm.revision) != copied);
    let arms =
        arms.map(move |arm| report(arm.run, arm.step, &arm.revision, arm.attempts, arm.errors, &arm.latency));
    let shadows = reply.shadows.iter().filter(|_| copied.is_some());
    let shadows = shadows.map(move |shadow| {
        report(shadow.run, shadow.step, &shadow.revision, shadow.attempts, shadow.errors, &shadow.latency)
    });
    arms.chain(shadows).collect::<Vec<_>>().into_iter()
}

/// Pairs of answers that all routers compared in this step.
fn agreement(routers: &RouterView, run: u64, step: u32, revision: &str) -> Agreement {
    let shadows = routers.answers().flat_map(|reply| &reply.shadows);
    let own =
        shadows.filter(|shadow| shadow.run == run && shadow.step == step && shadow.revision == revision);
    own.fold(Agreement::default(), |sum, shadow| Agreement {
        compared: sum.compared.saturating_add(shadow.compared),
        agreed: sum.agreed.saturating_add(shadow.agreed),
    })
}

/// The evidence that this step must bring: by the plan of the run. A pause and the guard need none of their own.
fn wanted(world: &World, state: &State, kind: Option<Kind>) -> Wanted {
    let (Some(run), Some(kind)) = (&state.run, kind) else { return Wanted::Requests(0) };
    let has_weight = |number| run.plan.weight(number) > 0;
    if matches!(kind, Kind::Pause | Kind::Weight(0)) || kind == Kind::Analysis && !has_weight(run.step) {
        return Wanted::Requests(0);
    }
    let status = world.md.status.as_ref().and_then(|status| status.run.as_ref());
    let pinned: &Rollout = status.and_then(|run| run.plan.as_ref()).unwrap_or(&world.md.spec.rollout);
    if let Some(requests) = pinned.min_requests(run.step) {
        return Wanted::Requests(requests.into());
    }
    let percent = |percent: u32| f64::from(percent) / 100.0;
    let steps: Vec<(f64, Duration)> = (1..=run.plan.steps.len())
        .map(|number| {
            let judged = run.plan.step(number).is_some_and(Step::is_judged);
            let lasts =
                run.plan.step(number).and_then(|step| step.lasts).filter(|_| judged).unwrap_or_default();
            (percent(run.plan.weight(number).max(run.plan.shadow(number))), lasts)
        })
        .collect();
    let part = power::part(&steps, run.step.saturating_sub(1).min(steps.len().saturating_sub(1)));
    Wanted::Power { harm: percent(pinned.analysis.detect), power: percent(pinned.analysis.power), part }
}

/// Parts per million as a share.
fn share(ppm: u32) -> f64 {
    f64::from(ppm) / f64::from(WHOLE)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// With testers beside a shadow step, the candidate is an arm of a rule and gets copies: a router lists it twice under one key.
    #[test]
    fn where_copies_are_judged_what_testers_ask_is_no_second_count() {
        let reply: ScrapeReply = serde_json::from_value(json!({
            "process": "r1", "serving": null,
            "counts": [
                {"run": 2, "step": 1, "revision": "a", "attempts": 60, "errors": 1},
                {"run": 2, "step": 1, "revision": "b", "attempts": 0, "errors": 0},
            ],
            "shadows": [{
                "run": 2, "step": 1, "revision": "b", "attempts": 50, "errors": 2, "dropped": 0, "compared": 0, "agreed": 0, "incomparable": 0,
            }],
        }))
        .unwrap();
        let read = |copied: Option<&str>| {
            let copied = copied.map(str::to_owned);
            let all = reports(&reply, copied.as_ref());
            all.map(|report| (report.key.revision, report.counts.attempts)).collect::<Vec<_>>()
        };
        assert_eq!(read(Some("b")), [("a".to_owned(), 60), ("b".to_owned(), 50)]);
        assert_eq!(
            read(None),
            [("a".to_owned(), 60), ("b".to_owned(), 0)],
            "copies count for nothing under traffic"
        );
    }
}

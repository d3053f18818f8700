//! Makes the table that requests see from the one that the operator wrote.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;
use stoker_api::route::{HeaderMatch, ModelRouteSpec, RouteRule};
use stoker_api::scrape::TableVersion;
use stoker_decide::refill;

use crate::count::ArmCount;
use crate::live::Revision;
use crate::plane::Plane;
use crate::table::snapshot::{Arm, Mirror, Route, Rule};
use crate::unit::Source;

/// The table of `spec`, which was checked and is `version` of the model `name`. `live` gives a revision as it is by now.
/// Counts begin in the ledgers of `plane`. A share that waits for pods is as large as those that are ready now allow: with other pods
/// the table must be made again. `None` when there is no rule.
pub fn route(
    spec: &ModelRouteSpec,
    name: String,
    version: TableVersion,
    plane: &Plane,
    mut live: impl FnMut(&str, &str) -> Arc<Revision>,
) -> Option<Route> {
    let (run, step) = (spec.run, spec.step);
    // A run without shadows ends the counts of those before as well.
    plane.shadows.begin(&name, &version.uid, run);
    let mut rules = Vec::with_capacity(spec.rules.len());
    for rule in &spec.rules {
        // A header that no request can have: neither does the rule take any.
        let Some(headers) = rule.headers.iter().map(header).collect::<Option<Vec<_>>>() else { continue };
        let arms = arms(rule, |revision| {
            (live(&name, revision), plane.ledger.arm(&name, &version.uid, run, step, revision))
        });
        let unit = rule.unit.as_ref().and_then(Source::new);
        rules.push(Rule { preview: rule.preview, headers, unit, salt: rule.salt.clone(), arms });
    }
    for arm in &mut rules.last_mut()?.arms {
        let mirrors: Arc<[Arc<Mirror>]> = spec
            .mirrors
            .iter()
            .filter(|mirror| mirror.of == arm.revision.name)
            .map(|mirror| {
                let count = plane.shadows.arm(&name, &version.uid, run, step, &mirror.revision);
                let (revision, ppm) = (live(&name, &mirror.revision), mirror.ppm);
                Arc::new(Mirror { route: name.clone(), revision, ppm, count })
            })
            .collect();
        arm.mirrors = (!mirrors.is_empty()).then_some(mirrors);
    }
    let before =
        plane.tables().route(&name).map(|route| (Arc::clone(&route.retries), Arc::clone(&route.demand)));
    let (retries, demand) = before.unwrap_or_default();
    let target = spec.latency_target_ms.map(|millis| Duration::from_millis(millis.into()));
    let latency_target = target.map(stoker_edge::target::value);
    let (hosts, asleep, preview) = (spec.hosts.clone(), spec.asleep, spec.preview);
    Some(Route { name, version, run, step, hosts, preview, rules, retries, demand, asleep, latency_target })
}

fn arms(rule: &RouteRule, mut of: impl FnMut(&str) -> (Arc<Revision>, Arc<ArmCount>)) -> Vec<Arm> {
    let position = |wanted: &String| rule.arms.iter().position(|arm| arm.revision == *wanted);
    let arms = rule.arms.iter().map(|arm| {
        let (revision, count) = of(&arm.revision);
        let fallback = arm.fallback.as_ref().and_then(position);
        Arm { revision, ppm: arm.ppm, fallback, count, mirrors: None, is_rest: false }
    });
    let mut arms: Vec<Arm> = arms.collect();
    for (index, refill) in
        rule.arms.iter().enumerate().filter_map(|(index, arm)| Some((index, arm.refill.as_ref()?)))
    {
        let Some(from) = position(&refill.from) else { continue };
        let ready = arms[index].revision.ready_endpoints();
        let rest = refill::rest(ready, refill.whole, refill.most_ppm, refill.bad_ppm).min(arms[index].ppm);
        arms[index].ppm -= rest;
        arms[from].ppm = arms[from].ppm.saturating_add(rest);
        arms[from].is_rest |= rest > 0;
    }
    arms
}

fn header(wanted: &HeaderMatch) -> Option<(HeaderName, Vec<u8>)> {
    Some((HeaderName::from_bytes(wanted.name.as_bytes()).ok()?, wanted.value.clone().into_bytes()))
}

//! A table without the revisions that are cut: no weight, no fallback and no mirror leads to them.

use std::borrow::Cow;
use std::collections::BTreeSet;

use stoker_api::route::{ModelRouteSpec, RouteRule};
use stoker_decide::traffic::{self, Share};

/// What is served in place of `spec` while the revisions in `cut` get nothing, by any rule. Their arms stay, without
/// weight: requests of theirs may be in flight. See [`traffic::without_cut`] for who gets their share.
pub fn obeyed<'a>(spec: &'a ModelRouteSpec, cut: &BTreeSet<&str>) -> Cow<'a, ModelRouteSpec> {
    let arms = spec.rules.iter().flat_map(|rule| &rule.arms).map(|arm| &arm.revision);
    let copies = spec.mirrors.iter().map(|mirror| &mirror.revision);
    if !arms.chain(copies).any(|revision| cut.contains(revision.as_str())) {
        return Cow::Borrowed(spec);
    }
    let mut spec = spec.clone();
    spec.mirrors.retain(|mirror| !cut.contains(mirror.revision.as_str()));
    let controls: Vec<(String, String)> =
        spec.detectors.iter().map(|detector| (detector.revision.clone(), detector.control.clone())).collect();
    for rule in &mut spec.rules {
        divert(rule, cut, &controls);
    }
    Cow::Owned(spec)
}

fn divert(rule: &mut RouteRule, cut: &BTreeSet<&str>, controls: &[(String, String)]) {
    let position = |wanted: &String| rule.arms.iter().position(|arm| arm.revision == *wanted);
    let shares: Vec<Share> = rule
        .arms
        .iter()
        .map(|arm| Share {
            ppm: arm.ppm,
            fallback: arm.fallback.as_ref().and_then(position),
            control: controls
                .iter()
                .find(|(revision, _)| *revision == arm.revision)
                .and_then(|(_, control)| position(control)),
            cut: cut.contains(arm.revision.as_str()),
        })
        .collect();
    let names: Vec<String> = rule.arms.iter().map(|arm| arm.revision.clone()).collect();
    for (arm, share) in rule.arms.iter_mut().zip(traffic::without_cut(&shares)) {
        arm.ppm = share.ppm;
        arm.fallback = share.fallback.and_then(|index| names.get(index).cloned());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_for_testers_and_mirrors_obey_as_well() {
        let spec: ModelRouteSpec = serde_json::from_value(json!({
            "schema": 1, "run": 2, "step": 1,
            "rules": [
                {"headers": [{"name": "x-tester", "value": "yes"}], "salt": "s",
                    "arms": [{"revision": "b", "ppm": 1_000_000, "fallback": "a"}, {"revision": "a", "ppm": 0}]},
                {"salt": "s", "arms": [{"revision": "a", "ppm": 900_000, "fallback": "b"},
                    {"revision": "b", "ppm": 100_000}]},
            ],
            "mirrors": [{"revision": "b", "of": "a", "ppm": 1000}, {"revision": "c", "of": "a", "ppm": 1000}],
            "detectors": [{"revision": "b", "control": "a", "alarmLog10": 6.0}],
        }))
        .unwrap();
        assert!(matches!(obeyed(&spec, &BTreeSet::new()), Cow::Borrowed(_)));
        assert!(matches!(obeyed(&spec, &BTreeSet::from(["x"])), Cow::Borrowed(_)));
        let without = obeyed(&spec, &BTreeSet::from(["b"])).into_owned();
        let weights: Vec<_> = without
            .rules
            .iter()
            .flat_map(|rule| &rule.arms)
            .map(|arm| (arm.revision.as_str(), arm.ppm, arm.fallback.as_deref()))
            .collect();
        // The first rule has no control of its own: its arm's fallback takes over.
        assert_eq!(
            weights,
            [("b", 0, Some("a")), ("a", 1_000_000, None), ("a", 1_000_000, None), ("b", 0, None)]
        );
        assert_eq!(without.mirrors.iter().map(|mirror| mirror.revision.as_str()).collect::<Vec<_>>(), ["c"]);
        // Only a mirror leads to it.
        assert_eq!(obeyed(&spec, &BTreeSet::from(["c"])).mirrors.len(), 1);
        assert!(without.check().is_ok());
    }
}

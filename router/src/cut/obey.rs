//! A table without the revisions that are cut: no weight, no fallback and no mirror leads to them. Where the control may have too
//! few pods for everything, what they cannot take yet stays for now: see [`Refill`].

use std::borrow::Cow;
use std::collections::BTreeMap;

use stoker_api::route::{Detector, ModelRouteSpec, Refill, RouteRule};
use stoker_decide::traffic::{self, Share};

/// What is served in place of `spec` while the revisions in `cut` (with their bad answers in parts per million) get nothing, by
/// any rule. Their arms stay, without weight: requests of theirs may be in flight. See [`traffic::without_cut`] for who gets
/// their share.
pub fn obeyed<'a>(spec: &'a ModelRouteSpec, cut: &BTreeMap<&str, u32>) -> Cow<'a, ModelRouteSpec> {
    let arms = spec.rules.iter().flat_map(|rule| &rule.arms).map(|arm| &arm.revision);
    let copies = spec.mirrors.iter().map(|mirror| &mirror.revision);
    if !arms.chain(copies).any(|revision| cut.contains_key(revision.as_str())) {
        return Cow::Borrowed(spec);
    }
    let mut spec = spec.clone();
    spec.mirrors.retain(|mirror| !cut.contains_key(mirror.revision.as_str()));
    let controls: Vec<(String, String)> =
        spec.detectors.iter().map(|detector| (detector.revision.clone(), detector.control.clone())).collect();
    // Testers are few, and chosen: theirs moves at once.
    let refills: Vec<(String, Refill)> =
        spec.detectors.iter().filter_map(|known| refill(&spec, known, cut)).collect();
    for rule in &mut spec.rules {
        divert(rule, cut, &controls);
    }
    let main = spec.rules.last_mut().map(|rule| &mut rule.arms[..]).unwrap_or_default();
    for (control, refill) in refills {
        if let Some(arm) = main.iter_mut().find(|arm| arm.revision == control) {
            arm.refill.get_or_insert(refill);
        }
    }
    Cow::Owned(spec)
}

/// How the control of a revision that is cut gets its share, where it may have too few pods.
fn refill(spec: &ModelRouteSpec, known: &Detector, cut: &BTreeMap<&str, u32>) -> Option<(String, Refill)> {
    let bad_ppm = *cut.get(known.revision.as_str())?;
    let whole = known.whole.filter(|_| !cut.contains_key(known.control.as_str()))?;
    let arm = spec.main_rule()?.arms.iter().find(|arm| arm.revision == known.revision && arm.ppm > 0)?;
    let refill = Refill { from: arm.revision.clone(), whole, most_ppm: arm.ppm, bad_ppm };
    Some((known.control.clone(), refill))
}

fn divert(rule: &mut RouteRule, cut: &BTreeMap<&str, u32>, controls: &[(String, String)]) {
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
            cut: cut.contains_key(arm.revision.as_str()),
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
        assert!(matches!(obeyed(&spec, &BTreeMap::new()), Cow::Borrowed(_)));
        assert!(matches!(obeyed(&spec, &BTreeMap::from([("x", 0)])), Cow::Borrowed(_)));
        let without = obeyed(&spec, &BTreeMap::from([("b", 0)])).into_owned();
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
        assert_eq!(obeyed(&spec, &BTreeMap::from([("c", 0)])).mirrors.len(), 1);
        assert!(without.check().is_ok());
        assert!(without.rules.iter().flat_map(|rule| &rule.arms).all(|arm| arm.refill.is_none()));
    }

    #[test]
    fn a_control_with_few_pods_gets_its_share_as_they_come() {
        let spec: ModelRouteSpec = serde_json::from_value(json!({
            "schema": 1, "run": 2, "step": 1,
            "rules": [
                {"headers": [{"name": "x-tester", "value": "yes"}], "salt": "s",
                    "arms": [{"revision": "b", "ppm": 1_000_000, "fallback": "a"}, {"revision": "a", "ppm": 0}]},
                {"salt": "s", "arms": [{"revision": "a", "ppm": 600_000}, {"revision": "b", "ppm": 400_000, "fallback": "a"}]},
            ],
            "detectors": [{"revision": "b", "control": "a", "alarmLog10": 6.0, "whole": 5}],
        }))
        .unwrap();
        let refills = |cut: &[(&str, u32)]| {
            let spec = obeyed(&spec, &cut.iter().copied().collect()).into_owned();
            assert!(spec.check().is_ok());
            let arms = spec.rules.into_iter().map(|rule| rule.arms.into_iter().filter_map(|arm| arm.refill));
            arms.map(Iterator::collect::<Vec<_>>).collect::<Vec<_>>()
        };
        let refill = Refill { from: "b".into(), whole: 5, most_ppm: 400_000, bad_ppm: 300_000 };
        assert_eq!(refills(&[("b", 300_000)]), [vec![], vec![refill]], "testers move at once");
        assert_eq!(refills(&[("a", 0), ("b", 0)]), [vec![], vec![]], "nobody is left to move to");
    }
}

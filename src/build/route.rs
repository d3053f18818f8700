//! The traffic table: a pure function of the spec and the state.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use stoker_api::ModelDeployment;
use stoker_api::deployment::status::to_millis;
use stoker_api::deployment::{ModelDeploymentStatus, RollbackMode};
use stoker_api::route::{
    Arm, Detector, Mirror, ModelRoute, ModelRouteSpec, Refill, RouteRule, SCHEMA, abilities,
};
use stoker_decide::rollout::{Replicas, Share, State, Strategy, Traffic, Watched};
use stoker_decide::traffic::WHOLE;

use super::labels;

/// What a table is made from, beside spec, status and state.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// Hosts that the spec asks for and another ModelDeployment has, with its name.
    pub taken: &'a BTreeMap<String, String>,
    /// Evidence of harm at which routers cut, as a power of ten.
    pub alarm_log10: f64,
    /// Pods that the whole demand needs.
    pub replicas: &'a Replicas,
    /// The number of the sleep in which a request must call for pods.
    pub asleep: Option<u64>,
}

/// The table; none while there is no revision to send anything to.
pub fn route(md: &ModelDeployment, state: &State, given: &Given<'_>) -> Option<ModelRoute> {
    let traffic = state.traffic();
    if traffic.arms.is_empty() {
        return None;
    }
    let name = md.name_any();
    let mut spec = ModelRouteSpec {
        schema: SCHEMA,
        requires: Vec::new(),
        hosts: md
            .spec
            .traffic
            .hosts
            .iter()
            .filter(|host| !given.taken.contains_key(*host))
            .cloned()
            .collect(),
        run: state.runs,
        step: u32::try_from(state.step()).unwrap_or(u32::MAX),
        rules: rules(md, state, &traffic, given),
        mirrors: mirrors(&traffic),
        detectors: traffic.watched.iter().map(|watched| detector(md, state, watched, given)).collect(),
        preview: previews(md, state),
        asleep: given.asleep,
        latency_target_ms: latency_target_ms(md),
    };
    spec.requires = required(&spec);
    let mut route = ModelRoute::new(&name, spec);
    route.metadata = ObjectMeta {
        name: Some(name.clone()),
        labels: Some(labels::of_deployment(&name)),
        ..ObjectMeta::default()
    };
    Some(route)
}

/// Whether the model has an address for previews: by the spec, or by the plan that its run started with.
pub fn previews(md: &ModelDeployment, state: &State) -> bool {
    let pinned = state.run.as_ref().map(|run| run.plan.strategy);
    md.spec.rollout.strategy() == stoker_api::deployment::Strategy::BlueGreen
        || pinned == Some(Strategy::BlueGreen)
}

/// Testers first, then everybody.
fn rules(md: &ModelDeployment, state: &State, traffic: &Traffic, given: &Given<'_>) -> Vec<RouteRule> {
    // Another salt in each run: other users are in the next canary.
    let salt = format!("{}/{}", md.uid().unwrap_or_default(), state.runs);
    let rule = |arms| RouteRule { salt: salt.clone(), arms, ..RouteRule::default() };
    let chosen = traffic.trial.iter().zip(&state.stable).flat_map(|(trial, stable)| {
        let arm = |revision: &String, ppm, fallback| Arm {
            revision: revision.clone(),
            ppm,
            fallback,
            refill: None,
        };
        let arms = vec![arm(trial, WHOLE, Some(stable.clone())), arm(stable, 0, None)];
        md.spec.traffic.testers.iter().map(move |header| (header, arms.clone()))
    });
    // Nobody takes over: a test that stable answers would be none.
    let preview = traffic.trial.iter().filter(|_| traffic.preview).map(|trial| {
        let arm = Arm { revision: trial.clone(), ppm: WHOLE, fallback: None, refill: None };
        RouteRule { preview: true, ..rule(vec![arm]) }
    });
    let chosen = chosen.map(|(header, arms)| RouteRule { headers: vec![header.clone()], ..rule(arms) });
    let mut rules: Vec<RouteRule> = preview.chain(chosen).collect();
    let arms = traffic.arms.iter().cloned().map(|Share { revision, ppm, fallback }| {
        let is_stable = state.stable.as_ref() == Some(&revision);
        let refill = traffic.refill.as_ref().filter(|_| is_stable).zip(whole(state, given));
        let refill = refill.map(|(refill, whole)| Refill {
            from: refill.from.clone(),
            whole,
            most_ppm: refill.most.saturating_mul(WHOLE / 100).min(WHOLE),
            bad_ppm: refill.bad_ppm.min(WHOLE),
        });
        Arm { revision, ppm, fallback, refill }
    });
    rules.push(RouteRule { unit: md.spec.traffic.sticky.clone(), ..rule(arms.collect()) });
    rules
}

fn mirrors(traffic: &Traffic) -> Vec<Mirror> {
    let shadows = traffic.shadow.iter().cloned();
    shadows.map(|shadow| Mirror { revision: shadow.revision, of: shadow.of, ppm: shadow.ppm }).collect()
}

/// Pods that the whole demand needs; none while nobody is served.
fn whole(state: &State, given: &Given<'_>) -> Option<u32> {
    let whole = state.stable.as_ref().map(|stable| state.whole(given.replicas, stable));
    whole.filter(|replicas| *replicas > 0)
}

/// In whole milliseconds: the CRD takes nothing below one.
fn latency_target_ms(md: &ModelDeployment) -> Option<u32> {
    let target = Duration::from(md.spec.slo.latency.as_ref()?.target);
    u32::try_from((target + Duration::from_micros(500)).as_millis()).ok()
}

fn detector(md: &ModelDeployment, state: &State, watched: &Watched, given: &Given<'_>) -> Detector {
    let target = md.spec.slo.latency.as_ref().map(|latency| latency.target.into());
    let learned = || md.status.as_ref().and_then(ModelDeploymentStatus::slow_above);
    Detector {
        revision: watched.revision.clone(),
        control: watched.control.clone(),
        alarm_log10: given.alarm_log10,
        slow_above_ms: to_millis(target.or_else(learned)),
        whole: state.shares.as_ref().and_then(|_| whole(state, given)),
        observe: md.spec.rollback.mode == RollbackMode::Observe,
    }
}

/// What a router must be able to do.
fn required(spec: &ModelRouteSpec) -> Vec<String> {
    let needs = [
        (abilities::MATCH, spec.rules.iter().any(|rule| !rule.headers.is_empty())),
        (abilities::PREVIEW, spec.preview),
        (abilities::STICKY, spec.rules.iter().any(|rule| rule.unit.is_some())),
        (abilities::MIRROR, !spec.mirrors.is_empty()),
        (abilities::REFILL, needs_refill(spec)),
        (abilities::SLEEP, spec.asleep.is_some()),
    ];
    needs.into_iter().filter(|(_, needed)| *needed).map(|(name, _)| name.to_owned()).collect()
}

/// Whether traffic moves, or would after a cut, as pods get ready.
fn needs_refill(spec: &ModelRouteSpec) -> bool {
    let mut arms = spec.rules.iter().flat_map(|rule| &rule.arms);
    arms.any(|arm| arm.refill.is_some()) || spec.detectors.iter().any(|detector| detector.whole.is_some())
}

/// What a table says about the state that made it: stable is the arm that others fall back to, or the one with most.
pub fn recover(route: &ModelRoute) -> Option<(String, u64)> {
    let arms = &route.spec.main_rule()?.arms;
    let stable = arms.iter().max_by_key(|arm| (arm.fallback.is_none(), arm.ppm))?;
    Some((stable.revision.clone(), route.spec.run))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stoker_decide::rollout::{Guard, Kind, Plan, Refill as Back, Run, Shares, Step};

    use super::*;

    fn md(spec: &serde_json::Value) -> ModelDeployment {
        serde_json::from_value(json!({
            "apiVersion": "stoker.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "m", "namespace": "team", "uid": "u"}, "spec": spec,
        }))
        .unwrap()
    }

    fn trying(kind: Kind) -> State {
        let plan = Plan { steps: vec![Step::new(kind, None)], ..Plan::default() };
        let run = Run { number: 2, candidate: "m-b".into(), step: 1, plan, ..Run::default() };
        State { stable: Some("m-a".into()), runs: 2, run: Some(run), ..State::default() }
    }

    fn table(md: &ModelDeployment, state: &State) -> ModelRouteSpec {
        let taken = [("lost.example.com".to_owned(), "older".to_owned())].into();
        let replicas = md.spec.replicas.into();
        let given = Given { taken: &taken, alarm_log10: 4.5, replicas: &replicas, asleep: None };
        let spec = route(md, state, &given).unwrap().spec;
        assert_eq!(spec.check().err(), None);
        spec
    }

    #[test]
    fn testers_get_the_candidate_at_any_weight_and_everybody_else_a_share() {
        let md = md(&json!({
            "model": {"uri": "configmap://m/m.onnx"},
            "slo": {"latency": {"target": "80ms"}},
            "rollback": {"mode": "Observe"},
            "traffic": {
                "hosts": ["lost.example.com", "kept.example.com"],
                "sticky": {"header": "x-user"},
                "match": [{"name": "x-tester", "value": "yes"}],
            },
        }));
        let canary = table(&md, &trying(Kind::Weight(10)));
        assert_eq!(canary.hosts, ["kept.example.com"]);
        assert_eq!(canary.requires, ["match", "sticky"]);
        assert_eq!((canary.rules[0].arms[0].revision.as_str(), canary.rules[0].arms[0].ppm), ("m-b", WHOLE));
        assert_eq!(canary.rules[1].arms.iter().map(|arm| arm.ppm).collect::<Vec<_>>(), [900_000, 100_000]);
        let watched = &canary.detectors[0];
        assert_eq!(
            (watched.revision.as_str(), watched.control.as_str(), watched.observe),
            ("m-b", "m-a", true)
        );
        assert_eq!((watched.slow_above_ms, watched.alarm_log10), (Some(80.0), 4.5));
        assert_eq!(canary.latency_target_ms, Some(80));

        let shadow = table(&md, &trying(Kind::Shadow { percent: 25, agreement: None }));
        assert_eq!(shadow.mirrors, [Mirror { revision: "m-b".into(), of: "m-a".into(), ppm: 250_000 }]);
        assert_eq!((shadow.detectors.len(), shadow.rules.len()), (0, 2), "who answers nobody harms nobody");

        let serving = table(&md, &State { stable: Some("m-a".into()), ..State::default() });
        assert_eq!((serving.rules.len(), serving.detectors.len()), (1, 0), "no candidate, nothing to test");
        assert_eq!(serving.latency_target_ms, Some(80), "pods keep to it outside a run as well");
    }

    #[test]
    fn a_preview_has_an_address_while_there_is_a_candidate_and_nobody_stands_in_for_it() {
        let spec = json!({
            "model": {"uri": "configmap://m/m.onnx"},
            "rollout": {"strategy": "BlueGreen"},
            "traffic": {"match": [{"name": "x-tester", "value": "yes"}]},
        });
        let mut state = trying(Kind::Analysis);
        state.run.as_mut().unwrap().plan.strategy = Strategy::BlueGreen;
        let previewed = table(&md(&spec), &state);
        assert_eq!(
            (previewed.preview, previewed.requires),
            (true, vec!["match".to_owned(), "preview".to_owned()])
        );
        let arms = |rule: &RouteRule| {
            rule.arms.iter().map(|arm| (arm.revision.clone(), arm.ppm)).collect::<Vec<_>>()
        };
        assert!(previewed.rules[0].preview && !previewed.rules[1].preview && !previewed.rules[2].preview);
        assert_eq!(arms(&previewed.rules[0]), [("m-b".to_owned(), WHOLE)]);
        assert_eq!(arms(&previewed.rules[2]), [("m-a".to_owned(), WHOLE)]);

        let serving = table(&md(&spec), &State { stable: Some("m-a".into()), ..State::default() });
        assert_eq!((serving.preview, serving.rules.len()), (true, 1), "the address is there, and refuses");
        let canary =
            table(&md(&json!({"model": {"uri": "configmap://m/m.onnx"}})), &trying(Kind::Weight(10)));
        assert!(!canary.preview && canary.rules.iter().all(|rule| !rule.preview));
    }

    #[test]
    fn pods_by_share_make_a_cut_and_a_way_back_follow_them() {
        let md = md(&json!({"model": {"uri": "configmap://m/m.onnx"}, "replicas": 5}));
        let canary = State { shares: Some(Shares::default()), ..trying(Kind::Weight(40)) };
        let canary = table(&md, &canary);
        assert_eq!((canary.detectors[0].whole, canary.requires), (Some(5), vec!["refill".to_owned()]));
        assert!(canary.rules[0].arms.iter().all(|arm| arm.refill.is_none()));

        let back = Back { from: "m-b".into(), most: 40, bad_ppm: 300_000 };
        let shares = Some(Shares { refill: Some(back), ..Shares::default() });
        let returning = table(&md, &State { stable: Some("m-a".into()), shares, ..State::default() });
        let refill = Refill { from: "m-b".into(), whole: 5, most_ppm: 400_000, bad_ppm: 300_000 };
        let arm = |revision: &str, ppm, fallback: Option<&str>, refill| Arm {
            revision: revision.into(),
            ppm,
            fallback: fallback.map(Into::into),
            refill,
        };
        assert_eq!(
            returning.rules[0].arms,
            [arm("m-a", WHOLE, None, Some(refill)), arm("m-b", 0, Some("m-a"), None)]
        );
        assert_eq!(returning.requires, ["refill"]);
        let full = table(&md, &trying(Kind::Weight(40)));
        assert_eq!((full.detectors[0].whole, full.requires.len()), (None, 0));
    }

    #[test]
    fn stable_can_be_read_from_every_table() {
        let md = md(&json!({"model": {"uri": "configmap://m/m.onnx"}}));
        let guard = Guard { step: 3, holdback: 1, ..Guard::default() };
        let previous = Some(("m-z".to_owned(), Duration::ZERO));
        let guarded =
            State { stable: Some("m-a".into()), previous, guard: Some(guard), runs: 7, ..State::default() };
        for state in
            [guarded, State { runs: 7, ..trying(Kind::Weight(99)) }, State { runs: 7, ..trying(Kind::Pause) }]
        {
            let (taken, replicas) = (BTreeMap::new(), 1.into());
            let given = Given { taken: &taken, alarm_log10: 6.0, replicas: &replicas, asleep: None };
            assert_eq!(recover(&route(&md, &state, &given).unwrap()), Some(("m-a".to_owned(), 7)));
        }
    }
}

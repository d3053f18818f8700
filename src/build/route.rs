//! The traffic table: a pure function of the spec and the state.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use stoker_api::ModelDeployment;
use stoker_api::route::{Arm, ModelRoute, ModelRouteSpec, RouteRule, SCHEMA};
use stoker_decide::rollout::{Plan, State};

use super::labels;

/// The table; none while there is no revision to send anything to.
pub fn route(md: &ModelDeployment, plan: &Plan, state: &State) -> Option<ModelRoute> {
    let shares = state.shares(plan);
    if shares.is_empty() {
        return None;
    }
    let arms = shares.into_iter().map(|share| Arm {
        revision: share.revision,
        ppm: share.ppm,
        fallback: share.fallback,
    });
    // Another salt in each run: other users are in the next canary.
    let salt = format!("{}/{}", md.uid().unwrap_or_default(), state.runs);
    let name = md.name_any();
    let spec = ModelRouteSpec {
        schema: SCHEMA,
        hosts: md.spec.traffic.hosts.clone(),
        run: state.runs,
        step: u32::try_from(state.step()).unwrap_or(u32::MAX),
        rules: vec![RouteRule { salt, arms: arms.collect(), ..RouteRule::default() }],
        ..ModelRouteSpec::default()
    };
    let mut route = ModelRoute::new(&name, spec);
    route.metadata = ObjectMeta {
        name: Some(name.clone()),
        labels: Some(labels::of_deployment(&name)),
        ..ObjectMeta::default()
    };
    Some(route)
}

/// What a table says about the state that made it: stable is the arm that others fall back to, or the only one.
pub fn recover(route: &ModelRoute) -> Option<(String, u64)> {
    let arms = &route.spec.main_rule()?.arms;
    let stable = arms.iter().filter(|arm| arm.fallback.is_none()).max_by_key(|arm| arm.ppm)?;
    Some((stable.revision.clone(), route.spec.run))
}

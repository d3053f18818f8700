//! `ModelRoute`: the table that routers serve, one for each ModelDeployment and of the same name.
//!
//! The operator writes its spec, a pure function of spec, revisions and status; every write carries the resourceVersion that
//! it was decided from. Routers order tables by (uid, generation). Routers write its status: the cuts that they made.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};
use stoker_decide::traffic::WHOLE;

/// The version of the table's form that this release writes.
pub const SCHEMA: u32 = 1;

/// Where the traffic of one ModelDeployment goes.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "stoker.dev",
    version = "v1alpha1",
    kind = "ModelRoute",
    namespaced,
    derive = "PartialEq",
    category = "stoker",
    status = "ModelRouteStatus",
    doc = "The traffic table of one ModelDeployment. Written by the operator, read by the routers of its namespace; never edited by hand.",
    printcolumn(name = "RUN", type_ = "integer", json_path = ".spec.run"),
    printcolumn(name = "STEP", type_ = "integer", json_path = ".spec.step"),
    printcolumn(name = "ARMS", type_ = "string", json_path = ".spec.rules[*].arms[*].revision"),
    printcolumn(name = "PPM", type_ = "string", json_path = ".spec.rules[*].arms[*].ppm"),
    printcolumn(name = "CUT", type_ = "string", json_path = ".status.cuts[*].revision"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ModelRouteSpec {
    /// Version of this form. A router that does not know it keeps serving its last good table and says so.
    #[schemars(range(min = 1))]
    pub schema: u32,
    /// Abilities that a router must have to serve this table as it is meant: see [`abilities`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 64)))]
    pub requires: Vec<String>,
    /// Hosts, besides those derived from the name, that reach the model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// The run that the table belongs to; counts are kept by (run, step, arm).
    pub run: u64,
    /// The step of the run.
    pub step: u32,
    /// How requests are split: the first rule whose headers a request has. The last one takes every request.
    #[schemars(length(min = 1, max = 8))]
    pub rules: Vec<RouteRule>,
    /// Copies of requests for revisions that answer nobody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub mirrors: Vec<Mirror>,
    /// Revisions that routers watch, and cut by themselves when they do harm.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub detectors: Vec<Detector>,
    /// The model has an address for previews, `<name>-preview`. Requests that come by it go by rules with `preview`, and by no other;
    /// without one they are refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub preview: bool,
    /// There are no pods, because there were no requests: the number of this sleep. Routers hold requests until their deadlines,
    /// and write the number to `status.wake`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asleep: Option<u64>,
    /// The latency target in milliseconds, where the spec has one: routers tell it to the pods with each request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 600_000))]
    pub latency_target_ms: Option<u32>,
}

/// Names of abilities in [`ModelRouteSpec::requires`]. A table names those without which it would be served in a wrong way; a
/// detector is none of them, since the operator looks as well.
pub mod abilities {
    /// Rules with headers.
    pub const MATCH: &str = "match";
    /// A unit other than the request.
    pub const STICKY: &str = "sticky";
    /// Copies of requests.
    pub const MIRROR: &str = "mirror";
    /// Traffic that moves as pods get ready.
    pub const REFILL: &str = "refill";
    /// A call for pods of a model that has none.
    pub const SLEEP: &str = "sleep";
    /// An address for previews.
    pub const PREVIEW: &str = "preview";
    /// All of them.
    pub const ALL: [&str; 6] = [MATCH, STICKY, MIRROR, REFILL, SLEEP, PREVIEW];
}

/// One way to split requests.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRule {
    /// Headers that a request must have, all of them; none: the rule takes every request. What goes by a rule with headers is
    /// no evidence for or against a revision: such requests are chosen, not drawn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub headers: Vec<HeaderMatch>,
    /// It takes requests that came by the address for previews, and those alone. They are no evidence either.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub preview: bool,
    /// What stays at one revision. Default: nothing, each request is drawn by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// Mixed into the hash that chooses the arm; differs for each run.
    pub salt: String,
    /// The revisions that share the traffic; their weights sum to 1,000,000.
    #[x_kube(validation = ("self.map(a, a.ppm).sum() == 1000000", "the weights of the arms must sum to 1000000"))]
    #[schemars(length(min = 1, max = 8))]
    pub arms: Vec<Arm>,
}

/// A header that a request must have.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// Name of the header, in lower case.
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = ("self.matches('^[a-z0-9!#$%&*+.^_|~-]+$') && !self.startsWith('stoker-')", "a header's name is lower case, and not one of the router's own"))]
    pub name: String,
    /// Its exact value.
    #[schemars(length(max = 1024))]
    pub value: String,
}

/// What stays at one revision while weights only grow: all requests of the same unit.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.header) != has(self.cookie)", "sticky: give either a header or a cookie"))]
pub struct Unit {
    /// The header that names the unit, in lower case, such as `x-user-id`. Requests without it are drawn one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = ("self.matches('^[a-z0-9!#$%&*+.^_|~-]+$') && !self.startsWith('stoker-')", "a header's name is lower case, and not one of the router's own"))]
    pub header: Option<String>,
    /// Name of a cookie. The router sets it, with a unit's id and never a revision, where a request has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = ("self.matches('^[A-Za-z0-9_-]+$')", "a cookie's name holds only letters, digits, - and _"))]
    pub cookie: Option<String>,
}

/// Copies of requests for a revision whose answers reach nobody.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// The revision that gets the copies.
    pub revision: String,
    /// The revision whose requests are copied, and whose answers are compared.
    pub of: String,
    /// Share of its requests that is copied, in parts per million.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub ppm: u32,
}

/// A revision that routers watch.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Detector {
    /// The revision.
    pub revision: String,
    /// The revision that it is compared with, and that takes over when it is cut. An arm of the last rule.
    pub control: String,
    /// Evidence of harm at which it is cut, as a power of ten. Follows from the declared budget.
    pub alarm_log10: f64,
    /// Milliseconds above which an answer counts against its revision, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_above_ms: Option<f64>,
    /// Ready pods of the control that the whole demand needs, where it may have fewer: a cut then moves traffic as they get ready,
    /// see [`Refill`]. Without it a cut moves everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub whole: Option<u32>,
    /// Report the alarm and cut nothing.
    #[serde(default)]
    pub observe: bool,
}

impl Detector {
    /// [`Detector::slow_above_ms`] as a time.
    pub fn slow_above(&self) -> Option<Duration> {
        let limit = Duration::try_from_secs_f64(self.slow_above_ms? / 1e3).ok()?;
        (!limit.is_zero()).then_some(limit)
    }
}

/// What routers did by themselves. Written on transitions only.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelRouteStatus {
    /// Revisions that get no traffic in a run, whatever the table says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["run".into(), "revision".into()]))]
    #[schemars(length(max = 16))]
    pub cuts: Vec<Cut>,
    /// The number of the sleep that a request came in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake: Option<u64>,
}

/// A router's decision that a revision gets no more traffic in this run. Only a higher run ends it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cut {
    /// The run.
    pub run: u64,
    /// The revision.
    pub revision: String,
    /// Why, with figures.
    #[schemars(length(max = 1024))]
    pub because: String,
    /// The router that saw it first.
    #[schemars(length(max = 253))]
    pub by: String,
    /// Its bad answers in parts per million, as that router counted them: how much harm it does while it keeps a rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub bad_ppm: Option<u32>,
    /// When, on that router's wall clock.
    pub at: Time,
}

/// One revision in a rule.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arm {
    /// The revision: also the name of the headless Service whose EndpointSlices list its pods.
    pub revision: String,
    /// Its share of the traffic, in parts per million.
    #[schemars(range(max = 1_000_000))]
    pub ppm: u32,
    /// The revision that takes the share while this one has no ready pod. Without one, requests are held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// It gets its share as its pods get ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refill: Option<Refill>,
}

/// A share that goes back to an arm as its pods get ready. How much is left with the other arm meanwhile is the rule of
/// [`stoker_decide::refill`], by the ready endpoints that a router sees.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refill {
    /// The arm of the same rule that keeps what the ready pods cannot take.
    pub from: String,
    /// Ready pods that the whole demand needs.
    #[schemars(range(min = 1))]
    pub whole: u32,
    /// Parts per million of the traffic that it keeps at most.
    #[schemars(range(max = 1_000_000))]
    pub most_ppm: u32,
    /// Its bad answers in parts per million.
    #[serde(default)]
    #[schemars(range(max = 1_000_000))]
    pub bad_ppm: u32,
}

/// Why a table cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Written by a newer operator.
    #[error("table schema {0} is newer than this router's {SCHEMA}; upgrade the router")]
    Schema(u32),
    /// Needs something that this router cannot do.
    #[error("the table requires {0:?}, which this router does not know; upgrade the router")]
    Requires(String),
    /// No rule, or one that takes every request before the last.
    #[error("the last of the {0} rules must take every request, and no other may")]
    Rules(usize),
    /// Weights are wrong.
    #[error("the weights of the arms sum to {0}, not to {WHOLE}")]
    Weights(u64),
    /// An arm twice, or a fallback or refill to nowhere.
    #[error(
        "arm {0:?} is there twice, or an arm falls back to it or is refilled from it and it is none of the others"
    )]
    Arms(String),
    /// A detector without its two arms, or a mirror of nothing.
    #[error("{0:?} is named by a detector or a mirror and is no arm of the last rule")]
    Stray(String),
}

impl ModelRouteSpec {
    /// The rule that takes every request that no other takes: its arms are what is compared.
    pub fn main_rule(&self) -> Option<&RouteRule> {
        self.rules.last()
    }

    /// Checks that this release can serve the table as it is meant.
    pub fn check(&self) -> Result<&RouteRule, TableError> {
        if self.schema > SCHEMA {
            return Err(TableError::Schema(self.schema));
        }
        if let Some(unknown) = self.requires.iter().find(|name| !abilities::ALL.contains(&name.as_str())) {
            return Err(TableError::Requires(unknown.clone()));
        }
        let Some((main, chosen)) = self.rules.split_last() else { return Err(TableError::Rules(0)) };
        if main.is_narrow() || !chosen.iter().all(RouteRule::is_narrow) {
            return Err(TableError::Rules(self.rules.len()));
        }
        for rule in &self.rules {
            rule.check()?;
        }
        let is_arm = |name: &String| main.arms.iter().any(|arm| arm.revision == *name);
        let watched = self.detectors.iter().flat_map(|detector| [&detector.revision, &detector.control]);
        let copied = self.mirrors.iter().map(|mirror| &mirror.of);
        let stray = watched.chain(copied).find(|name| !is_arm(name));
        stray.map_or(Ok(main), |name| Err(TableError::Stray(name.clone())))
    }
}

impl RouteRule {
    /// Whether it takes some requests only.
    fn is_narrow(&self) -> bool {
        self.preview || !self.headers.is_empty()
    }

    fn check(&self) -> Result<(), TableError> {
        let sum: u64 = self.arms.iter().map(|arm| u64::from(arm.ppm)).sum();
        if sum != u64::from(WHOLE) {
            return Err(TableError::Weights(sum));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = self.arms.iter().find(|arm| !names.insert(arm.revision.as_str())) {
            return Err(TableError::Arms(twice.revision.clone()));
        }
        let fallbacks = self.arms.iter().filter_map(|arm| arm.fallback.as_deref());
        let mut fallbacks = fallbacks.filter(|name| !names.contains(name));
        let refills = self
            .arms
            .iter()
            .filter_map(|arm| Some((arm.revision.as_str(), arm.refill.as_ref()?.from.as_str())));
        let mut refills = refills.filter(|(own, from)| own == from || !names.contains(from));
        let stray = fallbacks.next().or_else(|| refills.next().map(|(_, from)| from));
        stray.map_or(Ok(()), |name| Err(TableError::Arms(name.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(revision: &str, ppm: u32, fallback: Option<&str>) -> Arm {
        Arm { revision: revision.into(), ppm, fallback: fallback.map(Into::into), refill: None }
    }

    fn refilled(arm: Arm, from: &str) -> Arm {
        Arm { refill: Some(Refill { from: from.into(), whole: 5, most_ppm: 500_000, bad_ppm: 0 }), ..arm }
    }

    fn table(arms: Vec<Arm>) -> ModelRouteSpec {
        ModelRouteSpec { schema: SCHEMA, run: 1, rules: vec![rule(arms)], ..ModelRouteSpec::default() }
    }

    fn rule(arms: Vec<Arm>) -> RouteRule {
        RouteRule { salt: "uid/1".into(), arms, ..RouteRule::default() }
    }

    #[test]
    fn only_tables_that_can_be_served_as_meant_pass() {
        let good = table(vec![arm("a", 900_000, None), arm("b", 100_000, Some("a"))]);
        assert!(good.check().is_ok());
        let newer = ModelRouteSpec { schema: 2, ..good.clone() };
        assert_eq!(newer.check(), Err(TableError::Schema(2)));
        let needy = ModelRouteSpec { requires: vec!["teleport".into()], ..good.clone() };
        assert_eq!(needy.check(), Err(TableError::Requires("teleport".into())));
        let empty = ModelRouteSpec { rules: vec![], ..good };
        assert_eq!(empty.check(), Err(TableError::Rules(0)));
        let cases = [
            (vec![arm("a", 1, None)], TableError::Weights(1)),
            (vec![arm("a", 500_000, None), arm("a", 500_000, None)], TableError::Arms("a".into())),
            (vec![arm("a", 1_000_000, Some("b"))], TableError::Arms("b".into())),
            (vec![refilled(arm("a", 1_000_000, None), "b")], TableError::Arms("b".into())),
            (vec![refilled(arm("a", 1_000_000, None), "a")], TableError::Arms("a".into())),
        ];
        for (arms, error) in cases {
            assert_eq!(table(arms).check(), Err(error));
        }
    }

    #[test]
    fn the_last_rule_alone_takes_every_request() {
        let arms = vec![arm("a", 1_000_000, None)];
        let tester = HeaderMatch { name: "x-tester".into(), value: "yes".into() };
        let chosen = RouteRule { headers: vec![tester], ..rule(arms.clone()) };
        let with = |rules| ModelRouteSpec { rules, ..table(arms.clone()) };
        assert!(with(vec![chosen.clone(), rule(arms.clone())]).check().is_ok());
        assert_eq!(with(vec![rule(arms.clone()), chosen]).check(), Err(TableError::Rules(2)));
        assert_eq!(with(vec![rule(arms.clone()), rule(arms.clone())]).check(), Err(TableError::Rules(2)));
    }

    #[test]
    fn detectors_and_mirrors_are_about_arms() {
        let arms = vec![arm("a", 900_000, None), arm("b", 100_000, Some("a"))];
        let detector = |revision: &str, control: &str| Detector {
            revision: revision.into(),
            control: control.into(),
            alarm_log10: 6.0,
            slow_above_ms: None,
            whole: None,
            observe: false,
        };
        let watched = |detector| ModelRouteSpec { detectors: vec![detector], ..table(arms.clone()) };
        assert!(watched(detector("b", "a")).check().is_ok());
        assert_eq!(watched(detector("b", "c")).check(), Err(TableError::Stray("c".into())));
        let mirror = Mirror { revision: "c".into(), of: "a".into(), ppm: 1 };
        let copied = |mirror| ModelRouteSpec { mirrors: vec![mirror], ..table(arms.clone()) };
        assert!(copied(mirror.clone()).check().is_ok());
        assert_eq!(copied(Mirror { of: "c".into(), ..mirror }).check(), Err(TableError::Stray("c".into())));
    }
}

//! `ModelRoute`: the table that routers serve, one for each ModelDeployment and of the same name.
//!
//! The operator writes it, a pure function of spec, revisions and status; every write carries the resourceVersion that it
//! was decided from. Routers order tables by (uid, generation).

use std::collections::BTreeSet;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};
use stoker_decide::traffic::WHOLE;

/// The version of the table's form that this release writes.
pub const SCHEMA: u32 = 1;

/// Where the traffic of one ModelDeployment goes.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "stoker.dev",
    version = "v1alpha1",
    kind = "ModelRoute",
    namespaced,
    derive = "PartialEq",
    category = "stoker",
    doc = "The traffic table of one ModelDeployment. Written by the operator, read by the routers of its namespace; never edited by hand.",
    printcolumn(name = "RUN", type_ = "integer", json_path = ".spec.run"),
    printcolumn(name = "STEP", type_ = "integer", json_path = ".spec.step"),
    printcolumn(name = "ARMS", type_ = "string", json_path = ".spec.rules[*].arms[*].revision"),
    printcolumn(name = "PPM", type_ = "string", json_path = ".spec.rules[*].arms[*].ppm"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ModelRouteSpec {
    /// Version of this form. A router that does not know it keeps serving its last good table and says so.
    #[schemars(range(min = 1))]
    pub schema: u32,
    /// Abilities that a router must have to serve this table as it is meant. None exist yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// Hosts, besides those derived from the name, that reach the model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// The run that the table belongs to; counts are kept by (run, step, arm).
    pub run: u64,
    /// The step of the run.
    pub step: u32,
    /// How requests are split. One rule, for now.
    #[schemars(length(min = 1, max = 1))]
    pub rules: Vec<RouteRule>,
}

/// One way to split requests.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRule {
    /// Mixed into the hash that chooses the arm; differs for each run.
    pub salt: String,
    /// The revisions that share the traffic; their weights sum to 1,000,000.
    #[x_kube(validation = ("self.map(a, a.ppm).sum() == 1000000", "the weights of the arms must sum to 1000000"))]
    #[schemars(length(min = 1, max = 8))]
    pub arms: Vec<Arm>,
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
    /// Not one rule.
    #[error("the table has {0} rules; this router serves exactly one")]
    Rules(usize),
    /// Weights are wrong.
    #[error("the weights of the arms sum to {0}, not to {WHOLE}")]
    Weights(u64),
    /// An arm twice, or a fallback to nowhere.
    #[error("arm {0:?} is there twice, or is the fallback of an arm but not an arm itself")]
    Arms(String),
}

impl ModelRouteSpec {
    /// Checks that this release can serve the table as it is meant.
    pub fn check(&self) -> Result<&RouteRule, TableError> {
        if self.schema > SCHEMA {
            return Err(TableError::Schema(self.schema));
        }
        if let Some(unknown) = self.requires.first() {
            return Err(TableError::Requires(unknown.clone()));
        }
        let [rule] = self.rules.as_slice() else { return Err(TableError::Rules(self.rules.len())) };
        let sum: u64 = rule.arms.iter().map(|arm| u64::from(arm.ppm)).sum();
        if sum != u64::from(WHOLE) {
            return Err(TableError::Weights(sum));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = rule.arms.iter().find(|arm| !names.insert(arm.revision.as_str())) {
            return Err(TableError::Arms(twice.revision.clone()));
        }
        let stray =
            rule.arms.iter().filter_map(|arm| arm.fallback.as_deref()).find(|name| !names.contains(name));
        stray.map_or(Ok(rule), |name| Err(TableError::Arms(name.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(revision: &str, ppm: u32, fallback: Option<&str>) -> Arm {
        Arm { revision: revision.into(), ppm, fallback: fallback.map(Into::into) }
    }

    fn table(arms: Vec<Arm>) -> ModelRouteSpec {
        let rules = vec![RouteRule { salt: "uid/1".into(), arms }];
        ModelRouteSpec { schema: SCHEMA, requires: vec![], hosts: vec![], run: 1, step: 0, rules }
    }

    #[test]
    fn only_tables_that_can_be_served_as_meant_pass() {
        let good = table(vec![arm("a", 900_000, None), arm("b", 100_000, Some("a"))]);
        assert!(good.check().is_ok());
        let newer = ModelRouteSpec { schema: 2, ..good.clone() };
        assert_eq!(newer.check(), Err(TableError::Schema(2)));
        let needy = ModelRouteSpec { requires: vec!["mirror".into()], ..good.clone() };
        assert_eq!(needy.check(), Err(TableError::Requires("mirror".into())));
        let empty = ModelRouteSpec { rules: vec![], ..good };
        assert_eq!(empty.check(), Err(TableError::Rules(0)));
        let cases = [
            (vec![arm("a", 1, None)], TableError::Weights(1)),
            (vec![arm("a", 500_000, None), arm("a", 500_000, None)], TableError::Arms("a".into())),
            (vec![arm("a", 1_000_000, Some("b"))], TableError::Arms("b".into())),
        ];
        for (arms, error) in cases {
            assert_eq!(table(arms).check(), Err(error));
        }
    }
}

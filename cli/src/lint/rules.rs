//! The rules (CEL) of a CRD, evaluated by the evaluator that the project's own tests of these rules use.

use std::sync::LazyLock;

use kube::CustomResourceExt as _;
use kube_cel::{ErrorKind, RootContext, ValidationError, Validator, apply_defaults};
use serde_json::Value;
use stoker_api::{ModelDeployment, ModelRoute, ModelRouter};

use super::{Remark, VERSION};

/// The kinds of Stoker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ModelDeployment.
    Deployment,
    /// ModelRouter.
    Router,
    /// ModelRoute.
    Route,
}

static DEPLOYMENT: LazyLock<Value> = LazyLock::new(|| schema_of(&ModelDeployment::crd()));
static ROUTER: LazyLock<Value> = LazyLock::new(|| schema_of(&ModelRouter::crd()));
static ROUTE: LazyLock<Value> = LazyLock::new(|| schema_of(&ModelRoute::crd()));

impl Kind {
    /// By its name.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "ModelDeployment" => Some(Self::Deployment),
            "ModelRouter" => Some(Self::Router),
            "ModelRoute" => Some(Self::Route),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Deployment => "ModelDeployment",
            Self::Router => "ModelRouter",
            Self::Route => "ModelRoute",
        }
    }

    /// Its schema, with the rules in it.
    pub fn schema(self) -> &'static Value {
        match self {
            Self::Deployment => &DEPLOYMENT,
            Self::Router => &ROUTER,
            Self::Route => &ROUTE,
        }
    }
}

fn schema_of(
    crd: &k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
) -> Value {
    let crd = serde_json::to_value(crd).unwrap_or_default();
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema").cloned().unwrap_or_default()
}

/// An object with all that the API server sets where nothing is said.
pub fn defaulted(kind: Kind, object: &Value) -> Value {
    apply_defaults(kind.schema(), object)
}

/// What the rules of a kind say about an object.
pub fn check(kind: Kind, object: &Value) -> Vec<Remark> {
    let context = RootContext {
        api_version: VERSION.to_owned(),
        api_group: stoker_api::GROUP.to_owned(),
        kind: kind.name().to_owned(),
    };
    let object = defaulted(kind, object);
    match Validator::new().validate_with_context(kind.schema(), &object, None, Some(&context)) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.into_vec().into_iter().map(remark).collect(),
    }
}

fn remark(error: ValidationError) -> Remark {
    let ValidationError { rule, message, field_path, kind, .. } = error;
    let duration = rule.contains("duration(self)");
    match kind {
        // The message says what must be, and so what to do.
        ErrorKind::ValidationFailure => {
            // The field stands before the message already.
            let own = format!("{}: ", field_path.trim_start_matches("spec."));
            let message = message.strip_prefix(&own).unwrap_or(&message).to_owned();
            Remark::error("rule", field_path, message, "")
        }
        ErrorKind::EvaluationError if duration => Remark::error(
            "duration",
            field_path,
            "it is no duration",
            "write a number with its unit, such as 90s, 5m or 1h30m",
        ),
        _ => Remark::error(
            "rule",
            field_path,
            format!("the rule `{rule}` cannot be evaluated here: {message}"),
            "the API server decides: kubectl apply --dry-run=server",
        ),
    }
}

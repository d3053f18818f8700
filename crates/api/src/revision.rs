//! Revisions: what a `ControllerRevision` stores, and how a revision gets its name.
//!
//! A revision is what its pods need: model and runtime. Its name is a hash of a canonical form that leaves defaults out, so
//! that a new release with new fields finds the same names and starts no rollout.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::deployment::{Model, Runtime};

/// The version of the canonical form that this release writes.
pub const FORM: u32 = 1;

/// The immutable content of a revision, as stored in `ControllerRevision.data`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Version of the canonical form under which the name was made.
    pub form: u32,
    /// The model as the user wrote it.
    pub model: Model,
    /// The runtime as the user wrote it.
    #[serde(default)]
    pub runtime: Runtime,
    /// The digest that the pods check, given or resolved.
    pub digest: String,
    /// The whole pod template. An upgrade of the operator never changes it; a new default image comes with a new revision.
    pub template: PodTemplateSpec,
}

impl Snapshot {
    /// Whether the spec still asks for this revision, compared under the snapshot's own form.
    pub fn is_of(&self, model: &Model, runtime: &Runtime) -> bool {
        self.model == *model && self.runtime == *runtime
    }
}

/// Name of the revision of (model, runtime): `<deployment>-<10 hex digits>`, at most 51 characters.
pub fn name(deployment: &str, model: &Model, runtime: &Runtime) -> String {
    /// Field order is the canonical order; unset fields and defaults are left out by the types themselves.
    #[derive(Serialize)]
    struct Canonical<'a> {
        form: u32,
        model: &'a Model,
        runtime: &'a Runtime,
    }
    // Maps in these types are ordered (BTreeMap) and no number is a float, so the text is canonical.
    let text = serde_json::to_vec(&Canonical { form: FORM, model, runtime }).unwrap_or_default();
    let hash = hex::encode(Sha256::digest(&text));
    format!("{deployment}-{}", &hash[..10])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(uri: &str) -> Model {
        Model { uri: uri.into(), digest: None, secret: None }
    }

    #[test]
    fn the_name_is_the_same_in_every_release() {
        // A change here would start a rollout of everything at an upgrade of the operator.
        let name = name("digits", &model("configmap://digits/v1.onnx"), &Runtime::default());
        assert_eq!(name, "digits-f18e7272f1");
    }

    #[test]
    fn what_the_pods_need_changes_the_name() {
        let first = name("digits", &model("https://a/1"), &Runtime::default());
        assert_ne!(first, name("digits", &model("https://a/2"), &Runtime::default()));
        let image = Runtime { image: Some("x".into()), ..Runtime::default() };
        assert_ne!(first, name("digits", &model("https://a/1"), &image));
    }
}

//! The examples of `manifests/examples`, as they stand in the repository.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize as _;
use serde_json::Value;

/// A ModelDeployment of an example, with the file that it stands in.
#[derive(Debug)]
pub struct Example {
    /// The file.
    pub path: PathBuf,
    /// The whole object.
    pub object: Value,
}

/// All ModelDeployments of all examples.
pub fn model_deployments() -> Result<Vec<Example>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        for document in serde_yaml::Deserializer::from_str(&text) {
            let object = Value::deserialize(document).with_context(|| path.display().to_string())?;
            if object["kind"] == "ModelDeployment" {
                found.push(Example { path: path.clone(), object });
            }
        }
    }
    ensure!(found.len() > 3, "only {} ModelDeployments in {}", found.len(), folder.display());
    Ok(found)
}

//! A namespace for one test, so that tests run side by side and leave nothing behind.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;

use crate::{cluster, diagnosis};

/// Set to keep the namespaces of failed tests.
pub const KEEP: &str = "STOKER_E2E_KEEP";
/// Longer than any test needs; a test that hangs must not hang the run.
const LONGEST: Duration = Duration::from_secs(400);

/// A namespace that enforces the restricted Pod Security Standard: a pod that does not meet it cannot exist there.
pub struct TestNamespace {
    /// The cluster.
    pub client: Client,
    /// The namespace's name.
    pub name: String,
}

impl TestNamespace {
    /// Makes a namespace whose name begins with `prefix`.
    pub async fn create(client: Client, prefix: &str) -> Result<Self> {
        let namespace: Namespace = serde_json::from_value(json!({
            "metadata": {
                "generateName": format!("{prefix}-"),
                "labels": {
                    "pod-security.kubernetes.io/enforce": "restricted",
                    "stoker.dev/test": prefix,
                },
            },
        }))?;
        let api = Api::<Namespace>::all(client.clone());
        let made =
            api.create(&PostParams::default(), &namespace).await.context("creating the test's namespace")?;
        let name = made.metadata.name.ok_or_else(|| anyhow!("the new namespace has no name"))?;
        Ok(Self { client, name })
    }

    /// Files as a ConfigMap, for models below 1 MiB.
    pub async fn config_map(&self, name: &str, files: &[(&str, &[u8])]) -> Result<()> {
        let data =
            files.iter().map(|(key, bytes)| ((*key).to_owned(), k8s_openapi::ByteString(bytes.to_vec())));
        let mut object = ConfigMap { binary_data: Some(data.collect()), ..ConfigMap::default() };
        object.metadata.name = Some(name.to_owned());
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), &self.name);
        api.create(&PostParams::default(), &object)
            .await
            .with_context(|| format!("creating ConfigMap {name}"))?;
        Ok(())
    }

    /// A Secret of strings.
    pub async fn secret(&self, name: &str, values: &[(&str, &str)]) -> Result<()> {
        let values = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let mut object = Secret { string_data: Some(values.collect()), ..Secret::default() };
        object.metadata.name = Some(name.to_owned());
        let api = Api::<Secret>::namespaced(self.client.clone(), &self.name);
        api.create(&PostParams::default(), &object)
            .await
            .with_context(|| format!("creating Secret {name}"))?;
        Ok(())
    }

    /// Takes it away, with all that is in it. Does not wait for that.
    pub async fn delete(&self) {
        let api = Api::<Namespace>::all(self.client.clone());
        // The namespace controller finishes this by itself; a test does not wait for it.
        if let Err(error) = api.delete(&self.name, &DeleteParams::background()).await {
            #[expect(clippy::print_stderr, reason = "tests report there")]
            {
                eprintln!("namespace {} is left behind: {error}", self.name);
            }
        }
    }
}

/// Runs one test in a namespace of its own and takes the namespace away, whatever happens.
///
/// # Panics
/// With the error and all that explains it, when the test fails.
pub fn case(prefix: &str, body: impl AsyncFnOnce(&TestNamespace) -> Result<()>) {
    case_within(prefix, LONGEST, body);
}

/// As [`case`], for a test that may take as long as it is told.
///
/// # Panics
/// With the error and all that explains it, when the test fails.
#[expect(clippy::panic, reason = "this is how a test fails")]
pub fn case_within(prefix: &str, longest: Duration, body: impl AsyncFnOnce(&TestNamespace) -> Result<()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
    let outcome = runtime.block_on(async {
        let client = cluster::connect().await?;
        let namespace = TestNamespace::create(client, prefix).await?;
        let body = AssertUnwindSafe(async { body(&namespace).await }).catch_unwind();
        let outcome = match tokio::time::timeout(longest, body).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(anyhow!("the test panicked; its message stands above")),
            Err(_) => Err(anyhow!("the test did not end within {} s", longest.as_secs())),
        };
        let outcome = match outcome {
            Ok(()) => Ok(()),
            Err(error) => Err(anyhow!("{error:#}\n\n{}", diagnosis::of_namespace(&namespace).await)),
        };
        if outcome.is_ok() || std::env::var_os(KEEP).is_none() {
            namespace.delete().await;
        }
        outcome
    });
    if let Err(error) = outcome {
        panic!("{prefix}: {error:#}");
    }
}

//! What one run plays on: a namespace, a proxy, an operator, a ModelDeployment, and requests to it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use stoker_api::deployment::ModelDeploymentStatus;

use super::ground::Ground;
use crate::cluster::until;
use crate::load::ledger::Ledger;
use crate::load::{Load, Plan};
use crate::namespace::TestNamespace;
use crate::operator::{Operator, Settings};
use crate::proxy::Proxy;
use crate::subject::{PATIENCE, Subject};

/// Requests a second.
const RATE: u32 = 40;

/// A run's own corner of the cluster.
pub struct Stage<'a> {
    ground: &'a Ground,
    namespace: &'a TestNamespace,
    /// The ModelDeployment.
    pub subject: Subject<'a>,
    load: Option<Load>,
    ledger: Option<Ledger>,
}

impl<'a> Stage<'a> {
    /// For a ModelDeployment of a namespace; nothing is written yet.
    pub fn new(ground: &'a Ground, namespace: &'a TestNamespace) -> Self {
        let subject = Subject::new(namespace, "digits");
        Self { ground, namespace, subject, load: None, ledger: None }
    }

    /// Where a model of the demo is.
    pub fn uri(&self, file: &str) -> String {
        self.ground.uri(file)
    }

    /// Where files of this run go.
    pub fn folder(&self) -> Result<PathBuf> {
        let folder = self.ground.folder.join(&self.namespace.name);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(folder)
    }

    /// Starts an operator for this namespace that talks through `proxy`.
    pub fn operator(
        &self,
        name: &str,
        proxy: &Proxy,
        change: impl FnOnce(&mut Settings),
    ) -> Result<Operator> {
        let folder = self.folder()?;
        let kubeconfig = folder.join(format!("{name}.kubeconfig"));
        std::fs::write(&kubeconfig, proxy.kubeconfig())?;
        let mut settings = Settings::of(&self.namespace.name, name, kubeconfig, &folder);
        change(&mut settings);
        Operator::start(settings)
    }

    /// Begins to send real images through one of the routers.
    pub async fn begin_load(&mut self) -> Result<()> {
        let routers = until("a router is ready", PATIENCE, async || {
            Ok(self.ground.node.routers(&self.namespace.name).first().copied())
        });
        let plan = Plan::of(routers.await?, &self.namespace.name, &self.subject.name, RATE);
        self.load = Some(Load::start(plan)?);
        Ok(())
    }

    /// Whether only bright images are sent from now on; at first all are.
    pub fn only_bright(&self, yes: bool) {
        if let Some(load) = &self.load {
            load.only_bright(yes);
        }
    }

    /// Sends nothing more, and waits for what is under way.
    pub async fn end_load(&mut self) -> Result<()> {
        if let Some(load) = self.load.take() {
            self.ledger = Some(load.finish().await?);
        }
        Ok(())
    }

    /// What came of the requests, where any were sent.
    pub fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_ref()
    }

    /// The status now; none when the object is gone or has none yet.
    pub async fn status(&self) -> Result<Option<ModelDeploymentStatus>> {
        Ok(self.subject.api.get_opt(&self.subject.name).await?.and_then(|object| {
            // Of an earlier spec it says nothing about this one.
            let answered = object.status.as_ref().map(|status| status.observed_generation);
            let answers = answered == object.metadata.generation;
            object.status.filter(|_| answers)
        }))
    }

    /// Whether the object is gone.
    pub async fn is_gone(&self) -> Result<bool> {
        Ok(self.subject.api.get_opt(&self.subject.name).await?.is_none())
    }
}

/// Waits until an operator has written nothing for `quiet`.
pub async fn quiescent(proxy: &Proxy, quiet: Duration, deadline: Duration) -> Result<()> {
    let end = tokio::time::Instant::now() + deadline;
    let mut seen = proxy.writes().len();
    let mut since = tokio::time::Instant::now();
    while since.elapsed() < quiet {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = proxy.writes().len();
        if now != seen {
            (seen, since) = (now, tokio::time::Instant::now());
        }
        if tokio::time::Instant::now() > end {
            let last = proxy.writes().pop().map(|write| write.what);
            anyhow::bail!(
                "the operator does not come to rest within {} s; its last write: {last:?}",
                deadline.as_secs()
            );
        }
    }
    Ok(())
}

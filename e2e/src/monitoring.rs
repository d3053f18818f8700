//! The Prometheus and the Alertmanager that `e2e/monitoring/up` started: alerts that fire when a test wants it, silences, queries.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};

use crate::cluster::until;
use crate::process::Process;

/// Where `e2e/monitoring/up` put their files.
const FOLDER: &str = "STOKER_E2E_MONITORING";
/// The node's address, at which they listen.
const NODE: &str = "10.88.0.1";

/// A Prometheus and its Alertmanager.
pub struct Monitoring {
    folder: PathBuf,
    prometheus: String,
    alertmanager: String,
    http: reqwest::Client,
}

/// An alert that fires from the time on at which its rule is read.
pub struct Alert<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a [(&'a str, &'a str)],
}

impl Monitoring {
    /// The one that all tests share.
    pub fn shared() -> Result<Self> {
        Self::at("", 19090, 19093)
    }

    /// The one that a test starts and stops itself.
    pub fn own() -> Result<Self> {
        Self::at("own", 19190, 19193)
    }

    fn at(below: &str, prometheus: u16, alertmanager: u16) -> Result<Self> {
        let folder = std::env::var_os(FOLDER).with_context(|| {
            format!("{FOLDER} is not set: `e2e/run` sets it, after `e2e/monitoring/up` on a local cluster")
        })?;
        rustls::crypto::ring::default_provider().install_default().ok();
        Ok(Self {
            folder: PathBuf::from(folder).join(below),
            prometheus: format!("http://{NODE}:{prometheus}"),
            alertmanager: format!("http://{NODE}:{alertmanager}"),
            http: reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?,
        })
    }

    /// Starts `prometheus` or `alertmanager` of its own, and waits until it answers.
    pub async fn start(&self, what: &str) -> Result<Process> {
        let program = self.folder.join(format!("{what}.sh"));
        let log = self.folder.join(format!("{what}.log"));
        let path = [("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned())];
        let process = Process::start(&program, &[] as &[&str], &path, &log)?;
        let address = if what == "prometheus" { &self.prometheus } else { &self.alertmanager };
        let ready = format!("{address}/-/ready");
        until(&format!("{what} is ready ({})", log.display()), Duration::from_mins(1), async || {
            let answer = self.http.get(&ready).send().await.context("not ready")?;
            Ok(answer.status().is_success().then_some(()))
        })
        .await?;
        Ok(process)
    }

    /// Makes exactly these alerts fire on behalf of `owner` (a test's namespace); none: those of before end.
    pub async fn fire(&self, owner: &str, alerts: &[Alert<'_>]) -> Result<()> {
        let rules: Vec<Value> = alerts
            .iter()
            .map(|alert| {
                let labels: serde_json::Map<_, _> =
                    alert.labels.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
                json!({"alert": alert.name, "expr": "vector(1)", "labels": labels})
            })
            .collect();
        let file = self.folder.join("rules").join(format!("{owner}.yaml"));
        if rules.is_empty() {
            std::fs::remove_file(&file).ok();
        } else {
            // JSON is YAML.
            let groups = json!({"groups": [{"name": owner, "rules": rules}]});
            std::fs::write(&file, groups.to_string()).with_context(|| file.display().to_string())?;
        }
        let answer = self.http.post(format!("{}/-/reload", self.prometheus)).send().await?;
        ensure!(answer.status().is_success(), "reload: {}", answer.text().await?);
        Ok(())
    }

    /// Silences alerts with this label, and returns the silence's id.
    pub async fn silence(&self, label: &str, value: &str) -> Result<String> {
        let now = Timestamp::now();
        let silence = json!({
            "matchers": [{"name": label, "value": value, "isRegex": false, "isEqual": true}],
            "startsAt": now.to_string(),
            "endsAt": (now + 1.hour()).to_string(),
            "createdBy": "e2e",
            "comment": "a test",
        });
        let answer =
            self.http.post(format!("{}/api/v2/silences", self.alertmanager)).json(&silence).send().await?;
        let status = answer.status();
        let body: Value = answer.json().await?;
        ensure!(status.is_success(), "silence: {body}");
        Ok(body["silenceID"].as_str().unwrap_or_default().to_owned())
    }

    /// Ends a silence.
    pub async fn unsilence(&self, id: &str) -> Result<()> {
        let answer = self.http.delete(format!("{}/api/v2/silence/{id}", self.alertmanager)).send().await?;
        ensure!(answer.status().is_success(), "the silence does not end: {}", answer.text().await?);
        Ok(())
    }

    /// The values of an expression by now.
    pub async fn query(&self, expr: &str) -> Result<Vec<Value>> {
        let url = format!("{}/api/v1/query", self.prometheus);
        let answer: Value = self.http.get(url).query(&[("query", expr)]).send().await?.json().await?;
        let result = answer.pointer("/data/result").and_then(Value::as_array);
        result.cloned().with_context(|| format!("{expr}: {answer}"))
    }
}

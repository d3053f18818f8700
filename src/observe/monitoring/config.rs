//! Which monitoring systems there are: a file of the operator's own, never a namespaced object.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// How long an answer may take where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Providers by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration<P>(BTreeMap<String, P>);

impl<P> Default for Configuration<P> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// Why there is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// No file, or no right to read it.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// Not of the form that is wanted.
    #[error("{0}")]
    Malformed(String),
    /// Two of one name.
    #[error("provider {0} stands there twice")]
    Twice(String),
    /// A provider cannot be used.
    #[error("provider {0}: {1}")]
    Unusable(String, String),
}

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    providers: Vec<Settings>,
}

/// One provider, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// What objects call it.
    pub name: String,
    /// The Prometheus, or what answers in its place (Thanos, Mimir, `VictoriaMetrics`).
    pub prometheus: Endpoint,
    /// The Alertmanager that knows which alerts are silenced.
    #[serde(default)]
    pub alertmanager: Option<Endpoint>,
    /// The label that holds the namespace of whatever a series is about. Queries read only series that have the ModelDeployment's
    /// own in it. Empty: they read all.
    #[serde(default = "namespace_label")]
    pub namespace_label: String,
}

/// Where a server is, and how it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// Such as `http://prometheus.monitoring:9090`.
    pub address: String,
    /// A file with a bearer token; it is read for each question.
    #[serde(default)]
    pub bearer_token_file: Option<PathBuf>,
    /// A file with the certificates that its own is signed by, as PEM. Needed for `https`.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// How long an answer may take, such as `5s`.
    #[serde(default)]
    pub timeout: Option<kube::core::Duration>,
}

impl Endpoint {
    /// How long an answer may take: 100 ms to a minute.
    pub fn timeout(&self) -> Duration {
        let timeout = self.timeout.map_or(TIMEOUT, Duration::from);
        timeout.clamp(Duration::from_millis(100), Duration::from_mins(1))
    }
}

fn namespace_label() -> String {
    "namespace".to_owned()
}

impl Configuration<Settings> {
    /// Reads the file's text.
    pub fn read(text: &str) -> Result<Self, ConfigurationError> {
        let file: File =
            serde_saphyr::from_str(text).map_err(|error| ConfigurationError::Malformed(error.to_string()))?;
        let mut all = BTreeMap::new();
        for settings in file.providers {
            let name = settings.name.clone();
            let label = &settings.namespace_label;
            if !label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') {
                let why = format!("namespaceLabel {label:?} is no label of Prometheus");
                return Err(ConfigurationError::Unusable(name, why));
            }
            if all.insert(name.clone(), settings).is_some() {
                return Err(ConfigurationError::Twice(name));
            }
        }
        Ok(Self(all))
    }

    /// Makes what asks each provider.
    pub fn make<P>(self, mut make: impl FnMut(Settings) -> P) -> Configuration<P> {
        Configuration(self.0.into_iter().map(|(name, settings)| (name, make(settings))).collect())
    }
}

impl<P> Configuration<P> {
    /// A provider.
    pub fn get(&self, name: &str) -> Option<&P> {
        self.0.get(name)
    }

    /// Their names.
    pub fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_are_read_with_their_defaults() {
        let text = "
providers:
  - name: prometheus
    prometheus: {address: 'http://prometheus.monitoring:9090'}
  - name: business
    namespaceLabel: team
    prometheus: {address: 'https://thanos.example', bearerTokenFile: /token, caFile: /ca.pem, timeout: 10s}
    alertmanager: {address: 'http://alertmanager.monitoring:9093', timeout: 1h}
";
        let read = Configuration::read(text).unwrap();
        assert_eq!(read.names(), ["business", "prometheus"]);
        let first = read.get("prometheus").unwrap();
        assert_eq!((first.namespace_label.as_str(), first.alertmanager.is_none()), ("namespace", true));
        assert_eq!(first.prometheus.timeout(), TIMEOUT);
        let second = read.get("business").unwrap();
        assert_eq!(second.prometheus.timeout(), Duration::from_secs(10));
        assert_eq!(second.alertmanager.as_ref().unwrap().timeout(), Duration::from_mins(1));
        assert_eq!(Configuration::read("{}").unwrap().names(), Vec::<&str>::new());
    }

    #[test]
    fn what_is_wrong_with_the_file_is_said() {
        let cases = [
            ("providers: [{name: a}]", "prometheus"),
            ("providers: [{name: a, prometheus: {adress: x}}]", "adress"),
            ("provider: []", "provider"),
            (
                "providers: [{name: a, prometheus: {address: x}}, {name: a, prometheus: {address: y}}]",
                "provider a stands there twice",
            ),
            (
                "providers: [{name: a, namespaceLabel: 'x\"}', prometheus: {address: x}}]",
                "is no label of Prometheus",
            ),
            (": :", ""),
        ];
        for (text, sentence) in cases {
            let error = Configuration::read(text).unwrap_err().to_string();
            assert!(error.contains(sentence), "{text}: {error}");
        }
    }
}

//! One monitoring system: how it is asked, for how long, and how much it may answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use reqwest::redirect::Policy;
use reqwest::{Certificate, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use stoker_decide::text::cut;
use stoker_edge::metrics::LatencyHistogram;

use super::config::{Configuration, Endpoint, Settings};
use super::silence::{self, Silence};
use super::turns::Turns;

/// Longest answer about one metric that is read, in bytes: a query for all series of a cluster must not fill the operator's memory.
const LONGEST: usize = 1 << 20;
/// Longest answer about all alerts, or all silences, in bytes: some 40,000 of them.
const LONGEST_OF_ALL: usize = 16 << 20;
/// Longest error of a provider that is passed on, in bytes.
const LONGEST_ERROR: usize = 300;

/// A provider that can be asked.
pub struct Provider {
    /// What it was made from.
    pub settings: Settings,
    prometheus: Server,
    alertmanager: Option<Server>,
    /// Questions of metrics wait here: alerts do not.
    turns: Turns,
}

/// One address with a client of its own.
struct Server {
    endpoint: Endpoint,
    /// The content of `caFile`, which may change.
    authorities: Option<Vec<u8>>,
    client: reqwest::Client,
}

#[derive(Deserialize)]
struct Answer<T> {
    data: Data<T>,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data<T> {
    Vector(Vec<T>),
    Scalar((f64, String)),
}

/// A series without its labels.
#[derive(Deserialize)]
struct Value {
    value: (f64, String),
}

/// A series without its value.
#[derive(Deserialize)]
struct Labels {
    #[serde(default)]
    metric: BTreeMap<String, String>,
}

/// Counts what is asked.
#[derive(Clone, Debug, Default)]
pub struct Questions {
    asked: Family<Outcome, Counter>,
    duration: Family<Of, LatencyHistogram>,
    pub(super) waiting: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    provider: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    provider: String,
}

impl Questions {
    /// Shows the figures.
    pub fn register(&self, registry: &mut Registry) {
        let counted = "Questions to monitoring systems by outcome";
        registry.register("stoker_operator_provider_questions", counted, self.asked.clone());
        let timed = "Duration of questions to monitoring systems";
        registry.register("stoker_operator_provider_question_seconds", timed, self.duration.clone());
        let waiting = "Questions to monitoring systems that wait for their turn";
        registry.register("stoker_operator_provider_questions_waiting", waiting, self.waiting.clone());
    }

    /// A question was answered, or not.
    pub(super) fn count(&self, provider: String, outcome: &'static str, took: Duration) {
        self.duration.get_or_create(&Of { provider: provider.clone() }).record(took);
        self.asked.get_or_create(&Outcome { provider, outcome }).inc();
    }
}

impl Provider {
    /// The provider of before, where its settings and certificates are the same: its connections go on.
    pub fn keep_or_make(
        settings: Settings,
        before: &Configuration<Result<Arc<Self>, String>>,
    ) -> Result<Arc<Self>, String> {
        let name = settings.name.clone();
        Self::made(settings, before).map_err(|why| format!("provider {name} of the configuration: {why}"))
    }

    fn made(
        settings: Settings,
        before: &Configuration<Result<Arc<Self>, String>>,
    ) -> Result<Arc<Self>, String> {
        let authorities = |endpoint: &Endpoint| {
            let path = endpoint.ca_file.as_ref();
            let read = |path: &PathBuf| {
                std::fs::read(path).map_err(|error| format!("caFile {}: {error}", path.display()))
            };
            path.map(read).transpose()
        };
        let first = authorities(&settings.prometheus)?;
        let second = settings.alertmanager.as_ref().map_or(Ok(None), authorities)?;
        let known = before.get(&settings.name).and_then(|known| known.as_ref().ok());
        let same = known.filter(|known| {
            let alertmanager = known.alertmanager.as_ref().map(|server| &server.authorities);
            known.settings == settings
                && known.prometheus.authorities == first
                && alertmanager.is_none_or(|known| *known == second)
        });
        if let Some(known) = same {
            return Ok(Arc::clone(known));
        }
        let prometheus = Server::new(&settings.prometheus, first)?;
        let alertmanager =
            settings.alertmanager.as_ref().map(|endpoint| Server::new(endpoint, second)).transpose()?;
        Ok(Arc::new(Self { settings, prometheus, alertmanager, turns: Turns::default() }))
    }

    /// The values of an expression of a namespace by now, of at most two series: one is what is wanted. Waits for its turn.
    pub async fn values(
        &self,
        namespace: &str,
        query: &str,
        questions: &Questions,
    ) -> Result<Vec<f64>, String> {
        questions.waiting.inc();
        let turn = self.turns.take(namespace).await;
        questions.waiting.dec();
        let _turn = turn.map_err(|why| format!("provider {}: {why}", self.settings.name))?;
        let found = match self.ask::<Value>(query, LONGEST, questions).await? {
            Data::Scalar((_, value)) => number(&value).map(|value| vec![value]),
            Data::Vector(all) => all.iter().map(|one| number(&one.value.1)).collect(),
        };
        found.map_err(|why| format!("provider {}: {why}", self.settings.name))
    }

    /// The labels of all series of an expression by now.
    pub async fn labels(
        &self,
        query: &str,
        questions: &Questions,
    ) -> Result<Vec<BTreeMap<String, String>>, String> {
        match self.ask::<Labels>(query, LONGEST_OF_ALL, questions).await? {
            Data::Scalar(_) => Ok(Vec::new()),
            Data::Vector(all) => Ok(all.into_iter().map(|one| one.metric).collect()),
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        query: &str,
        longest: usize,
        questions: &Questions,
    ) -> Result<Data<T>, String> {
        let ask = async {
            let (server, timeout) = (&self.prometheus, self.prometheus.endpoint.timeout());
            let address = &server.endpoint.address;
            let client = prometheus_http_query::Client::from(server.client.clone(), address)
                .map_err(|error| format!("the address {address} of the configuration: {error}"))?;
            let millis = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
            let mut question = client.query(query).timeout(millis);
            if let Some(token) = server.token()? {
                question = question.header(reqwest::header::AUTHORIZATION, token);
            }
            let response =
                question.get_raw().await.map_err(|error| server.trouble(&stoker_edge::causes(&error)))?;
            let answer: Answer<T> = server.read(response, longest, prometheus_error).await?;
            // Of a part of all stores nothing can be concluded. What is no more than advice about the query is let pass.
            match answer.warnings.iter().find(|warning| !warning.starts_with("PromQL info")) {
                Some(warning) => Err(format!("its answer is incomplete: {}", cut(warning, LONGEST_ERROR))),
                None => Ok(answer.data),
            }
        };
        self.counted(questions, self.prometheus.endpoint.timeout(), ask).await
    }

    /// The silences that hold now; none where there is no Alertmanager. It keeps them on its disk, and alerts nowhere: so silences are
    /// what is asked for, and not which alerts they hold back.
    pub async fn silences(&self, questions: &Questions) -> Result<Option<Vec<Silence>>, String> {
        let Some(server) = &self.alertmanager else { return Ok(None) };
        let ask = async {
            let url = format!("{}/api/v2/silences", server.endpoint.address.trim_end_matches('/'));
            let mut question = server.client.get(url);
            if let Some(token) = server.token()? {
                question = question.header(reqwest::header::AUTHORIZATION, token);
            }
            let response =
                question.send().await.map_err(|error| server.trouble(&stoker_edge::causes(&error)))?;
            let all: Vec<silence::Told> =
                server.read(response, LONGEST_OF_ALL, |body| cut(body, LONGEST_ERROR).to_owned()).await?;
            Ok(Some(all.into_iter().filter_map(Silence::active).collect()))
        };
        self.counted(questions, server.endpoint.timeout(), ask).await
    }

    /// How long an answer of Prometheus may take.
    pub fn timeout(&self) -> Duration {
        self.prometheus.endpoint.timeout()
    }

    /// Waits for an answer as long as it may take, and counts how it ended.
    async fn counted<T>(
        &self,
        questions: &Questions,
        timeout: Duration,
        ask: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        let (provider, started) = (self.settings.name.clone(), Instant::now());
        let (outcome, result) = match tokio::time::timeout(timeout, ask).await {
            Ok(Ok(value)) => ("ok", Ok(value)),
            Ok(Err(why)) => ("failed", Err(format!("provider {provider}: {why}"))),
            Err(_) => {
                let why = format!("provider {provider}: no answer within {} s", timeout.as_secs_f64());
                ("timed_out", Err(why))
            }
        };
        questions.count(provider, outcome, started.elapsed());
        result
    }
}

impl Server {
    fn new(endpoint: &Endpoint, authorities: Option<Vec<u8>>) -> Result<Self, String> {
        let address = &endpoint.address;
        let url = reqwest::Url::parse(address).map_err(|error| format!("address {address:?}: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(format!("address {address:?} must be http://host:port or https://host:port"));
        }
        stoker_edge::tls::install_provider();
        let mut client = reqwest::Client::builder()
            // An answer from elsewhere is none of the one that was configured.
            .redirect(Policy::none())
            .no_proxy();
        if authorities.is_none() && url.scheme() == "https" {
            return Err(format!(
                "address {address}: https needs caFile, the certificates that it is signed by"
            ));
        }
        let certificates = match &authorities {
            Some(pem) => Certificate::from_pem_bundle(pem).map_err(|error| format!("caFile: {error}"))?,
            None => Vec::new(),
        };
        client = client.tls_certs_only(certificates);
        let client = client.build().map_err(|error| stoker_edge::causes(&error))?;
        Ok(Self { endpoint: endpoint.clone(), authorities, client })
    }

    /// The value of the header `authorization`; the file may have changed.
    fn token(&self) -> Result<Option<reqwest::header::HeaderValue>, String> {
        let Some(path) = &self.endpoint.bearer_token_file else { return Ok(None) };
        let trouble = |why: String| format!("bearerTokenFile {}: {why}", path.display());
        let token = std::fs::read_to_string(path).map_err(|error| trouble(error.to_string()))?;
        let value = format!("Bearer {}", token.trim()).parse();
        let mut value: reqwest::header::HeaderValue =
            value.map_err(|_| trouble("it holds what cannot stand in a header".into()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn trouble(&self, why: &str) -> String {
        format!("{} cannot be asked: {}", self.endpoint.address, cut(why, LONGEST_ERROR))
    }

    /// Reads an answer of bounded length.
    async fn read<T: DeserializeOwned>(
        &self,
        mut response: Response,
        longest: usize,
        error: impl Fn(&str) -> String,
    ) -> Result<T, String> {
        let status = response.status();
        let mut body = Vec::new();
        while let Some(piece) =
            response.chunk().await.map_err(|error| self.trouble(&stoker_edge::causes(&error)))?
        {
            if body.len() + piece.len() > longest {
                return Err(format!("its answer is longer than {} MiB", longest >> 20));
            }
            body.extend_from_slice(&piece);
        }
        if !status.is_success() {
            return Err(format!(
                "{} answers {status}: {}",
                self.endpoint.address,
                error(&String::from_utf8_lossy(&body))
            ));
        }
        serde_json::from_slice(&body)
            .map_err(|error| format!("{} answers what is not understood: {error}", self.endpoint.address))
    }
}

/// The sentence in an error of Prometheus.
fn prometheus_error(body: &str) -> String {
    #[derive(Deserialize)]
    struct Failure {
        error: String,
    }
    let sentence = serde_json::from_str::<Failure>(body).map(|failure| failure.error);
    cut(sentence.as_deref().unwrap_or(body), LONGEST_ERROR).to_owned()
}

/// A value, as Prometheus writes it: `NaN`, `+Inf` and `-Inf` too.
fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("the value {:?} is no number", cut(text, 64)))
}

#[cfg(test)]
mod tests;

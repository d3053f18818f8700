//! The command line. Everything is checked before a port is bound; what is wrong here ends with exit code 64.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use stoker_decide::address::Network;

use crate::artifact::{Digest, Location};
use crate::device::Device;

/// Serves ONNX models behind the Open Inference Protocol v2.
///
/// `stoker-server MODEL.onnx... [OPTION]...` is short for `serve` with the path or URI of each model and the name of its file.
#[derive(Debug, Parser)]
#[command(name = "stoker-server", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Loads a model, or several, and serves them.
    Serve(Box<Serve>),
    /// Prints the digest of a model, for pinning it; also the termination message.
    Resolve(Resolve),
    /// Puts a model into a folder, for a server of another kind, and prints its path.
    Fetch(Fetch),
}

/// Settings of `serve`.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Name of the model in URLs and answers.
    #[arg(long, value_parser = model_name, required_unless_present = "model", requires = "model_uri")]
    pub model_name: Option<String>,
    /// The artifact: https://host/path, http://host/path, s3://bucket/key, gs://bucket/object, az://account/container/blob or
    /// file:///path.
    #[arg(long, required_unless_present = "model", requires = "model_name")]
    pub model_uri: Option<Location>,
    /// What the artifact must be, `sha256:<64 hex digits>`. Without it the digest is logged and not checked.
    #[arg(long, requires = "model_uri")]
    pub digest: Option<Digest>,
    /// A model by name and URI, in the place of the three above or beside them. `@sha256:<64 hex digits>` behind the URI says
    /// what the artifact must be. May be given several times; the other settings hold for each of the models, but for bounds of
    /// bodies and connections together, which are of the process.
    #[arg(long, value_name = "NAME=URI[@DIGEST]", value_parser = named)]
    pub model: Vec<Named>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap shows a doc comment here as the heading of the command")]
    pub access: Access,
    /// Address of the Open Inference Protocol.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, default_value = "0.0.0.0:9090")]
    pub metrics_listen: SocketAddr,
    /// Where the models run: cpu, cuda or cuda:N, wgpu or wgpu:N. N counts GPUs from 0; for wgpu those that are cards of their own,
    /// and without N it takes the best one that it finds. GPUs need a program that was built with the feature `cuda` or `wgpu`.
    // As a variable for the same reason as STOKER_ALLOW_NETWORKS.
    #[arg(long, default_value = "cpu", env = "STOKER_DEVICE", value_parser = Device::parse)]
    pub device: Device,
    /// Threads for connections and for the models; default: the CPUs that this process may use.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Threads that one run of the model may use; default: 1, so that there are as many runs at a time as --threads.
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads_per_run: u16,
    /// Largest request body.
    #[arg(long, default_value = "32Mi", value_parser = bytes)]
    pub max_body: u64,
    /// Bytes of bodies of requests and of answers that are in the process at a time; above, 503. Answers over gRPC do not count.
    #[arg(long, default_value = "128Mi", value_parser = bytes)]
    pub max_body_total: u64,
    /// Most rows that run as one batch; 1 switches batching off.
    #[arg(long, default_value = "64", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub max_batch: u32,
    /// How long an idle thread may hold requests back so that others can join their batch.
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub max_delay: Duration,
    /// The time within which answers must come, from the head of the request. It decides how large batches are; while there is more
    /// work than can be done in time, requests whose answers would be late are refused with 503. The router's header stoker-latency-target is above it. Without both,
    /// requests wait for as long as --request-timeout allows.
    #[arg(long, value_parser = target)]
    pub latency_target: Option<Duration>,
    /// Requests that wait for the model at a time; above, 503.
    #[arg(long, default_value = "1024", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub queue: u32,
    /// Memory for answers that are given again to identical requests, such as 64Mi; 0: none are kept.
    #[arg(long, default_value = "0", value_parser = bytes_or_none)]
    pub cache: u64,
    /// Answers are given again for at most this long, and at least nine tenths of it.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub cache_ttl: Duration,
    /// Whether confidence and classes of a sample of the predictions are counted.
    #[arg(long, default_value = "on", value_enum)]
    pub prediction_metrics: Switch,
    /// Time from the head of a request to its answer; above, 504.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub request_timeout: Duration,
    /// Time between SIGTERM and the close of the port: routers learn meanwhile that this pod is not ready.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub drain_delay: Duration,
    /// Time that requests then have to finish.
    #[arg(long, default_value = "25s", value_parser = humantime::parse_duration)]
    pub drain_timeout: Duration,
    /// Whether all requests come through Stoker's router, as in the operator's pods: what the router's headers say is then
    /// believed. Nobody else may reach the port.
    // As a variable for the same reason as STOKER_ALLOW_NETWORKS.
    #[arg(long, env = "STOKER_BEHIND_ROUTER", value_parser = BoolishValueParser::new())]
    pub behind_router: bool,
    /// Connections at a time; above, 503.
    #[arg(long, default_value = "10000", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// It is done.
    On,
    /// It is not.
    Off,
}

/// Settings of `resolve`.
#[derive(Debug, Clone, Args)]
pub struct Resolve {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap shows a doc comment here as the heading of the command")]
    pub source: Source,
}

/// Settings of `fetch`.
#[derive(Debug, Clone, Args)]
pub struct Fetch {
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap shows a doc comment here as the heading of the command")]
    pub source: Source,
    /// What the artifact must be, `sha256:<64 hex digits>`; `resolve` prints it.
    #[arg(long)]
    pub digest: Digest,
    /// Folder that the artifact goes to, under its own file name. It must be there.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
}

/// Where the artifact is and how to get it.
#[derive(Debug, Clone, Args)]
pub struct Source {
    /// The artifact: https://host/path, http://host/path, s3://bucket/key, gs://bucket/object, az://account/container/blob or
    /// file:///path.
    #[arg(long)]
    pub model_uri: Location,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap shows a doc comment here as the heading of the command")]
    pub access: Access,
}

/// How to get artifacts.
#[derive(Debug, Clone, Args)]
pub struct Access {
    /// Folder with a file for each part of the credentials. http(s): `token`, or `username` and `password`; s3: `accessKeyId`,
    /// `secretAccessKey`, `sessionToken`, `region`, `endpoint`; gs: `serviceAccount`; az: `accountKey` or `sasToken`, `endpoint`.
    #[arg(long)]
    pub credentials: Option<PathBuf>,
    /// A network that artifacts may come from although it is not public, such as 10.0.0.0/8. May be given several times, or with
    /// commas between the networks. Those of the command line are in the place of the environment's.
    // The operator uses the variable: other servers and older ones, which know no such option, pass it over.
    #[arg(long, value_name = "CIDR", env = "STOKER_ALLOW_NETWORKS", value_delimiter = ',')]
    pub allow_network: Vec<Network>,
    /// Download through the proxies of the environment (`HTTPS_PROXY`, ...). They look names up, so that --allow-network does not
    /// bind them.
    #[arg(long)]
    pub use_proxies: bool,
    /// Largest artifact.
    #[arg(long, default_value = "2Gi", value_parser = bytes)]
    pub max_artifact: u64,
    /// No try to fetch begins later than this after the last new byte.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub fetch_retry_for: Duration,
    /// The whole fetch ends by then.
    #[arg(long, default_value = "15m", value_parser = humantime::parse_duration)]
    pub fetch_timeout: Duration,
}

/// A model to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its name in URLs and answers.
    pub name: String,
    /// Where its artifact is.
    pub uri: Location,
    /// What the artifact must be, where that is said.
    pub digest: Option<Digest>,
}

/// Models that one process serves at most. Each has threads of its own.
const MOST_MODELS: usize = 64;

/// Why models cannot be served by one process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelsError {
    /// Requests could not say which of the two they are for.
    #[error(
        "two models are named `{0}`: give each a name of its own, as --model NAME=URI (the short form takes the name of the file)"
    )]
    Twice(String),
    /// Their threads would take the machine.
    #[error("{0} models are too many for one process: it serves at most {MOST_MODELS}")]
    TooMany(usize),
    /// A secret must not be sent to whoever else serves an artifact.
    #[error(
        "--credentials are for one place, and the models come from several: have each served by a process of its own"
    )]
    Credentials,
}

impl Serve {
    /// The models to serve: one at least, in the order of the command line, no two of the same name.
    pub fn models(&self) -> Result<Vec<Named>, ModelsError> {
        let first = self.model_name.as_ref().zip(self.model_uri.as_ref());
        let first =
            first.map(|(name, uri)| Named { name: name.clone(), uri: uri.clone(), digest: self.digest });
        let models: Vec<Named> = first.into_iter().chain(self.model.iter().cloned()).collect();
        if models.len() > MOST_MODELS {
            return Err(ModelsError::TooMany(models.len()));
        }
        for (position, model) in models.iter().enumerate() {
            if models.iter().take(position).any(|before| before.name == model.name) {
                return Err(ModelsError::Twice(model.name.clone()));
            }
        }
        let mut places = models.iter().map(|model| model.uri.place());
        let first = places.next();
        if self.access.credentials.is_some() && places.any(|place| Some(place) != first) {
            return Err(ModelsError::Credentials);
        }
        Ok(models)
    }
}

/// A model as `NAME=URI` or `NAME=URI@DIGEST`. What is wrong with the URI is said without it: it may hold a password.
fn named(text: &str) -> Result<Named, String> {
    let Some((name, rest)) = text.split_once('=') else {
        return Err("it has no `=`; use NAME=URI".to_owned());
    };
    let name = model_name(name).map_err(|error| format!("the name before the `=` must be {error}"))?;
    let (uri, digest) = match rest.rsplit_once("@sha256:") {
        Some((uri, digits)) => {
            let digest: Result<Digest, _> = format!("sha256:{digits}").parse();
            (uri, Some(digest.map_err(|error| error.to_string())?))
        }
        None => (rest, None),
    };
    let uri = uri.parse::<Location>().map_err(|error| error.to_string())?;
    Ok(Named { name, uri, digest })
}

/// A name that stands in a URL as it is.
fn model_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=253).contains(&text.len()) && text.chars().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err("1 to 253 letters, digits, dots, underscores and hyphens".to_owned())
    }
}

/// A latency target: that of `slo.latency.target` in a ModelDeployment.
fn target(text: &str) -> Result<Duration, String> {
    let target = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_millis(1)..=Duration::from_mins(10)).contains(&target) {
        Ok(target)
    } else {
        Err("a time between 1ms and 10m, such as 100ms".to_owned())
    }
}

/// A number of bytes as Kubernetes writes it: `1048576`, `1Mi`, `1M`.
fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 6] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
    ];
    let (number, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|number| (number, *unit)))
        .unwrap_or((text, 1));
    let count = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    match count {
        Some(count) if count > 0 && usize::try_from(count).is_ok() => Ok(count),
        _ => Err("a whole number of bytes above 0, such as 1048576, 32Mi or 2Gi".to_owned()),
    }
}

/// The same, or 0 for none.
fn bytes_or_none(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { bytes(text).map_err(|error| format!("0, or {error}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_operator_s_command_line_is_taken() {
        let line = "stoker-server serve --model-name digits --model-uri file:///mnt/models/a.onnx --digest \
                    sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 --threads 2";
        let Ok(Cli { command: Command::Serve(serve) }) = parse(line) else { panic!("{:?}", parse(line)) };
        assert_eq!((serve.threads, serve.max_body), (Some(2), 32 << 20));
        let models = serve.models().unwrap();
        assert_eq!(models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(), ["digits"]);
        assert_eq!(models[0].uri.to_string(), "file:///mnt/models/a.onnx");
        assert!(models[0].digest.is_some_and(|digest| digest.to_string().ends_with("7852b855")));
        assert_eq!((serve.cache, serve.prediction_metrics), (0, Switch::On));
        assert_eq!((serve.latency_target, serve.max_delay), (None, Duration::ZERO));
        let Ok(Cli { command: Command::Serve(serve) }) = parse(&format!("{line} --latency-target 80ms"))
        else {
            panic!("it takes a target")
        };
        assert_eq!(serve.latency_target, Some(Duration::from_millis(80)));
        assert!(!serve.behind_router);
        let Ok(Cli { command: Command::Serve(serve) }) = parse(&format!(
            "{line} --behind-router --allow-network 10.0.0.0/8,fd12::/16 --allow-network ::1"
        )) else {
            panic!("it takes networks")
        };
        let networks: Vec<_> = serve.access.allow_network.iter().map(ToString::to_string).collect();
        assert_eq!((serve.behind_router, networks.join(" ")), (true, "10.0.0.0/8 fd12::/16 ::1/128".into()));
        assert!(matches!(
            parse("stoker-server resolve --model-uri https://a/b"),
            Ok(Cli { command: Command::Resolve(_) })
        ));
    }

    fn models(line: &str) -> Result<Vec<Named>, ModelsError> {
        match parse(line) {
            Ok(Cli { command: Command::Serve(serve) }) => serve.models(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn several_models_have_names_of_their_own() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let line = format!(
            "stoker-server serve --model a=file:///m/a.onnx@{digest} --model b=https://u@h/x?a=b@c --threads 2"
        );
        let models_of = |line: &str| {
            let shown = |model: Named| {
                format!("{} {} {}", model.name, model.uri, model.digest.map_or("-".into(), |d| d.to_string()))
            };
            models(line).unwrap().into_iter().map(shown).collect::<Vec<_>>()
        };
        assert_eq!(
            models_of(&line),
            [format!("a file:///m/a.onnx {digest}"), "b https://h/x?... -".to_owned()]
        );
        let both = "stoker-server serve --model b=file:///b --model-name a --model-uri file:///a --model c=file:///c";
        assert_eq!(models_of(both), ["a file:///a -", "b file:///b -", "c file:///c -"]);
    }

    #[test]
    fn models_that_one_process_cannot_serve_are_refused() {
        let serve = "stoker-server serve --model-name a --model-uri file:///a";
        let twice = models(&format!("{serve} --model b=file:///b --model a=file:///c"));
        assert_eq!(twice, Err(ModelsError::Twice("a".to_owned())));
        assert!(twice.unwrap_err().to_string().contains("--model NAME=URI"));
        let many = |count: usize| {
            let more: Vec<_> = (1..count).map(|number| format!("--model m{number}=file:///m")).collect();
            models(&format!("{serve} {}", more.join(" "))).map(|models| models.len())
        };
        assert_eq!((many(64), many(65)), (Ok(64), Err(ModelsError::TooMany(65))));
        let secret = "stoker-server serve --credentials /c --model a=https://host/a";
        assert_eq!(models(secret).map(|models| models.len()), Ok(1));
        assert_eq!(models(&format!("{secret} --model b=https://host/b")).map(|models| models.len()), Ok(2));
        for other in
            ["https://elsewhere/b", "http://host/b", "https://host:444/b", "s3://host/b", "file:///b"]
        {
            let refused = models(&format!("{secret} --model b={other}"));
            assert_eq!(refused, Err(ModelsError::Credentials), "{other}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let serve = "stoker-server serve --model-uri file:///a --model-name";
        for line in [
            "stoker-server".to_owned(),
            "stoker-server serve --model-name m".to_owned(),
            "stoker-server serve --threads 1".to_owned(),
            "stoker-server serve --model a=file:///a --model-uri file:///b".to_owned(),
            "stoker-server serve --model a=file:///a --model-name b".to_owned(),
            format!("stoker-server serve --model a=file:///a --digest sha256:{}", "0".repeat(64)),
            "stoker-server serve --model file:///a".to_owned(),
            "stoker-server serve --model a/b=file:///a".to_owned(),
            "stoker-server serve --model =file:///a".to_owned(),
            "stoker-server serve --model a=".to_owned(),
            "stoker-server serve --model a=pvc://a/b".to_owned(),
            "stoker-server serve --model a=file:///a@sha256:12".to_owned(),
            "stoker-server resolve --model a=file:///a".to_owned(),
            format!("{serve} a/b"),
            format!("{serve} m --max-batch 0"),
            format!("{serve} m --threads 0"),
            format!("{serve} m --max-body 0"),
            format!("{serve} m --digest sha256:12"),
            format!("{serve} m --request-timeout 5"),
            format!("{serve} m --latency-target 100"),
            format!("{serve} m --latency-target 0s"),
            format!("{serve} m --latency-target 1h"),
            format!("{serve} m --cache much"),
            format!("{serve} m --prediction-metrics maybe"),
            "stoker-server resolve --model-uri pvc://a/b".to_owned(),
            "stoker-server resolve --model-uri https://a/b --allow-network 10.0.0.1/8".to_owned(),
            "stoker-server fetch --model-uri https://a/b --to /models".to_owned(),
        ] {
            assert!(parse(&line).is_err(), "{line}");
        }
    }

    #[test]
    fn sizes_are_those_of_kubernetes() {
        for (text, size) in [("1", 1), ("2Ki", 2048), ("32Mi", 32 << 20), ("2Gi", 2 << 30), ("5M", 5_000_000)]
        {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for text in ["", "0", "-1", "1.5Gi", "1 Mi", "99999999999Gi", "x"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}

//! The command line of the operator.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};
use clap::{Args as Flags, Parser, Subcommand};

use stoker_decide::address::{Network, NetworkError};

use super::lease::{self, Seat};
use crate::context::Settings;
use crate::controllers::fleet::Caps;
use crate::controllers::scaling::price::Prices;

/// The operator of Stoker: serves machine-learning models and moves traffic to new versions of them.
#[derive(Clone, Debug, Parser)]
#[command(name = "stoker", version)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Runs the operator.
    Run(Box<Run>),
    /// Prints the custom resource definitions.
    Crd {
        /// Writes a file for each into this folder instead, with a kustomization.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// Where a company's own stores are, and stores in the cluster: RFC 1918, and unique local addresses (RFC 4193). Not this machine,
/// not its link.
const ARTIFACT_NETWORKS: &str = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7";

/// Any number of networks in one argument, so that an empty one can say "none".
#[derive(Clone, Debug)]
pub struct Networks(Vec<Network>);

/// Settings of `stoker run`.
#[derive(Clone, Debug, Flags)]
pub struct Run {
    /// Namespace of the operator itself: holds its Lease and its CA.
    #[arg(long, env = "POD_NAMESPACE", value_parser = NonEmptyStringValueParser::new())]
    pub namespace: String,
    /// Name of this operator among those that may lead the same objects. No two processes may have the same at a time.
    #[arg(long, env = "POD_NAME", value_parser = NonEmptyStringValueParser::new())]
    pub pod_name: String,
    /// Watch this namespace only. Default: all.
    #[arg(long, env = "STOKER_WATCH_NAMESPACE", value_parser = NonEmptyStringValueParser::new())]
    pub watch_namespace: Option<String>,
    /// Image of the inference server, for revisions that name none.
    #[arg(long, env = "STOKER_SERVER_IMAGE", value_parser = NonEmptyStringValueParser::new())]
    pub server_image: String,
    /// Image of the routers.
    #[arg(long, env = "STOKER_ROUTER_IMAGE", value_parser = NonEmptyStringValueParser::new())]
    pub router_image: String,
    /// When the images are pulled.
    #[arg(
        long,
        env = "STOKER_IMAGE_PULL_POLICY",
        default_value = "IfNotPresent",
        value_parser = PossibleValuesParser::new(["Always", "IfNotPresent", "Never"])
    )]
    pub pull_policy: String,
    /// Networks that pods may fetch artifacts from although they are not public, with commas between them. A metadata service is
    /// let through only by its own address. Empty: public addresses only.
    #[arg(long, env = "STOKER_ARTIFACT_NETWORKS", default_value = ARTIFACT_NETWORKS, value_parser = networks)]
    pub artifact_networks: Networks,
    /// How long another operator waits for a leader that is silent, in seconds.
    #[arg(long, env = "STOKER_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u16).range(6..=300))]
    pub lease_seconds: u16,
    /// Health, readiness and Prometheus metrics.
    #[arg(long, env = "STOKER_METRICS_LISTEN", default_value = "0.0.0.0:9090")]
    pub metrics_listen: SocketAddr,
    /// Time between two looks at a rollout, from 100ms to 1m.
    #[arg(long, env = "STOKER_TICK", default_value = "1s", value_parser = tick)]
    pub tick: Duration,
    /// How many rollouts may be under way in one namespace; more wait for their turn.
    #[arg(long, env = "STOKER_MAX_ROLLOUTS_PER_NAMESPACE", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_rollouts_per_namespace: u32,
    /// How many rollouts may be under way in all that this operator watches.
    #[arg(long, env = "STOKER_MAX_ROLLOUTS", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_rollouts: u32,
    /// Prices per hour of what pods request, for the metric `stoker_scaling_cost`: of a core, of a GiB, of a device, such as
    /// `cpu=0.04,memory=0.005,nvidia.com/gpu=2.5`.
    #[arg(long, env = "STOKER_PRICES", default_value = "")]
    pub prices: Prices,
    /// A file with the monitoring systems that rollouts may ask, by name; see docs/analysis.md. It is read again when it changes.
    #[arg(long, env = "STOKER_PROVIDERS")]
    pub providers: Option<PathBuf>,
}

impl Run {
    /// The lead that this operator asks for.
    pub fn seat(&self) -> Seat {
        Seat {
            namespace: self.namespace.clone(),
            name: lease::name(&self.namespace, self.watch_namespace.as_deref()),
            me: self.pod_name.clone(),
            duration: Duration::from_secs(self.lease_seconds.into()),
        }
    }

    /// What reconciles need of it.
    pub fn settings(&self) -> Settings {
        Settings {
            namespace: self.namespace.clone(),
            watch: self.watch_namespace.clone(),
            server_image: self.server_image.clone(),
            router_image: self.router_image.clone(),
            pull_policy: self.pull_policy.clone(),
            artifact_networks: self.artifact_networks.0.clone(),
            tick: self.tick,
            caps: Caps { namespace: self.max_rollouts_per_namespace, fleet: self.max_rollouts },
            prices: self.prices.clone(),
            providers: self.providers.clone(),
        }
    }
}

/// Reads networks in CIDR notation.
fn networks(text: &str) -> Result<Networks, NetworkError> {
    let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
    texts.map(str::parse).collect::<Result<_, _>>().map(Networks)
}

/// Reads a duration as Kubernetes writes them.
fn tick(text: &str) -> Result<Duration, String> {
    let duration: kube::core::Duration =
        text.parse().map_err(|error| format!("{error}; write 500ms or 1s"))?;
    let duration = Duration::from(duration);
    if duration < Duration::from_millis(100) || duration > Duration::from_mins(1) {
        return Err("it must be between 100ms and 1m".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: [&str; 10] = [
        "stoker",
        "run",
        "--namespace",
        "stoker-system",
        "--pod-name",
        "stoker-0",
        "--server-image",
        "server:1",
        "--router-image",
        "router:1",
    ];

    fn parse(more: &[&str]) -> Result<Box<Run>, String> {
        let args = Args::try_parse_from(LEAST.iter().chain(more)).map_err(|error| error.to_string())?;
        match args.command {
            Command::Run(run) => Ok(run),
            Command::Crd { .. } => Err("crd".to_owned()),
        }
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let run = parse(&[]).unwrap();
        assert_eq!((run.lease_seconds, run.metrics_listen.port()), (15, 9090));
        assert_eq!((run.tick, run.pull_policy.as_str()), (Duration::from_secs(1), "IfNotPresent"));
        assert_eq!(run.settings().watch, None);
        let networks =
            |run: &Run| run.settings().artifact_networks.iter().map(Network::to_string).collect::<Vec<_>>();
        assert_eq!(networks(&run).join(","), ARTIFACT_NETWORKS);
        assert!(networks(&parse(&["--artifact-networks", ""]).unwrap()).is_empty());
        assert_eq!(
            networks(&parse(&["--artifact-networks", "100.64.0.0/10, 10.1.2.3"]).unwrap()),
            ["100.64.0.0/10", "10.1.2.3/32"]
        );
    }

    #[test]
    fn bad_settings_are_refused_by_name() {
        let cases: [(&[&str], &str); 9] = [
            (&["--prices", "cpu"], "--prices"),
            (&["--lease-seconds", "5"], "--lease-seconds"),
            (&["--lease-seconds", "x"], "--lease-seconds"),
            (&["--pull-policy", "Sometimes"], "--pull-policy"),
            (&["--metrics-listen", "9090"], "--metrics-listen"),
            (&["--tick", "1ms"], "--tick"),
            (&["--tick", "1 s"], "--tick"),
            (&["--watch-namespace", ""], "--watch-namespace"),
            (&["--artifact-networks", "10.0.0.1/8"], "--artifact-networks"),
        ];
        for (more, flag) in cases {
            let error = parse(more).expect_err(flag);
            assert!(error.contains(flag), "{error}");
        }
    }
}

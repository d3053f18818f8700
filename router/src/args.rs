//! The command line of the router.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use stoker_api::names::{objects, ports};

/// The data plane of one namespace: splits, forwards and counts requests to the revisions of its models.
#[derive(Clone, Debug, Parser)]
#[command(name = "stoker-router", version)]
pub struct Args {
    /// Namespace whose models are served.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,
    /// What people call this router: it stands in the cuts that it makes.
    #[arg(long, env = "POD_NAME", default_value = objects::ROUTER)]
    pub name: String,
    /// Where clients connect.
    #[arg(long, env = "STOKER_LISTEN", default_value_t = any(ports::ROUTER_DATA))]
    pub listen: SocketAddr,
    /// Health, readiness and Prometheus metrics.
    #[arg(long, env = "STOKER_METRICS_LISTEN", default_value_t = any(ports::METRICS))]
    pub metrics_listen: SocketAddr,
    /// Where the operator and the other routers connect, with mutual TLS.
    #[arg(long, env = "STOKER_ADMIN_LISTEN", default_value_t = any(ports::ROUTER_ADMIN))]
    pub admin_listen: SocketAddr,
    /// Folder with tls.crt, tls.key (this router's certificate) and ca.crt (which signed theirs).
    #[arg(long, env = "STOKER_TLS_DIR", default_value = "/etc/stoker/tls")]
    pub tls_dir: PathBuf,
    /// Folder for the last good tables; they are served when the API server is away at start.
    #[arg(long, env = "STOKER_STATE_DIR", default_value = "/var/lib/stoker")]
    pub state_dir: PathBuf,
    /// Time that a request may take, waiting included.
    #[arg(long, env = "STOKER_REQUEST_TIMEOUT", default_value = "30s", value_parser = duration)]
    pub request_timeout: Duration,
    /// Longest body of a request, in bytes; above, 413.
    #[arg(long, env = "STOKER_MAX_BODY", default_value_t = 32 << 20)]
    pub max_body: u64,
    /// Bodies up to this many bytes are kept, so that another pod can be tried.
    #[arg(long, env = "STOKER_BUFFER_LIMIT", default_value_t = 1 << 20)]
    pub buffer_limit: usize,
    /// Bytes of kept bodies in the whole process; above, bodies are passed on without being kept.
    #[arg(long, env = "STOKER_BUFFER_TOTAL", default_value_t = 256 << 20)]
    pub buffer_total: usize,
    /// How long a request waits for a revision that has no ready pod.
    #[arg(long, env = "STOKER_HOLD", default_value = "5s", value_parser = duration)]
    pub hold: Duration,
    /// How many requests may wait so.
    #[arg(long, env = "STOKER_HOLD_QUEUE", default_value_t = 1024)]
    pub hold_queue: usize,
    /// How many copies of requests may wait for one shadow; above, they are dropped.
    #[arg(long, env = "STOKER_MIRROR_QUEUE", default_value_t = 512)]
    pub mirror_queue: usize,
    /// Bytes of all copies and of the answers that are kept for comparison; one shadow may have a quarter.
    #[arg(long, env = "STOKER_MIRROR_BYTES", default_value_t = 64 << 20)]
    pub mirror_bytes: usize,
    /// How many copies may be under way to one shadow.
    #[arg(long, env = "STOKER_MIRROR_CONCURRENCY", default_value = "32")]
    pub mirror_concurrency: NonZeroUsize,
    /// Time that a copy may take.
    #[arg(long, env = "STOKER_MIRROR_TIMEOUT", default_value = "10s", value_parser = duration)]
    pub mirror_timeout: Duration,
    /// After SIGTERM: how long requests are still accepted.
    #[arg(long, env = "STOKER_DRAIN_DELAY", default_value = "5s", value_parser = duration)]
    pub drain_delay: Duration,
    /// After that: how long requests may take to finish.
    #[arg(long, env = "STOKER_DRAIN_TIMEOUT", default_value = "25s", value_parser = duration)]
    pub drain_timeout: Duration,
    /// Connections of clients at a time; above, 503.
    #[arg(long, env = "STOKER_MAX_CONNECTIONS", default_value_t = 10_000)]
    pub max_connections: usize,
    /// Worker threads. Default: one for each CPU that the process may use.
    #[arg(long, env = "STOKER_THREADS")]
    pub threads: Option<NonZeroUsize>,
}

/// All addresses of this machine.
fn any(port: u16) -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], port))
}

/// Reads `250ms`, `5s` or `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    let factor = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(format!("{text:?} is not a duration; write 250ms, 5s or 2m")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("{text:?} is not a duration; write 250ms, 5s or 2m"))?;
    Duration::try_from_secs_f64(number * factor).map_err(|error| format!("{text:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        for bad in ["", "5", "s", "5 s", "-1s", "1.2.3s", "1h"] {
            assert!(duration(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let args = Args::parse_from(["stoker-router", "--namespace", "team"]);
        assert_eq!(args.listen.port(), 8080);
        assert_eq!(args.admin_listen.port(), 9443);
        assert_eq!(args.request_timeout, Duration::from_secs(30));
        assert_eq!(args.max_body, 32 << 20);
    }
}

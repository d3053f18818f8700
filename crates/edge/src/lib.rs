//! The HTTP edge that every Stoker process shares.
//!
//! - [`listen`]: a bounded HTTP server, HTTP/1.1 and where wanted HTTP/2, for any hyper or tower service.
//! - [`tls`]: certificates from a folder, renewed while the process runs; clients named by certificate.
//! - [`drain`] and [`linger`]: leaving without failing a request.
//! - [`admin`]: `/healthz`, `/readyz` and `/metrics` on the metrics port.
//! - [`metrics`]: the latency histogram as a Prometheus metric.
//! - [`process`]: what the process itself takes; [`reference`]: the pages in docs/metrics.
//! - [`body`] and [`reply`]: bounded bodies, JSON answers.
//! - [`target`]: the header in which the router tells pods the latency target.
//! - [`untouched`]: the header in which pods tell the router that they have not begun with a request.
//! - [`logs`] and [`exit`]: how a process speaks and how it ends.

pub mod admin;
pub mod body;
mod connection;
pub mod drain;
pub mod exit;
mod framing;
pub mod linger;
pub mod listen;
pub mod logs;
pub mod metrics;
pub mod process;
pub mod reference;
pub mod reply;
pub mod target;
pub mod tls;
pub mod untouched;

/// An error of any kind, as bodies and services carry it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An error with all its causes: the outermost alone ("client error (Connect)") helps nobody.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

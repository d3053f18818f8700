//! The metrics port of every part: `/healthz`, `/readyz` and `/metrics`; plain and read only.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::drain::{Drain, Phase};
use crate::listen::{self, Options};
use crate::process::Process;
use crate::reply::{self, Reply};

/// The content type of OpenMetrics text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Says whether the process is ready, or why it is not.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the metrics port answers from. Clones share it.
#[derive(Clone)]
pub struct Admin {
    registry: Arc<Registry>,
    ready: Readiness,
    drain: Drain,
}

impl Admin {
    /// `ready` is asked at each `/readyz`; a process that drains is not ready, whatever it says.
    pub fn new(mut registry: Registry, drain: Drain, ready: Readiness) -> Self {
        registry.register_collector(Box::new(Process));
        Self { registry: Arc::new(registry), ready, drain }
    }

    /// Serves the metrics port until this future is dropped: a draining process still answers here.
    pub async fn serve(self, listener: TcpListener) {
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let answer = self.answer(request.method(), request.uri().path());
            async move { Ok::<_, Infallible>(answer) }
        });
        // Its own drain, which never begins.
        let lasting = Drain::new(std::time::Duration::ZERO);
        listen::serve(listener, service, Options::small(), lasting).await;
    }

    /// The answer to one request.
    pub fn answer(&self, method: &Method, path: &str) -> Reply {
        if method != Method::GET && method != Method::HEAD {
            return reply::error(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here");
        }
        match path {
            "/healthz" => reply::text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.readiness() {
                Ok(()) => reply::text(StatusCode::OK, "ready\n"),
                Err(reason) => reply::text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            },
            "/metrics" => {
                let mut text = String::new();
                match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
                    Ok(()) => reply::content(StatusCode::OK, OPEN_METRICS, text),
                    Err(_) => {
                        reply::error(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written")
                    }
                }
            }
            _ => reply::error(StatusCode::NOT_FOUND, "there are /healthz, /readyz and /metrics"),
        }
    }

    fn readiness(&self) -> Result<(), String> {
        if self.drain.phase() > Phase::Serving {
            return Err("draining: this process is about to end".into());
        }
        (self.ready)()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn readiness_says_why_and_fails_while_draining() {
        let drain = Drain::new(Duration::ZERO);
        let unready =
            Admin::new(Registry::default(), drain.clone(), Arc::new(|| Err("no tables yet".into())));
        assert_eq!(unready.answer(&Method::GET, "/readyz").status(), 503);
        assert_eq!(unready.readiness(), Err("no tables yet".into()));
        let ready = Admin::new(Registry::default(), drain.clone(), Arc::new(|| Ok(())));
        assert_eq!(ready.answer(&Method::GET, "/readyz").status(), 200);
        drain.leave();
        assert_eq!(ready.answer(&Method::GET, "/readyz").status(), 503);
        assert_eq!(ready.answer(&Method::GET, "/healthz").status(), 200);
    }

    #[test]
    fn only_reading_is_allowed() {
        let admin = Admin::new(Registry::default(), Drain::new(Duration::ZERO), Arc::new(|| Ok(())));
        assert_eq!(admin.answer(&Method::POST, "/metrics").status(), 405);
        assert_eq!(admin.answer(&Method::GET, "/debug").status(), 404);
        assert_eq!(admin.answer(&Method::GET, "/metrics").status(), 200);
    }
}

//! One HTTP/1.1 connection: its requests one after the other, the last of them asking the client to close.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::pin;

use bytes::Bytes;
use futures::FutureExt;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Either;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Gate, LAST_CALL, Limits, panicked};
use crate::connection::{Activity, Tracked, Watched};
use crate::drain::Phase;
use crate::{BoxError, reply};

/// HTTP/1.1 within these limits.
pub(super) fn builder(limits: &Limits) -> http1::Builder {
    let mut http = http1::Builder::new();
    // Time limits are kept by `Watched`; hyper's own timer cannot tell an idle connection from a slow head.
    http.header_read_timeout(None).max_header_size(limits.header_bytes);
    http.max_buf_size((128 << 10).max(limits.header_bytes)).half_close(false);
    http
}

impl Gate {
    /// Serves one HTTP/1.1 connection to its end.
    pub(super) async fn serve_http1<T, S, B>(&self, stream: Watched<T>, activity: Activity, service: S)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let asked = activity.clone();
        let (drain, stats) = (self.drain.clone(), self.options.stats.clone());
        let service = hyper::service::service_fn(move |request| {
            let fault = asked.begin();
            // Made before the call: it marks the connection idle again however the request ends.
            let (asked, drain) = (asked.clone(), drain.clone());
            let (panics, malformed) = (stats.panics.clone(), stats.malformed.clone());
            let answer = match fault {
                None => Ok(AssertUnwindSafe(service.call(request)).catch_unwind()),
                Some(fault) => Err(fault),
            };
            async move {
                let answer = match answer {
                    Ok(answer) => panicked(answer.await, &panics),
                    Err(fault) => {
                        malformed.inc();
                        reply::error(StatusCode::BAD_REQUEST, fault.message()).map(Either::Right)
                    }
                };
                let mut answer = answer.map(|body| Tracked::new(body, asked));
                // Nothing that follows a wrong head can be told from its body.
                if fault.is_some() || drain.phase() > Phase::Serving {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let mut connection = pin!(self.http1.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.drain.reached(Phase::Closing) => {
                loop {
                    // Every answer asks for the end of the connection by now. One without a request is told only after
                    // a while: hyper closes it whatever is on its way.
                    match tokio::time::timeout(LAST_CALL, connection.as_mut()).await {
                        Ok(ended) => break ended,
                        Err(_) if activity.is_idle() => connection.as_mut().graceful_shutdown(),
                        Err(_) => {}
                    }
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection ended early");
        }
    }
}

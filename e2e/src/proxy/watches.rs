//! The stream of a watch, which can be cut from outside.

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::StatusCode;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use hyper::body::{Body as HttpBody, Frame};
use kube::client::Body;
use serde_json::json;
use tokio::sync::watch;

use super::{Error, status_object};

/// How often watches were cut, and how at last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cut {
    number: u64,
    by_410: bool,
}

impl Cut {
    pub(super) fn drop_all(&mut self) {
        (self.number, self.by_410) = (self.number + 1, false);
    }

    pub(super) fn expire_all(&mut self) {
        (self.number, self.by_410) = (self.number + 1, true);
    }
}

struct Watch {
    events: BodyStream<Body>,
    cuts: watch::Receiver<Cut>,
    /// The last byte that was passed on ended a line: an event of our own may follow.
    at_line_end: bool,
    over: bool,
}

/// The body, until the next cut.
pub(super) fn until_cut(
    body: Body,
    cuts: watch::Receiver<Cut>,
) -> impl HttpBody<Data = Bytes, Error = Error> + Send {
    let watch = Watch { events: BodyStream::new(body), cuts, at_line_end: true, over: false };
    StreamBody::new(stream::unfold(watch, |mut watch| async move {
        let frame = watch.next().await?;
        Some((frame, watch))
    }))
    .map_err(|error: Error| error)
}

impl Watch {
    async fn next(&mut self) -> Option<Result<Frame<Bytes>, Error>> {
        if self.over {
            return None;
        }
        let frame = tokio::select! {
            biased;
            // An event that was begun is not torn by an event of ours.
            Ok(()) = self.cuts.changed(), if self.at_line_end => {
                self.over = true;
                let by_410 = self.cuts.borrow().by_410;
                if !by_410 {
                    return Some(Err("the watch is dropped, as planned".into()));
                }
                let event = json!({"type": "ERROR", "object": status_object(StatusCode::GONE)});
                return Some(Ok(Frame::data(Bytes::from(format!("{event}\n")))));
            }
            frame = self.events.next() => frame?,
        };
        match frame {
            Ok(frame) => {
                if let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) {
                    self.at_line_end = data.ends_with(b"\n");
                }
                Some(Ok(frame))
            }
            Err(error) => {
                self.over = true;
                Some(Err(error.into()))
            }
        }
    }
}

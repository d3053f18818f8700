//! Runs the model for a message, and for a stream of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Stream, TryStreamExt as _};
use stoker_edge::drain::{Drain, Phase as DrainPhase};
use stoker_graph::Value;
use tonic::codegen::BoxStream;
use tonic::metadata::MetadataValue;
use tonic::{Status, Streaming};

use super::super::predict::{Predicted, Times};
use super::super::rest::{HEAVY_BYTES, HEAVY_ELEMENTS};
use super::super::{App, Models, Ready, Refusal};
use super::Call;
use crate::batch::Held;
use crate::cache::CacheStatus;
use crate::metrics::Phase;
use crate::proto::inference::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use crate::protocol::path::Model;
use crate::protocol::{InferRequest, Signature, deadline, message};

/// For how many times the time of a request a stream takes new requests. The listener gives streams one time more (see
/// [`crate::serve`]), so that the last request is answered.
pub const STREAM_REQUESTS: u32 = 2;

/// The model that a message names.
pub(super) fn named<'a>(name: &'a str, of: &'a str) -> Model<'a> {
    Model { name, version: version(of) }
}

/// The version that a message names. An empty one is whichever is served.
pub(super) fn version(version: &str) -> Option<&str> {
    (!version.is_empty()).then_some(version)
}

impl Models {
    /// The model that a message is for. Refused, the message's bytes are let go, and it is counted.
    pub(super) fn app_for(&self, message: &ModelInferRequest, call: &Call) -> Result<&Arc<App>, Refusal> {
        self.app(&message.model_name).inspect_err(|refusal| {
            drop(call.account.take());
            self.unnamed.refused(refusal.reason());
        })
    }
}

impl App {
    /// The answer to one message, and the cache's part in it. `begun` is when it was there or its call began, and it is
    /// answered within `time`.
    pub(super) async fn infer_message(
        &self,
        message: ModelInferRequest,
        call: &Call,
        begun: Instant,
        time: Duration,
    ) -> Result<(ModelInferResponse, CacheStatus), Refusal> {
        let answer = self.try_message(message, call, begun, time).await;
        answer.inspect_err(|refusal| self.metrics.refused(refusal.reason()))
    }

    async fn try_message(
        &self,
        message: ModelInferRequest,
        call: &Call,
        begun: Instant,
        time: Duration,
    ) -> Result<(ModelInferResponse, CacheStatus), Refusal> {
        let counted = call.account.take();
        let heavy = counted.bytes() > HEAVY_BYTES as u64;
        // The values take as much room as the message did, so its bytes count until the answer is there, and for as long
        // as a request whose client has gone is in work.
        let held = Held::new(counted);
        let ready = self.find(version(&message.model_version))?;
        let as_raw = !message.raw_input_contents.is_empty();
        let mut asked = self.read_message(ready, message, heavy, &held).await?;
        asked.held = held.clone();
        // The client says how long it waits for the call, and may say it of the request as well.
        asked.timeout = deadline::shorter(asked.timeout, call.patience);
        let id = asked.id.take();
        asked.cache = call.cache;
        let target = if call.is_news { self.target.after(call.said) } else { self.target.within(call.said) };
        let times = Times { begun, deadline: begun + time, target };
        let Predicted { outputs, cache } = self.predict(ready, asked, times).await?;
        Ok((self.write_message(ready, id, outputs, as_raw, cache, held).await?, cache))
    }

    /// Checks a message; a heavy one on a thread of its own.
    async fn read_message(
        &self,
        ready: &Ready,
        message: ModelInferRequest,
        heavy: bool,
        held: &Held,
    ) -> Result<InferRequest, Refusal> {
        let begun = Instant::now();
        let asked = if heavy {
            let signature = Arc::clone(&ready.model.signature);
            let read = move || message::read(message, &signature);
            held.clone().apart(read).await.map_err(|_| Refusal::Internal)?
        } else {
            message::read(message, &ready.model.signature)
        }?;
        self.metrics.phase(Phase::Parse, CacheStatus::Off, begun.elapsed());
        Ok(asked)
    }

    /// Makes the answer; a heavy one on a thread of its own.
    async fn write_message(
        &self,
        ready: &Ready,
        id: Option<String>,
        outputs: Vec<(usize, Value)>,
        as_raw: bool,
        cache: CacheStatus,
        held: Held,
    ) -> Result<ModelInferResponse, Refusal> {
        let begun = Instant::now();
        let elements: usize = outputs.iter().map(|(_, value)| value.data().len()).sum();
        let (name, version) = (self.model_name.as_str(), ready.version.as_str());
        let answer = if elements > HEAVY_ELEMENTS {
            let (name, version) = (name.to_owned(), version.to_owned());
            let signature = Arc::clone(&ready.model.signature);
            let write = move || written(&name, &version, id, outputs, &signature, as_raw);
            held.apart(write).await.map_err(|_| Refusal::Internal)?
        } else {
            written(name, version, id, outputs, &ready.model.signature, as_raw)
        };
        self.metrics.phase(Phase::Serialise, cache, begun.elapsed());
        Ok(answer)
    }
}

/// The answer with the chosen outputs.
fn written(
    name: &str,
    version: &str,
    id: Option<String>,
    chosen: Vec<(usize, Value)>,
    signature: &Signature,
    as_raw: bool,
) -> ModelInferResponse {
    let declared = |(position, value)| signature.outputs.get(position).map(|info| (info, value));
    let outputs: Vec<_> = chosen.into_iter().filter_map(declared).collect();
    message::write(name, version, id, &outputs, as_raw)
}

/// A stream of requests. One is in work at a time, and its answer is taken by the client before the next is read: that is
/// the bound.
struct Requests {
    models: Arc<Models>,
    messages: Streaming<ModelInferRequest>,
    call: Call,
    /// When the stream takes no more requests.
    until: Instant,
}

/// The answers to a stream.
pub(super) fn answers(
    models: Arc<Models>,
    messages: Streaming<ModelInferRequest>,
    call: Call,
) -> BoxStream<ModelStreamInferResponse> {
    let open = models.limits.request_time * STREAM_REQUESTS;
    let until = call.begun + call.patience.map_or(open, |wait| wait.min(open));
    let requests = Requests { models, messages, call, until };
    Box::pin(futures::stream::unfold(Some(requests), |requests| async move {
        let mut requests = requests?;
        match requests.next().await {
            Ok(Some(message)) => {
                let answer = requests.answer(message).await;
                Some((Ok(answer), Some(requests)))
            }
            Ok(None) => None,
            Err(status) => Some((Err(status), None)),
        }
    }))
}

impl Requests {
    /// The next request; none when the client has no more.
    async fn next(&mut self) -> Result<Option<ModelInferRequest>, Status> {
        let Self { models, messages, call, until } = self;
        next(messages, &models.drain, *until).await.map_err(|end| match (end, call.patience) {
            (End::Broken(status), _) => status,
            (End::Leaving, _) => again("this process is about to end; open a new stream"),
            (End::Over, Some(wait)) if call.begun + wait <= *until => {
                let text = format!("the stream was open for {wait:?}, as long as its client wanted");
                Status::deadline_exceeded(text)
            }
            (End::Over, _) => {
                let open = *until - call.begun;
                again(&format!("a stream takes requests for {open:?}; open a new one"))
            }
        })
    }

    /// The answer to one request. One that is refused does not end the stream.
    async fn answer(&mut self, message: ModelInferRequest) -> ModelStreamInferResponse {
        let begun = Instant::now();
        let limit = self.models.limits.request_time;
        let time = match self.call.patience {
            Some(_) => limit.min(self.until.saturating_duration_since(begun)),
            None => limit,
        };
        let id = message.id.clone();
        // Each message may name another model.
        let (counts, outcome) = match self.models.app_for(&message, &self.call) {
            Ok(app) => (app.metrics.requests(), app.infer_message(message, &self.call, begun, time).await),
            Err(refusal) => (&self.models.unnamed, Err(refusal)),
        };
        self.call.is_news = false;
        let status = outcome.as_ref().map_or_else(Refusal::status, |_| http::StatusCode::OK);
        let cache = outcome.as_ref().map_or(CacheStatus::Off, |(_, cache)| *cache);
        counts.answered(status, cache, begun.elapsed());
        match outcome {
            Ok((answer, _)) => {
                ModelStreamInferResponse { error_message: String::new(), infer_response: Some(answer) }
            }
            Err(refusal) => ModelStreamInferResponse {
                error_message: refusal.to_string(),
                infer_response: Some(ModelInferResponse { id, ..ModelInferResponse::default() }),
            },
        }
    }
}

/// Why a stream ends although its client may have more.
#[derive(Debug)]
enum End {
    /// The process is about to end.
    Leaving,
    /// Its time is over.
    Over,
    /// Its messages cannot be read.
    Broken(Status),
}

/// The next message of a stream; none when there are no more. The ends are looked for first: a client that always has
/// another message would never come to them.
async fn next<M>(
    messages: &mut (impl Stream<Item = Result<M, Status>> + Unpin),
    drain: &Drain,
    until: Instant,
) -> Result<Option<M>, End> {
    if drain.phase() >= DrainPhase::Leaving {
        return Err(End::Leaving);
    }
    if until <= Instant::now() {
        return Err(End::Over);
    }
    tokio::select! {
        biased;
        () = drain.reached(DrainPhase::Leaving) => Err(End::Leaving),
        () = tokio::time::sleep_until(until.into()) => Err(End::Over),
        message = messages.try_next() => message.map_err(End::Broken),
    }
}

/// The end of a stream whose client is to open another one at once.
fn again(text: &str) -> Status {
    let mut status = Status::unavailable(text);
    status.metadata_mut().insert("retry-after", MetadataValue::from_static("0"));
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_that_always_has_a_message_comes_to_its_end() {
        let drain = Drain::new(Duration::ZERO);
        let mut messages = futures::stream::repeat_with(|| Ok(7));
        let later = Instant::now() + Duration::from_hours(1);
        assert_eq!(next(&mut messages, &drain, later).await.unwrap(), Some(7));
        assert!(matches!(next(&mut messages, &drain, Instant::now()).await, Err(End::Over)));
        drain.leave();
        assert!(matches!(next(&mut messages, &drain, later).await, Err(End::Leaving)));
    }

    #[tokio::test]
    async fn a_stream_without_a_message_comes_to_its_end() {
        let drain = Drain::new(Duration::ZERO);
        let mut silent = futures::stream::pending::<Result<(), Status>>();
        let soon = Instant::now() + Duration::from_millis(10);
        assert!(matches!(next(&mut silent, &drain, soon).await, Err(End::Over)));
        let later = Instant::now() + Duration::from_hours(1);
        let leaving = async {
            tokio::task::yield_now().await;
            drain.leave();
        };
        let (end, ()) = tokio::join!(next(&mut silent, &drain, later), leaving);
        assert!(matches!(end, Err(End::Leaving)));
        assert!(
            next(&mut futures::stream::empty::<Result<(), Status>>(), &Drain::new(Duration::ZERO), later)
                .await
                .unwrap()
                .is_none()
        );
    }
}

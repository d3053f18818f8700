//! The protocol over gRPC: the same answers and refusals as over HTTP, on the same port.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use prost::Message;
use reqwest::StatusCode;
use stoker_server::proto::health::HealthCheckRequest;
use stoker_server::proto::health::health_check_response::ServingStatus;
use stoker_server::proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use stoker_server::proto::inference::{
    ModelConfigRequest, ModelInferRequest, ModelMetadataRequest, ModelReadyRequest, ModelStatisticsRequest,
    RepositoryIndexRequest, ServerLiveRequest, ServerMetadataRequest, ServerReadyRequest,
};
use tonic::{Code, Request, Status};

use crate::binary::{Tensor, all_types, identity};
use crate::calls::{assert_refused, client, connect, health_client, outputs, raw, typed};
use crate::started::{Started, digits, request};

#[tokio::test]
async fn typed_and_raw_answers_are_those_of_http_to_the_bit() {
    let digits = digits();
    let server = Started::new("digits-v2.onnx", &[]).await;
    let mut client = client(&server).await;
    for rows in [1, 2, 30, 450] {
        let images = &digits.images[..rows];
        let (status, over_http) = server.infer(request(images).to_string()).await;
        assert_eq!(status, StatusCode::OK, "{over_http}");
        let labels: Vec<i64> = serde_json::from_value(over_http["outputs"][0]["data"].clone()).unwrap();
        let numbers: Vec<f32> = serde_json::from_value(over_http["outputs"][1]["data"].clone()).unwrap();
        let wanted = (labels, numbers.into_iter().map(f32::to_bits).collect());
        for message in [typed(images), raw(images)] {
            let is_raw = !message.raw_input_contents.is_empty();
            let answer = client.model_infer(message).await.unwrap().into_inner();
            assert_eq!(outputs(&answer), wanted, "{rows} rows");
            assert_eq!(answer.raw_output_contents.len(), if is_raw { 2 } else { 0 });
            assert_eq!(answer.model_version, over_http["model_version"].as_str().unwrap());
            assert_eq!(
                (answer.outputs[1].datatype.as_str(), &answer.outputs[1].shape[..]),
                ("FP32", &[i64::try_from(rows).unwrap(), 10][..])
            );
        }
    }

    // Only one output, and the id.
    let wanted = InferRequestedOutputTensor { name: "label".to_owned(), ..Default::default() };
    let message =
        ModelInferRequest { id: "a-7".to_owned(), outputs: vec![wanted], ..raw(&digits.images[..1]) };
    let answer = client.model_infer(message).await.unwrap();
    assert_eq!(answer.metadata().get("stoker-load").unwrap(), "0", "nothing else waits");
    let answer = answer.into_inner();
    assert_eq!((answer.id.as_str(), answer.outputs.len(), answer.raw_output_contents.len()), ("a-7", 1, 1));
    let metrics = server.metrics().await;
    assert!(metrics.contains("stoker_server_requests_total{model=\"digits\",code=\"200\"} 13"), "{metrics}");
    server.end().await;
}

#[tokio::test]
async fn raw_tensors_of_every_type_come_back_as_they_were_sent() {
    let server = Started::ready(&identity(), &[]).await;
    let mut client = client(&server).await;
    let tensors = all_types();
    let input = |tensor: &Tensor| InferInputTensor {
        name: tensor.name.to_owned(),
        datatype: tensor.datatype.to_owned(),
        shape: vec![2, 2],
        ..InferInputTensor::default()
    };
    let message = ModelInferRequest {
        inputs: tensors.iter().map(input).collect(),
        raw_input_contents: tensors.iter().map(|tensor| tensor.raw.clone().into()).collect(),
        ..typed(&[])
    };
    let answer = client.model_infer(message).await.unwrap().into_inner();
    assert_eq!(answer.outputs.len(), tensors.len());
    for (tensor, (output, raw)) in tensors.iter().zip(answer.outputs.iter().zip(&answer.raw_output_contents))
    {
        assert_eq!(
            (output.name.as_str(), output.datatype.as_str()),
            (&*format!("same_{}", tensor.name), tensor.datatype)
        );
        assert_eq!(raw, &tensor.raw, "{}", tensor.name);
    }
    server.end().await;
}

#[tokio::test]
async fn refusals_have_a_code_and_the_sentence_of_http() {
    let digits = digits();
    let server = Started::new("digits-v2.onnx", &["--max-body", "64Ki", "--max-body-total", "128Ki"]).await;
    let mut client = client(&server).await;
    let good = || raw(&digits.images[..1]);

    let mut message = good();
    message.inputs[0].shape = vec![1, 63];
    let over_http = server.refused(StatusCode::BAD_REQUEST, {
        let mut body = request(&digits.images[..1]);
        body["inputs"][0]["shape"] = serde_json::json!([1, 63]);
        body.to_string()
    });
    let status =
        assert_refused(client.model_infer(message).await, Code::InvalidArgument, "must have the shape");
    assert_eq!(status.message(), over_http.await);

    let named = |name: &str, version: &str| ModelInferRequest {
        model_name: name.to_owned(),
        model_version: version.to_owned(),
        ..good()
    };
    let known = "there is no model `cats` here; this server serves `digits`";
    assert_refused(client.model_infer(named("cats", "")).await, Code::NotFound, known);
    assert_refused(client.model_infer(named("digits", "1")).await, Code::NotFound, "has no version `1` here");
    let mut message = good();
    message.inputs[0].datatype = "INT64".to_owned();
    assert_refused(client.model_infer(message).await, Code::InvalidArgument, "must have the datatype FP32");
    let mixed =
        ModelInferRequest { raw_input_contents: good().raw_input_contents, ..typed(&digits.images[..1]) };
    assert_refused(client.model_infer(mixed).await, Code::InvalidArgument, "send those of all inputs in one");
    let short = ModelInferRequest { raw_input_contents: vec![vec![0; 255].into()], ..good() };
    assert_refused(client.model_infer(short).await, Code::InvalidArgument, "has 255 raw bytes");
    let many = ModelInferRequest { inputs: vec![InferInputTensor::default(); 5000], ..good() };
    assert_refused(client.model_infer(many).await, Code::InvalidArgument, "more than 4096 fields");

    let large = ModelInferRequest { raw_input_contents: vec![vec![0; 65 << 10].into()], ..good() };
    let limit = "longer than the limit of 65536 bytes";
    assert_refused(client.model_infer(large).await, Code::ResourceExhausted, limit);

    // What was refused is not counted as in work: the bound of all bodies is passed many times over.
    for _ in 0..20 {
        let almost = ModelInferRequest { raw_input_contents: vec![vec![0; 60 << 10].into()], ..good() };
        assert_refused(client.model_infer(almost).await, Code::InvalidArgument, "has 61440 raw bytes");
    }
    client.model_infer(good()).await.unwrap();
    let metrics = server.metrics().await;
    for line in [
        "code=\"400\"} 26",
        "code=\"404\"} 2",
        "code=\"413\"} 1",
        "code=\"200\"} 1",
        "refusals_total{model=\"digits\",reason=\"size\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    server.end().await;
}

#[tokio::test]
async fn more_bytes_than_may_be_in_work_are_turned_away_with_a_time_to_come_again() {
    let server = Started::new("digits-v2.onnx", &["--max-body-total", "200"]).await;
    let mut client = client(&server).await;
    let outcome = client.model_infer(raw(&digits().images[..1])).await;
    let status = assert_refused(outcome, Code::Unavailable, "too many bytes of request bodies");
    assert_eq!(status.metadata().get("retry-after").unwrap(), "1");
    assert!(server.metrics().await.contains("refusals_total{model=\"digits\",reason=\"bodies\"} 1"));
    server.end().await;
}

#[tokio::test]
async fn deadlines_of_the_client_and_of_the_server_hold() {
    let digits = digits();
    let server = Started::new("digits-v2.onnx", &[]).await;
    let mut client = client(&server).await;
    let mut asked = Request::new(raw(&digits.images[..1]));
    asked.set_timeout(Duration::ZERO);
    assert_refused(client.model_infer(asked).await, Code::DeadlineExceeded, "0ns");
    client.model_infer(raw(&digits.images[..1])).await.unwrap();
    server.end().await;

    // A message whose end does not come.
    let server = Started::new("digits-v2.onnx", &["--request-timeout", "200ms"]).await;
    let mut sender = connect(&server).await;
    let half = Bytes::from_static(&[0, 0, 0, 1, 0, 7, 7]);
    let body = http_body_util::StreamBody::new(futures::StreamExt::chain(
        futures::stream::iter([Ok::<_, std::io::Error>(hyper::body::Frame::data(half))]),
        futures::stream::pending(),
    ));
    let status = called(&mut sender, &server, body).await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(status.message().contains("did not come within 200ms"), "{status:?}");
    assert!(server.metrics().await.contains("refusals_total{model=\"digits\",reason=\"timeout\"} 1"));
    server.end().await;
}

/// The status of a call of `ModelInfer` with these bytes.
async fn called<B>(sender: &mut SendRequest<B>, server: &Started, body: B) -> Status
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let uri = server.url("/inference.GRPCInferenceService/ModelInfer");
    let request = http::Request::post(uri).header("content-type", "application/grpc").body(body).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    Status::from_header_map(answer.headers()).unwrap()
}

#[tokio::test]
async fn bytes_that_are_no_message_harm_nothing() {
    let server = Started::new("digits-v2.onnx", &[]).await;
    let mut sender = connect(&server).await;
    let message = |bytes: &[u8]| {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        Full::new(Bytes::from([&[0], &length[..], bytes].concat()))
    };
    let status = called(&mut sender, &server, message(b"\x0a\x7f")).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let good = raw(&digits().images[..1]).encode_to_vec();
    let twice = [message(&good), message(&good)];
    let mut bytes = Vec::new();
    for body in twice {
        bytes.extend_from_slice(&body.collect().await.unwrap().to_bytes());
    }
    let status = called(&mut sender, &server, Full::new(bytes.into())).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains("takes one message"), "{status:?}");
    // A length of 4 GiB, of which nothing comes.
    let status = called(&mut sender, &server, Full::new(Bytes::from_static(&[0, 255, 255, 255, 255]))).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    // Compressed, which is not read here.
    let status = called(&mut sender, &server, Full::new(Bytes::from_static(&[1, 0, 0, 0, 1, 0]))).await;
    assert_ne!(status.code(), Code::Ok);

    let mut client = client(&server).await;
    client.model_infer(raw(&digits().images[..1])).await.unwrap();

    // Over HTTP/1.1 the trailers of gRPC could not be read.
    let url = server.url("/inference.GRPCInferenceService/ModelInfer");
    let asked = server.client.post(url).header("content-type", "application/grpc").body(good);
    let answer = asked.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(answer.text().await.unwrap().contains("over HTTP/2"));
    server.end().await;
}

#[tokio::test]
async fn a_request_on_which_the_model_fails_does_not_touch_the_others() {
    let digits = digits();
    // One thread, so that requests queue up behind a run and are joined.
    let server = Started::new("digits-v3.onnx", &["--threads", "1"]).await;
    let client = client(&server).await;
    let mut asked = tokio::task::JoinSet::new();
    for (number, image) in digits.images.iter().enumerate() {
        let (mut client, message) = (client.clone(), raw(std::slice::from_ref(image)));
        asked.spawn(async move { (number, client.model_infer(message).await) });
    }
    let (mut failed, mut answered) = (0, 0);
    while let Some(outcome) = asked.join_next().await {
        let (number, outcome) = outcome.unwrap();
        match outcome {
            Ok(answer) => {
                let alone = server.infer(request(&digits.images[number..=number]).to_string()).await.1;
                let label = alone["outputs"][0]["data"][0].as_i64().unwrap();
                assert_eq!(outputs(answer.get_ref()).0, [label], "image {number}");
                answered += 1;
            }
            outcome => {
                assert_refused(outcome, Code::Internal, "`gain_lookup` (Gather)");
                failed += 1;
            }
        }
    }
    assert!(failed > 0 && answered > 0, "{failed} {answered}");
    server.end().await;
}

#[tokio::test]
async fn a_stream_is_answered_in_its_order_and_a_refusal_does_not_end_it() {
    let digits = digits();
    // Fewer bytes than the stream has together.
    let server = Started::new("digits-v2.onnx", &["--max-body-total", "1Ki"]).await;
    let mut client = client(&server).await;
    let mut messages = Vec::new();
    for (number, image) in digits.images[..12].iter().enumerate() {
        let mut message = raw(std::slice::from_ref(image));
        message.id = number.to_string();
        if number == 5 {
            message.inputs[0].name = "pixels".to_owned();
        }
        messages.push(message);
    }
    let wanted = server.infer(request(&digits.images[..1]).to_string()).await.1;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let mut answers = client.model_stream_infer(tokio_stream(receiver)).await.unwrap().into_inner();
    for (number, message) in messages.into_iter().enumerate() {
        sender.send(message).await.unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        let response = answer.infer_response.unwrap();
        assert_eq!(response.id, number.to_string());
        if number == 5 {
            assert!(
                answer.error_message.contains("the model has no input `pixels`"),
                "{}",
                answer.error_message
            );
            assert!(response.outputs.is_empty());
        } else {
            assert_eq!(answer.error_message, "");
            assert_eq!(outputs(&response).0.len(), 1);
        }
        if number == 0 {
            assert_eq!(outputs(&response).0[0], wanted["outputs"][0]["data"][0].as_i64().unwrap());
        }
    }
    // The client has no more.
    drop(sender);
    assert!(answers.message().await.unwrap().is_none());

    // A process that is about to end does not wait for more.
    let (_sender, receiver) = tokio::sync::mpsc::channel(1);
    let mut answers = client.model_stream_infer(tokio_stream(receiver)).await.unwrap().into_inner();
    server.drain.leave();
    assert_refused(answers.message().await, Code::Unavailable, "open a new stream");
    assert_eq!(server.end().await.cut, 0);
}

/// A stream of what is sent into a channel.
fn tokio_stream<T>(receiver: tokio::sync::mpsc::Receiver<T>) -> impl futures::Stream<Item = T> {
    futures::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)))
}

#[tokio::test]
async fn a_stream_has_an_end() {
    let server = Started::new("digits-v2.onnx", &["--request-timeout", "100ms"]).await;
    let mut client = client(&server).await;
    let (_sender, receiver) = tokio::sync::mpsc::channel(1);
    let mut answers = client.model_stream_infer(tokio_stream(receiver)).await.unwrap().into_inner();
    assert_refused(answers.message().await, Code::Unavailable, "a stream takes requests for 200ms");
    let (_sender, receiver) = tokio::sync::mpsc::channel(1);
    let mut asked = Request::new(tokio_stream(receiver));
    asked.set_timeout(Duration::from_millis(20));
    let mut answers = client.model_stream_infer(asked).await.unwrap().into_inner();
    assert_refused(answers.message().await, Code::DeadlineExceeded, "as long as its client wanted");
    server.end().await;
}

#[tokio::test]
async fn what_the_server_is_and_how_it_is_can_be_asked() {
    let server = Started::new("digits-v2.onnx", &[]).await;
    let mut client = client(&server).await;
    assert!(client.server_live(ServerLiveRequest {}).await.unwrap().get_ref().live);
    let mut asked = Request::new(ServerReadyRequest {});
    asked.metadata_mut().insert("x-request-id", "a-1".parse().unwrap());
    let answer = client.server_ready(asked).await.unwrap();
    assert!(answer.get_ref().ready);
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "a-1");
    let model = |name: &str| ModelReadyRequest { name: name.to_owned(), version: String::new() };
    assert!(client.model_ready(model("digits")).await.unwrap().get_ref().ready);
    assert_refused(client.model_ready(model("cats")).await, Code::NotFound, "there is no model `cats`");

    let about = client.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!((about.name.as_str(), about.version.as_str()), ("stoker-server", env!("CARGO_PKG_VERSION")));
    let asked = ModelMetadataRequest { name: "digits".to_owned(), version: String::new() };
    let about = client.model_metadata(asked).await.unwrap().into_inner();
    let (_, over_http) = server.get("/v2/models/digits").await;
    let over_http: serde_json::Value = serde_json::from_str(&over_http).unwrap();
    assert_eq!(serde_json::json!(about.versions), over_http["versions"]);
    assert_eq!(about.platform, over_http["platform"].as_str().unwrap());
    for (ours, theirs) in [(&about.inputs, "inputs"), (&about.outputs, "outputs")] {
        let ours: Vec<_> = ours
            .iter()
            .map(|it| serde_json::json!({"name": it.name, "datatype": it.datatype, "shape": it.shape}))
            .collect();
        assert_eq!(serde_json::json!(ours), over_http[theirs]);
    }
    let asked = ModelConfigRequest { name: "digits".to_owned(), version: String::new() };
    let config = client.model_config(asked).await.unwrap().into_inner().config.unwrap();
    assert_eq!((config.input[0].name.as_str(), &config.input[0].dims[..]), ("input", &[-1, 64][..]));
    assert_eq!(config.input[0].data_type().as_str_name(), "TYPE_FP32");
    let (_, over_http) = server.get("/v2/models/digits/config").await;
    let over_http: serde_json::Value = serde_json::from_str(&over_http).unwrap();
    let wanted = serde_json::json!([{"name": "input", "data_type": "TYPE_FP32", "dims": [-1, 64]}]);
    assert_eq!(over_http["input"], wanted);
    assert_eq!(over_http["output"].as_array().unwrap().len(), config.output.len());
    for (ours, theirs) in config.output.iter().zip(over_http["output"].as_array().unwrap()) {
        assert_eq!(theirs["name"], ours.name);
        assert_eq!(theirs["data_type"], ours.data_type().as_str_name());
        assert_eq!(theirs["dims"], serde_json::json!(ours.dims));
    }
    assert_eq!(over_http["name"], "digits");
    assert_eq!(over_http["max_batch_size"], 0);
    let index = client.repository_index(RepositoryIndexRequest::default()).await.unwrap().into_inner();
    assert_eq!((index.models[0].name.as_str(), index.models[0].state.as_str()), ("digits", "READY"));

    let mut health = health_client(&server).await;
    let service = |name: &str| HealthCheckRequest { service: name.to_owned() };
    for name in ["", "inference.GRPCInferenceService", "liveness"] {
        let answer = health.check(service(name)).await.unwrap();
        assert_eq!(answer.get_ref().status(), ServingStatus::Serving, "{name}");
    }
    assert_refused(health.check(service("x")).await, Code::NotFound, "no such service");
    server.end().await;
}

#[tokio::test]
async fn statistics_are_those_of_http() {
    let digits = digits();
    let server = Started::new("digits-v2.onnx", &[]).await;
    let mut client = client(&server).await;
    client.model_infer(raw(&digits.images[..5])).await.unwrap();
    client.model_infer(typed(&digits.images[..2])).await.unwrap();
    let mut wrong = raw(&digits.images[..1]);
    wrong.inputs[0].name = "pixels".to_owned();
    assert_refused(client.model_infer(wrong).await, Code::InvalidArgument, "no input `pixels`");
    let (_, over_http) = server.get("/v2/models/digits/stats").await;
    let over_http: serde_json::Value = serde_json::from_str(&over_http).unwrap();
    let over_http = &over_http["model_stats"][0];
    for name in ["", "digits"] {
        let asked = ModelStatisticsRequest { name: name.to_owned(), version: String::new() };
        let stats = client.model_statistics(asked).await.unwrap().into_inner().model_stats.remove(0);
        assert_eq!((stats.inference_count, stats.execution_count, stats.batch_stats.len()), (7, 2, 2));
        let counts = stats.inference_stats.unwrap();
        let (success, fail) = (counts.success.unwrap(), counts.fail.unwrap());
        assert_eq!((success.count, fail.count, counts.queue.unwrap().count), (2, 1, 2));
        assert_eq!(over_http["last_inference"], stats.last_inference);
        assert_eq!(over_http["inference_stats"]["success"]["ns"], success.ns);
        assert_eq!(over_http["inference_stats"]["fail"]["ns"], fail.ns);
        for (ours, theirs) in stats.batch_stats.iter().zip(over_http["batch_stats"].as_array().unwrap()) {
            assert_eq!(theirs["batch_size"], ours.batch_size);
            assert_eq!(theirs["compute_infer"]["ns"], ours.compute_infer.unwrap().ns);
        }
    }
    let asked = ModelStatisticsRequest { name: "cats".to_owned(), version: String::new() };
    assert_refused(client.model_statistics(asked).await, Code::NotFound, "there is no model `cats`");
    server.end().await;
}

#[tokio::test]
async fn until_the_model_is_loaded_calls_are_told_to_come_again() {
    // An address that takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/a.onnx", silent.local_addr().unwrap());
    let server = Started::loading(&uri, &[]).await;
    let mut client = client(&server).await;
    let status = assert_refused(
        client.model_infer(raw(&digits().images[..1])).await,
        Code::Unavailable,
        "being loaded",
    );
    assert_eq!(status.metadata().get("retry-after").unwrap(), "1");
    assert!(client.server_live(ServerLiveRequest {}).await.unwrap().get_ref().live);
    assert!(!client.server_ready(ServerReadyRequest {}).await.unwrap().get_ref().ready);
    let index = client.repository_index(RepositoryIndexRequest::default()).await.unwrap().into_inner();
    assert_eq!((index.models[0].state.as_str(), index.models[0].version.as_str()), ("LOADING", ""));
    assert!(index.models[0].reason.contains("being loaded"), "{index:?}");
    let ready = RepositoryIndexRequest { ready: true, ..RepositoryIndexRequest::default() };
    assert!(client.repository_index(ready).await.unwrap().get_ref().models.is_empty());
    let mut health = health_client(&server).await;
    let answer = health.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(answer.get_ref().status(), ServingStatus::NotServing);
    server.drain.close();
    let ended = tokio::time::timeout(Duration::from_secs(30), server.running).await;
    assert!(ended.unwrap().unwrap().is_ok());
}

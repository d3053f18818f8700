//! The calls: what the server and its models are and how they are, and the way into `infer`.

use std::sync::Arc;

use stoker_graph::ValueInfo;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::super::{Models, Refusal};
use super::Call;
use super::infer::{answers, named, version};
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_server::Health;
use crate::proto::health::{HealthCheckRequest, HealthCheckResponse};
use crate::proto::inference::grpc_inference_service_server::{GrpcInferenceService, SERVICE_NAME};
use crate::proto::inference::model_metadata_response::TensorMetadata;
use crate::proto::inference::repository_index_response::ModelIndex;
use crate::proto::inference::{
    InferBatchStatistics, InferStatistics, ModelConfigRequest, ModelConfigResponse, ModelInferRequest,
    ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
    ModelStatistics, ModelStatisticsRequest, ModelStatisticsResponse, ModelStreamInferResponse,
    RepositoryIndexRequest, RepositoryIndexResponse, ServerLiveRequest, ServerLiveResponse,
    ServerMetadataRequest, ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
    StatisticDuration,
};
use crate::protocol::answer::{EXTENSIONS, PLATFORM, SERVER_NAME, SERVER_VERSION};
use crate::protocol::message::config;
use crate::protocol::signature::declared;
use crate::statistics::{BatchSnapshot, Snapshot, Tally};

/// The service of a health check that asks whether the process answers at all, whatever its models: for liveness probes.
const LIVENESS: &str = "liveness";

#[tonic::async_trait]
impl GrpcInferenceService for Models {
    type ModelStreamInferStream = BoxStream<ModelStreamInferResponse>;

    async fn server_live(
        self: Arc<Self>,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        self: Arc<Self>,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.readiness().is_ok() }))
    }

    async fn model_ready(
        self: Arc<Self>,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let asked = request.get_ref();
        let ready = self.app(&asked.name)?.is_ready(version(&asked.version))?;
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        self: Arc<Self>,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: SERVER_NAME.to_owned(),
            version: SERVER_VERSION.to_owned(),
            extensions: EXTENSIONS.iter().map(|name| (*name).to_owned()).collect(),
        }))
    }

    async fn model_metadata(
        self: Arc<Self>,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let asked = request.get_ref();
        let (app, ready) = self.find(named(&asked.name, &asked.version))?;
        let tensors = |infos: &[ValueInfo]| {
            let tensor = |info: &ValueInfo| TensorMetadata {
                name: info.name.clone(),
                datatype: info.dtype.oip_name().to_owned(),
                shape: declared(&info.shape),
            };
            infos.iter().map(tensor).collect()
        };
        Ok(Response::new(ModelMetadataResponse {
            name: app.model_name.clone(),
            versions: vec![ready.version.clone()],
            platform: PLATFORM.to_owned(),
            inputs: tensors(&ready.model.signature.inputs),
            outputs: tensors(&ready.model.signature.outputs),
        }))
    }

    async fn model_infer(
        self: Arc<Self>,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let call = call(&request)?;
        let message = request.into_inner();
        let app = self.app_for(&message, &call)?;
        call.account.is_for(app);
        let (answer, cache) = app.infer_message(message, &call, call.begun, call.time).await?;
        let mut response = Response::new(answer);
        response.extensions_mut().insert(cache);
        Ok(response)
    }

    async fn model_stream_infer(
        self: Arc<Self>,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let call = call(&request)?;
        Ok(Response::new(answers(self, request.into_inner(), call)))
    }

    async fn model_config(
        self: Arc<Self>,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let asked = request.get_ref();
        let (app, ready) = self.find(named(&asked.name, &asked.version))?;
        let config = config(&app.model_name, &ready.model.signature);
        Ok(Response::new(ModelConfigResponse { config: Some(config) }))
    }

    async fn model_statistics(
        self: Arc<Self>,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let asked = request.get_ref();
        // No name is all models, of which those that have a version where one is named.
        let models = if asked.name.is_empty() {
            let mut models = self.loaded()?;
            models.retain(|(app, _)| app.find(version(&asked.version)).is_ok());
            if models.is_empty() {
                return Err(Refusal::NotFound("no model has that version here".to_owned()).into());
            }
            models
        } else {
            vec![self.find(named(&asked.name, &asked.version))?]
        };
        let counts = models.into_iter().map(|(app, ready)| {
            statistics(&app.model_name, &ready.version, app.metrics.statistics().snapshot())
        });
        Ok(Response::new(ModelStatisticsResponse { model_stats: counts.collect() }))
    }

    async fn repository_index(
        self: Arc<Self>,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let models = self.index(request.get_ref().ready).into_iter().map(|entry| ModelIndex {
            name: entry.name.to_owned(),
            version: entry.version.unwrap_or_default().to_owned(),
            state: entry.state.name().to_owned(),
            reason: entry.reason,
        });
        let models = models.collect();
        Ok(Response::new(RepositoryIndexResponse { models }))
    }
}

#[tonic::async_trait]
impl Health for Models {
    async fn check(
        self: Arc<Self>,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let serving = match request.get_ref().service.as_str() {
            "" | SERVICE_NAME => self.readiness().is_ok(),
            LIVENESS => true,
            _ => {
                let known = format!("there are {SERVICE_NAME}, {LIVENESS} and the empty name");
                return Err(Status::not_found(format!("no such service; {known}")));
            }
        };
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }
}

/// What [`Models::respond`] knows of the call, whose message is there.
fn call<T>(request: &Request<T>) -> Result<Call, Status> {
    let call = request.extensions().get::<Call>().ok_or(Refusal::Internal)?;
    call.account.read();
    Ok(call.clone())
}

/// The counts of a model, as a message.
fn statistics(name: &str, version: &str, counted: Snapshot) -> ModelStatistics {
    let tally = |tally: Tally| Some(StatisticDuration { count: tally.count, ns: tally.ns });
    let requests = counted.inference_stats;
    let batch = |batch: BatchSnapshot| InferBatchStatistics {
        batch_size: batch.batch_size,
        compute_input: tally(batch.compute_input),
        compute_infer: tally(batch.compute_infer),
        compute_output: tally(batch.compute_output),
    };
    ModelStatistics {
        name: name.to_owned(),
        version: version.to_owned(),
        last_inference: counted.last_inference,
        inference_count: counted.inference_count,
        execution_count: counted.execution_count,
        inference_stats: Some(InferStatistics {
            success: tally(requests.success),
            fail: tally(requests.fail),
            queue: tally(requests.queue),
            compute_input: tally(requests.compute_input),
            compute_infer: tally(requests.compute_infer),
            compute_output: tally(requests.compute_output),
            cache_hit: tally(requests.cache_hit),
            cache_miss: tally(requests.cache_miss),
        }),
        batch_stats: counted.batch_stats.into_iter().map(batch).collect(),
    }
}

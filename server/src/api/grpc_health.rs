//! grpc.health.v1.Health, as load balancers ask it: the server as a whole, service "".

use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tonic::{Request, Response, Status};

use super::Api;
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_server::Health;
use crate::proto::health::{HealthCheckRequest, HealthCheckResponse};

#[tonic::async_trait]
impl Health for Api {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match status_of(&request.into_inner().service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("unknown service")),
            status => Ok(Response::new(response(status))),
        }
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let status = status_of(&request.into_inner().service);
        // The status lasts as long as the server, and the gate ends the stream with it.
        let statuses = stream::iter([Ok(response(status))]).chain(stream::pending());
        Ok(Response::new(statuses.boxed()))
    }
}

fn status_of(service: &str) -> ServingStatus {
    match service {
        "" => ServingStatus::Serving,
        _ => ServingStatus::ServiceUnknown,
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

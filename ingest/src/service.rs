//! The gRPC service: from calls to the core, from refusals to statuses.

use std::sync::Arc;

use fieldproof_proto::{
    ids::DeviceId,
    v1::{
        DescribeRequest, DescribeResponse, Down, RegisterRequest, RegisterResponse, SubmitRequest,
        SubmitResponse, Up, up,
    },
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{error::Refusal, pb::ingest_server, server::Core, stream};

/// Serves the calls of the contract.
pub(crate) struct Service(pub(crate) Arc<Core>);

#[tonic::async_trait]
impl ingest_server::Ingest for Service {
    type StreamStream = ReceiverStream<Result<Down, Status>>;

    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<DescribeResponse>, Status> {
        Ok(Response::new(DescribeResponse {
            network_id: self.0.network.0.to_vec().into(),
            genesis: self.0.genesis_bytes.clone().into(),
            ingester_key: self.0.ingester.0.to_vec().into(),
            limits: Some(self.0.limits_message()),
        }))
    }

    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let answer = async {
            let _call = self.call()?;
            self.0.register(request.into_inner().registration).await
        };
        self.answer(answer.await)
    }

    async fn submit(&self, request: Request<SubmitRequest>) -> Result<Response<SubmitResponse>, Status> {
        let answer = async {
            let _call = self.call()?;
            let request = request.into_inner();
            self.0.submit(&request.network_id, request.batch).await
        };
        self.answer(answer.await)
    }

    async fn stream(&self, request: Request<Streaming<Up>>) -> Result<Response<Self::StreamStream>, Status> {
        self.answer(self.open_stream(request.into_inner()).await)
    }
}

impl Service {
    /// A place among the unary calls.
    fn call(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.0.calls.clone().try_acquire_owned().map_err(|_| Refusal::Overload("calls"))
    }

    fn answer<T>(&self, result: Result<T, Refusal>) -> Result<Response<T>, Status> {
        result.map(Response::new).map_err(|refusal| self.0.refused(refusal))
    }

    async fn open_stream(
        &self,
        mut incoming: Streaming<Up>,
    ) -> Result<ReceiverStream<Result<Down, Status>>, Refusal> {
        let core = &self.0;
        if core.drain.is_cancelled() {
            return Err(Refusal::Draining);
        }
        let permit = core.streams.clone().try_acquire_owned().map_err(|_| Refusal::Overload("streams"))?;
        let timeout = core.limits.hello_timeout;
        let first = tokio::time::timeout(timeout, incoming.message())
            .await
            .map_err(|_| Refusal::Hello(format!("no hello came within `{}` ms", timeout.as_millis())))?;
        let hello = match first.map_err(|status| Refusal::from_read(&status))? {
            Some(Up { message: Some(up::Message::Hello(hello)) }) => hello,
            Some(_) => return Err(Refusal::Hello("the first message is not a hello".to_owned())),
            None => return Err(Refusal::Hello("the stream ended before its hello".to_owned())),
        };
        core.check_network(&hello.network_id)?;
        let device = DeviceId::from_slice(&hello.device_id).ok_or_else(|| {
            Refusal::Hello(format!("the device id has `{}` bytes, not 32", hello.device_id.len()))
        })?;
        Ok(stream::spawn(core.clone(), device, incoming, permit))
    }
}

impl Core {
    /// Counts a refusal and gives its status.
    pub(crate) fn refused(&self, refusal: Refusal) -> Status {
        if let Some(reason) = refusal.counted_as() {
            self.metrics.refused(reason);
        }
        refusal.into()
    }
}

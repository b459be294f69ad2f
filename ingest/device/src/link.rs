//! A stream to ingest, bare: it says hello, and then carries what it is given.

use fieldproof_proto::{
    ids::{DeviceId, NetworkId, OperatorKey},
    v1::{Down, Hello, Limits, SignedBatch, Up, Welcome, down, up},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::{error::LinkError, pb::ingest_client::IngestClient};

/// Batches that wait for the transport.
const BATCHES_IN_CHANNEL_MAX: usize = 4;

/// A stream. It checks no answers and holds to no credits: that is for whoever uses it.
pub struct Link {
    sender: LinkSender,
    receiver: LinkReceiver,
    limits: Limits,
    ingester_key: OperatorKey,
}

/// The half that sends. Dropping it tells ingest that no more batches come; answers still do.
pub struct LinkSender(mpsc::Sender<Up>);

/// The half that receives. Dropping it ends the stream.
pub struct LinkReceiver(Streaming<Down>);

impl Link {
    /// Opens a stream for a device, and waits for the welcome.
    pub async fn connect(channel: Channel, network: NetworkId, device: DeviceId) -> Result<Self, LinkError> {
        let hello = Hello { network_id: network.0.to_vec().into(), device_id: device.0.to_vec().into() };
        Self::open(channel, Up { message: Some(up::Message::Hello(hello)) }).await
    }

    /// Opens a stream with any first message.
    pub async fn open(channel: Channel, first: Up) -> Result<Self, LinkError> {
        let (up, stream) = mpsc::channel(BATCHES_IN_CHANNEL_MAX);
        up.try_send(first).map_err(|_| LinkError::Ended)?;
        let mut down = IngestClient::new(channel).stream(ReceiverStream::new(stream)).await?.into_inner();
        let Some(Down { message: Some(down::Message::Welcome(welcome)) }) = down.message().await? else {
            return Err(LinkError::NoWelcome);
        };
        let Welcome { limits: Some(limits), ingester_key } = welcome else {
            return Err(LinkError::NoWelcome);
        };
        let ingester_key = OperatorKey::from_slice(&ingester_key).ok_or(LinkError::NoWelcome)?;
        Ok(Self { sender: LinkSender(up), receiver: LinkReceiver(down), limits, ingester_key })
    }

    /// What ingest allows.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The key that the welcome named.
    pub fn ingester_key(&self) -> OperatorKey {
        self.ingester_key
    }

    /// Hands a batch to the transport. Nothing is known of it before its answer.
    pub async fn send(&self, batch: SignedBatch) -> Result<(), LinkError> {
        self.sender.send(batch).await
    }

    /// The next answer; none when ingest has closed the stream well. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Down>, LinkError> {
        self.receiver.next().await
    }

    /// The two halves, to send and receive at once.
    pub fn split(self) -> (LinkSender, LinkReceiver) {
        (self.sender, self.receiver)
    }
}

impl LinkSender {
    /// Hands a batch to the transport. Nothing is known of it before its answer.
    pub async fn send(&self, batch: SignedBatch) -> Result<(), LinkError> {
        self.0.send(up(batch)).await.map_err(|_| LinkError::Ended)
    }

    /// Waits until the transport takes another batch. Cancel-safe.
    pub(crate) async fn ready(&self) -> Result<(), LinkError> {
        self.0.reserve().await.map(drop).map_err(|_| LinkError::Ended)
    }

    /// Hands a batch to the transport, which `ready` said has room.
    pub(crate) fn try_send(&self, batch: SignedBatch) -> Result<(), LinkError> {
        self.0.try_send(up(batch)).map_err(|_| LinkError::Ended)
    }
}

fn up(batch: SignedBatch) -> Up {
    Up { message: Some(up::Message::Batch(batch)) }
}

impl LinkReceiver {
    /// The next answer; none when ingest has closed the stream well. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Down>, LinkError> {
        Ok(self.0.message().await?)
    }
}

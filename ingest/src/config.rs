//! What an ingester is told when it starts.

use std::{net::SocketAddr, time::Duration};

use ed25519_dalek::SigningKey;
use fieldproof_proto::batch::BATCH_BYTES_MAX;

use crate::error::IngestError;

/// The most bytes of a protobuf message that is read at all. A batch between
/// [`IngestLimits::batch_bytes_max`] and this gets a signed rejection; anything larger ends the call.
pub(crate) const MESSAGE_BYTES_MAX: usize = 2 * BATCH_BYTES_MAX;

/// Everything an ingester needs to know.
pub struct IngestConfig {
    /// Where to serve gRPC. Port 0 takes a free one, which [`crate::Ingest::address`] tells.
    pub listen: SocketAddr,
    /// The canonical bytes of the network's genesis.
    pub genesis: Vec<u8>,
    /// Signs receipts and rejections; certified in the topic `control`.
    pub signing_key: SigningKey,
    /// The log.
    pub kafka: KafkaSettings,
    /// The topics of the log.
    pub topics: Topics,
    /// The bounds of everything that could grow.
    pub limits: IngestLimits,
}

/// How to reach Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaSettings {
    /// As librdkafka reads them: `host:port`, separated by commas.
    pub bootstrap_servers: String,
}

/// The topics of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    /// Batches and registrations, as many partitions as the genesis says.
    pub telemetry: String,
    /// Control records, one partition.
    pub control: String,
    /// The ingesters' cache of registrations: compacted, one partition.
    pub registry: String,
    /// The generation of `telemetry`, which receipts name.
    pub generation: u32,
}

/// The bounds of an ingester.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestLimits {
    /// The most bytes of an encoded `SignedBatch`.
    pub batch_bytes_max: u32,
    /// Bytes of batches one stream may have under way.
    pub credit_bytes: u32,
    /// Bytes of batches the process holds until the log has them.
    pub in_flight_bytes_max: u32,
    /// Streams at a time.
    pub streams_max: u32,
    /// How long a stream may take to say hello.
    pub hello_timeout: Duration,
    /// How long a stream may go without any progress.
    pub idle_timeout: Duration,
    /// How many batches of unregistered devices are logged in a second.
    pub unregistered_batches_per_second_max: u32,
    /// How long [`crate::Ingest::stop`] may take.
    pub drain_deadline: Duration,
}

impl Default for IngestLimits {
    fn default() -> Self {
        Self {
            batch_bytes_max: u32::try_from(BATCH_BYTES_MAX).expect("a batch is far below 4 GiB"),
            credit_bytes: 1024 * 1024,
            in_flight_bytes_max: 64 * 1024 * 1024,
            streams_max: 16_384,
            hello_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(300),
            unregistered_batches_per_second_max: 20,
            drain_deadline: Duration::from_secs(20),
        }
    }
}

impl IngestLimits {
    /// Refuses limits under which no batch, or no stream, could ever pass.
    pub(crate) fn check(&self) -> Result<(), IngestError> {
        let batch_bytes_max = u64::from(self.batch_bytes_max);
        let rules = [
            ("batch_bytes_max", batch_bytes_max, 1, BATCH_BYTES_MAX as u64),
            ("credit_bytes", self.credit_bytes.into(), batch_bytes_max, 1 << 30),
            ("in_flight_bytes_max", self.in_flight_bytes_max.into(), MESSAGE_BYTES_MAX as u64, 1 << 31),
            ("streams_max", self.streams_max.into(), 1, 1 << 20),
            ("hello_timeout", millis(self.hello_timeout), 1, 600_000),
            ("idle_timeout", millis(self.idle_timeout), 1, 86_400_000),
            ("drain_deadline", millis(self.drain_deadline), 1, 600_000),
        ];
        for (field, value, minimum, maximum) in rules {
            if value < minimum || value > maximum {
                return Err(IngestError::Limit { field, value, minimum, maximum });
            }
        }
        Ok(())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

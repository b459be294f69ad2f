//! The producer: records in, delivery reports out.
//!
//! A record is handed to librdkafka with a ticket, and the ticket comes back with the offset or the
//! error, on the poll thread. Nothing counts as logged before that. A full queue gives the record
//! back, and we wait for room: a bounded time, woken by the next report.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use fieldproof_proto::ids::DeviceId;
use rdkafka::{
    ClientContext, Message as _,
    config::ClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, mpsc::UnboundedSender},
    time::Instant,
};

use crate::{
    config::KafkaSettings,
    error::IngestError,
    failure::{Alarm, Failure},
};

/// The producer's settings, in one place. `acks=all` is the promise behind every receipt;
/// idempotence keeps a device's records in order and free of duplicates through the client's own
/// retries. Zero turns librdkafka's limit on the number of messages off: bytes are bounded by
/// `in_flight_bytes_max` before they get here.
const PRODUCER_SETTINGS: [(&str, &str); 8] = [
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("compression.type", "lz4"),
    ("linger.ms", "5"),
    ("batch.size", "1000000"),
    ("message.max.bytes", "2000000"),
    ("message.timeout.ms", MESSAGE_TIMEOUT_MS),
    ("queue.buffering.max.messages", "0"),
];
const MESSAGE_TIMEOUT_MS: &str = "30000";
/// How long a record waits for room in a full queue.
const QUEUE_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long the poll thread sleeps when nothing happens; a report wakes it.
const POLL: Duration = Duration::from_millis(50);
/// The header that tells batches from registrations.
const KIND_HEADER: &str = "kind";

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    Batch,
    Registration,
}

/// Where a record goes and what it says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogRecord<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: u32,
    pub(crate) device: &'a DeviceId,
    pub(crate) kind: RecordKind,
    pub(crate) value: &'a [u8],
}

/// What a record's report is for. It also holds the record's share of the bytes in flight.
pub(crate) struct Ticket {
    pub(crate) index: u64,
    pub(crate) reports: UnboundedSender<Report>,
    pub(crate) _share: Option<OwnedSemaphorePermit>,
}

/// What became of a record: its offset, or nothing that anybody may rely on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) index: u64,
    pub(crate) offset: Option<u64>,
}

/// The producer and its poll thread.
pub(crate) struct Log {
    producer: Arc<BaseProducer<Reports>>,
    room: Arc<Notify>,
    failure: Failure,
    stopping: Arc<AtomicBool>,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

/// Takes the delivery reports.
struct Reports {
    room: Arc<Notify>,
}

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "the producer has trouble with kafka");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let offset = match result {
            Ok(message) => u64::try_from(message.offset()).ok(),
            Err((error, _)) => {
                tracing::warn!(%error, "a record was not confirmed; its device sends it again");
                None
            }
        };
        // A stream that has ended takes no reports; its device sends again what has no receipt.
        if ticket.reports.send(Report { index: ticket.index, offset }).is_err() {
            tracing::debug!("a report came after its stream had ended");
        }
        self.room.notify_waiters();
    }
}

impl RecordKind {
    fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Registration => "registration",
        }
    }
}

impl Log {
    /// Starts the producer and its thread.
    pub(crate) fn start(kafka: &KafkaSettings, failure: Failure) -> Result<Self, IngestError> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &kafka.bootstrap_servers);
        for (key, value) in PRODUCER_SETTINGS {
            config.set(key, value);
        }
        let room = Arc::new(Notify::new());
        let producer: BaseProducer<Reports> = config
            .create_with_context(Reports { room: room.clone() })
            .map_err(|source| IngestError::Kafka { action: "make the producer".to_owned(), source })?;
        let producer = Arc::new(producer);
        let stopping = Arc::new(AtomicBool::new(false));
        let alarm = Alarm { name: "ingest-producer", failure: failure.clone() };
        let (polled, stop) = (producer.clone(), stopping.clone());
        let thread = std::thread::Builder::new()
            .name(alarm.name.to_owned())
            .spawn(move || {
                let _alarm = alarm;
                while !stop.load(Ordering::Acquire) {
                    polled.poll(POLL);
                }
            })
            .map_err(|source| IngestError::Thread { name: "ingest-producer", source })?;
        Ok(Self { producer, room, failure, stopping, thread: std::sync::Mutex::new(Some(thread)) })
    }

    /// Hands a record to the producer. When this returns `Ok`, nothing is durable: the report says.
    /// `Err`: the record was not taken, and there will be no report.
    pub(crate) async fn append(&self, record: &LogRecord<'_>, ticket: Ticket) -> Result<(), KafkaError> {
        let deadline = Instant::now() + QUEUE_WAIT_MAX;
        let mut ticket = Box::new(ticket);
        loop {
            let room = self.room.notified();
            let kind = Header { key: KIND_HEADER, value: Some(record.kind.name()) };
            let partition = i32::try_from(record.partition).expect("kafka counts partitions in 31 bits");
            let to_send = BaseRecord::with_opaque_to(record.topic, ticket)
                .partition(partition)
                .key(&record.device.0[..])
                .payload(record.value)
                .headers(OwnedHeaders::new_with_capacity(1).insert(kind));
            let (error, given_back) = match self.producer.send(to_send) {
                Ok(()) => return Ok(()),
                Err((error, given_back)) => (error, given_back.delivery_opaque),
            };
            ticket = given_back;
            match error {
                KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => {
                    if tokio::time::timeout_at(deadline, room).await.is_err() {
                        return Err(error);
                    }
                }
                KafkaError::MessageProduction(RDKafkaErrorCode::Fatal) => {
                    // An idempotent producer that lost its place never sends again. The ingester is
                    // stateless: whoever runs it starts a new one.
                    let action = "go on producing".to_owned();
                    self.failure.report(IngestError::Kafka { action, source: error.clone() });
                    return Err(error);
                }
                _ => return Err(error),
            }
        }
    }

    /// How many records have no report yet.
    pub(crate) fn in_flight(&self) -> usize {
        usize::try_from(self.producer.in_flight_count()).unwrap_or(0)
    }

    /// Waits for all reports, at most so long, and ends the thread. Blocks.
    pub(crate) fn stop(&self, timeout: Duration) {
        if let Err(error) = self.producer.flush(timeout) {
            tracing::warn!(%error, records = self.in_flight(), "records were not confirmed before the end");
        }
        self.stopping.store(true, Ordering::Release);
        let thread = self.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(Err(panic)) = thread.map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
    }
}

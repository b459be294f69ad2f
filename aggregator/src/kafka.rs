//! The log: reading one partition from an offset, and appending the few records that the aggregator
//! and the operator write themselves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use fieldproof_proto::evidence::{KIND_HEADER, Record};
use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    config::FromClientConfigAndContext as _,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    message::{Header, Headers as _, OwnedHeaders},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
    types::RDKafkaErrorCode,
};
use tokio::sync::{mpsc, oneshot};

/// How long one poll waits; also how fast a source stops.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// Records that may wait between the consumer's thread and its reader.
const SOURCE_RECORDS_MAX: usize = 1024;
/// How long an append or an administrative request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Which topics a network uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    /// Everything about devices.
    pub telemetry: String,
    /// Control records; one partition.
    pub control: String,
    /// The ingesters' cache of registrations; one partition, compacted.
    pub registry: String,
    /// The generation that these topics are.
    pub generation: u32,
}

impl Default for Topics {
    fn default() -> Self {
        Self {
            telemetry: "telemetry".to_owned(),
            control: "control".to_owned(),
            registry: "registry".to_owned(),
            generation: 1,
        }
    }
}

/// Why the log did not do what it should.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// Kafka refused, or could not be reached.
    #[error("kafka, {action}: {cause}")]
    Kafka {
        /// What was attempted.
        action: String,
        /// What librdkafka said.
        cause: KafkaError,
    },
    /// The topic is not what the network needs.
    #[error("topic `{topic}` has {found} partitions, the network needs {needed}")]
    Partitions {
        /// The topic.
        topic: String,
        /// What it has.
        found: usize,
        /// What the genesis says.
        needed: u32,
    },
    /// A record without an append time.
    #[error("record `{offset}` has no time: the topic needs message.timestamp.type=LogAppendTime")]
    NoTime {
        /// The record.
        offset: i64,
    },
    /// No answer in time.
    #[error("kafka, {0}: no answer in time")]
    Timeout(String),
}

impl LogError {
    fn kafka(action: impl Into<String>) -> impl FnOnce(KafkaError) -> Self {
        let action = action.into();
        move |cause| Self::Kafka { action, cause }
    }

    /// Whether trying again cannot help: what was committed is not in the log any more.
    pub fn contradicts_evidence(&self) -> bool {
        let code = match self {
            Self::Kafka { cause, .. } => cause.rdkafka_error_code(),
            _ => return false,
        };
        matches!(code, Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange))
    }
}

/// What a source gives.
#[derive(Debug)]
pub enum SourceEvent {
    /// The next record.
    Record(Record),
    /// There are no more records for now.
    End,
    /// The source has ended.
    Failed(LogError),
}

/// One partition, read on a thread of its own from an offset on. Dropping it ends the thread.
#[derive(Debug)]
pub struct Source {
    events: mpsc::Receiver<SourceEvent>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Source {
    /// Starts reading. Group offsets play no part: the reader's evidence says where it is.
    pub fn start(
        bootstrap_servers: &str,
        topic: &str,
        partition: u32,
        offset: u64,
    ) -> Result<Self, LogError> {
        let action = format!("reading `{topic}` partition `{partition}` from offset `{offset}`");
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap_servers)
            .set("group.id", "fieldproof-evidence")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            // Whoever left a transaction open must not hold up everybody's evidence.
            .set("isolation.level", "read_uncommitted")
            .set("enable.partition.eof", "true")
            .set("check.crcs", "true")
            .set("queued.max.messages.kbytes", "16384")
            .create()
            .map_err(LogError::kafka(&action))?;
        let mut assignment = TopicPartitionList::new();
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let start = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
        assignment.add_partition_offset(topic, number, start).map_err(LogError::kafka(&action))?;
        consumer.assign(&assignment).map_err(LogError::kafka(&action))?;
        let (sender, events) = mpsc::channel(SOURCE_RECORDS_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new()
            .name(format!("evidence-{topic}-{partition}"))
            .spawn({
                let stop = stop.clone();
                move || poll(&consumer, &sender, &stop, &action)
            })
            .expect("the system can start a thread");
        Ok(Self { events, stop, thread: Some(thread) })
    }

    /// The next event. Cancel-safe.
    pub async fn next(&mut self) -> SourceEvent {
        self.events
            .recv()
            .await
            .unwrap_or_else(|| SourceEvent::Failed(LogError::Timeout("reading".to_owned())))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A thread that waits for room sees its reader gone.
        self.events.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a thread that reads the log panicked");
        }
    }
}

fn poll(consumer: &BaseConsumer, events: &mpsc::Sender<SourceEvent>, stop: &AtomicBool, action: &str) {
    while !stop.load(Ordering::Relaxed) {
        let event = match consumer.poll(POLL_WAIT) {
            None => continue,
            Some(Ok(message)) => match to_record(&message) {
                Ok(record) => SourceEvent::Record(record),
                Err(error) => SourceEvent::Failed(error),
            },
            Some(Err(KafkaError::PartitionEOF(_))) => SourceEvent::End,
            Some(Err(error)) => {
                let error = LogError::Kafka { action: action.to_owned(), cause: error };
                if is_passing(&error) {
                    tracing::warn!(%error, "the log is out of reach; reading goes on when it is back");
                    continue;
                }
                SourceEvent::Failed(error)
            }
        };
        let failed = matches!(event, SourceEvent::Failed(_));
        if events.blocking_send(event).is_err() || failed {
            return;
        }
    }
}

/// Errors after which librdkafka goes on by itself.
fn is_passing(error: &LogError) -> bool {
    let code = match error {
        LogError::Kafka { cause, .. } => cause.rdkafka_error_code(),
        _ => None,
    };
    matches!(
        code,
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::RequestTimedOut
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::Resolve
        )
    )
}

fn to_record(message: &rdkafka::message::BorrowedMessage<'_>) -> Result<Record, LogError> {
    let offset = message.offset();
    let append_ms = message.timestamp().to_millis().ok_or(LogError::NoTime { offset })?;
    let headers = message.headers().map(|headers| {
        headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
    });
    Ok(Record {
        offset: u64::try_from(offset).map_err(|_| LogError::NoTime { offset })?,
        append_ms,
        key: message.key().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
        value: message.payload().map(<[u8]>::to_vec),
    })
}

/// Appends single records and waits for the log to acknowledge them.
pub struct Appender {
    producer: ThreadedProducer<Reports>,
}

/// A record to append.
#[derive(Debug, Clone)]
pub struct NewRecord<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: u32,
    /// What it is: the header `kind`.
    pub kind: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

struct Reports;

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<oneshot::Sender<Result<(), KafkaError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Self::DeliveryOpaque) {
        let result = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.clone()),
        };
        if waiting.send(result).is_err() {
            tracing::debug!("nobody waits for an appended record any more");
        }
    }
}

impl Appender {
    /// Connects. Every append is acknowledged by all in-sync replicas.
    pub fn connect(bootstrap_servers: &str) -> Result<Self, LogError> {
        let mut settings = ClientConfig::new();
        settings
            .set("bootstrap.servers", bootstrap_servers)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", "30000");
        let producer = ThreadedProducer::from_config_and_context(&settings, Reports)
            .map_err(LogError::kafka("connecting"))?;
        Ok(Self { producer })
    }

    /// Appends a record. Durable when it returns: the record, on all in-sync replicas.
    pub async fn append(&self, record: &NewRecord<'_>) -> Result<(), LogError> {
        let action = format!("appending to `{}` partition `{}`", record.topic, record.partition);
        let (waiting, delivered) = oneshot::channel();
        let headers = OwnedHeaders::new().insert(Header { key: KIND_HEADER, value: Some(record.kind) });
        let message = BaseRecord::<[u8], [u8], _>::with_opaque_to(record.topic, Box::new(waiting))
            .partition(i32::try_from(record.partition).unwrap_or(i32::MAX))
            .payload(record.value)
            .headers(headers);
        self.producer
            .send(message)
            .map_err(|(error, _)| LogError::Kafka { action: action.clone(), cause: error })?;
        match tokio::time::timeout(REQUEST_TIMEOUT, delivered).await {
            Ok(Ok(result)) => result.map_err(LogError::kafka(action)),
            Ok(Err(_)) | Err(_) => Err(LogError::Timeout(action)),
        }
    }

    /// Waits until Kafka answers at all.
    pub fn wait_until_ready(&self) -> Result<(), LogError> {
        self.producer
            .client()
            .fetch_metadata(None, REQUEST_TIMEOUT)
            .map(drop)
            .map_err(LogError::kafka("connecting"))
    }
}

/// Whether Kafka answers at all. Blocks until it does, or for the time a request may take.
pub fn check_reachable(bootstrap_servers: &str) -> Result<(), LogError> {
    const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
    let action = format!("connecting to `{bootstrap_servers}`");
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap_servers)
        .create()
        .map_err(LogError::kafka(&action))?;
    client.fetch_metadata(None, ANSWER_TIMEOUT).map(drop).map_err(LogError::kafka(action))
}

/// Creates the topics of a network where they are missing, and checks those that are there.
pub async fn create_topics(
    bootstrap_servers: &str,
    topics: &Topics,
    partition_count: u32,
    replication: i32,
) -> Result<(), LogError> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap_servers)
        .create()
        .map_err(LogError::kafka("connecting"))?;
    let wanted = [
        (&topics.telemetry, partition_count, "delete"),
        (&topics.control, 1, "delete"),
        (&topics.registry, 1, "compact"),
    ];
    for (topic, partitions, cleanup) in wanted {
        let partitions_signed = i32::try_from(partitions).unwrap_or(i32::MAX);
        let new = NewTopic::new(topic, partitions_signed, TopicReplication::Fixed(replication))
            .set("cleanup.policy", cleanup)
            .set("retention.ms", "-1")
            .set("message.timestamp.type", "LogAppendTime");
        let action = format!("creating topic `{topic}`");
        let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
        let results = admin.create_topics([&new], &options).await.map_err(LogError::kafka(&action))?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(LogError::Kafka { action, cause: KafkaError::AdminOp(code) }),
            }
        }
        wait_for_partitions(&admin, topic, partitions).await?;
    }
    Ok(())
}

/// Waits until a topic has a leader for each of its partitions.
async fn wait_for_partitions(
    admin: &AdminClient<DefaultClientContext>,
    topic: &str,
    needed: u32,
) -> Result<(), LogError> {
    const ATTEMPTS_MAX: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(100);
    let mut found = 0;
    for _ in 0..ATTEMPTS_MAX {
        let metadata = admin
            .inner()
            .fetch_metadata(Some(topic), REQUEST_TIMEOUT)
            .map_err(LogError::kafka(format!("looking at topic `{topic}`")))?;
        let partitions = metadata.topics().first().map(|topic| topic.partitions()).unwrap_or_default();
        found = partitions.len();
        if u32::try_from(found) == Ok(needed) && partitions.iter().all(|partition| partition.leader() >= 0) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(LogError::Partitions { topic: topic.to_owned(), found, needed })
}

//! What an ingester knows from the log: the control state, and which devices are registered.
//!
//! Each topic has one thread with one consumer that reads from the beginning, without a group and
//! without committed offsets. Both are caches: nothing here decides what a batch is worth. So a
//! control record is verified, for it admits devices, but a registration is only read for its
//! device: a wrong one costs its writer nothing but the rate limit of unregistered devices.

use std::{
    collections::HashSet,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use fieldproof_proto::{
    control::{ControlRecord, ControlState, Program},
    ids::{DeviceId, NetworkId, OperatorKey},
};
use rdkafka::{
    ClientContext, Message as _, Offset, TopicPartitionList,
    config::ClientConfig,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::sync::oneshot;

use crate::{
    config::KafkaSettings,
    error::IngestError,
    failure::{Alarm, Failure},
};

/// The most devices that are remembered, 32 bytes each; any more count as unregistered here.
const DEVICES_MAX: usize = 16 * 1024 * 1024;
/// How long one poll may sleep.
const POLL: Duration = Duration::from_millis(100);
/// How long a broker may take to describe a topic.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a cache may take to reach the end of its topic.
pub(crate) const CACHE_TIMEOUT: Duration = Duration::from_secs(60);

/// The state that the cache threads keep up to date.
#[derive(Default)]
pub(crate) struct Caches {
    control: RwLock<ControlState>,
    devices: RwLock<HashSet<DeviceId>>,
}

impl Caches {
    /// A program, or else the names of all there are.
    pub(crate) fn program(&self, name: &str) -> Result<Program, Vec<String>> {
        let control = self.control.read().unwrap_or_else(PoisonError::into_inner);
        control.programs.get(name).cloned().ok_or_else(|| control.programs.keys().cloned().collect())
    }

    /// Whether a registration of the device has been seen.
    pub(crate) fn is_registered(&self, device: &DeviceId) -> bool {
        self.devices.read().unwrap_or_else(PoisonError::into_inner).contains(device)
    }

    /// Remembers a device.
    pub(crate) fn add_device(&self, device: DeviceId) {
        let mut devices = self.devices.write().unwrap_or_else(PoisonError::into_inner);
        if devices.len() < DEVICES_MAX {
            devices.insert(device);
        } else {
            tracing::warn!(
                devices = devices.len(),
                "the registry cache is full; the device counts as unregistered"
            );
        }
    }

    /// Takes a record of the topic `control`. A tick, which has no value, and a record that does not
    /// verify change nothing.
    pub(crate) fn apply_control(&self, network: &NetworkId, operator: &OperatorKey, value: &[u8]) {
        if value.is_empty() {
            return;
        }
        match ControlRecord::verify(network, operator, value) {
            Ok(record) => {
                self.control.write().unwrap_or_else(PoisonError::into_inner).apply(&record.body);
            }
            Err(error) => tracing::warn!(%error, "a control record is ignored"),
        }
    }

    /// Takes a record of the topic `registry`: a key and, unless it was deleted, a registration.
    pub(crate) fn apply_registry(&self, key: Option<&[u8]>, value: Option<&[u8]>) {
        let Some(device) = key.and_then(DeviceId::from_slice) else {
            tracing::warn!("a registry record without a device is ignored");
            return;
        };
        if value.is_some() {
            self.add_device(device);
        } else {
            self.devices.write().unwrap_or_else(PoisonError::into_inner).remove(&device);
        }
    }
}

/// Logs what the client says.
struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        // librdkafka tells of the end of a partition here too, which is where a cache wants to be.
        if !matches!(error, KafkaError::PartitionEOF(_))
            && error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF)
        {
            tracing::warn!(%error, reason, "a cache has trouble with kafka");
        }
    }
}

impl ConsumerContext for Quiet {}

/// A consumer that belongs to no group.
fn consumer(kafka: &KafkaSettings) -> Result<BaseConsumer<Quiet>, IngestError> {
    ClientConfig::new()
        .set("bootstrap.servers", &kafka.bootstrap_servers)
        // librdkafka wants a name, though nothing is ever committed under it.
        .set("group.id", "fieldproof-ingest-cache")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("allow.auto.create.topics", "false")
        .create_with_context(Quiet)
        .map_err(|source| IngestError::Kafka { action: "make a consumer".to_owned(), source })
}

/// Refuses topics that are absent or have another number of partitions than given. Blocks.
pub(crate) fn check_topics(kafka: &KafkaSettings, topics: &[(String, usize)]) -> Result<(), IngestError> {
    let consumer = consumer(kafka)?;
    for (topic, partitions) in topics {
        let described = consumer.fetch_metadata(Some(topic), METADATA_TIMEOUT);
        let described = described.map_err(|source| kafka_error("describe", topic, source))?;
        let found = described.topics().iter().find(|found| found.name() == topic);
        let found = found.filter(|found| found.error().is_none()).map_or(0, |found| found.partitions().len());
        if found == 0 {
            return Err(IngestError::TopicMissing(topic.clone()));
        }
        if found != *partitions {
            return Err(IngestError::Partitions { topic: topic.clone(), found, expected: *partitions });
        }
    }
    Ok(())
}

/// One cache thread.
pub(crate) struct Follower {
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    topic: String,
    caught_up: Option<oneshot::Receiver<()>>,
}

/// What a cache thread follows.
pub(crate) struct Followed {
    /// The thread's name.
    pub(crate) name: &'static str,
    /// The topic, of one partition.
    pub(crate) topic: String,
    /// Takes each record.
    pub(crate) apply: Apply,
}

/// Takes the key and the value of a record.
pub(crate) type Apply = Box<dyn Fn(Option<&[u8]>, Option<&[u8]>) + Send>;

impl Follower {
    /// Starts reading a topic from its beginning.
    pub(crate) fn start(
        kafka: &KafkaSettings,
        followed: Followed,
        failure: &Failure,
    ) -> Result<Self, IngestError> {
        let consumer = consumer(kafka)?;
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(&followed.topic, 0, Offset::Beginning)
            .and_then(|()| consumer.assign(&assignment))
            .map_err(|source| kafka_error("read", &followed.topic, source))?;
        let stopping = Arc::new(AtomicBool::new(false));
        let (at_end, caught_up) = oneshot::channel();
        let alarm = Alarm { name: followed.name, failure: failure.clone() };
        let (stop, topic) = (stopping.clone(), followed.topic.clone());
        let thread = std::thread::Builder::new()
            .name(followed.name.to_owned())
            .spawn(move || {
                let _alarm = alarm;
                follow(&consumer, &followed, &stop, at_end);
            })
            .map_err(|source| IngestError::Thread { name: "ingest-cache", source })?;
        Ok(Self { stopping, thread: Some(thread), topic, caught_up: Some(caught_up) })
    }

    /// Waits until the topic was read to its end once.
    pub(crate) async fn caught_up(&mut self) -> Result<(), IngestError> {
        let Some(caught_up) = self.caught_up.take() else { return Ok(()) };
        match tokio::time::timeout(CACHE_TIMEOUT, caught_up).await {
            Ok(Ok(())) => Ok(()),
            _ => {
                Err(IngestError::CacheTimeout { topic: self.topic.clone(), seconds: CACHE_TIMEOUT.as_secs() })
            }
        }
    }

    /// Ends the thread. Blocks for at most one poll.
    pub(crate) fn stop(mut self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
    }
}

fn follow(
    consumer: &BaseConsumer<Quiet>,
    followed: &Followed,
    stop: &AtomicBool,
    at_end: oneshot::Sender<()>,
) {
    let mut at_end = Some(at_end);
    while !stop.load(Ordering::Acquire) {
        match consumer.poll(POLL) {
            None => {}
            Some(Ok(message)) => (followed.apply)(message.key(), message.payload()),
            Some(Err(KafkaError::PartitionEOF(_))) => {
                let told = at_end.take().map(|at_end| at_end.send(()));
                // Nobody waits any more if the start was given up; the thread then ends by itself.
                let (None | Some(Ok(()))) = told else { return };
            }
            Some(Err(error)) => {
                tracing::warn!(%error, topic = followed.topic, "a cache cannot read its topic");
                // Errors repeat as fast as they are polled while a broker is away.
                std::thread::sleep(POLL);
            }
        }
    }
}

fn kafka_error(action: &str, topic: &str, source: KafkaError) -> IngestError {
    match source.rdkafka_error_code() {
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
            IngestError::TopicMissing(topic.to_owned())
        }
        _ => IngestError::Kafka { action: format!("{action} the topic `{topic}`"), source },
    }
}

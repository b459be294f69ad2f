//! A network of its own for each test: keys, a mock Kafka on its thread, an ingester.

use std::{path::Path, sync::mpsc, thread::JoinHandle, time::Duration};

use alloy_primitives::Address;
use ed25519_dalek::SigningKey;
use fieldproof_device::{DeviceConfig, DeviceLimits, Link, LinkFaults};
use fieldproof_ingest::{Ingest, IngestConfig, IngestError, IngestLimits, KafkaSettings, Topics};
use fieldproof_proto::{
    batch::{BatchFacts, Place, sign_batch},
    control::{ControlBody, ControlRecord, PolicyBundle, Program},
    evm::EvmSecret,
    genesis::{EpochGrid, Genesis, GenesisFormat},
    ids::{DeviceId, Digest, NetworkId, OperatorKey},
    payload::{Column, Payload},
    registration::{Registration, RegistrationSigners, sign_registration},
    signature::DeviceSecret,
    v1::{SignedBatch, SignedRegistration},
};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    message::Headers as _,
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _},
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use tonic::transport::{Channel, Endpoint};

pub const PARTITIONS: u32 = 4;
pub const CHAIN_ID: u64 = 31_337;
pub const START_MS: u64 = 1_760_000_000_000;

/// Something to do with the cluster, on its thread.
type Work = Box<dyn FnOnce(&MockCluster<'_, DefaultProducerContext>) + Send>;

/// A mock Kafka. The cluster cannot leave its thread.
pub struct Kafka {
    pub bootstrap_servers: String,
    work: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

/// A record as it stands in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub partition: u32,
    pub offset: u64,
    pub key: Vec<u8>,
    pub kind: String,
    pub value: Vec<u8>,
}

pub struct World {
    pub kafka: Kafka,
    pub genesis: Vec<u8>,
    pub network: NetworkId,
    pub admitter: SigningKey,
    pub provider: EvmSecret,
    pub spools: tempfile::TempDir,
}

impl Kafka {
    pub fn start(topics: &'static [(&'static str, i32)]) -> Self {
        let (started, bootstrap_servers) = mpsc::channel();
        let (work, works) = mpsc::channel::<Work>();
        let thread = std::thread::spawn(move || {
            let cluster = MockCluster::new(1).unwrap();
            for (topic, partitions) in topics {
                cluster.create_topic(topic, *partitions, 1).unwrap();
            }
            started.send(cluster.bootstrap_servers()).unwrap();
            for work in works {
                work(&cluster);
            }
        });
        Self { bootstrap_servers: bootstrap_servers.recv().unwrap(), work: Some(work), thread: Some(thread) }
    }

    /// The next requests to produce fail for good, one after the other.
    pub fn fail_produce(&self, times: usize) {
        let (done, is_done) = mpsc::channel();
        let work: Work = Box::new(move |cluster| {
            let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
            cluster.request_errors(RDKafkaApiKey::Produce, &vec![error; times]);
            done.send(()).unwrap();
        });
        self.work.as_ref().unwrap().send(work).unwrap();
        is_done.recv().unwrap();
    }

    pub fn append(&self, topic: &str, value: &[u8]) {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", &self.bootstrap_servers).create().unwrap();
        producer.send(BaseRecord::<(), [u8]>::to(topic).partition(0).payload(value)).unwrap();
        producer.flush(Duration::from_secs(10)).unwrap();
    }

    /// All records of a topic, by partition and offset.
    pub fn read(&self, topic: &str, partitions: u32) -> Vec<Stored> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("group.id", "test")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .create()
            .unwrap();
        let mut assignment = TopicPartitionList::new();
        for partition in 0..partitions {
            assignment.add_partition_offset(topic, partition as i32, Offset::Beginning).unwrap();
        }
        consumer.assign(&assignment).unwrap();
        let (mut records, mut ended) = (Vec::new(), 0);
        while ended < partitions {
            match consumer.poll(Duration::from_secs(10)).expect("a record or an end") {
                Ok(message) => records.push(Stored {
                    partition: message.partition() as u32,
                    offset: message.offset() as u64,
                    key: message.key().unwrap_or_default().to_vec(),
                    kind: message
                        .headers()
                        .map(|headers| headers.get_as::<str>(0).unwrap().value.unwrap().to_owned())
                        .unwrap_or_default(),
                    value: message.payload().unwrap_or_default().to_vec(),
                }),
                Err(KafkaError::PartitionEOF(_)) => ended += 1,
                Err(error) => panic!("{error}"),
            }
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        drop(self.work.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

impl World {
    pub fn new() -> Self {
        let operator = SigningKey::from_bytes(&[1; 32]);
        let admitter = SigningKey::from_bytes(&[2; 32]);
        let genesis = Genesis {
            format: GenesisFormat::V1,
            name: "test".to_owned(),
            chain_id: CHAIN_ID,
            token: Address::repeat_byte(9),
            epochs: EpochGrid {
                start_ms: START_MS,
                length_ms: 3_600_000,
                grace_ms: 60_000,
                future_ms: 60_000,
            },
            partitions: PARTITIONS.try_into().unwrap(),
            operator: OperatorKey(operator.verifying_key().to_bytes()),
        }
        .to_bytes()
        .unwrap();
        let network = Genesis::network_id(&genesis);
        let program = ControlBody::Program(Program {
            name: "energy".to_owned(),
            admitter: OperatorKey(admitter.verifying_key().to_bytes()),
            pool: 1_000_000,
            readings_per_device_max: 10_000,
            devices_max: 100,
            policy: PolicyBundle { policy_toml: String::new(), contribution_sql: String::new() },
        });
        let kafka = Kafka::start(&[("telemetry", PARTITIONS as i32), ("control", 1), ("registry", 1)]);
        let record = ControlRecord::sign(&network, program.clone(), &operator).unwrap();
        kafka.append("control", &record.to_bytes().unwrap());
        // By somebody else: must change nothing.
        let ControlBody::Program(mut forged) = program else { unreachable!() };
        "forged".clone_into(&mut forged.name);
        let forged = ControlRecord::sign(&network, ControlBody::Program(forged), &admitter).unwrap();
        kafka.append("control", &forged.to_bytes().unwrap());
        let provider = EvmSecret::from_bytes(&[3; 32]).unwrap();
        Self { kafka, genesis, network, admitter, provider, spools: tempfile::tempdir().unwrap() }
    }

    pub fn config(&self, limits: IngestLimits) -> IngestConfig {
        IngestConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            genesis: self.genesis.clone(),
            signing_key: SigningKey::from_bytes(&[4; 32]),
            kafka: KafkaSettings { bootstrap_servers: self.kafka.bootstrap_servers.clone() },
            topics: topics(),
            limits,
        }
    }

    pub async fn ingest(&self) -> Ingest {
        self.ingest_with(IngestLimits::default()).await.unwrap()
    }

    pub async fn ingest_with(&self, limits: IngestLimits) -> Result<Ingest, IngestError> {
        Ingest::start(self.config(limits)).await
    }

    pub fn registration(&self, secret: &DeviceSecret, program: &str) -> SignedRegistration {
        let registration = Registration {
            public_key: secret.public_key(),
            counter: 1,
            provider: self.provider.address(),
            replaces: DeviceId::ZERO,
            program: program.to_owned(),
            attributes: "{}".to_owned(),
        };
        let signers =
            RegistrationSigners { device: secret, provider: &self.provider, admitter: &self.admitter };
        sign_registration(&self.network, CHAIN_ID, &registration, &signers).unwrap()
    }

    pub fn device_config(&self, ingest: &Ingest, seed: u8, faults: Option<LinkFaults>) -> DeviceConfig {
        DeviceConfig {
            endpoint: endpoint(ingest),
            network: self.network,
            secret: DeviceSecret::ed25519([seed; 32]),
            spool: self.spool(seed),
            registration: 1,
            ingester_key: None,
            limits: DeviceLimits { backoff_max: Duration::from_millis(500), ..DeviceLimits::default() },
            link_faults: faults,
        }
    }

    fn spool(&self, seed: u8) -> std::path::PathBuf {
        let root: &Path = self.spools.path();
        root.join(seed.to_string())
    }

    pub async fn link(&self, ingest: &Ingest, secret: &DeviceSecret) -> Link {
        Link::connect(channel(ingest).await, self.network, secret.public_key().device_id()).await.unwrap()
    }

    /// A batch of one boot, linked to `previous`.
    pub fn batch(&self, secret: &DeviceSecret, seq: u64, previous: Digest) -> (SignedBatch, Digest) {
        let facts =
            BatchFacts { network: self.network, registration: 1, place: Place { boot: 1, seq }, previous };
        sign_batch(secret, &facts, &payload(seq)).unwrap()
    }

    pub fn telemetry(&self) -> Vec<Stored> {
        self.kafka.read("telemetry", PARTITIONS)
    }
}

pub fn topics() -> Topics {
    Topics {
        telemetry: "telemetry".to_owned(),
        control: "control".to_owned(),
        registry: "registry".to_owned(),
        generation: 7,
    }
}

pub fn endpoint(ingest: &Ingest) -> String {
    format!("http://{}", ingest.address())
}

pub async fn channel(ingest: &Ingest) -> Channel {
    Endpoint::from_shared(endpoint(ingest)).unwrap().connect().await.unwrap()
}

/// Ten readings of one metric, after those of all lower numbers.
pub fn payload(number: u64) -> Payload {
    let times_ms: Vec<u64> = (0..10).map(|i| START_MS + number * 10_000 + i * 1_000).collect();
    let values = times_ms.iter().map(|time| Some((time % 1_000_003) as i64)).collect();
    Payload { times_ms, columns: vec![Column { metric: 1, values }] }
}

/// As many readings as a batch may have, of values that do not pack: some 130 KiB.
pub fn large_payload(number: u64) -> Payload {
    let times_ms: Vec<u64> = (0..16_384).map(|i| START_MS + number * 100_000 + i).collect();
    let values =
        times_ms.iter().map(|time| Some(time.wrapping_mul(0x9e37_79b9_7f4a_7c15).cast_signed() >> 8));
    let values = values.collect();
    Payload { times_ms, columns: vec![Column { metric: 1, values }] }
}

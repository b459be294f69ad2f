//! The whole role against a broker: from records in the log to committed epochs, through crashes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    num::NonZeroU32,
    sync::mpsc as std_mpsc,
    thread::JoinHandle,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy_primitives::Address;
use ed25519_dalek::SigningKey;
use fieldproof_aggregator::{
    Aggregator, AggregatorConfig, AggregatorEvent, SegmentLimits,
    epoch::{ComputedEpoch, EpochInputs},
    evidence::{Segment, segment_offsets},
    history::History,
    kafka::Topics,
    last_epoch,
    policy::EngineSettings,
    read_manifest,
};
use fieldproof_proto::{
    batch::{BatchFacts, Place, sign_batch},
    control::{ControlBody, ControlRecord, Metric, MetricKind, PolicyBundle, Program},
    evidence::{CONTROL_PARTITION, KIND_BATCH, KIND_CONTROL, KIND_HEADER, KIND_REGISTRATION},
    evm::EvmSecret,
    genesis::{EpochGrid, Genesis, GenesisFormat},
    ids::{DeviceId, Digest, NetworkId, OperatorKey},
    manifest::object_name,
    payload::{Column, Payload},
    registration::{Registration, RegistrationSigners, sign_registration},
    signature::DeviceSecret,
};
use fieldproof_runtime::store::Store;
use prost::Message as _;
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use tokio::{sync::mpsc, time::timeout};

const PARTITIONS: u32 = 2;
const POOL: u128 = 1_000_003;
/// Nothing here takes so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker; the mock cluster must stay on the thread where it was made.
struct Broker {
    address: String,
    end: Option<std_mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Broker {
    fn start(topics: &Topics) -> Self {
        let (address, started) = std_mpsc::channel();
        let (end, ended) = std_mpsc::channel::<()>();
        let (telemetry, control) = (topics.telemetry.clone(), topics.control.clone());
        let thread = std::thread::spawn(move || {
            let cluster = MockCluster::new(1).unwrap();
            cluster.create_topic(&telemetry, i32::try_from(PARTITIONS).unwrap(), 1).unwrap();
            cluster.create_topic(&control, 1, 1).unwrap();
            address.send(cluster.bootstrap_servers()).unwrap();
            assert!(ended.recv().is_err(), "nothing is ever sent");
        });
        Self { address: started.recv().unwrap(), end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.end.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A network, its keys, and its log.
struct Network {
    genesis: Genesis,
    genesis_bytes: Vec<u8>,
    id: NetworkId,
    operator: SigningKey,
    topics: Topics,
    broker: Broker,
    store: Store,
    _folder: tempfile::TempDir,
}

impl Network {
    /// Epochs of a second, of which the first opens soon.
    async fn new() -> Self {
        let operator = SigningKey::from_bytes(&[1; 32]);
        let epochs =
            EpochGrid { start_ms: clock_ms() + 3_000, length_ms: 1_000, grace_ms: 300, future_ms: 2_000 };
        let genesis = Genesis {
            format: GenesisFormat::V1,
            name: "test".to_owned(),
            chain_id: 31_337,
            token: Address::repeat_byte(7),
            epochs,
            partitions: NonZeroU32::new(PARTITIONS).unwrap(),
            operator: OperatorKey(operator.verifying_key().to_bytes()),
        };
        let genesis_bytes = genesis.to_bytes().unwrap();
        let id = Genesis::network_id(&genesis_bytes);
        let topics = Topics::default();
        let broker = Broker::start(&topics);
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        Self { genesis, genesis_bytes, id, operator, topics, broker, store, _folder: folder }
    }

    fn append(&self, topic: &str, partition: u32, kind: &[u8], key: Option<&[u8]>, value: &[u8]) {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", &self.broker.address).create().unwrap();
        let headers = OwnedHeaders::new().insert(Header { key: KIND_HEADER, value: Some(kind) });
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(i32::try_from(partition).unwrap());
        record = record.payload(value).headers(headers);
        record.key = key;
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(PATIENCE).unwrap();
    }

    fn change(&self, body: ControlBody) {
        let record = ControlRecord::sign(&self.id, body, &self.operator).unwrap().to_bytes().unwrap();
        self.append(&self.topics.control, 0, KIND_CONTROL, None, &record);
    }

    /// Puts the shipped energy policy in force.
    fn open(&self) {
        self.change(ControlBody::Metric(Metric {
            id: 1,
            name: "energy".to_owned(),
            unit: "Wh".to_owned(),
            scale: 3,
            metric_kind: MetricKind::Counter,
            minimum: 0,
            maximum: 1_000_000_000_000,
        }));
        self.change(ControlBody::Program(Program {
            name: "energy".to_owned(),
            admitter: OperatorKey(self.operator.verifying_key().to_bytes()),
            pool: POOL,
            readings_per_device_max: 1_000,
            devices_max: 100,
            policy: PolicyBundle {
                policy_toml: include_str!("../policies/energy/policy.toml").to_owned(),
                contribution_sql: include_str!("../policies/energy/contribution.sql").to_owned(),
            },
        }));
    }

    async fn aggregator(&self) -> (Aggregator, mpsc::Receiver<AggregatorEvent>) {
        let (sender, events) = mpsc::channel(1_000);
        let config = AggregatorConfig {
            genesis: self.genesis_bytes.clone(),
            bootstrap_servers: self.broker.address.clone(),
            topics: self.topics.clone(),
            store: self.store.clone(),
            limits: SegmentLimits { age_max: Duration::from_millis(50), ..SegmentLimits::default() },
        };
        (Aggregator::start(config, sender).await.unwrap(), events)
    }

    /// The history that the store tells, as an auditor reads it.
    async fn audited(&self) -> History {
        let mut history = History::new(&self.genesis_bytes).unwrap();
        for partition in [CONTROL_PARTITION].into_iter().chain(0..PARTITIONS) {
            for offset in segment_offsets(&self.store, 1, partition).await.unwrap() {
                history.add(Segment::read(&self.store, 1, partition, offset).await.unwrap()).unwrap();
            }
        }
        history
    }
}

/// A device that sends a batch whenever it is told to.
struct Device {
    secret: DeviceSecret,
    id: DeviceId,
    seq: u64,
    previous: Digest,
}

impl Device {
    fn register(network: &Network, seed: u8) -> Self {
        let secret = DeviceSecret::ed25519([seed; 32]);
        let id = secret.public_key().device_id();
        let owner = EvmSecret::from_bytes(&[seed; 32]).unwrap();
        let registration = Registration {
            public_key: secret.public_key(),
            counter: 1,
            provider: owner.address(),
            replaces: DeviceId::ZERO,
            program: "energy".to_owned(),
            attributes: "{}".to_owned(),
        };
        let signers = RegistrationSigners { device: &secret, provider: &owner, admitter: &network.operator };
        let chain_id = network.genesis.chain_id;
        let signed = sign_registration(&network.id, chain_id, &registration, &signers).unwrap();
        let device = Self { secret, id, seq: 0, previous: Digest::ZERO };
        device.append(network, KIND_REGISTRATION, &signed.encode_to_vec());
        device
    }

    fn append(&self, network: &Network, kind: &[u8], value: &[u8]) {
        let partition = self.id.partition(network.genesis.partitions);
        network.append(&network.topics.telemetry, partition, kind, Some(&self.id.0), value);
    }

    /// Reads its counter, which moves by 100 between any two readings, twice, and sends it twice over.
    fn read(&mut self, network: &Network) {
        let now = clock_ms();
        let value = i64::try_from(self.seq * 200).unwrap();
        let column = Column { metric: 1, values: vec![Some(value), Some(value + 100)] };
        let payload = Payload { times_ms: vec![now, now + 1], columns: vec![column] };
        let place = Place { boot: 1, seq: self.seq };
        let facts = BatchFacts { network: network.id, registration: 1, place, previous: self.previous };
        let (batch, digest) = sign_batch(&self.secret, &facts, &payload).unwrap();
        self.seq += 1;
        self.previous = digest;
        let value = batch.encode_to_vec();
        (0..2).for_each(|_| self.append(network, KIND_BATCH, &value));
    }
}

fn clock_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

async fn next_epoch(events: &mut mpsc::Receiver<AggregatorEvent>) -> ComputedEpoch {
    let event = timeout(PATIENCE, events.recv()).await.expect("epochs are committed");
    #[allow(irrefutable_let_patterns, reason = "more kinds of events may come")]
    let AggregatorEvent::Epoch(epoch) = event.expect("the aggregator runs") else {
        panic!("another event than an epoch")
    };
    *epoch
}

/// D1, D2, C3, R1, M2: two aggregators at once, of which one crashes and the other is stopped, and a
/// third that goes on. There is one manifest for each epoch, and anyone computes the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn d1_d2_r1_epochs_are_committed_once_through_crashes() {
    let network = Network::new().await;
    network.open();
    let mut devices = [3, 4, 5].map(|seed| Device::register(&network, seed));
    let (first, mut first_events) = network.aggregator().await;
    let (second, mut second_events) = network.aggregator().await;
    let mut told = Vec::new();
    for _ in 0..3 {
        devices.iter_mut().for_each(|device| device.read(&network));
        let one = next_epoch(&mut first_events).await;
        assert_eq!(one, next_epoch(&mut second_events).await, "R1: both come to the same");
        told.push(one);
    }
    drop(second);
    devices.iter_mut().for_each(|device| device.read(&network));
    timeout(PATIENCE, first.stop()).await.expect("M2: it ends").unwrap();
    while let Ok(AggregatorEvent::Epoch(epoch)) = first_events.try_recv() {
        told.push(*epoch);
    }
    let (mut third, mut third_events) = network.aggregator().await;
    while told.iter().filter(|epoch| epoch.manifest.counts.readings > 0).count() < 4 || told.len() < 6 {
        let epoch = next_epoch(&mut third_events).await;
        // The one that crashed may have committed another before it did.
        let expected = told.len() as u64;
        assert!(epoch.manifest.epoch >= expected && epoch.manifest.epoch <= expected + 1);
        for missed in expected..epoch.manifest.epoch {
            let manifest = read_manifest(&network.store, &object_name::manifest(missed, 0)).await.unwrap();
            told.push(ComputedEpoch { manifest: manifest.0, digest: manifest.1, ..epoch.clone() });
        }
        told.push(epoch);
    }
    let failed = timeout(Duration::ZERO, third.failed()).await;
    assert!(failed.is_err(), "nothing has failed: {failed:?}");
    timeout(PATIENCE, third.stop()).await.expect("M2: it ends").unwrap();
    check(&network, &told, &devices).await;
}

async fn check(network: &Network, told: &[ComputedEpoch], devices: &[Device]) {
    let history = network.audited().await;
    let last = last_epoch(&network.store).await.unwrap().expect("epochs were committed");
    assert!(last + 1 >= told.len() as u64);
    let (mut previous, mut weight) = (None, 0);
    for (number, told) in (0..).zip(told) {
        let name = object_name::manifest(number, 0);
        let (manifest, digest) = read_manifest(&network.store, &name).await.unwrap();
        assert_eq!((manifest.epoch, manifest.previous, digest), (number, previous, told.digest));
        let inputs = EpochInputs::collect(&history, number).unwrap();
        let audited = inputs.compute(previous, EngineSettings::default()).await.unwrap();
        assert_eq!((audited.digest, &audited.manifest), (digest, &manifest), "R1: anyone computes the same");
        for digest in audited.objects.keys() {
            let object = network.store.get(&object_name::object(digest)).await.unwrap();
            assert_eq!(object.as_deref(), Some(&audited.objects[digest][..]), "the object is there");
        }
        let section = &manifest.programs[0];
        let has_weight = section.weight != "0";
        assert_eq!(section.paid, if has_weight { POOL } else { 0 }, "C3");
        weight += section.weight.parse::<u64>().unwrap();
        previous = Some(digest);
    }
    // Each device's counter moved by 200 with every batch but the first, which it starts with by 100.
    let moved: u64 = devices.iter().map(|device| device.seq * 200 - 100).sum();
    assert_eq!(weight, moved, "D2: all growth, once, though everything was sent twice");
}

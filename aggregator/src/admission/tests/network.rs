//! A small network for tests: its keys, its devices, and records as the log would hold them.

use std::{num::NonZeroU32, sync::LazyLock};

use alloy_primitives::Address;
use ed25519_dalek::SigningKey;
use fieldproof_proto::{
    batch::{BatchFacts, Place, sign_batch},
    control::{ControlBody, ControlRecord, ControlState, Metric, MetricKind, PolicyBundle, Program},
    evidence::{KIND_BATCH, KIND_HEADER, KIND_REGISTRATION, KIND_TICK, Record},
    evm::EvmSecret,
    genesis::{EpochGrid, Genesis, GenesisFormat},
    ids::{DeviceId, Digest, NetworkId, OperatorKey},
    payload::{Column, Payload},
    registration::{Registration, RegistrationSigners, sign_registration},
    signature::DeviceSecret,
    v1::SignedBatch,
};
use prost::Message as _;

use crate::admission::AdmissionContext;

/// The counter that devices of tests have.
pub const ENERGY: u32 = 1;
/// A gauge beside it.
pub const TEMPERATURE: u32 = 2;
/// The program that devices of tests are in.
pub const PROGRAM: &str = "energy";

/// The grid of tests: windows of 10 s from 1,000 s on, 2 s grace, readings at most 5 s ahead.
pub const GRID: EpochGrid =
    EpochGrid { start_ms: 1_000_000, length_ms: 10_000, grace_ms: 2_000, future_ms: 5_000 };

static OPERATOR: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_bytes(&[101; 32]));
static ADMITTER: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_bytes(&[102; 32]));

/// A network and the keys of its operator.
#[derive(Debug, Clone)]
pub struct TestNetwork {
    /// What it is founded on.
    pub genesis: Genesis,
    /// The same as canonical bytes.
    pub genesis_bytes: Vec<u8>,
    /// Its id.
    pub id: NetworkId,
}

impl TestNetwork {
    /// A network with this grid and so many partitions.
    pub fn new(grid: EpochGrid, partitions: u32) -> Self {
        let genesis = Genesis {
            format: GenesisFormat::V1,
            name: "test".to_owned(),
            chain_id: 31_337,
            token: Address::repeat_byte(7),
            epochs: grid,
            partitions: NonZeroU32::new(partitions).expect("a test has partitions"),
            operator: OperatorKey(OPERATOR.verifying_key().to_bytes()),
        };
        let genesis_bytes = genesis.to_bytes().unwrap();
        let id = Genesis::network_id(&genesis_bytes);
        Self { genesis, genesis_bytes, id }
    }

    /// What admission of a partition needs to know.
    pub fn context(&self, partition: u32) -> AdmissionContext {
        AdmissionContext {
            network: self.id,
            chain_id: self.genesis.chain_id,
            partition_count: self.genesis.partitions,
            partition,
            future_ms: self.genesis.epochs.future_ms,
        }
    }

    /// The value of a control record.
    pub fn control(&self, body: ControlBody) -> Vec<u8> {
        ControlRecord::sign(&self.id, body, &OPERATOR).unwrap().to_bytes().unwrap()
    }
}

/// The counter and the gauge of tests.
pub fn metric(id: u32) -> Metric {
    let (name, metric_kind, minimum) = if id == ENERGY {
        ("energy", MetricKind::Counter, 0)
    } else {
        ("temperature", MetricKind::Gauge, -100)
    };
    Metric {
        id,
        name: name.to_owned(),
        unit: "u".to_owned(),
        scale: 3,
        metric_kind,
        minimum,
        maximum: 1_000_000_000_000,
    }
}

/// A program that tests may change; its policy is the one that ships.
pub fn program(name: &str) -> Program {
    Program {
        name: name.to_owned(),
        admitter: OperatorKey(ADMITTER.verifying_key().to_bytes()),
        pool: 1_000_003,
        readings_per_device_max: 10_000,
        devices_max: 1_000,
        policy: PolicyBundle {
            policy_toml: include_str!("../../../policies/energy/policy.toml").to_owned(),
            contribution_sql: include_str!("../../../policies/energy/contribution.sql").to_owned(),
        },
    }
}

/// The changes that put the metrics and the program of tests in force.
pub fn first_changes() -> Vec<ControlBody> {
    vec![
        ControlBody::Metric(metric(ENERGY)),
        ControlBody::Metric(metric(TEMPERATURE)),
        ControlBody::Program(program(PROGRAM)),
    ]
}

/// The state that these changes make.
pub fn control_state(changes: &[ControlBody]) -> ControlState {
    let mut state = ControlState::default();
    changes.iter().for_each(|change| state.apply(change));
    state
}

/// The account of a provider.
pub fn provider(seed: u8) -> EvmSecret {
    EvmSecret::from_bytes(&[seed.max(1); 32]).unwrap()
}

/// A device that chains its batches as the SDK does.
#[derive(Clone)]
pub struct TestDevice {
    pub network: TestNetwork,
    pub secret: DeviceSecret,
    pub id: DeviceId,
    /// The counter of the last registration it signed.
    pub registration: u32,
    /// The place of its next batch.
    pub next: Place,
    /// The digest of its last one.
    pub previous: Digest,
}

/// A signed batch and what the test knows of it.
#[derive(Debug, Clone)]
pub struct TestBatch {
    /// The encoded envelope.
    pub value: Vec<u8>,
    pub place: Place,
    pub digest: Digest,
    /// Times and values of the readings.
    pub readings: Vec<(u64, i64)>,
}

impl TestDevice {
    /// The device with this seed.
    pub fn new(network: &TestNetwork, seed: u16) -> Self {
        let mut bytes = [7; 32];
        bytes[..2].copy_from_slice(&seed.to_le_bytes());
        let secret = DeviceSecret::ed25519(bytes);
        let id = secret.public_key().device_id();
        let next = Place { boot: 1, seq: 0 };
        Self { network: network.clone(), secret, id, registration: 0, next, previous: Digest::ZERO }
    }

    /// The first device from a seed on whose partition is this one.
    pub fn in_partition(network: &TestNetwork, partition: u32, seed: u16) -> Self {
        (seed..)
            .map(|seed| Self::new(network, seed))
            .find(|device| device.id.partition(network.genesis.partitions) == partition)
            .expect("ids spread over all partitions")
    }

    /// The value of the device's next registration, by all three who must agree.
    pub fn register(&mut self, owner: &EvmSecret, program: &str) -> Vec<u8> {
        self.registration += 1;
        let registration = Registration {
            public_key: self.secret.public_key(),
            counter: self.registration,
            provider: owner.address(),
            replaces: DeviceId::ZERO,
            program: program.to_owned(),
            attributes: "{}".to_owned(),
        };
        self.sign_registration(&registration, owner, &ADMITTER)
    }

    /// The value of any registration.
    pub fn sign_registration(
        &self,
        body: &Registration,
        owner: &EvmSecret,
        admitter: &SigningKey,
    ) -> Vec<u8> {
        let signers = RegistrationSigners { device: &self.secret, provider: owner, admitter };
        let chain_id = self.network.genesis.chain_id;
        sign_registration(&self.network.id, chain_id, body, &signers).unwrap().encode_to_vec()
    }

    /// The next batch of the chain: readings of the counter at these times.
    pub fn batch(&mut self, readings: &[(u64, i64)]) -> TestBatch {
        let batch = self.batch_at(self.next, self.previous, readings);
        self.next.seq += 1;
        self.previous = batch.digest;
        batch
    }

    /// A batch at any place.
    pub fn batch_at(&self, place: Place, previous: Digest, readings: &[(u64, i64)]) -> TestBatch {
        let (batch, digest) = self.sign(place, previous, &energy_payload(readings));
        TestBatch { value: batch.encode_to_vec(), place, digest, readings: readings.to_vec() }
    }

    /// Any payload at any place.
    pub fn sign(&self, place: Place, previous: Digest, payload: &Payload) -> (SignedBatch, Digest) {
        let facts =
            BatchFacts { network: self.network.id, registration: self.registration.max(1), place, previous };
        sign_batch(&self.secret, &facts, payload).unwrap()
    }

    /// What a restart does to the chain.
    pub fn restart(&mut self, boot: u64) {
        self.next = Place { boot, seq: 0 };
    }

    /// A batch in the log.
    pub fn batch_record(&self, batch: &TestBatch) -> NewRecord {
        NewRecord { kind: KIND_BATCH, key: Some(self.id.0.to_vec()), value: batch.value.clone() }
    }

    /// The next registration in the log.
    pub fn registration_record(&mut self, owner: &EvmSecret, program: &str) -> NewRecord {
        let value = self.register(owner, program);
        NewRecord { kind: KIND_REGISTRATION, key: Some(self.id.0.to_vec()), value }
    }
}

/// Readings of the counter as a payload.
pub fn energy_payload(readings: &[(u64, i64)]) -> Payload {
    Payload {
        times_ms: readings.iter().map(|(time_ms, _)| *time_ms).collect(),
        columns: vec![Column {
            metric: ENERGY,
            values: readings.iter().map(|(_, value)| Some(*value)).collect(),
        }],
    }
}

/// A record that has no place in the log yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    pub kind: &'static [u8],
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
}

impl NewRecord {
    /// A record that only lets time pass.
    pub fn tick() -> Self {
        Self { kind: KIND_TICK, key: None, value: Vec::new() }
    }

    /// The record at its place.
    pub fn at(&self, offset: u64, append_ms: i64) -> Record {
        Record {
            offset,
            append_ms,
            key: self.key.clone(),
            headers: vec![(KIND_HEADER.to_owned(), Some(self.kind.to_vec()))],
            value: Some(self.value.clone()),
        }
    }
}

/// Numbers that a seed gives (SplitMix64), so that a failing schedule can be run again.
pub struct Seeded(pub u64);

impl Seeded {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// One of `items`.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[usize::try_from(self.below(items.len() as u64)).unwrap()]
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

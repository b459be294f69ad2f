//! A network made by hand, for tests: its genesis, and manifests as the aggregator writes them.
//! The unit tests and the integration test both include this file.

#![allow(dead_code, reason = "each of the two binaries uses its own part")]
#![allow(clippy::unwrap_used, reason = "only tests include this")]

use std::{collections::BTreeMap, num::NonZeroU32};

use alloy_primitives::{Address, U256};
use bytes::Bytes;
use fieldproof_proto::{
    allocation::allocate,
    genesis::{EpochGrid, Genesis, GenesisFormat},
    ids::{Digest, NetworkId, OperatorKey},
    manifest::{
        Contribution, Contributions, ControlSection, Counts, Manifest, ManifestFormat, ProgramSection,
        Window, manifest_digest, object_name, to_object,
    },
};
use fieldproof_runtime::store::Store;

/// A program of an epoch: its name, its pool, and who has which weight.
pub type Program<'a> = (&'a str, u128, &'a [(Address, u128)]);

/// A network with a store.
pub struct TestNetwork {
    pub store: Store,
    pub genesis: Bytes,
    pub id: NetworkId,
    pub distributor: Option<Address>,
    /// What everybody earned so far.
    pub earned: BTreeMap<Address, u128>,
    pub manifests: Vec<(Manifest, Digest)>,
}

impl TestNetwork {
    pub fn new(store: Store, chain_id: u64, token: Address) -> Self {
        let genesis = Genesis {
            format: GenesisFormat::V1,
            name: "test".to_owned(),
            chain_id,
            token,
            epochs: EpochGrid { start_ms: 0, length_ms: 1000, grace_ms: 0, future_ms: 0 },
            partitions: NonZeroU32::MIN,
            operator: OperatorKey([7; 32]),
        };
        let genesis = Bytes::from(genesis.to_bytes().unwrap());
        let id = Genesis::network_id(&genesis);
        Self { store, id, genesis, distributor: None, earned: BTreeMap::new(), manifests: Vec::new() }
    }

    /// Computes the next epoch: contributions and manifest are in the store when it returns.
    pub async fn epoch(&mut self, programs: &[Program<'_>]) -> Digest {
        let epoch = self.manifests.len() as u64;
        let mut sections = Vec::new();
        for (program, pool, weights) in programs {
            let weights: BTreeMap<Address, u128> = weights.iter().copied().collect();
            let rewards = allocate(*pool, &weights).unwrap();
            for (provider, reward) in rewards.iter().filter(|(_, reward)| **reward > 0) {
                *self.earned.entry(*provider).or_default() += reward;
            }
            let weight: U256 = weights.values().copied().map(U256::from).sum();
            let provider = |(provider, weight): (Address, u128)| Contribution {
                provider,
                weight,
                reward: rewards[&provider],
                explanation: BTreeMap::new(),
            };
            let providers = weights.into_iter().map(provider).collect();
            let object = Contributions { program: (*program).to_owned(), epoch, providers };
            let (bytes, digest) = to_object(&object).unwrap();
            self.store.create_same(&object_name::object(&digest), bytes).await.unwrap();
            sections.push(ProgramSection {
                program: (*program).to_owned(),
                policy: Digest([1; 32]),
                pool: *pool,
                paid: rewards.values().sum(),
                weight: weight.to_string(),
                contributions: digest,
            });
        }
        self.manifest(epoch, sections).await
    }

    async fn manifest(&mut self, epoch: u64, programs: Vec<ProgramSection>) -> Digest {
        let distributor = self.distributor;
        let control = ControlSection { head: None, records: 0, state: Digest::ZERO, distributor };
        let manifest = Manifest {
            format: ManifestFormat::V1,
            network: self.id,
            epoch,
            revision: 0,
            window: Window { start_ms: epoch * 1000, end_ms: (epoch + 1) * 1000 },
            admission_rules: 1,
            engine: "test 1".to_owned(),
            control,
            partitions: Vec::new(),
            evidence_root: Digest::ZERO,
            counts: Counts::default(),
            programs,
            previous: self.manifests.last().map(|(_, digest)| *digest),
        };
        let (bytes, _) = to_object(&manifest).unwrap();
        let digest = manifest_digest(&bytes);
        self.store.create_same(&object_name::manifest(epoch, 0), bytes).await.unwrap();
        self.manifests.push((manifest, digest));
        digest
    }
}

/// A provider by number.
pub fn provider(number: u8) -> Address {
    Address::repeat_byte(number)
}

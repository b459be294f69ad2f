//! The epoch manifest: everything an epoch was computed from and what came out, in canonical JSON.
//!
//! Creating the manifest is the only commit of an epoch, and its digest goes on chain with the root.
//! Beside it this module names the objects of the store that auditors read.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Serialize};

use crate::{
    canonical_json::{self, CanonicalError},
    control::decimal,
    digest::{context, digest},
    ids::{DeviceId, Digest, NetworkId},
};

/// What an epoch was computed from, and what came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format of this object.
    pub format: ManifestFormat,
    /// The network.
    pub network: NetworkId,
    /// The epoch.
    pub epoch: u64,
    /// 0, raised by re-runs.
    pub revision: u32,
    /// The window of event time.
    pub window: Window,
    /// The version of the admission rules.
    pub admission_rules: u32,
    /// Name and exact version of the engine that ran the policies.
    pub engine: String,
    /// The control records in force.
    pub control: ControlSection,
    /// The evidence of each partition, in rising order.
    pub partitions: Vec<PartitionSection>,
    /// The root over all segments listed in `partitions`, in their order.
    pub evidence_root: Digest,
    /// The counts of all partitions together.
    pub counts: Counts,
    /// What each program paid, in the order of names.
    pub programs: Vec<ProgramSection>,
    /// The manifest of the epoch before; none for epoch 0.
    pub previous: Option<Digest>,
}

/// The version of the manifest format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ManifestFormat {
    /// The first.
    #[serde(rename = "fieldproof-epoch-1")]
    V1,
}

/// A half-open window of event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The first millisecond.
    pub start_ms: u64,
    /// The first millisecond after.
    pub end_ms: u64,
}

/// The control records that an epoch goes by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlSection {
    /// The last segment whose records are in force; its digest is chained to all before it.
    pub head: Option<SegmentRef>,
    /// How many records were in force.
    pub records: u64,
    /// The digest of the state they make.
    pub state: Digest,
    /// The contract that pays.
    pub distributor: Option<Address>,
}

/// One partition's part of an epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionSection {
    /// The partition.
    pub partition: u32,
    /// All segments of the slots that can hold readings of the window.
    pub segments: Vec<SegmentRef>,
    /// The digest of the states of all devices at the end of the epoch's slot.
    pub device_state: Digest,
    /// The digest of the [`Exclusions`] object of the epoch's slot.
    pub exclusions: Digest,
    /// What the records of the epoch's own slot were.
    pub counts: Counts,
}

/// A segment that an epoch reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentRef {
    /// The slot that all its records are in.
    pub slot: u64,
    /// The offset of its first record.
    pub first_offset: u64,
    /// The offset after its last record.
    pub next_offset: u64,
    /// Its digest.
    pub digest: Digest,
}

/// What records were. C1: `records` is the sum of `verdicts`, and `readings` is `on_time` + `late`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Records in the slot.
    pub records: u64,
    /// Records by verdict; verdicts without a record are left out.
    pub verdicts: BTreeMap<String, u64>,
    /// Readings in accepted records.
    pub readings: u64,
    /// Of these, readings whose epoch was not yet cut.
    pub on_time: u64,
    /// Of these, readings whose epoch was cut before.
    pub late: u64,
}

/// What a program paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramSection {
    /// The program's name.
    pub program: String,
    /// The id of its policy.
    pub policy: Digest,
    /// What it may pay.
    #[serde(with = "decimal")]
    pub pool: u128,
    /// What it paid: the pool, or nothing where all weights are zero.
    #[serde(with = "decimal")]
    pub paid: u128,
    /// The sum of all weights, in decimal digits.
    pub weight: String,
    /// The digest of the [`Contributions`] object.
    pub contributions: Digest,
}

/// The records of one slot that do not count, each with its verdict, which is the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exclusions {
    /// The partition.
    pub partition: u32,
    /// The slot.
    pub slot: u64,
    /// The records in the order of the log.
    pub records: Vec<Exclusion>,
}

/// A record that does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exclusion {
    /// The offset of the record.
    pub offset: u64,
    /// The name of its verdict. No further text: another implementation must give the same bytes.
    pub verdict: String,
    /// The device, where the record names one.
    pub device: Option<DeviceId>,
}

/// Who contributed what to a program in an epoch, and what it earns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contributions {
    /// The program.
    pub program: String,
    /// The epoch.
    pub epoch: u64,
    /// One entry per provider with a device in the program, in rising order.
    pub providers: Vec<Contribution>,
}

/// One provider's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contribution {
    /// Who.
    pub provider: Address,
    /// What the policy gave.
    #[serde(with = "decimal")]
    pub weight: u128,
    /// What the allocation gave.
    #[serde(with = "decimal")]
    pub reward: u128,
    /// The further columns of the policy's result, as text: why the weight is what it is.
    pub explanation: BTreeMap<String, String>,
}

/// What a prover states of a root: the fields of the EIP-712 attestation and where it applies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootStatement {
    /// The format of this object.
    pub format: RootFormat,
    /// The chain.
    pub chain_id: u64,
    /// The contract.
    pub distributor: Address,
    /// The token.
    pub token: Address,
    /// The last epoch whose rewards are in the root.
    pub through_epoch: u64,
    /// The revision of that epoch.
    pub revision: u32,
    /// The digest of that epoch's manifest.
    pub manifest: Digest,
    /// The root.
    pub root: B256,
    /// The live root before it; zero for the first.
    pub previous_root: B256,
    /// How many leaves the tree has.
    pub leaf_count: u64,
    /// The sum of all leaves.
    #[serde(with = "decimal")]
    pub total: u128,
}

/// The version of the root statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootFormat {
    /// The first.
    #[serde(rename = "fieldproof-root-1")]
    V1,
}

/// A published claim: what a wallet needs to call `claim`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimProof {
    /// The last epoch in the root.
    pub through_epoch: u64,
    /// The root.
    pub root: B256,
    /// The domain word of the leaf.
    pub domain: B256,
    /// Who is paid.
    pub account: Address,
    /// In which token.
    pub token: Address,
    /// How much over all epochs.
    #[serde(with = "decimal")]
    pub cumulative: u128,
    /// The leaf.
    pub leaf: B256,
    /// The siblings from the leaf to the root.
    pub proof: Vec<B256>,
}

impl Counts {
    /// Adds the counts of another partition.
    pub fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.readings += other.readings;
        self.on_time += other.on_time;
        self.late += other.late;
        for (verdict, count) in &other.verdicts {
            *self.verdicts.entry(verdict.clone()).or_default() += count;
        }
    }

    /// Whether invariant C1 holds.
    pub fn add_up(&self) -> bool {
        // Wider than the counts: a manifest to be audited may hold anything.
        let sum = |counts: &mut dyn Iterator<Item = u64>| counts.map(u128::from).sum::<u128>();
        u128::from(self.records) == sum(&mut self.verdicts.values().copied())
            && u128::from(self.readings) == sum(&mut [self.on_time, self.late].into_iter())
    }
}

/// The digest of a manifest, from its canonical bytes: what goes on chain.
pub fn manifest_digest(bytes: &[u8]) -> Digest {
    digest(context::MANIFEST, &[bytes])
}

/// The digest of a content-addressed object.
pub fn object_digest(bytes: &[u8]) -> Digest {
    digest(context::OBJECT, &[bytes])
}

/// The canonical bytes of an object and their digest.
pub fn to_object(value: &impl Serialize) -> Result<(Vec<u8>, Digest), CanonicalError> {
    let bytes = canonical_json::to_bytes(value)?;
    let digest = object_digest(&bytes);
    Ok((bytes, digest))
}

/// The names of the objects in the store.
pub mod object_name {
    use super::{Address, B256, Digest};
    use crate::evidence::CONTROL_PARTITION;

    /// The genesis of the network.
    pub const GENESIS: &str = "network/genesis.json";
    /// The last root whose posting is final.
    pub const LATEST: &str = "roots/latest.json";

    /// The folder of a partition's evidence.
    pub fn evidence_folder(generation: u32, partition: u32) -> String {
        match partition {
            CONTROL_PARTITION => format!("evidence/{generation}/control"),
            _ => format!("evidence/{generation}/{partition}"),
        }
    }

    /// A segment of evidence.
    pub fn segment(generation: u32, partition: u32, first_offset: u64) -> String {
        format!("{}/{first_offset:020}.parquet", evidence_folder(generation, partition))
    }

    /// The manifest of an epoch.
    pub fn manifest(epoch: u64, revision: u32) -> String {
        format!("epochs/{epoch:020}/{revision}.json")
    }

    /// A content-addressed object.
    pub fn object(digest: &Digest) -> String {
        format!("objects/{digest}.json")
    }

    /// The dump of a root's tree, as OpenZeppelin's library loads it.
    pub fn tree(root: &B256) -> String {
        format!("roots/{}/tree.json", hex::encode(root))
    }

    /// The claim of one account under a root.
    pub fn claim(root: &B256, account: &Address) -> String {
        format!("roots/{}/claims/{account:#x}.json", hex::encode(root))
    }

    /// The statement of the root through an epoch.
    pub fn root_statement(through_epoch: u64, revision: u32) -> String {
        format!("statements/{through_epoch:020}/{revision}/root.json")
    }

    /// A prover's signature over a root statement.
    pub fn attestation(through_epoch: u64, revision: u32, signer: &Address) -> String {
        format!("statements/{through_epoch:020}/{revision}/attestations/{signer:#x}.json")
    }
}

#[cfg(test)]
mod tests;

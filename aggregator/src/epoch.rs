//! Computing an epoch: from what its slots hold to the manifest.
//!
//! A pure function of the history: the same evidence gives the same bytes on any machine, with any
//! number of threads. The prover's and the auditor's recomputation is this one.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    ops::Range,
    sync::Arc,
};

use alloy_primitives::{Address, U256};
use fieldproof_proto::{
    allocation::{AllocationError, allocate},
    canonical_json::{self, CanonicalError},
    control::{ControlError, ControlState, Metric, MetricKind, Program},
    evidence::evidence_root,
    ids::{Digest, NetworkId},
    manifest::{
        Contribution, Contributions, ControlSection, Counts, Manifest, ManifestFormat, PartitionSection,
        ProgramSection, SegmentRef, Window, manifest_digest, to_object,
    },
};

use crate::{
    admission::{AcceptedBatch, RULES_VERSION, RegisteredDevice, members_max},
    history::{DevicesAtCut, History, SlotContent},
    policy::{DeviceRow, ENGINE, EngineSettings, Policy, PolicyError, PolicyFacts, PolicyInputs, policy_id},
    readings::AdmittedRecord,
};

/// Everything that an epoch is computed from.
#[derive(Debug)]
pub struct EpochInputs {
    network: NetworkId,
    epoch: u64,
    window: Range<u64>,
    slots: u64,
    control: ControlState,
    /// What was in force for some slot that the epoch reads: its records were accepted under that.
    accepted_under: Vec<ControlState>,
    control_records: u64,
    control_head: Option<SegmentRef>,
    partitions: Vec<PartitionInputs>,
}

#[derive(Debug)]
struct PartitionInputs {
    partition: u32,
    segments: Vec<SegmentRef>,
    /// Accepted batches of all slots that can hold readings of the window.
    accepted: Vec<AcceptedBatch>,
    /// How many of these, at the end, are of the epoch's own slot.
    own: usize,
    counts: Counts,
    exclusions: fieldproof_proto::manifest::Exclusions,
    devices: DevicesAtCut,
}

/// A computed epoch: the manifest, and the objects that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComputedEpoch {
    /// The manifest.
    pub manifest: Manifest,
    /// Its canonical bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
    /// The objects, by digest.
    pub objects: BTreeMap<Digest, Vec<u8>>,
}

/// Why an epoch cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    /// A partition has not closed the slot.
    #[error("partition `{partition}` has not closed slot `{epoch}`")]
    NotClosed {
        /// The partition.
        partition: u32,
        /// The slot.
        epoch: u64,
    },
    /// A policy failed on evidence that it should never fail on.
    #[error("the policy of program `{program}` failed: {cause}")]
    Policy {
        /// The program.
        program: String,
        /// Why.
        cause: PolicyError,
    },
    /// A weight out of bounds.
    #[error("program `{program}`: {cause}")]
    Allocation {
        /// The program.
        program: String,
        /// Which.
        cause: AllocationError,
    },
    /// A value that has no canonical form.
    #[error(transparent)]
    Json(#[from] CanonicalError),
    /// A control state that has no canonical form.
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl EpochInputs {
    /// Collects what an epoch reads from a history that is ready for it.
    pub fn collect(history: &History, epoch: u64) -> Result<Self, EpochError> {
        let grid = &history.genesis().epochs;
        let (control, control_records, control_head) = history.control_for(epoch);
        let slots = history.slots_for(epoch);
        let partitions = (0..history.partition_count())
            .map(|partition| PartitionInputs::collect(history, partition, epoch))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            network: history.network(),
            epoch,
            window: grid.window_start_ms(epoch)..grid.window_end_ms(epoch),
            slots: slots.end() - slots.start() + 1,
            accepted_under: slots.map(|slot| history.control_for(slot).0).collect(),
            control,
            control_records,
            control_head,
            partitions,
        })
    }

    /// Computes the epoch. `previous` is the digest of the manifest before it.
    pub async fn compute(
        &self,
        previous: Option<Digest>,
        engine: EngineSettings,
    ) -> Result<ComputedEpoch, EpochError> {
        let mut objects = BTreeMap::new();
        let mut programs = Vec::new();
        for program in self.control.programs.values() {
            let (section, contributions) = self.compute_program(program, engine).await?;
            let (bytes, digest) = to_object(&contributions)?;
            objects.insert(digest, bytes);
            programs.push(ProgramSection { contributions: digest, ..section });
        }
        let mut counts = Counts::default();
        let mut sections = Vec::new();
        for partition in &self.partitions {
            let (bytes, exclusions) = to_object(&partition.exclusions)?;
            objects.insert(exclusions, bytes);
            counts.add(&partition.counts);
            sections.push(PartitionSection {
                partition: partition.partition,
                segments: partition.segments.clone(),
                device_state: partition.devices.digest,
                exclusions,
                counts: partition.counts.clone(),
            });
        }
        let segments: Vec<Digest> = self
            .partitions
            .iter()
            .flat_map(|partition| &partition.segments)
            .map(|segment| segment.digest)
            .collect();
        let manifest = Manifest {
            format: ManifestFormat::V1,
            network: self.network,
            epoch: self.epoch,
            revision: 0,
            window: Window { start_ms: self.window.start, end_ms: self.window.end },
            admission_rules: RULES_VERSION,
            engine: ENGINE.to_owned(),
            control: ControlSection {
                head: self.control_head,
                records: self.control_records,
                state: self.control.digest()?,
                distributor: self.control.distributor,
            },
            partitions: sections,
            evidence_root: evidence_root(&segments),
            counts,
            programs,
            previous,
        };
        let bytes = canonical_json::to_bytes(&manifest)?;
        let digest = manifest_digest(&bytes);
        Ok(ComputedEpoch { manifest, bytes, digest, objects })
    }

    async fn compute_program(
        &self,
        program: &Program,
        engine: EngineSettings,
    ) -> Result<(ProgramSection, Contributions), EpochError> {
        let devices = self.devices_of(&program.name);
        let facts = self.policy_facts(program, devices.len());
        let policy_id = policy_id(&program.policy);
        let contributions = match Policy::check(&program.policy, &facts) {
            Ok(policy) => self.run_policy(&policy, program, devices, engine).await?,
            Err(error) => {
                // A policy that does not pass pays nothing: the epoch must not hang on it.
                tracing::error!(program = program.name, %error, "the policy in force is refused; it pays nothing");
                BTreeMap::new()
            }
        };
        let weights: BTreeMap<Address, u128> =
            contributions.iter().map(|(provider, row)| (*provider, row.weight)).collect();
        let rewards = allocate(program.pool, &weights)
            .map_err(|cause| EpochError::Allocation { program: program.name.clone(), cause })?;
        let weight: U256 = weights.values().map(|weight| U256::from(*weight)).sum();
        let section = ProgramSection {
            program: program.name.clone(),
            policy: policy_id,
            pool: program.pool,
            paid: rewards.values().sum(),
            weight: weight.to_string(),
            contributions: Digest::ZERO,
        };
        let providers = contributions
            .into_iter()
            .map(|(provider, row)| Contribution { reward: rewards[&provider], ..row })
            .collect();
        Ok((section, Contributions { program: program.name.clone(), epoch: self.epoch, providers }))
    }

    async fn run_policy(
        &self,
        policy: &Policy,
        program: &Program,
        devices: Vec<DeviceRow>,
        engine: EngineSettings,
    ) -> Result<BTreeMap<Address, Contribution>, EpochError> {
        let records = |own_only: bool| -> Vec<Arc<[AdmittedRecord]>> {
            let chunk = |partition: &PartitionInputs| {
                let skipped = if own_only { partition.accepted.len() - partition.own } else { 0 };
                let batches = partition.accepted.iter().skip(skipped);
                batches
                    .filter(|batch| *batch.program == *program.name)
                    .map(|batch| batch.record.clone())
                    .collect::<Arc<[_]>>()
            };
            self.partitions.iter().map(chunk).collect()
        };
        let inputs = PolicyInputs {
            readings: records(false),
            late_readings: records(true),
            devices,
            window: self.window.clone(),
            settings: engine,
        };
        let failed = |cause| EpochError::Policy { program: program.name.clone(), cause };
        let rows = policy.run(inputs).await.map_err(failed)?;
        let to_contribution = |row: crate::policy::ContributionRow| Contribution {
            provider: row.provider,
            weight: row.weight,
            reward: 0,
            explanation: row.explanation,
        };
        Ok(rows.into_iter().map(|row| (row.provider, to_contribution(row))).collect())
    }

    /// What the bounds of a program's policy are proven from. Limits may have been lowered after records
    /// were accepted and devices joined, so the widest that were in force count.
    fn policy_facts(&self, program: &Program, devices: usize) -> PolicyFacts {
        let slots_max = u32::try_from(self.slots).unwrap_or(u32::MAX);
        let partitions = u32::try_from(self.partitions.len()).unwrap_or(u32::MAX);
        let members_max =
            NonZeroU32::new(partitions).map_or(0, |partitions| members_max(program, partitions));
        // One row for each provider that a device can have worked for.
        let rows_max = members_max.saturating_mul(partitions).saturating_mul(slots_max.saturating_add(1));
        let programs = self.accepted_under.iter().filter_map(|state| state.programs.get(&program.name));
        let quotas = programs.map(|program| program.readings_per_device_max);
        let metrics = self.control.metrics.values();
        PolicyFacts {
            metrics: metrics.map(|metric| (metric.id, self.widest(metric))).collect(),
            readings_per_device_max: quotas.fold(program.readings_per_device_max, u32::max),
            devices_max: rows_max.max(u32::try_from(devices).unwrap_or(u32::MAX)),
            slots_max,
        }
    }

    /// A metric with every value in its range that the epoch may read.
    fn widest(&self, metric: &Metric) -> Metric {
        let mut widest = metric.clone();
        for earlier in self.accepted_under.iter().filter_map(|state| state.metrics.get(&metric.id)) {
            widest.minimum = widest.minimum.min(earlier.minimum);
            widest.maximum = widest.maximum.max(earlier.maximum);
        }
        if widest.metric_kind == MetricKind::Counter {
            // It was a gauge, and grows from below zero.
            widest.maximum = widest.maximum.saturating_sub(widest.minimum.min(0));
        }
        widest
    }

    /// The devices of a program, one row for each provider that a device worked for: those registered
    /// at the cut, and those whose batches the epoch reads.
    fn devices_of(&self, program: &str) -> Vec<DeviceRow> {
        let mut rows = Vec::new();
        for partition in &self.partitions {
            let registered: BTreeMap<_, &RegisteredDevice> =
                partition.devices.registered.iter().map(|device| (device.device, device)).collect();
            let at_cut = partition
                .devices
                .registered
                .iter()
                .filter(|device| *device.program == *program)
                .map(|device| (device.device, device.provider));
            let in_batches = partition
                .accepted
                .iter()
                .filter(|batch| *batch.program == *program)
                .map(|batch| (batch.record.device, batch.record.provider));
            let pairs: BTreeSet<_> = at_cut.chain(in_batches).collect();
            for (device, provider) in pairs {
                let state = registered.get(&device);
                rows.push(DeviceRow {
                    device,
                    provider,
                    attributes: state.map(|state| state.attributes.to_string()).unwrap_or_default(),
                    flagged: state.is_some_and(|state| state.flagged),
                });
            }
        }
        rows
    }
}

impl PartitionInputs {
    fn collect(history: &History, partition: u32, epoch: u64) -> Result<Self, EpochError> {
        let devices = history
            .devices_at_cut(partition, epoch)
            .cloned()
            .ok_or(EpochError::NotClosed { partition, epoch })?;
        let contents: Vec<&SlotContent> =
            history.slots_for(epoch).filter_map(|slot| history.slot(partition, slot)).collect();
        let own = history.slot(partition, epoch);
        Ok(Self {
            partition,
            segments: contents.iter().flat_map(|content| content.segments.iter().copied()).collect(),
            accepted: contents.iter().flat_map(|content| content.accepted.iter().cloned()).collect(),
            own: own.map_or(0, |content| content.accepted.len()),
            counts: own.map(|content| content.counts.clone()).unwrap_or_default(),
            exclusions: SlotContent::exclusions(own, partition, epoch),
            devices,
        })
    }
}

#[cfg(test)]
mod tests;

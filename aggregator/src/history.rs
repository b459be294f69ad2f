//! The history of a network as its evidence tells it: slots, verdicts, and what an epoch reads.
//!
//! A `History` is fed verified segments in the order of each partition and knows, for every slot
//! that an epoch may still read, what its records were worth. It does no I/O; the aggregator and the
//! auditor run the same one.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::RangeInclusive,
    sync::Arc,
};

use fieldproof_proto::{
    canonical_json::CanonicalError,
    control::{ControlBody, ControlError, ControlRecord, ControlState},
    evidence::{CONTROL_PARTITION, KIND_CONTROL, Record},
    genesis::{EpochGrid, Genesis, GenesisError},
    ids::{Digest, NetworkId},
    manifest::{Counts, Exclusion, Exclusions, SegmentRef},
};

use crate::{
    admission::{
        AcceptedBatch, Admission, AdmissionContext, Admitted, RegisteredDevice, Verdict, inspect_all,
    },
    evidence::Segment,
};

/// Everything that the evidence so far says.
#[derive(Debug)]
pub struct History {
    genesis: Genesis,
    network: NetworkId,
    control: ControlHistory,
    partitions: Vec<PartitionHistory>,
}

/// Where a partition's evidence stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The offset at which the next segment starts.
    pub next_offset: u64,
    /// The digest of the last segment; zero before the first.
    pub digest: Digest,
}

/// What one slot of one partition came to.
#[derive(Debug, Clone, Default)]
pub struct SlotContent {
    /// Its segments.
    pub segments: Vec<SegmentRef>,
    /// Its accepted batches, in the order of the log.
    pub accepted: Vec<AcceptedBatch>,
    /// What its records were.
    pub counts: Counts,
    /// The records that do not count.
    pub exclusions: Vec<Exclusion>,
}

/// The devices of a partition at the end of a slot.
#[derive(Debug, Clone)]
pub struct DevicesAtCut {
    /// The digest of their states.
    pub digest: Digest,
    /// Those that are registered.
    pub registered: Arc<[RegisteredDevice]>,
}

/// A segment that does not fit, or a log that contradicts itself.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The genesis is not valid.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// A segment of a partition that the network does not have.
    #[error("partition `{0}` is not one of the network's")]
    Partition(u32),
    /// C2: segments tile a partition.
    #[error(
        "segment `{found}` of partition `{partition}` does not follow offset `{expected}` with digest `{digest}`"
    )]
    Tiling {
        /// The partition.
        partition: u32,
        /// Where the next segment should start.
        expected: u64,
        /// The digest it should be chained to.
        digest: Digest,
        /// Where it starts.
        found: u64,
    },
    /// A segment with records of two slots.
    #[error("segment `{first_offset}` of partition `{partition}` spans a cut at offset `{offset}`")]
    SpansCut {
        /// The partition.
        partition: u32,
        /// The segment.
        first_offset: u64,
        /// The first record of the later slot.
        offset: u64,
    },
    /// A control state that has no canonical form.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A value that has no canonical form.
    #[error(transparent)]
    Json(#[from] CanonicalError),
}

#[derive(Debug)]
struct ControlHistory {
    grid: EpochGrid,
    position: Position,
    /// The slot of the last record, from which later ones never go back.
    slot: u64,
    segments: Vec<SegmentRef>,
    /// Valid records with the slot they are in.
    records: Vec<(u64, ControlBody)>,
    /// Records that are not valid, and so change nothing.
    refused: u64,
}

#[derive(Debug)]
struct PartitionHistory {
    admission: Admission,
    position: Position,
    slot: u64,
    slots: BTreeMap<u64, SlotContent>,
    /// The devices at the cuts, by the first slot of each run of slots that were closed together: a log
    /// that was idle for long closes many at once.
    cuts: BTreeMap<u64, DevicesAtCut>,
    /// Segments whose control records are not all known yet.
    waiting: VecDeque<Segment>,
}

impl History {
    /// No evidence yet. `genesis_bytes` is the canonical genesis.
    pub fn new(genesis_bytes: &[u8]) -> Result<Self, HistoryError> {
        let genesis = Genesis::from_bytes(genesis_bytes)?;
        let network = Genesis::network_id(genesis_bytes);
        let context = |partition| AdmissionContext {
            network,
            chain_id: genesis.chain_id,
            partition_count: genesis.partitions,
            partition,
            future_ms: genesis.epochs.future_ms,
        };
        let partitions = (0..genesis.partitions.get())
            .map(|partition| PartitionHistory::new(context(partition)))
            .collect();
        Ok(Self { network, control: ControlHistory::new(&genesis.epochs), partitions, genesis })
    }

    /// The genesis.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The network.
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// Takes the next segment of a partition, which was verified when it was read.
    pub fn add(&mut self, segment: Segment) -> Result<(), HistoryError> {
        if segment.name.partition == CONTROL_PARTITION {
            self.control.add(&segment, &self.network, &self.genesis)?;
            for partition in 0..self.partitions.len() {
                self.admit_waiting(partition)?;
            }
            return Ok(());
        }
        let number = segment.name.partition;
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let partition = self.partitions.get_mut(index).ok_or(HistoryError::Partition(number))?;
        partition.position = partition.position.after(&segment)?;
        partition.waiting.push_back(segment);
        self.admit_waiting(index)
    }

    /// Whether every partition has closed the slot of `epoch`, so that the epoch can be computed.
    pub fn is_ready(&self, epoch: u64) -> bool {
        self.is_closed(CONTROL_PARTITION, epoch)
            && (0..self.partition_count()).all(|number| self.is_closed(number, epoch))
    }

    /// Whether a partition has closed the slot that an epoch waits for. The topic `control` has one
    /// too.
    pub fn is_closed(&self, partition: u32, epoch: u64) -> bool {
        if partition == CONTROL_PARTITION {
            return self.control.slot > epoch;
        }
        let index = usize::try_from(partition).unwrap_or(usize::MAX);
        self.partitions.get(index).is_some_and(|partition| partition.slot > epoch)
    }

    /// The slots that hold all readings of the window of an epoch.
    pub fn slots_for(&self, epoch: u64) -> RangeInclusive<u64> {
        self.genesis.epochs.first_slot_for(epoch)..=epoch
    }

    /// Forgets what no epoch from `epoch` on reads.
    pub fn forget_before(&mut self, epoch: u64) {
        let first = *self.slots_for(epoch).start();
        for partition in &mut self.partitions {
            partition.slots = partition.slots.split_off(&first);
            if let Some(run) = partition.cuts.range(..=epoch).next_back().map(|(first, _)| *first) {
                partition.cuts = partition.cuts.split_off(&run);
            }
        }
    }

    /// The control state in force for an epoch, the number of records that make it, and the last
    /// segment that holds one of them.
    pub fn control_for(&self, epoch: u64) -> (ControlState, u64, Option<SegmentRef>) {
        let mut state = ControlState::default();
        let mut records = 0;
        for (_, body) in self.control.records.iter().take_while(|(slot, _)| *slot <= epoch) {
            state.apply(body);
            records += 1;
        }
        let head = self.control.segments.iter().rfind(|segment| segment.slot <= epoch).copied();
        (state, records, head)
    }

    /// How many partitions there are.
    pub fn partition_count(&self) -> u32 {
        self.genesis.partitions.get()
    }

    /// What a slot of a partition came to; an empty one if nothing was in it.
    pub fn slot(&self, partition: u32, slot: u64) -> Option<&SlotContent> {
        self.partitions.get(usize::try_from(partition).ok()?)?.slots.get(&slot)
    }

    /// Where the evidence of a partition ends, as far as it was added.
    pub fn position(&self, partition: u32) -> Position {
        let history = usize::try_from(partition).ok().and_then(|index| self.partitions.get(index));
        history.map_or(Position::START, |history| history.position)
    }

    /// All slots of a partition that are known, in their order.
    pub fn slots(&self, partition: u32) -> impl Iterator<Item = (u64, &SlotContent)> {
        let history = usize::try_from(partition).ok().and_then(|index| self.partitions.get(index));
        history.into_iter().flat_map(|history| history.slots.iter().map(|(slot, content)| (*slot, content)))
    }

    /// The devices of a partition when it closed a slot.
    pub fn devices_at_cut(&self, partition: u32, slot: u64) -> Option<&DevicesAtCut> {
        let history = self.partitions.get(usize::try_from(partition).ok()?)?;
        let run = history.cuts.range(..=slot).next_back().filter(|_| slot < history.slot);
        run.map(|(_, devices)| devices)
    }

    fn admit_waiting(&mut self, index: usize) -> Result<(), HistoryError> {
        while let Some(segment) = self.partitions[index].waiting.front() {
            let current = self.partitions[index].slot;
            let slot = slot_of(&self.genesis.epochs, current, segment)?;
            // The first record of a later slot closes the ones before, whatever it will be worth.
            self.partitions[index].close_until(slot);
            if self.control.slot <= slot {
                return Ok(());
            }
            let (control, _, _) = self.control_for(slot);
            let partition = &mut self.partitions[index];
            let segment = partition.waiting.pop_front().expect("it is at the front");
            partition.admit(&segment, slot, &control, &self.genesis.epochs);
        }
        Ok(())
    }
}

impl Position {
    /// Before the first segment.
    pub const START: Self = Self { next_offset: 0, digest: Digest::ZERO };

    /// After a segment, which must follow (C2).
    pub fn after(&self, segment: &Segment) -> Result<Self, HistoryError> {
        if segment.name.first_offset != self.next_offset || segment.name.previous != self.digest {
            return Err(HistoryError::Tiling {
                partition: segment.name.partition,
                expected: self.next_offset,
                digest: self.digest,
                found: segment.name.first_offset,
            });
        }
        Ok(Self { next_offset: segment.name.next_offset, digest: segment.digest })
    }
}

/// The grid by which the topic `control` is cut: its slot k holds the records that are in force from
/// epoch k on, so it closes when the window of epoch k opens.
pub fn control_grid(grid: &EpochGrid) -> EpochGrid {
    EpochGrid { start_ms: grid.start_ms.saturating_sub(grid.length_ms), grace_ms: 0, ..*grid }
}

/// The slot of a segment that follows slot `current`: all its records must be in it.
fn slot_of(grid: &EpochGrid, current: u64, segment: &Segment) -> Result<u64, HistoryError> {
    let mut slot = None;
    for record in segment.records.iter() {
        let of_record = grid.slot_after(slot.unwrap_or(current), record.append_ms);
        if slot.is_some_and(|slot| slot != of_record) {
            return Err(HistoryError::SpansCut {
                partition: segment.name.partition,
                first_offset: segment.name.first_offset,
                offset: record.offset,
            });
        }
        slot = Some(of_record);
    }
    Ok(slot.unwrap_or(current))
}

fn segment_ref(segment: &Segment, slot: u64) -> SegmentRef {
    SegmentRef {
        slot,
        first_offset: segment.name.first_offset,
        next_offset: segment.name.next_offset,
        digest: segment.digest,
    }
}

impl ControlHistory {
    fn new(grid: &EpochGrid) -> Self {
        Self {
            grid: control_grid(grid),
            position: Position::START,
            slot: 0,
            segments: Vec::new(),
            records: Vec::new(),
            refused: 0,
        }
    }

    fn add(&mut self, segment: &Segment, network: &NetworkId, genesis: &Genesis) -> Result<(), HistoryError> {
        self.position = self.position.after(segment)?;
        self.slot = slot_of(&self.grid, self.slot, segment)?;
        self.segments.push(segment_ref(segment, self.slot));
        for record in segment.records.iter().filter(|record| record.kind() == Some(KIND_CONTROL)) {
            let value = record.value.as_deref().unwrap_or_default();
            match ControlRecord::verify(network, &genesis.operator, value) {
                Ok(control) => self.records.push((self.slot, control.body)),
                Err(error) => {
                    self.refused += 1;
                    tracing::warn!(offset = record.offset, %error, "a control record is refused");
                }
            }
        }
        Ok(())
    }
}

impl PartitionHistory {
    fn new(context: AdmissionContext) -> Self {
        Self {
            admission: Admission::new(context),
            position: Position::START,
            slot: 0,
            slots: BTreeMap::new(),
            cuts: BTreeMap::new(),
            waiting: VecDeque::new(),
        }
    }

    fn admit(&mut self, segment: &Segment, slot: u64, control: &ControlState, grid: &EpochGrid) {
        let inspected = inspect_all(self.admission.context(), &segment.records);
        let content = self.slots.entry(slot).or_default();
        content.segments.push(segment_ref(segment, slot));
        for (record, inspected) in segment.records.iter().zip(inspected) {
            let admitted = self.admission.admit(record, inspected, slot, control);
            content.take(record, admitted, slot, grid);
        }
    }

    /// Closes the slots before `slot`: remembers the devices as they are, once for all of them.
    fn close_until(&mut self, slot: u64) {
        if slot <= self.slot {
            return;
        }
        let devices = DevicesAtCut {
            digest: self.admission.state_digest(),
            registered: self.admission.registered().into(),
        };
        self.cuts.insert(self.slot, devices);
        self.slot = slot;
    }
}

impl SlotContent {
    fn take(&mut self, record: &Record, admitted: Admitted, slot: u64, grid: &EpochGrid) {
        self.counts.records += 1;
        *self.counts.verdicts.entry(admitted.verdict.name().to_owned()).or_default() += 1;
        if admitted.verdict.excludes() {
            let (offset, verdict) = (record.offset, admitted.verdict.name());
            tracing::debug!(offset, verdict, device = ?admitted.device, reason = admitted.reason, "does not count");
            self.exclusions.push(Exclusion {
                offset: record.offset,
                verdict: admitted.verdict.name().to_owned(),
                device: admitted.device,
            });
        }
        let Some(accepted) = admitted.accepted else { return };
        for (time_ms, readings) in &accepted.readings {
            let on_time = grid.epoch_of(*time_ms).is_some_and(|epoch| epoch >= slot);
            let count = if on_time { &mut self.counts.on_time } else { &mut self.counts.late };
            *count += u64::from(*readings);
            self.counts.readings += u64::from(*readings);
        }
        self.accepted.push(accepted);
    }

    /// The object that lists what does not count.
    pub fn exclusions(content: Option<&Self>, partition: u32, slot: u64) -> Exclusions {
        Exclusions {
            partition,
            slot,
            records: content.map(|content| content.exclusions.clone()).unwrap_or_default(),
        }
    }

    /// How many records had a verdict.
    pub fn verdicts(&self, verdict: Verdict) -> u64 {
        self.counts.verdicts.get(verdict.name()).copied().unwrap_or_default()
    }
}

#[cfg(test)]
pub(crate) mod tests;

//! A story for tests: what reaches the log and when, cut into segments as a writer would.

use fieldproof_proto::{
    control::ControlBody,
    evidence::{CONTROL_PARTITION, KIND_CONTROL, Record},
    genesis::EpochGrid,
    ids::Digest,
};

use crate::{
    admission::tests::network::{NewRecord, Seeded, TestNetwork},
    evidence::Segment,
    history::{History, control_grid},
};

/// The records of a network's log.
pub struct Story {
    pub network: TestNetwork,
    /// The records of each partition.
    pub telemetry: Vec<Vec<Record>>,
    /// The records of the topic `control`.
    pub control: Vec<Record>,
}

impl Story {
    pub fn new(grid: EpochGrid, partitions: u32) -> Self {
        let network = TestNetwork::new(grid, partitions);
        Self { network, telemetry: vec![Vec::new(); partitions as usize], control: Vec::new() }
    }

    /// A record reaches a partition.
    pub fn send(&mut self, partition: u32, append_ms: u64, record: &NewRecord) {
        append(&mut self.telemetry[partition as usize], append_ms, record);
    }

    /// A change reaches `control`.
    pub fn change(&mut self, append_ms: u64, body: ControlBody) {
        let value = self.network.control(body);
        append(&mut self.control, append_ms, &NewRecord { kind: KIND_CONTROL, key: None, value });
    }

    /// Time passes everywhere.
    pub fn tick(&mut self, append_ms: u64) {
        let partitions = self.telemetry.iter_mut().chain([&mut self.control]);
        partitions.for_each(|log| append(log, append_ms, &NewRecord::tick()));
    }

    /// The segments of all partitions, `control` last, with at most this many records in each.
    pub fn segments(&self, mut size: impl FnMut() -> usize) -> Vec<Vec<Segment>> {
        let grid = self.network.genesis.epochs;
        let mut all: Vec<_> = self
            .telemetry
            .iter()
            .zip(0..)
            .map(|(records, partition)| segments(&grid, partition, records, &mut size))
            .collect();
        all.push(segments(&control_grid(&grid), CONTROL_PARTITION, &self.control, &mut size));
        all
    }

    /// The history of these segments, `control` first.
    pub fn history(&self) -> History {
        let mut history = History::new(&self.network.genesis_bytes).unwrap();
        let segments = self.segments(|| 3);
        for segment in segments.into_iter().rev().flatten() {
            history.add(segment).unwrap();
        }
        history
    }
}

fn append(log: &mut Vec<Record>, append_ms: u64, record: &NewRecord) {
    log.push(record.at(log.len() as u64, i64::try_from(append_ms).unwrap()));
}

/// A partition's records in segments: each of one slot, and of at most `size()` records.
pub fn segments(
    grid: &EpochGrid,
    partition: u32,
    records: &[Record],
    mut size: impl FnMut() -> usize,
) -> Vec<Segment> {
    let mut all: Vec<Segment> = Vec::new();
    let mut slot = 0;
    let mut rest = records;
    while let Some(first) = rest.first() {
        slot = grid.slot_after(slot, first.append_ms);
        let same = rest.iter().take_while(|record| grid.slot_after(slot, record.append_ms) == slot).count();
        let (head, tail) = rest.split_at(same.min(size().max(1)));
        let previous = all.last().map_or(Digest::ZERO, |segment| segment.digest);
        all.push(Segment::new(1, partition, previous, head.to_vec()).unwrap());
        rest = tail;
    }
    all
}

/// One order of all segments in which those of each partition stay in theirs.
pub fn interleaved(mut partitions: Vec<Vec<Segment>>, random: &mut Seeded) -> Vec<Segment> {
    partitions.iter_mut().for_each(|segments| segments.reverse());
    let mut all = Vec::new();
    while partitions.iter().any(|segments| !segments.is_empty()) {
        let index = usize::try_from(random.below(partitions.len() as u64)).unwrap();
        all.extend(partitions[index].pop());
    }
    all
}

//! What each record is worth (D2, M1, R1).

pub(crate) mod network;
mod places;
mod schedules;
mod verdicts;

use fieldproof_proto::{control::ControlState, evidence::Record, ids::DeviceId};

use super::{AcceptedBatch, Admission, Admitted, inspect};
use crate::readings::Baselines;
use network::{NewRecord, TestNetwork, control_state, first_changes};

/// One partition's log, admitted as it grows.
struct Log {
    admission: Admission,
    control: ControlState,
    records: Vec<Record>,
    append_ms: i64,
    slot: u64,
}

impl Log {
    fn new(network: &TestNetwork, partition: u32) -> Self {
        Self {
            admission: Admission::new(network.context(partition)),
            control: control_state(&first_changes()),
            records: Vec::new(),
            append_ms: 1_000_000,
            slot: 0,
        }
    }

    fn send(&mut self, record: &NewRecord) -> Admitted {
        self.send_record(record.at(self.records.len() as u64, self.append_ms))
    }

    fn send_record(&mut self, record: Record) -> Admitted {
        let inspected = inspect(self.admission.context(), &record);
        let admitted = self.admission.admit(&record, inspected, self.slot, &self.control);
        self.records.push(record);
        admitted
    }

    /// Whether the device has signed two batches for one place.
    fn is_flagged(&self, device: DeviceId) -> bool {
        self.admission.registered().iter().any(|registered| registered.device == device && registered.flagged)
    }
}

/// A plain reading of the rule of growth: each value of the counter with its growth, and whether it
/// is a reset.
pub(crate) fn growth(batch: &AcceptedBatch) -> Vec<(i64, i64, bool)> {
    let record = &batch.record;
    let payload = fieldproof_proto::payload::Payload::decode(&record.payload, record.first_time_ms).unwrap();
    let energy = payload.columns.iter().find(|column| column.metric == network::ENERGY);
    let values = energy.into_iter().flat_map(|column| column.values.iter().flatten().copied());
    let Baselines::Head(baselines) = &record.baselines else {
        return values.map(|value| (value, 0, false)).collect();
    };
    let mut latest = baselines.iter().find(|(metric, _)| *metric == network::ENERGY).map(|(_, value)| *value);
    let mut step = |value: i64| match latest.replace(value) {
        None => (value, 0, false),
        Some(before) if value < before => (value, 0, true),
        Some(before) => (value, value - before, false),
    };
    values.map(&mut step).collect()
}

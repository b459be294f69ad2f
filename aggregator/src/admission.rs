//! Admission: what each record of the log is worth, under numbered rules.
//!
//! A pure function of the log and the control records: no clock, no I/O, nothing that ingest said is
//! believed. What needs no state (form, place in the topic, signature) is `inspect`, which may run
//! on many records at once; what needs it is `Admission::admit`, in the order of the log. SPEC.md
//! section 11 is the same in words.

pub mod device;
mod state;
mod verdict;

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc, thread};

use alloy_primitives::Address;
use fieldproof_proto::{
    batch::{BatchError, WellFormedBatch},
    control::{ControlState, MetricKind, Program},
    digest::{context, digest},
    evidence::{KIND_BATCH, KIND_REGISTRATION, KIND_TICK, Record},
    ids::{DeviceId, Digest, NetworkId},
    registration::{Registration, verify_admitter, verify_registration},
    v1::{SignedBatch, SignedRegistration},
    wire::decode_envelope,
};

use crate::readings::AdmittedRecord;
use device::{DeviceState, PlaceVerdict};
pub use verdict::Verdict;

/// The version of the rules in this module. Any change to a verdict is a new version.
pub const RULES_VERSION: u32 = 1;

/// What never changes about a partition, as admission needs it.
#[derive(Debug, Clone, Copy)]
pub struct AdmissionContext {
    /// The network.
    pub network: NetworkId,
    /// The chain, for the provider's signature.
    pub chain_id: u64,
    /// How many partitions the topic has.
    pub partition_count: NonZeroU32,
    /// The partition.
    pub partition: u32,
    /// How far readings may be ahead of the log.
    pub future_ms: u64,
}

/// What one record turned out to be.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// The verdict.
    pub verdict: Verdict,
    /// The device, where the record names one.
    pub device: Option<DeviceId>,
    /// Why it does not count; empty if it does.
    pub reason: String,
    /// Its readings, if they count.
    pub accepted: Option<AcceptedBatch>,
}

/// A batch that counts.
#[derive(Debug, Clone)]
pub struct AcceptedBatch {
    /// The program whose policy reads it.
    pub program: Arc<str>,
    /// The readings.
    pub record: AdmittedRecord,
    /// The event times of its readings: the number of readings at each time.
    pub readings: Vec<(u64, u32)>,
}

/// What can be said of a record without knowing any other.
#[derive(Debug, Clone)]
pub enum Inspected {
    /// A tick.
    Tick,
    /// A batch with a valid signature, of this partition.
    Batch(Box<WellFormedBatch>, bytes::Bytes),
    /// A registration with valid signatures of device and provider, of this partition.
    Registration(Box<(Registration, SignedRegistration)>),
    /// Settled already.
    Refused(Verdict, Option<DeviceId>, String),
}

/// The states of all devices of one partition.
#[derive(Debug, Clone)]
pub struct Admission {
    context: AdmissionContext,
    devices: BTreeMap<DeviceId, DeviceState>,
    /// How many devices each program has here; follows from `devices`.
    members: BTreeMap<Arc<str>, u32>,
}

/// A device as policies see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredDevice {
    /// The device.
    pub device: DeviceId,
    /// Who is paid.
    pub provider: Address,
    /// The program.
    pub program: Arc<str>,
    /// Canonical JSON.
    pub attributes: Arc<str>,
    /// Whether it signed two batches for one place.
    pub flagged: bool,
}

/// Inspects many records, on all cores.
pub fn inspect_all(context: &AdmissionContext, records: &[Record]) -> Vec<Inspected> {
    /// Fewer records than this are not worth a thread.
    const RECORDS_PER_THREAD_MIN: usize = 64;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let share = records.len().div_ceil(cores).max(RECORDS_PER_THREAD_MIN);
    thread::scope(|scope| {
        let workers: Vec<_> = records
            .chunks(share)
            .map(|chunk| {
                scope.spawn(|| chunk.iter().map(|record| inspect(context, record)).collect::<Vec<_>>())
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Inspects one record.
pub fn inspect(context: &AdmissionContext, record: &Record) -> Inspected {
    let value = record.value.as_deref().unwrap_or_default();
    match record.kind() {
        Some(KIND_TICK) if value.is_empty() => Inspected::Tick,
        Some(KIND_BATCH) => inspect_batch(context, record, value),
        Some(KIND_REGISTRATION) => inspect_registration(context, record, value),
        _ => Inspected::Refused(Verdict::Malformed, None, "the record has no known kind".to_owned()),
    }
}

fn inspect_batch(context: &AdmissionContext, record: &Record, value: &[u8]) -> Inspected {
    let refused =
        |verdict, device, reason: &dyn ToString| Inspected::Refused(verdict, device, reason.to_string());
    let batch = match decode_envelope::<SignedBatch>("the batch", value) {
        Ok(batch) => batch,
        Err(error) => return refused(Verdict::Malformed, None, &error),
    };
    let well_formed = match WellFormedBatch::parse(&context.network, &batch) {
        Ok(well_formed) => well_formed,
        Err(BatchError::Signature(error)) => return refused(Verdict::BadSignature, None, &error),
        Err(error) => return refused(Verdict::Malformed, None, &error),
    };
    let device = well_formed.header.device_id();
    if let Some(reason) = misrouted(context, record, &device) {
        return refused(Verdict::Misrouted, Some(device), &reason);
    }
    let key = well_formed.header.public_key.verifying_key();
    match key.and_then(|key| key.verify(&well_formed.digest, &batch.signature)) {
        Ok(()) => Inspected::Batch(Box::new(well_formed), batch.payload),
        Err(error) => refused(Verdict::BadSignature, Some(device), &error),
    }
}

fn inspect_registration(context: &AdmissionContext, record: &Record, value: &[u8]) -> Inspected {
    let refused =
        |verdict, device, reason: &dyn ToString| Inspected::Refused(verdict, device, reason.to_string());
    let signed = match decode_envelope::<SignedRegistration>("the registration", value) {
        Ok(signed) => signed,
        Err(error) => return refused(Verdict::RegistrationRefused, None, &error),
    };
    let registration = match verify_registration(&context.network, context.chain_id, &signed) {
        Ok(registration) => registration,
        Err(error) => return refused(Verdict::RegistrationRefused, None, &error),
    };
    let device = registration.device_id();
    match misrouted(context, record, &device) {
        Some(reason) => refused(Verdict::Misrouted, Some(device), &reason),
        None => Inspected::Registration(Box::new((registration, signed))),
    }
}

/// Why a record does not belong where it is, if it does not.
fn misrouted(context: &AdmissionContext, record: &Record, device: &DeviceId) -> Option<String> {
    if record.key.as_deref() != Some(&device.0[..]) {
        return Some("the key is not the id of the device".to_owned());
    }
    let partition = device.partition(context.partition_count);
    (partition != context.partition)
        .then(|| format!("the device belongs to partition `{partition}`, not `{}`", context.partition))
}

impl Admission {
    /// No devices yet.
    pub fn new(context: AdmissionContext) -> Self {
        Self { context, devices: BTreeMap::new(), members: BTreeMap::new() }
    }

    /// What stays the same.
    pub fn context(&self) -> &AdmissionContext {
        &self.context
    }

    /// Gives the next record of the log its verdict. `slot` is the slot the record is in, `control`
    /// the state in force for it.
    pub fn admit(
        &mut self,
        record: &Record,
        inspected: Inspected,
        slot: u64,
        control: &ControlState,
    ) -> Admitted {
        match inspected {
            Inspected::Tick => Admitted::plain(Verdict::Tick, None),
            Inspected::Refused(verdict, device, reason) => {
                Admitted { verdict, device, reason, accepted: None }
            }
            Inspected::Registration(both) => self.admit_registration(&both.0, &both.1, slot, control),
            Inspected::Batch(batch, payload) => self.admit_batch(record, &batch, payload, slot, control),
        }
    }

    /// The devices that are registered, in rising order.
    pub fn registered(&self) -> Vec<RegisteredDevice> {
        self.devices.iter().filter_map(|(device, state)| state.registered(*device)).collect()
    }

    /// The digest of all states.
    pub fn state_digest(&self) -> Digest {
        let count = (self.devices.len() as u64).to_le_bytes();
        let mut bytes = Vec::new();
        for (device, state) in &self.devices {
            bytes.extend_from_slice(&device.0);
            state::put(&mut bytes, state);
        }
        digest(context::DEVICE_STATE, &[&count, &bytes])
    }

    fn admit_registration(
        &mut self,
        registration: &Registration,
        signed: &SignedRegistration,
        slot: u64,
        control: &ControlState,
    ) -> Admitted {
        let device = registration.device_id();
        let refused = |reason: String| Admitted {
            verdict: Verdict::RegistrationRefused,
            device: Some(device),
            reason,
            accepted: None,
        };
        let Some(program) = control.programs.get(&registration.program) else {
            return refused(format!("the program `{}` is not in force", registration.program));
        };
        if let Err(error) = verify_admitter(&self.context.network, &program.admitter, signed) {
            return refused(error.to_string());
        }
        let state = self.devices.get(&device);
        let last = state.map_or(0, DeviceState::registration_counter);
        if registration.counter != last.saturating_add(1) {
            return refused(format!(
                "the counter is `{}`, the next is `{}`",
                registration.counter,
                last.saturating_add(1)
            ));
        }
        if state.is_some_and(|state| state.registered_in(slot)) {
            return refused(format!("the device registered in slot `{slot}` already"));
        }
        let before = state.and_then(|state| state.registered(device)).map(|registered| registered.program);
        let joins = before.as_deref() != Some(registration.program.as_str());
        let members_max = members_max(program, self.context.partition_count);
        if joins && self.members.get(&*registration.program).is_some_and(|members| *members >= members_max) {
            return refused(format!(
                "the program has the `{members_max}` devices that it takes in this partition"
            ));
        }
        if joins {
            if let Some(members) = before.and_then(|program| self.members.get_mut(&program)) {
                *members -= 1;
            }
            *self.members.entry(registration.program.as_str().into()).or_default() += 1;
        }
        self.devices.entry(device).or_default().register(registration, slot);
        Admitted::plain(Verdict::Registered, Some(device))
    }

    fn admit_batch(
        &mut self,
        record: &Record,
        batch: &WellFormedBatch,
        payload: bytes::Bytes,
        slot: u64,
        control: &ControlState,
    ) -> Admitted {
        let device = batch.header.device_id();
        let refused =
            |verdict, reason: String| Admitted { verdict, device: Some(device), reason, accepted: None };
        let Some(state) = self.devices.get_mut(&device) else {
            return refused(Verdict::Unregistered, "the device is not registered".to_owned());
        };
        let Some(registered) =
            state.registered(device).filter(|_| state.registration_counter() == batch.header.registration)
        else {
            let counter = state.registration_counter();
            return refused(
                Verdict::Unregistered,
                format!(
                    "the batch goes by registration `{}`, in force is `{counter}`",
                    batch.header.registration
                ),
            );
        };
        let placing = match state.place(batch) {
            PlaceVerdict::Free(placing) => placing,
            PlaceVerdict::Taken { verdict, reason } => {
                if verdict == Verdict::Equivocation {
                    state.flag(slot);
                }
                return refused(verdict, reason);
            }
        };
        let Some(program) = control.programs.get(&*registered.program) else {
            return refused(
                Verdict::Unregistered,
                format!("the program `{}` is not in force", registered.program),
            );
        };
        if let Err((verdict, reason)) = self.context.worth(record, batch, control) {
            return refused(verdict, reason);
        }
        if let Err(reason) = within_quota(state.readings_in(slot), batch, program) {
            return refused(Verdict::OverQuota, reason);
        }
        let counters = |metric: u32| {
            control.metrics.get(&metric).is_some_and(|metric| metric.metric_kind == MetricKind::Counter)
        };
        let baselines = state.accept(batch, &placing, slot, counters);
        let record = AdmittedRecord {
            offset: record.offset,
            device,
            provider: registered.provider,
            payload,
            first_time_ms: batch.header.first_time_ms,
            baselines,
        };
        let accepted =
            AcceptedBatch { program: registered.program, record, readings: readings_by_time(batch) };
        Admitted { accepted: Some(accepted), ..Admitted::plain(Verdict::Accepted, Some(device)) }
    }
}

impl AdmissionContext {
    /// Whether a batch at a free place counts: known metrics, values in range, not from the future.
    fn worth(
        &self,
        record: &Record,
        batch: &WellFormedBatch,
        control: &ControlState,
    ) -> Result<(), (Verdict, String)> {
        for column in &batch.payload.columns {
            let Some(metric) = control.metrics.get(&column.metric) else {
                return Err((
                    Verdict::OutOfRange,
                    format!("metric `{}` is not in the catalogue", column.metric),
                ));
            };
            let range = metric.minimum..=metric.maximum;
            if let Some(value) = column.values.iter().flatten().find(|value| !range.contains(value)) {
                let reason = format!(
                    "metric `{}` is `{value}`, not within `{}` to `{}`",
                    metric.name, metric.minimum, metric.maximum
                );
                return Err((Verdict::OutOfRange, reason));
            }
        }
        let append_ms = u64::try_from(record.append_ms).unwrap_or(0);
        let latest_ms = append_ms.saturating_add(self.future_ms);
        if batch.header.last_time_ms > latest_ms {
            let ahead_ms = batch.header.last_time_ms - append_ms;
            return Err((
                Verdict::Future,
                format!(
                    "the last reading is `{ahead_ms}` ms ahead of the log, more than `{}`",
                    self.future_ms
                ),
            ));
        }
        Ok(())
    }
}

impl Admitted {
    fn plain(verdict: Verdict, device: Option<DeviceId>) -> Self {
        Self { verdict, device, reason: String::new(), accepted: None }
    }
}

/// How many devices of a program one partition takes: its share of the program's cap, rounded up.
/// Devices spread by their digests, so a cap is for a program's bounds and not for its planning.
pub fn members_max(program: &Program, partition_count: NonZeroU32) -> u32 {
    program.devices_max.div_ceil(partition_count.get())
}

fn within_quota(readings_in_slot: u32, batch: &WellFormedBatch, program: &Program) -> Result<(), String> {
    let readings = u64::from(readings_in_slot) + u64::from(batch.header.reading_count);
    if readings > u64::from(program.readings_per_device_max) {
        return Err(format!(
            "the device would have `{readings}` readings in this slot, more than `{}`",
            program.readings_per_device_max
        ));
    }
    Ok(())
}

/// How many readings there are at each time.
fn readings_by_time(batch: &WellFormedBatch) -> Vec<(u64, u32)> {
    let columns = &batch.payload.columns;
    let at = |index: usize| columns.iter().filter(|column| column.values[index].is_some()).count();
    batch
        .payload
        .times_ms
        .iter()
        .enumerate()
        .map(|(index, time_ms)| {
            (*time_ms, u32::try_from(at(index)).expect("a payload has at most 64 columns"))
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests;

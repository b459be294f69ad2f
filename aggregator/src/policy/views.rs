//! The views a policy reads: their columns, and their rows in a run.

use std::{
    collections::{BTreeSet, HashSet},
    fmt::Write as _,
    ops::Range,
    sync::{Arc, LazyLock},
};

use alloy_primitives::Address;
use datafusion::{
    arrow::{
        array::{BinaryArray, BooleanArray, RecordBatch, StringArray},
        datatypes::{DataType, Field, Schema, SchemaRef},
    },
    catalog::TableProvider,
    datasource::MemTable,
};
use fieldproof_proto::ids::DeviceId;

use super::{PolicyFacts, PolicyInputs, error::PolicyError, syntax::VIEWS};
use crate::readings::Readings;

/// A device as policies see it. A device that changed hands has a row per provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRow {
    /// The device.
    pub device: DeviceId,
    /// Who owns it.
    pub provider: Address,
    /// Its attributes, as registered.
    pub attributes: String,
    /// Whether it signed two batches for one place in an epoch cut before.
    pub flagged: bool,
}

static DEVICES: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("device", DataType::Binary, false),
        Field::new("provider", DataType::Binary, false),
        Field::new("attributes", DataType::Utf8, false),
        Field::new("flagged", DataType::Boolean, false),
    ]))
});

/// The views by name.
pub(super) type Views = [(&'static str, Arc<dyn TableProvider>); 3];

/// The columns of all views as text: part of a policy's id.
pub(super) fn schema_text() -> String {
    let mut text = String::new();
    for (view, schema) in VIEWS.into_iter().zip([Readings::columns(), Readings::columns(), DEVICES.clone()]) {
        for field in schema.fields() {
            let null = if field.is_nullable() { "null" } else { "not null" };
            writeln!(text, "{view}.{} {} {null}", field.name(), field.data_type())
                .expect("writing to a string cannot fail");
        }
    }
    text
}

/// The views over the inputs of a run.
pub(super) fn views(inputs: PolicyInputs, counters: &Arc<BTreeSet<u32>>) -> Result<Views, PolicyError> {
    let PolicyInputs { readings, late_readings, devices, window, settings: _ } = inputs;
    let late: Range<u64> = 0..window.start;
    let readings = Readings::new(readings, window, Arc::clone(counters));
    let late_readings = Readings::new(late_readings, late, Arc::clone(counters));
    let columns = RecordBatch::try_new(
        DEVICES.clone(),
        vec![
            Arc::new(BinaryArray::from_iter_values(devices.iter().map(|row| row.device.0))),
            Arc::new(BinaryArray::from_iter_values(devices.iter().map(|row| row.provider))),
            Arc::new(StringArray::from_iter_values(devices.iter().map(|row| &row.attributes))),
            Arc::new(BooleanArray::from_iter(devices.iter().map(|row| Some(row.flagged)))),
        ],
    )
    .map_err(|error| PolicyError::from(datafusion::error::DataFusionError::from(error)))?;
    let devices = MemTable::try_new(DEVICES.clone(), vec![vec![columns]])?;
    let [readings_name, late_name, devices_name] = VIEWS;
    Ok([
        (readings_name, Arc::new(readings)),
        (late_name, Arc::new(late_readings)),
        (devices_name, Arc::new(devices)),
    ])
}

/// Refuses devices that the proof does not cover.
pub(super) fn check_devices(devices: &[DeviceRow], facts: &PolicyFacts) -> Result<(), PolicyError> {
    if u32::try_from(devices.len()).map_or(true, |count| count > facts.devices_max) {
        return Err(PolicyError::TooManyDevices { count: devices.len(), devices_max: facts.devices_max });
    }
    let mut seen = HashSet::with_capacity(devices.len());
    match devices.iter().find(|row| !seen.insert((row.device, row.provider))) {
        Some(row) => Err(PolicyError::DuplicateDevice { device: row.device, provider: row.provider }),
        None => Ok(()),
    }
}

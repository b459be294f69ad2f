use std::path::Path;

use alloy_primitives::Address;
use bytes::Bytes;
use fieldproof_proto::{
    ids::DeviceId,
    payload::{Column, Payload},
};

use super::*;
use crate::readings::Baselines;

mod refusals;
mod runs;

pub(super) const ENERGY: u32 = 1;
pub(super) const TEMPERATURE: u32 = 2;

pub(super) fn metric(id: u32, metric_kind: MetricKind, minimum: i64, maximum: i64) -> (u32, Metric) {
    let (name, unit) = (format!("metric-{id}"), "unit".to_owned());
    (id, Metric { id, name, unit, scale: 0, metric_kind, minimum, maximum })
}

/// Facts under which the shipped policies are to hold: a million devices, one reading a second.
pub(super) fn facts() -> PolicyFacts {
    let energy = metric(ENERGY, MetricKind::Counter, 0, 1_000_000_000_000_000);
    let temperature = metric(TEMPERATURE, MetricKind::Gauge, -100_000, 100_000);
    PolicyFacts {
        metrics: BTreeMap::from([energy, temperature]),
        readings_per_device_max: 7_200,
        devices_max: 1_000_000,
        slots_max: 4,
    }
}

pub(super) fn bundle(sql: &str) -> PolicyBundle {
    let policy_toml = "name = 'test'\nversion = 1\ndescription = 'A test.'\n".to_owned();
    PolicyBundle { policy_toml, contribution_sql: sql.to_owned() }
}

pub(super) fn shipped(name: &str) -> PolicyBundle {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies").join(name);
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
    PolicyBundle { policy_toml: read("policy.toml"), contribution_sql: read("contribution.sql") }
}

pub(super) fn settings(target_partitions: usize, batch_size: usize) -> EngineSettings {
    EngineSettings {
        target_partitions: NonZeroUsize::new(target_partitions).unwrap(),
        batch_size: NonZeroUsize::new(batch_size).unwrap(),
    }
}

pub(super) fn device(number: u8) -> DeviceId {
    DeviceId([number; 32])
}

pub(super) fn provider(number: u8) -> Address {
    Address::repeat_byte(number)
}

pub(super) fn device_row(device_number: u8, provider_number: u8, flagged: bool) -> DeviceRow {
    DeviceRow {
        device: device(device_number),
        provider: provider(provider_number),
        attributes: format!("{{\"number\":{device_number}}}"),
        flagged,
    }
}

/// A record of one metric, with a reading every second from `first_time_ms`.
pub(super) fn record(
    (device_number, provider_number): (u8, u8),
    metric: u32,
    first_time_ms: u64,
    values: &[i64],
    baselines: Baselines,
) -> AdmittedRecord {
    let times_ms = (0..values.len() as u64).map(|index| first_time_ms + 1_000 * index).collect();
    let values = values.iter().copied().map(Some).collect();
    let payload = Payload { times_ms, columns: vec![Column { metric, values }] };
    AdmittedRecord {
        offset: 0,
        device: device(device_number),
        provider: provider(provider_number),
        payload: Bytes::from(payload.encode().unwrap()),
        first_time_ms,
        baselines,
    }
}

#[test]
fn every_shipped_policy_holds() {
    let folders = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("policies")).unwrap();
    let mut count = 0;
    for folder in folders {
        let name = folder.unwrap().file_name().into_string().unwrap();
        let policy =
            Policy::check(&shipped(&name), &facts()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(policy.manifest().name, name);
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn the_engine_is_the_one_that_is_named() {
    assert_eq!(ENGINE, format!("datafusion {}", datafusion::DATAFUSION_VERSION));
}

/// The id of a known bundle never changes while text, views and engine do not.
#[test]
fn the_id_binds_text_views_and_engine() {
    let sql = "SELECT provider, count(*) AS weight FROM devices GROUP BY provider";
    let policy = Policy::check(&bundle(sql), &facts()).unwrap();
    let mut bytes = Vec::new();
    for part in [&bundle(sql).policy_toml, sql, VIEWS_TEXT, "datafusion 55.2.0"] {
        bytes.extend_from_slice(&u32::try_from(part.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    assert_eq!(policy.id(), digest("fieldproof 2026-11 policy v1", &[&bytes]));
    let other = Policy::check(&bundle(&format!("{sql} ")), &facts()).unwrap();
    assert_ne!(policy.id(), other.id());
}

const VIEWS_TEXT: &str = "\
readings.device Binary not null
readings.provider Binary not null
readings.metric Int64 not null
readings.time Int64 not null
readings.value Int64 not null
readings.growth Int64 null
readings.reset Boolean not null
late_readings.device Binary not null
late_readings.provider Binary not null
late_readings.metric Int64 not null
late_readings.time Int64 not null
late_readings.value Int64 not null
late_readings.growth Int64 null
late_readings.reset Boolean not null
devices.device Binary not null
devices.provider Binary not null
devices.attributes Utf8 not null
devices.flagged Boolean not null
";

//! What the aggregator counts, for OpenTelemetry. Labels are bounded: never a device or a provider.

use std::sync::LazyLock;

use fieldproof_proto::manifest::Manifest;
use opentelemetry::{KeyValue, global, metrics::Counter};

static RECORDS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let meter = global::meter("fieldproof_aggregator");
    let counter = meter.u64_counter("fieldproof_aggregator_records");
    counter.with_description("records of closed slots, by verdict").with_unit("{record}").build()
});

static READINGS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let meter = global::meter("fieldproof_aggregator");
    let counter = meter.u64_counter("fieldproof_aggregator_readings");
    counter.with_description("readings in accepted records, on time or late").with_unit("{reading}").build()
});

static EPOCHS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    let meter = global::meter("fieldproof_aggregator");
    meter
        .u64_counter("fieldproof_aggregator_epochs")
        .with_description("epochs committed")
        .with_unit("{epoch}")
        .build()
});

/// Counts a committed epoch.
pub(crate) fn count(manifest: &Manifest) {
    let counts = &manifest.counts;
    for (verdict, records) in &counts.verdicts {
        RECORDS.add(*records, &[KeyValue::new("verdict", verdict.clone())]);
    }
    READINGS.add(counts.on_time, &[KeyValue::new("arrival", "on_time")]);
    READINGS.add(counts.late, &[KeyValue::new("arrival", "late")]);
    EPOCHS.add(1, &[]);
}

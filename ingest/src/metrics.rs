//! What an ingester counts: for its own process to read, and for OpenTelemetry.
//!
//! Labels are bounded by the enums here; no label names a device or a provider.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use fieldproof_proto::receipt::RejectionCode;
use opentelemetry::{KeyValue, metrics::Counter};

/// What an ingester has done since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IngestCounts {
    /// Batches that the log confirmed.
    pub batches_logged: u64,
    /// Registrations that the log confirmed.
    pub registrations_logged: u64,
    /// Receipts signed.
    pub receipts: u64,
    /// Refusals by reason: the names of [`RejectionCode`] for signed rejections, `unregistered` for
    /// batches that were logged with a notice, and the names of what ended a call or a stream.
    /// Reasons that never happened are absent.
    pub refused: BTreeMap<&'static str, u64>,
}

/// Everything that counts as a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Rejection(RejectionCode),
    Unregistered,
    UnregisteredRate,
    Overload,
    Credit,
    Registration,
    Hello,
    WrongNetworkHello,
    MalformedMessage,
    MessageTooLarge,
    Unavailable,
    Idle,
}

/// How many reasons there are.
const REASONS: usize = RejectionCode::ALL.len() + 11;

impl Refused {
    const ALL: [Self; REASONS] = {
        let mut all = [Self::Idle; REASONS];
        let mut at = 0;
        while at < RejectionCode::ALL.len() {
            all[at] = Self::Rejection(RejectionCode::ALL[at]);
            at += 1;
        }
        let others = [
            Self::Unregistered,
            Self::UnregisteredRate,
            Self::Overload,
            Self::Credit,
            Self::Registration,
            Self::Hello,
            Self::WrongNetworkHello,
            Self::MalformedMessage,
            Self::MessageTooLarge,
            Self::Unavailable,
            Self::Idle,
        ];
        let mut other = 0;
        while other < others.len() {
            all[at + other] = others[other];
            other += 1;
        }
        all
    };

    fn name(self) -> &'static str {
        match self {
            Self::Rejection(code) => code.name(),
            Self::Unregistered => "unregistered",
            Self::UnregisteredRate => "unregistered_rate",
            Self::Overload => "overload",
            Self::Credit => "credit",
            Self::Registration => "registration",
            Self::Hello => "hello",
            Self::WrongNetworkHello => "wrong_network_hello",
            Self::MalformedMessage => "malformed_message",
            Self::MessageTooLarge => "message_too_large",
            Self::Unavailable => "unavailable",
            Self::Idle => "idle",
        }
    }
}

/// The counters of one ingester.
pub(crate) struct Metrics {
    batches_logged: AtomicU64,
    registrations_logged: AtomicU64,
    receipts: AtomicU64,
    refused: [AtomicU64; REASONS],
    batches_total: Counter<u64>,
    batch_bytes_total: Counter<u64>,
    registrations_total: Counter<u64>,
    receipts_total: Counter<u64>,
    refused_total: Counter<u64>,
}

impl Metrics {
    /// All at zero.
    pub(crate) fn new() -> Self {
        let meter = opentelemetry::global::meter("fieldproof_ingest");
        let counter = |name, description| meter.u64_counter(name).with_description(description).build();
        Self {
            batches_logged: AtomicU64::new(0),
            registrations_logged: AtomicU64::new(0),
            receipts: AtomicU64::new(0),
            refused: std::array::from_fn(|_| AtomicU64::new(0)),
            batches_total: counter("fieldproof_ingest_batches_total", "Batches by verdict"),
            batch_bytes_total: counter("fieldproof_ingest_batch_bytes_total", "Bytes of logged batches"),
            registrations_total: counter("fieldproof_ingest_registrations_total", "Registrations logged"),
            receipts_total: counter("fieldproof_ingest_receipts_total", "Receipts signed"),
            refused_total: counter("fieldproof_ingest_refused_total", "Refusals by reason"),
        }
    }

    /// The log confirmed a batch of so many bytes.
    pub(crate) fn batch_logged(&self, bytes: u32) {
        self.batches_logged.fetch_add(1, Ordering::Relaxed);
        self.batches_total.add(1, &[KeyValue::new("verdict", "logged")]);
        self.batch_bytes_total.add(bytes.into(), &[]);
    }

    /// The log confirmed a registration.
    pub(crate) fn registration_logged(&self) {
        self.registrations_logged.fetch_add(1, Ordering::Relaxed);
        self.registrations_total.add(1, &[]);
    }

    /// A receipt was signed.
    pub(crate) fn receipt(&self) {
        self.receipts.fetch_add(1, Ordering::Relaxed);
        self.receipts_total.add(1, &[]);
    }

    /// Something was refused.
    pub(crate) fn refused(&self, reason: Refused) {
        if let Some(at) = Refused::ALL.iter().position(|other| *other == reason) {
            self.refused[at].fetch_add(1, Ordering::Relaxed);
        }
        self.refused_total.add(1, &[KeyValue::new("reason", reason.name())]);
        if let Refused::Rejection(code) = reason {
            self.batches_total.add(1, &[KeyValue::new("verdict", code.name())]);
        }
    }

    /// All counters as they stand.
    pub(crate) fn counts(&self) -> IngestCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let refused =
            Refused::ALL.iter().zip(&self.refused).map(|(reason, count)| (reason.name(), load(count)));
        IngestCounts {
            batches_logged: load(&self.batches_logged),
            registrations_logged: load(&self.registrations_logged),
            receipts: load(&self.receipts),
            refused: refused.filter(|(_, count)| *count > 0).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_name_and_a_counter_of_its_own() {
        let metrics = Metrics::new();
        for reason in Refused::ALL {
            metrics.refused(reason);
        }
        let counts = metrics.counts();
        assert_eq!(counts.refused.len(), REASONS);
        assert!(counts.refused.values().all(|count| *count == 1), "{counts:?}");
    }
}

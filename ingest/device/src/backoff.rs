//! How long to wait before connecting again.

use std::time::Duration;

use fieldproof_proto::{
    digest::digest,
    ids::{DeviceId, Digest},
};

/// Spreads the waits of a fleet; not a signature, not an identity.
const JITTER_CONTEXT: &str = "fieldproof 2026-11 device backoff jitter v1";

/// Doubling waits between a minimum and a maximum. Each is cut by up to half: the cut is a digest
/// of the device, the boot and the attempt, so a fleet that lost its ingester spreads out, and a
/// test repeats.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    minimum: Duration,
    maximum: Duration,
    device: DeviceId,
    boot: u64,
    /// Of this process, for the jitter.
    attempt: u64,
    /// Since the last success.
    failures: u32,
}

impl Backoff {
    /// Starts at the minimum.
    pub(crate) fn new(minimum: Duration, maximum: Duration, device: DeviceId, boot: u64) -> Self {
        Self { minimum, maximum: maximum.max(minimum), device, boot, attempt: 0, failures: 0 }
    }

    /// The next wait; at least `asked`, if the other side asked for one.
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let doubled = self.minimum.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        self.attempt += 1;
        let full = doubled.min(self.maximum);
        let seed = [self.boot.to_le_bytes(), self.attempt.to_le_bytes()].concat();
        let Digest(bytes) = digest(JITTER_CONTEXT, &[&self.device.0, &seed]);
        let wait = full - full / 512 * u32::from(bytes[0]);
        wait + asked.unwrap_or_default().min(self.maximum)
    }

    /// Ingest answered: the next wait is short again.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_between_bounds_and_differ_between_devices() {
        let (minimum, maximum) = (Duration::from_millis(100), Duration::from_secs(3));
        let waits = |device| {
            let mut backoff = Backoff::new(minimum, maximum, DeviceId([device; 32]), 7);
            (0..40).map(|_| backoff.next(None)).collect::<Vec<_>>()
        };
        let one = waits(1);
        assert_ne!(one, waits(2));
        assert_eq!(one, waits(1));
        for (failures, wait) in one.into_iter().enumerate() {
            let full = minimum.saturating_mul(1 << failures.min(20)).min(maximum);
            assert!(wait <= full && wait >= full / 2, "{failures}: {wait:?}");
        }
    }

    #[test]
    fn what_was_asked_for_is_waited_and_success_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3), DeviceId::ZERO, 0);
        assert!(backoff.next(Some(Duration::from_secs(1))) >= Duration::from_secs(1));
        assert!(backoff.next(Some(Duration::MAX)) <= Duration::from_secs(6));
        backoff.succeeded();
        assert!(backoff.next(None) <= Duration::from_millis(100));
    }
}

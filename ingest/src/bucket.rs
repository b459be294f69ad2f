//! A token bucket. The time is passed in.

use std::time::{Duration, Instant};

/// Lets `per_second_max` events pass in a second, and as many at once.
#[derive(Debug, Clone)]
pub(crate) struct TokenBucket {
    per_second_max: u32,
    /// What is left, in millionths of an event.
    left_micro: u64,
    filled_at: Instant,
}

const MICRO: u64 = 1_000_000;

impl TokenBucket {
    /// A full bucket.
    pub(crate) fn new(per_second_max: u32, now: Instant) -> Self {
        Self { per_second_max, left_micro: u64::from(per_second_max) * MICRO, filled_at: now }
    }

    /// Takes one token, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.filled_at).min(Duration::from_secs(1));
        let since_us = u64::try_from(since.as_micros()).expect("a second is a million microseconds");
        let full = u64::from(self.per_second_max) * MICRO;
        self.left_micro = full.min(self.left_micro + since_us * u64::from(self.per_second_max));
        self.filled_at = self.filled_at.max(now);
        let enough = self.left_micro >= MICRO;
        if enough {
            self.left_micro -= MICRO;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_gives_what_it_says_and_no_more() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(3, start);
        let taken = |bucket: &mut TokenBucket, ms| {
            (0..10).filter(|_| bucket.take(start + Duration::from_millis(ms))).count()
        };
        assert_eq!(taken(&mut bucket, 0), 3);
        assert_eq!(taken(&mut bucket, 333), 0);
        assert_eq!(taken(&mut bucket, 334), 1);
        assert_eq!(taken(&mut bucket, 60_000), 3);
        assert_eq!(taken(&mut bucket, 1), 0, "a clock that goes back gives nothing");
    }

    #[test]
    fn zero_lets_nothing_pass() {
        let start = Instant::now();
        assert!(!TokenBucket::new(0, start).take(start + Duration::from_secs(9)));
    }
}

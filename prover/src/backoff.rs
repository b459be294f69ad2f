//! Pauses between tries: they double up to a bound, and vary so that processes do not try as one.

use std::time::Duration;

use rand::Rng as _;

/// The pauses between tries.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from `first` to `longest`. Panics if these are not in order or zero: they are
    /// constants of the program.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        assert!(!first.is_zero() && first <= longest, "pauses from `{first:?}` to `{longest:?}`");
        Self { first, longest, next: first }
    }

    /// The next pause: between half of its length and the whole.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Starts again from the first pause.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_bound_and_start_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        for whole_ms in [100, 200, 300, 300] {
            let pause = backoff.pause().as_millis();
            assert!((whole_ms / 2..=whole_ms).contains(&pause), "{pause} of {whole_ms}");
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(100));
    }
}

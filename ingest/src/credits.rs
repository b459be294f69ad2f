//! What a stream has under way, in bytes.

/// The most batches of one stream under way, whatever their size: their bookkeeping is memory too.
pub(crate) const BATCHES_UNDER_WAY_MAX: usize = 4_096;

/// Bytes that a client sent and has no answer to yet.
#[derive(Debug, Clone)]
pub(crate) struct Credits {
    limit_bytes: u32,
    under_way_bytes: u64,
}

impl Credits {
    /// Nothing is under way.
    pub(crate) fn new(limit_bytes: u32) -> Self {
        Self { limit_bytes, under_way_bytes: 0 }
    }

    /// A batch came in. A batch alone is never too much: what is wrong with its size is for its own
    /// answer to say. Otherwise gives how many bytes would be under way.
    pub(crate) fn spend(&mut self, bytes: u32) -> Result<(), u64> {
        let after = self.under_way_bytes + u64::from(bytes);
        if self.under_way_bytes > 0 && after > u64::from(self.limit_bytes) {
            return Err(after);
        }
        self.under_way_bytes = after;
        Ok(())
    }

    /// An answer went out.
    pub(crate) fn give_back(&mut self, bytes: u32) {
        self.under_way_bytes = self.under_way_bytes.saturating_sub(bytes.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_spent_and_comes_back() {
        let mut credits = Credits::new(100);
        assert_eq!(credits.spend(60), Ok(()));
        assert_eq!(credits.spend(40), Ok(()));
        assert_eq!(credits.spend(1), Err(101));
        credits.give_back(60);
        assert_eq!(credits.spend(61), Err(101));
        assert_eq!(credits.spend(60), Ok(()));
    }

    #[test]
    fn one_batch_alone_is_answered_whatever_its_size() {
        let mut credits = Credits::new(100);
        assert_eq!(credits.spend(101), Ok(()));
        assert_eq!(credits.spend(1), Err(102));
        credits.give_back(101);
        assert_eq!(credits.spend(1), Ok(()));
    }
}

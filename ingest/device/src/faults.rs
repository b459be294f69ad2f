//! Losing answers on purpose.

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Loses every n-th receipt, and with it the connection. There is no chance in it.
///
/// From the receipt that is lost on, the device sends nothing more on that stream and takes every
/// further receipt as one that never arrived, until ingest has closed the stream. So ingest has
/// answered all that was under way, and every batch that is counted here is in the log and will be
/// sent again: exactly one duplicate each. Clones share their counters.
#[derive(Debug, Clone)]
pub struct LinkFaults {
    every: NonZeroU64,
    receipts: Arc<AtomicU64>,
    batches_lost: Arc<AtomicU64>,
}

impl LinkFaults {
    /// Loses every n-th receipt. With 1, nothing ever arrives.
    pub fn lose_every(every: NonZeroU64) -> Self {
        Self { every, receipts: Arc::default(), batches_lost: Arc::default() }
    }

    /// How many batches had their receipt lost so far, counted once for each loss.
    pub fn batches_lost(&self) -> u64 {
        self.batches_lost.load(Ordering::Acquire)
    }

    /// Whether the receipt that just came is one to lose.
    pub(crate) fn strikes(&self) -> bool {
        (self.receipts.fetch_add(1, Ordering::AcqRel) + 1).is_multiple_of(self.every.get())
    }

    /// Counts batches whose receipt is lost.
    pub(crate) fn lose(&self, batches: u64) {
        self.batches_lost.fetch_add(batches, Ordering::AcqRel);
    }
}

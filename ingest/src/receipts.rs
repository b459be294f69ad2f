//! From acknowledged batches to cumulative receipts: a pure state machine.

use fieldproof_proto::{batch::Place, ids::Digest};

/// A batch of one stream that the log confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub(crate) place: Place,
    pub(crate) previous: Digest,
    pub(crate) digest: Digest,
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
}

/// What one receipt covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) boot: u64,
    pub(crate) from_seq: u64,
    pub(crate) to_seq: u64,
    pub(crate) digest: Digest,
    pub(crate) offset: u64,
    pub(crate) credit_bytes: u32,
}

/// Joins acknowledged batches, in the order in which the stream sent them, as long as each is the
/// successor of the one before: same boot, next seq, linked by its previous digest, further on in
/// the log. Every batch is in exactly one span.
#[derive(Debug, Default)]
pub(crate) struct Coalescer {
    open: Option<Span>,
}

impl Coalescer {
    /// Adds a batch. Gives the span that it does not belong to, which has ended.
    pub(crate) fn push(&mut self, batch: &Acknowledged) -> Option<Span> {
        let Some(open) = &mut self.open else {
            self.open = Some(Span::of(batch));
            return None;
        };
        let follows = open.boot == batch.place.boot
            && open.to_seq.checked_add(1) == Some(batch.place.seq)
            && open.digest == batch.previous
            && open.offset < batch.offset;
        if !follows {
            return self.open.replace(Span::of(batch));
        }
        open.to_seq = batch.place.seq;
        open.digest = batch.digest;
        open.offset = batch.offset;
        open.credit_bytes = open.credit_bytes.saturating_add(batch.bytes);
        None
    }

    /// Ends the open span.
    pub(crate) fn take(&mut self) -> Option<Span> {
        self.open.take()
    }
}

impl Span {
    fn of(batch: &Acknowledged) -> Self {
        Self {
            boot: batch.place.boot,
            from_seq: batch.place.seq,
            to_seq: batch.place.seq,
            digest: batch.digest,
            offset: batch.offset,
            credit_bytes: batch.bytes,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

//! The node: the chain in memory and its log on disk, kept in step. It is the one owner of both,
//! lives on one thread of its own, and everything on it is synchronous.

use std::path::Path;

use alloy_primitives::B256;

use super::EmbeddedChainError;
use super::chain::{Chain, Refusal};
use super::log::{Genesis, LogReader, TransactionLog, TransactionLogError};

/// The chain and its log; see the module.
#[derive(Debug)]
pub(super) struct Node {
    chain: Chain,
    log: TransactionLog,
}

/// Why a submitted transaction is not in the chain.
#[derive(Debug, thiserror::Error)]
pub(super) enum SubmitError {
    /// The sender's fault: nothing changed, and nothing was logged.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Our fault: the transaction is in the chain after the next start, or it is not.
    #[error("the transaction could not be stored; its fate is known after a restart")]
    NotStored(#[source] TransactionLogError),
}

impl Node {
    /// Opens the chain in a directory, or creates it, and replays its log. `wanted` is the
    /// genesis by the settings.
    ///
    /// When this returns, the chain has exactly the durable transactions.
    pub(super) fn open(directory: &Path, wanted: &Genesis) -> Result<Self, EmbeddedChainError> {
        let (mut log, genesis, mut reader) = TransactionLog::open(directory, wanted)?;
        let chain = replay(&genesis, &mut reader)?;
        log.finish_reading(&reader)?;
        Ok(Self { chain, log })
    }

    pub(super) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Mines a signed transaction in a block of its own, at the time `now` (unix seconds).
    ///
    /// When this returns the transaction's hash, the transaction is durable and its block is the
    /// latest one. A refused transaction leaves no trace.
    pub(super) fn submit(&mut self, raw: &[u8], now: u64) -> Result<B256, SubmitError> {
        // Equal times are allowed, unlike on a real chain: with strictly rising seconds, a burst
        // of transactions would carry the chain ahead of the clock.
        let timestamp = now.max(self.chain.latest().header.timestamp);
        let prepared = self.chain.prepare(raw, timestamp)?;
        self.log.append(timestamp, prepared.block_hash, raw).map_err(|error| {
            tracing::error!(%error, cause = ?error, "cannot store a transaction");
            SubmitError::NotStored(error)
        })?;
        let hash = prepared.transaction_hash;
        self.chain.commit(prepared);
        Ok(hash)
    }

    #[cfg(test)]
    pub(super) fn break_log_for_test(&mut self) {
        self.log.break_for_test();
    }
}

/// Rebuilds the chain. Each block must get the hash it was acknowledged with: if it does not, this
/// program executes otherwise than the one that wrote the log, and going on would silently change
/// what was acknowledged.
fn replay(genesis: &Genesis, reader: &mut LogReader) -> Result<Chain, EmbeddedChainError> {
    let mut chain = Chain::new(genesis);
    while let Some(entry) = reader.next()? {
        let refused = |reason: String| EmbeddedChainError::Replay { offset: entry.offset, reason };
        let prepared =
            chain.prepare(&entry.raw, entry.timestamp).map_err(|refusal| refused(refusal.to_string()))?;
        if prepared.block_hash != entry.block_hash {
            let (is, was) = (prepared.block_hash, entry.block_hash);
            return Err(refused(format!("its block is now `{is}`, it was `{was}`")));
        }
        chain.commit(prepared);
    }
    tracing::info!(
        block = chain.latest().header.number,
        hash = %chain.latest().header.hash,
        "embedded chain replayed"
    );
    Ok(chain)
}

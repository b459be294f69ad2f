//! Sending transactions: one at a time for each key, each with the lowest nonce not yet mined.
//!
//! That nonce is what makes a repeat harmless: of two transactions with the same nonce the chain
//! mines one. So a process that died between sending and hearing of it finds either that its
//! transaction was mined, or that it is replaced by the next one.

use std::time::Duration;

use alloy::{
    consensus::{SignableTransaction as _, TxEip1559, TxEnvelope},
    eips::{BlockId, BlockNumberOrTag, eip2718::Encodable2718 as _},
    network::TransactionBuilder as _,
    primitives::{B256, Bytes, Signature, TxKind},
    providers::Provider as _,
    rpc::types::{TransactionReceipt, TransactionRequest},
};
use fieldproof_proto::evm::EvmSecret;
use tokio::time::{Instant, sleep};

use super::{Chain, ChainError, error};

/// How long a transaction may take to be mined before we look again at what the chain says.
const MINED_DEADLINE: Duration = Duration::from_secs(120);
/// How long a transaction of an earlier process may be in the way before it is replaced.
const SETTLE_DEADLINE: Duration = Duration::from_secs(30);
/// How long we look for a transaction that the node may or may not have taken.
const AMBIGUOUS_DEADLINE: Duration = Duration::from_secs(5);
/// The first and the longest pause between two looks.
const POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// How often a nonce that somebody else took is replaced by the next one.
const NONCE_ATTEMPTS_MAX: u32 = 5;

/// A transaction before it has a nonce.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    /// The contract's method, for errors.
    pub method: &'static str,
    /// The contract, or its creation.
    pub to: TxKind,
    /// The encoded call.
    pub input: Bytes,
    /// The gas limit where an estimate would be wrong, or none to estimate.
    pub gas_limit: Option<u64>,
}

impl Chain {
    /// Sends a transaction and waits until it is mined. Durable when it returns: as much as the
    /// block it is in. After an error it may still be mined later.
    pub(super) async fn transact(&self, draft: Draft) -> Result<TransactionReceipt, ChainError> {
        let method = draft.method;
        let Some(secret) = &self.inner.secret else {
            return Err(ChainError::ReadOnly { method: method.to_owned() });
        };
        let _turn = self.inner.sending.lock().await;
        let mut attempts = 0;
        let receipt = loop {
            attempts += 1;
            let (nonce, replaces) = self.settled_nonce(secret).await?;
            let (hash, raw) = self.sign(secret, &draft, nonce, replaces).await?;
            match self.inner.provider.send_raw_transaction(&raw).await {
                Ok(_) => break self.mined(hash, MINED_DEADLINE).await?,
                Err(failed) if error::is_known(&failed) => break self.mined(hash, MINED_DEADLINE).await?,
                Err(failed) if error::is_ambiguous(&failed) => {
                    match self.mined(hash, AMBIGUOUS_DEADLINE).await {
                        Ok(receipt) => break receipt,
                        Err(_) => return Err(self.rpc_error(method, &failed)),
                    }
                }
                Err(failed) if error::is_nonce_taken(&failed) && attempts < NONCE_ATTEMPTS_MAX => {
                    tracing::debug!(method, nonce, attempts, "another transaction took the nonce");
                }
                Err(failed) => return Err(self.rpc_error(method, &failed)),
            }
        };
        if receipt.status() {
            return Ok(receipt);
        }
        Err(ChainError::Reverted {
            method: method.to_owned(),
            reason: self.why_reverted(secret, &draft).await,
        })
    }

    /// The lowest nonce that is not mined, and whether a transaction that was never mined has it.
    async fn settled_nonce(&self, secret: &EvmSecret) -> Result<(u64, bool), ChainError> {
        let give_up = Instant::now() + SETTLE_DEADLINE;
        let mut pause = POLL.0;
        loop {
            let count = |block: BlockNumberOrTag| {
                self.inner.provider.get_transaction_count(secret.address()).block_id(block.into())
            };
            let read = |failed| self.rpc_error("eth_getTransactionCount", &failed);
            let pending = count(BlockNumberOrTag::Pending).await.map_err(read)?;
            let mined = count(BlockNumberOrTag::Latest).await.map_err(read)?;
            if pending <= mined || Instant::now() >= give_up {
                return Ok((mined, pending > mined));
            }
            sleep(pause).await;
            pause = (pause * 2).min(POLL.1);
        }
    }

    async fn sign(
        &self,
        secret: &EvmSecret,
        draft: &Draft,
        nonce: u64,
        replaces: bool,
    ) -> Result<(B256, Vec<u8>), ChainError> {
        let provider = &self.inner.provider;
        let gas_limit = match draft.gas_limit {
            Some(limit) => limit,
            None => {
                let latest = BlockId::latest();
                let estimate = provider.estimate_gas(request(secret, draft)).block(latest).await;
                let estimate = estimate.map_err(|failed| self.rpc_error(draft.method, &failed))?;
                // The state may move between estimate and block.
                estimate + estimate / 5
            }
        };
        let fees = provider.estimate_eip1559_fees().await;
        let mut fees = fees.map_err(|failed| self.rpc_error("eth_feeHistory", &failed))?;
        if replaces {
            // Nodes want at least 10 % more, 100 % for the priority fee on some.
            fees.max_priority_fee_per_gas *= 2;
            fees.max_fee_per_gas = fees.max_fee_per_gas * 5 / 4 + fees.max_priority_fee_per_gas;
        }
        let transaction = TxEip1559 {
            chain_id: self.inner.chain_id,
            nonce,
            gas_limit,
            max_fee_per_gas: fees.max_fee_per_gas,
            max_priority_fee_per_gas: fees.max_priority_fee_per_gas,
            to: draft.to,
            input: draft.input.clone(),
            ..TxEip1559::default()
        };
        let signature = Signature::from_raw_array(&secret.sign(&transaction.signature_hash()))
            .expect("our own signature has the form of one");
        let signed = transaction.into_signed(signature);
        let hash = *signed.hash();
        Ok((hash, TxEnvelope::from(signed).encoded_2718()))
    }

    async fn mined(&self, hash: B256, deadline: Duration) -> Result<TransactionReceipt, ChainError> {
        let give_up = Instant::now() + deadline;
        let mut pause = POLL.0;
        loop {
            match self.inner.provider.get_transaction_receipt(hash).await {
                Ok(Some(receipt)) => return Ok(receipt),
                Ok(None) => {}
                // The transaction is sent: a node that fails to answer now changes nothing.
                Err(failed) => tracing::debug!(%hash, error = %failed, "cannot read the receipt"),
            }
            if Instant::now() >= give_up {
                return Err(ChainError::NotMined { transaction: hash, seconds: deadline.as_secs() });
            }
            sleep(pause).await;
            pause = (pause * 2).min(POLL.1);
        }
    }

    /// Asks again, as a question, what a transaction failed on.
    async fn why_reverted(&self, secret: &EvmSecret, draft: &Draft) -> String {
        match self.inner.provider.call(request(secret, draft)).block(BlockId::latest()).await {
            Ok(_) => "it would succeed now; another transaction was in the way".to_owned(),
            Err(failed) => match self.rpc_error(draft.method, &failed) {
                ChainError::Reverted { reason, .. } => reason,
                other => other.to_string(),
            },
        }
    }
}

fn request(secret: &EvmSecret, draft: &Draft) -> TransactionRequest {
    TransactionRequest::default()
        .with_from(secret.address())
        .with_kind(draft.to)
        .with_input(draft.input.clone())
}

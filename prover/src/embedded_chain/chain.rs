//! The chain in memory: state, blocks, receipts and logs. No I/O and no clock: what it holds is a
//! function of the genesis and of the (time, transaction) pairs it was given, in order.
//!
//! A transaction is first *prepared*, which executes it and assembles its block but changes
//! nothing, and then *committed*, which cannot fail. Between the two the caller makes it durable.
//!
//! Block hashes are those of real headers. The transactions and receipts roots in them are real;
//! the state root is zero, because no state trie is kept and no proof of state can be asked for.

use std::collections::HashMap;

use alloy::consensus::crypto::RecoveryError;
use alloy::consensus::transaction::{Recovered, SignerRecoverable, TransactionMeta};
use alloy::consensus::{
    Block, BlockBody, Header, Receipt, ReceiptEnvelope, Sealable, Transaction, TxEnvelope, TxType, proofs,
};
use alloy::eips::eip2718::{Decodable2718, Eip2718Error};
use alloy::eips::eip4895::Withdrawals;
use alloy::eips::eip7685::EMPTY_REQUESTS_HASH;
use alloy::rlp::Encodable;
use alloy::rpc::types;
use alloy_primitives::{Address, B256, Bytes, U256};
use revm::context::result::ExecutionResult;
use revm::context::{BlockEnv, TxEnv};
use revm::database::EmptyDB;
use revm::state::{AccountInfo, EvmState};
use revm::{DatabaseCommit, DatabaseRef};

use super::evm::{self, Checks, ExecutionError, State};
use super::log::{Genesis, TRANSACTION_BYTES_MAX};

/// The most transactions of one chain. All are held in memory, some 3 KB each.
pub(super) const TRANSACTIONS_MAX: usize = 500_000;

/// What each funded account starts with: 10^6 ether.
const GENESIS_BALANCE: U256 = U256::from_limbs([0x1bce_cced_a100_0000, 0xd3c2, 0, 0]);

/// Why a transaction was refused. It changed nothing, and the sender is at fault.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("already known: transaction `{0}` is in block `{1}`")]
    AlreadyKnown(B256, u64),
    #[error("oversized data: the transaction has `{0}` bytes, limit `{TRANSACTION_BYTES_MAX}`")]
    Oversized(usize),
    #[error("the transaction cannot be decoded: {0}")]
    Undecodable(Eip2718Error),
    #[error("blob transactions are not supported")]
    Blob,
    #[error("invalid sender: {0}")]
    Signature(RecoveryError),
    #[error("{}", evm::describe_invalid(.0))]
    Invalid(ExecutionError),
    #[error("the chain is full: it has `{TRANSACTIONS_MAX}` transactions")]
    Full,
}

/// A block with its one transaction; only the genesis has none.
#[derive(Debug)]
pub(super) struct MinedBlock {
    pub(super) header: types::Header,
    pub(super) mined: Option<Mined>,
}

/// A transaction and what came of it.
#[derive(Debug)]
pub(super) struct Mined {
    pub(super) transaction: types::Transaction,
    pub(super) receipt: types::TransactionReceipt,
}

/// A block that is ready to become the latest one.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) transaction_hash: B256,
    pub(super) block_hash: B256,
    block: MinedBlock,
    changes: EvmState,
}

/// The chain; see the module.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) chain_id: u64,
    state: State,
    genesis: MinedBlock,
    /// Blocks 1, 2, …
    blocks: Vec<MinedBlock>,
    number_by_block: HashMap<B256, u64>,
    number_by_transaction: HashMap<B256, u64>,
}

impl Chain {
    pub(super) fn new(genesis: &Genesis) -> Self {
        let mut state = State::new(EmptyDB::new());
        for account in &genesis.funded {
            state.insert_account_info(*account, AccountInfo::from_balance(GENESIS_BALANCE));
        }
        let header = Header { timestamp: genesis.timestamp, ..header_base() };
        let block = MinedBlock { header: rpc_header(header, vec![]), mined: None };
        state.cache.block_hashes.insert(U256::ZERO, block.header.hash);
        Self {
            chain_id: genesis.chain_id,
            state,
            number_by_block: HashMap::from([(block.header.hash, 0)]),
            genesis: block,
            blocks: Vec::new(),
            number_by_transaction: HashMap::new(),
        }
    }

    /// Executes a signed transaction as the only one of the next block. Changes nothing.
    pub(super) fn prepare(&self, raw: &[u8], timestamp: u64) -> Result<Prepared, Refusal> {
        if self.blocks.len() >= TRANSACTIONS_MAX {
            return Err(Refusal::Full);
        }
        if raw.len() > TRANSACTION_BYTES_MAX {
            return Err(Refusal::Oversized(raw.len()));
        }
        let envelope = TxEnvelope::decode_2718_exact(raw).map_err(Refusal::Undecodable)?;
        if let Some(number) = self.number_by_transaction.get(envelope.tx_hash()) {
            return Err(Refusal::AlreadyKnown(*envelope.tx_hash(), *number));
        }
        if envelope.tx_type() == TxType::Eip4844 {
            return Err(Refusal::Blob);
        }
        let sender = envelope.recover_signer().map_err(Refusal::Signature)?;
        let transaction_hash = *envelope.tx_hash();
        let transaction = Recovered::new_unchecked(envelope, sender);
        let parent = &self.latest().header;
        let environment = evm::block_environment(parent.number + 1, timestamp, parent.hash);
        let input = evm::signed_environment(&transaction);
        let executed = evm::execute(&self.state, self.chain_id, environment, input, Checks::Mined)
            .map_err(Refusal::Invalid)?;
        let block = assemble(parent, timestamp, transaction, executed.result);
        let block_hash = block.header.hash;
        Ok(Prepared { transaction_hash, block_hash, block, changes: executed.state })
    }

    /// Makes a prepared block the latest one. It must have been prepared on this very chain, with
    /// nothing committed since.
    pub(super) fn commit(&mut self, prepared: Prepared) {
        let Prepared { transaction_hash, block_hash, block, changes } = prepared;
        debug_assert_eq!(block.header.parent_hash, self.latest().header.hash);
        let number = block.header.number;
        self.state.commit(changes);
        self.state.cache.block_hashes.insert(U256::from(number), block_hash);
        self.number_by_block.insert(block_hash, number);
        self.number_by_transaction.insert(transaction_hash, number);
        self.blocks.push(block);
    }

    /// Answers what a transaction would do on the latest state. Changes nothing.
    pub(super) fn simulate(
        &self,
        environment: BlockEnv,
        transaction: TxEnv,
    ) -> Result<ExecutionResult, ExecutionError> {
        evm::execute(&self.state, self.chain_id, environment, transaction, Checks::Simulated)
            .map(|executed| executed.result)
    }

    pub(super) fn latest(&self) -> &MinedBlock {
        self.blocks.last().unwrap_or(&self.genesis)
    }

    pub(super) fn block(&self, number: u64) -> Option<&MinedBlock> {
        match number.checked_sub(1) {
            None => Some(&self.genesis),
            Some(index) => self.blocks.get(usize::try_from(index).ok()?),
        }
    }

    pub(super) fn number_of_block(&self, hash: B256) -> Option<u64> {
        self.number_by_block.get(&hash).copied()
    }

    pub(super) fn mined(&self, transaction_hash: B256) -> Option<&Mined> {
        self.block(*self.number_by_transaction.get(&transaction_hash)?)?.mined.as_ref()
    }

    /// The account in the latest state; one that does not exist is empty.
    pub(super) fn account(&self, address: Address) -> AccountInfo {
        let Ok(account) = self.state.basic_ref(address);
        account.unwrap_or_default()
    }

    pub(super) fn code(&self, address: Address) -> Bytes {
        let Ok(code) = self.state.code_by_hash_ref(self.account(address).code_hash);
        code.original_bytes()
    }

    pub(super) fn storage(&self, address: Address, slot: U256) -> U256 {
        let Ok(value) = self.state.storage_ref(address, slot);
        value
    }

    /// A digest of all accounts, codes and slots, for tests that compare states.
    #[cfg(test)]
    pub(super) fn state_digest(&self) -> B256 {
        let mut lines = Vec::new();
        for (address, account) in &self.state.cache.accounts {
            let info = account.info().unwrap_or_default();
            lines.push(format!("{address} {} {} {}", info.nonce, info.balance, info.code_hash));
            let slots = account.storage.iter().filter(|(_, value)| !value.is_zero());
            lines.extend(slots.map(|(slot, value)| format!("{address} [{slot}] {value}")));
        }
        lines.sort_unstable();
        alloy_primitives::keccak256(lines.join("\n"))
    }
}

/// Makes the block of one executed transaction, with header, receipt and logs that agree.
fn assemble(
    parent: &types::Header,
    timestamp: u64,
    transaction: Recovered<TxEnvelope>,
    result: ExecutionResult,
) -> MinedBlock {
    let sender = transaction.signer();
    let receipt = Receipt {
        status: result.is_success().into(),
        cumulative_gas_used: result.tx_gas_used(),
        // Logs before a revert did not happen.
        logs: if result.is_success() { result.logs().to_vec() } else { Vec::new() },
    };
    let receipt = ReceiptEnvelope::from_typed(transaction.tx_type(), receipt.with_bloom());
    let header = Header {
        parent_hash: parent.hash,
        number: parent.number + 1,
        timestamp,
        gas_used: result.tx_gas_used(),
        logs_bloom: *receipt.logs_bloom(),
        transactions_root: proofs::calculate_transaction_root(&[transaction.inner()]),
        receipts_root: proofs::calculate_receipt_root(std::slice::from_ref(&receipt)),
        ..header_base()
    };
    let header = rpc_header(header, vec![transaction.inner()]);
    let meta = TransactionMeta {
        tx_hash: *transaction.tx_hash(),
        index: 0,
        block_hash: header.hash,
        block_number: header.number,
        base_fee: Some(evm::BASE_FEE),
        excess_blob_gas: Some(0),
        timestamp,
    };
    let effective_gas_price = transaction.effective_gas_price(meta.base_fee);
    let receipt = types::TransactionReceipt {
        inner: located(receipt, meta),
        transaction_hash: meta.tx_hash,
        transaction_index: Some(meta.index),
        block_hash: Some(meta.block_hash),
        block_number: Some(meta.block_number),
        gas_used: result.tx_gas_used(),
        effective_gas_price,
        blob_gas_used: None,
        blob_gas_price: None,
        from: sender,
        to: transaction.to(),
        // As other nodes do, also if the creation failed: the status tells.
        contract_address: transaction.is_create().then(|| sender.create(transaction.nonce())),
    };
    let transaction = types::Transaction {
        inner: transaction,
        block_hash: Some(meta.block_hash),
        block_number: Some(meta.block_number),
        transaction_index: Some(meta.index),
        effective_gas_price: Some(effective_gas_price),
        block_timestamp: Some(timestamp),
    };
    MinedBlock { header, mined: Some(Mined { transaction, receipt }) }
}

/// Adds to each log of a receipt where it is found.
fn located(receipt: ReceiptEnvelope, meta: TransactionMeta) -> ReceiptEnvelope<types::Log> {
    let mut index = 0;
    receipt.map_logs(|inner| {
        let log_index = Some(index);
        index += 1;
        types::Log {
            inner,
            block_hash: Some(meta.block_hash),
            block_number: Some(meta.block_number),
            block_timestamp: Some(meta.timestamp),
            transaction_hash: Some(meta.tx_hash),
            transaction_index: Some(meta.index),
            log_index,
            removed: false,
        }
    })
}

/// What the headers of all blocks have in common. Clients take a chain for Prague by its fields.
fn header_base() -> Header {
    Header {
        beneficiary: evm::BENEFICIARY,
        gas_limit: evm::BLOCK_GAS_LIMIT,
        base_fee_per_gas: Some(evm::BASE_FEE),
        state_root: B256::ZERO,
        withdrawals_root: Some(proofs::calculate_withdrawals_root(&[])),
        blob_gas_used: Some(0),
        excess_blob_gas: Some(0),
        parent_beacon_block_root: Some(B256::ZERO),
        requests_hash: Some(EMPTY_REQUESTS_HASH),
        extra_data: Bytes::from_static(b"fieldproof"),
        ..Header::default()
    }
}

/// Seals a header, and adds the size of its block, which RPC answers name.
fn rpc_header(mut header: Header, transactions: Vec<&TxEnvelope>) -> types::Header {
    header.mix_hash = evm::randomness(header.parent_hash);
    let withdrawals = Some(Withdrawals::default());
    let body = BlockBody { transactions, ommers: Vec::<Header>::new(), withdrawals };
    let block = Block { header, body };
    let size = U256::from(block.length());
    types::Header::from_consensus(block.header.seal_slow(), None, Some(size))
}

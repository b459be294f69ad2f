//! The rules of the embedded chain's EVM, and one function that runs a transaction under them.
//!
//! Nothing here changes state: an execution gives its result and the changes it would make.

use std::convert::Infallible;

use alloy::consensus::transaction::Recovered;
use alloy::consensus::{Header, Transaction, TxEnvelope, Typed2718};
use alloy_primitives::{Address, B256, U256, address, keccak256};
use revm::context::either::Either;
use revm::context::result::{EVMError, ExecResultAndState, ExecutionResult, InvalidTransaction};
use revm::context::{BlockEnv, TxEnv};
use revm::database::{CacheDB, EmptyDB, WrapDatabaseRef};
use revm::primitives::hardfork::SpecId;
use revm::state::EvmState;
use revm::{Context, ExecuteEvm, MainBuilder, MainContext};

/// The gas limit of each block, and so of each transaction: blocks hold one.
pub(super) const BLOCK_GAS_LIMIT: u64 = 60_000_000;

/// What a unit of gas costs, in wei. 7 is where the EIP-1559 formula stays for ever below half
/// full blocks, as on an idle real chain; not 0, which some fee estimators take for "no EIP-1559".
pub(super) const BASE_FEE: u64 = 7;

/// The tip that fee estimations name; nothing is gained by more.
pub(super) const PRIORITY_FEE: u128 = 1;

/// Who receives the tips. An address of its own, since the EVM makes the beneficiary's account
/// cheaper to touch, and contracts do touch address 0.
pub(super) const BENEFICIARY: Address = address!("0xf1e1d0000000000000000000000000000000c0de");

/// The state after the latest block, in memory.
pub(super) type State = CacheDB<EmptyDB>;

/// Why a transaction cannot be executed at all. A revert is not that: it is a result.
pub(super) type ExecutionError = EVMError<Infallible>;

/// Under which rules a transaction is checked before it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checks {
    /// A signed transaction: everything counts.
    Mined,
    /// A question: it has no nonce, pays nothing for gas, and may speak for a contract.
    Simulated,
}

/// The environment of a block with this number and time, on top of `parent`.
pub(super) fn block_environment(number: u64, timestamp: u64, parent: B256) -> BlockEnv {
    BlockEnv {
        number: U256::from(number),
        timestamp: U256::from(timestamp),
        beneficiary: BENEFICIARY,
        gas_limit: BLOCK_GAS_LIMIT,
        basefee: BASE_FEE,
        prevrandao: Some(randomness(parent)),
        ..BlockEnv::default()
    }
}

/// The environment that a mined block had.
pub(super) fn environment_of(header: &Header) -> BlockEnv {
    block_environment(header.number, header.timestamp, header.parent_hash)
}

/// What stands in for the beacon chain's randomness: it differs by block, and replay repeats it.
pub(super) fn randomness(parent: B256) -> B256 {
    keccak256(parent)
}

/// Runs a transaction on a state without changing it.
pub(super) fn execute(
    state: &State,
    chain_id: u64,
    mut block: BlockEnv,
    transaction: TxEnv,
    checks: Checks,
) -> Result<ExecResultAndState<ExecutionResult, EvmState>, ExecutionError> {
    if checks == Checks::Simulated {
        // As other nodes do: a caller who names no gas price is not held to the base fee.
        block.basefee = 0;
    }
    Context::mainnet()
        .with_db(WrapDatabaseRef(state))
        .with_block(block)
        .modify_cfg_chained(|cfg| {
            cfg.chain_id = chain_id;
            cfg.set_spec_and_mainnet_gas_params(SpecId::PRAGUE);
            cfg.disable_nonce_check = checks == Checks::Simulated;
            cfg.disable_eip3607 = checks == Checks::Simulated;
        })
        .build_mainnet()
        .transact(transaction)
}

/// What the EVM needs to know of a signed transaction.
pub(super) fn signed_environment(transaction: &Recovered<TxEnvelope>) -> TxEnv {
    let authorizations = transaction.authorization_list().unwrap_or_default();
    TxEnv {
        tx_type: transaction.ty(),
        caller: transaction.signer(),
        gas_limit: transaction.gas_limit(),
        gas_price: transaction.max_fee_per_gas(),
        kind: transaction.kind(),
        value: transaction.value(),
        data: transaction.input().clone(),
        nonce: transaction.nonce(),
        chain_id: transaction.chain_id(),
        access_list: transaction.access_list().cloned().unwrap_or_default(),
        gas_priority_fee: transaction.max_priority_fee_per_gas(),
        authorization_list: authorizations.iter().cloned().map(Either::Left).collect(),
        ..TxEnv::default()
    }
}

/// Says why a transaction is invalid. Where clients match on the text, it begins as in other
/// nodes: "nonce too low", "nonce too high", "insufficient funds for gas * price + value".
pub(super) fn describe_invalid(error: &ExecutionError) -> String {
    let EVMError::Transaction(invalid) = error else { return error.to_string() };
    match invalid {
        InvalidTransaction::NonceTooLow { tx, state } => {
            format!("nonce too low: the transaction has `{tx}`, the account is at `{state}`")
        }
        InvalidTransaction::NonceTooHigh { tx, state } => {
            format!("nonce too high: the transaction has `{tx}`, the account is at `{state}`")
        }
        InvalidTransaction::LackOfFundForMaxFee { fee, balance } => {
            format!("insufficient funds for gas * price + value: balance `{balance}`, needed `{fee}`")
        }
        other => other.to_string(),
    }
}

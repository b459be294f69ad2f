//! What can be asked of the chain: calls, estimates, blocks, logs and fees. Nothing here changes it.
//!
//! One node mines, and what it acknowledged is durable, so nothing can be reorganised: `latest`,
//! `safe`, `finalized` and `pending` name the same block. State is kept for that block only; a
//! question about older state gets an error, never an answer from other state.

use alloy::consensus::Transaction as _;
use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::rpc::types::{
    Block, BlockTransactions, FeeHistory, Filter, FilterBlockOption, Log, TransactionRequest,
};
use alloy::sol_types::decode_revert_reason;
use alloy_primitives::{Bytes, TxKind};
use revm::context::result::{ExecutionResult, ResultGas};
use revm::context::{BlockEnv, TxEnv, either::Either};

use super::chain::{Chain, MinedBlock};
use super::evm;
use super::rpc::RpcError;

/// The most logs of one answer, as public providers have it; the asker narrows the range. The logs
/// of a single block are always answered: its gas limit bounds them.
pub(super) const LOGS_MAX: usize = 10_000;

/// The most bytes of data in the logs of one answer, likewise.
const LOG_DATA_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The most blocks of one fee history, as other nodes have it.
const FEE_HISTORY_BLOCKS_MAX: u64 = 1024;

/// A gas estimate may be this part of itself too high: each halving costs one more execution.
const ESTIMATE_ERROR_RATIO: f64 = 0.015;

/// The number of a block, if the chain has it.
pub(super) fn block_number(chain: &Chain, id: BlockId) -> Option<u64> {
    let latest = chain.latest().header.number;
    match id {
        BlockId::Hash(hash) => chain.number_of_block(hash.block_hash),
        BlockId::Number(BlockNumberOrTag::Earliest) => Some(0),
        BlockId::Number(BlockNumberOrTag::Number(number)) => (number <= latest).then_some(number),
        BlockId::Number(_) => Some(latest),
    }
}

/// A block for an answer, with whole transactions or with their hashes.
pub(super) fn block(chain: &Chain, id: BlockId, full: bool) -> Option<Block> {
    let block = chain.block(block_number(chain, id)?)?;
    let mined = block.mined.as_ref();
    let transactions = if full {
        BlockTransactions::Full(mined.map(|mined| mined.transaction.clone()).into_iter().collect())
    } else {
        let hash = mined.map(|mined| mined.receipt.transaction_hash);
        BlockTransactions::Hashes(hash.into_iter().collect())
    };
    Some(Block::new(block.header.clone(), transactions).with_withdrawals(Some(Default::default())))
}

/// Refuses a question about a state that is not kept. No block means the latest.
pub(super) fn require_state(chain: &Chain, id: Option<BlockId>) -> Result<(), RpcError> {
    let id = id.unwrap_or_default();
    let latest = chain.latest().header.number;
    match block_number(chain, id) {
        Some(number) if number == latest => Ok(()),
        Some(number) => Err(RpcError::state_not_kept(number, latest)),
        None => Err(RpcError::block_not_found(id)),
    }
}

/// Runs a call on the latest state, for `eth_call`.
pub(super) fn call(
    chain: &Chain,
    request: TransactionRequest,
    id: Option<BlockId>,
    now: u64,
) -> Result<Bytes, RpcError> {
    let environment = environment(chain, id, now)?;
    match run(chain, environment, transaction(request)?)? {
        ExecutionResult::Success { output, .. } => Ok(output.into_data()),
        ExecutionResult::Revert { output, .. } => Err(reverted(output)),
        ExecutionResult::Halt { reason, .. } => Err(RpcError::failed(reason)),
    }
}

/// The least gas limit with which a transaction succeeds in the next block, or a little more.
pub(super) fn estimate_gas(
    chain: &Chain,
    request: TransactionRequest,
    id: Option<BlockId>,
    now: u64,
) -> Result<u64, RpcError> {
    let environment = environment(chain, Some(id.unwrap_or(BlockId::pending())), now)?;
    let transaction = transaction(request)?;
    let attempt = |gas_limit| {
        let transaction = TxEnv { gas_limit, ..transaction.clone() };
        chain.simulate(environment.clone(), transaction)
    };
    let mut enough = transaction.gas_limit;
    let gas = match run(chain, environment.clone(), transaction.clone())? {
        ExecutionResult::Success { gas, .. } => gas,
        ExecutionResult::Revert { output, .. } => return Err(reverted(output)),
        ExecutionResult::Halt { reason, .. } => return Err(RpcError::failed(reason)),
    };
    // Too little gas is an error when even the start is not paid, and a failed result later.
    let succeeds = |gas_limit| attempt(gas_limit).is_ok_and(|result| result.is_success());
    let spent = spent_before_refund(&gas);
    if succeeds(spent) {
        return Ok(spent);
    }
    // A call inside gets 63/64 of what is left, so what was spent is not always enough.
    let mut too_little = spent;
    let likely = spent.saturating_add(2_300).saturating_mul(64) / 63;
    if likely < enough {
        if succeeds(likely) { enough = likely } else { too_little = likely }
    }
    while enough - too_little > 1 && (enough - too_little) as f64 > enough as f64 * ESTIMATE_ERROR_RATIO {
        let middle = too_little + (enough - too_little) / 2;
        if succeeds(middle) { enough = middle } else { too_little = middle }
    }
    Ok(enough)
}

/// The logs that a filter selects, in the order of the chain.
pub(super) fn logs(chain: &Chain, filter: &Filter) -> Result<Vec<Log>, RpcError> {
    let latest = chain.latest().header.number;
    let (first, last) = match filter.block_option {
        FilterBlockOption::AtBlockHash(hash) => {
            let number = chain.number_of_block(hash);
            let number = number.ok_or_else(|| RpcError::block_not_found(hash.into()))?;
            (number, number)
        }
        FilterBlockOption::Range { from_block, to_block } => {
            let bound = |block: Option<BlockNumberOrTag>| match block.unwrap_or_default() {
                BlockNumberOrTag::Earliest => 0,
                BlockNumberOrTag::Number(number) => number,
                _ => latest,
            };
            (bound(from_block), bound(to_block))
        }
    };
    if first > last && first <= latest {
        return Err(RpcError::invalid_params(format!("no block is from `{first}` to `{last}`")));
    }
    // A poller asks for the blocks after the latest one before they exist: that is no error.
    let (mut found, mut data_bytes) = (Vec::new(), 0);
    for number in first..=last.min(latest) {
        let Some(MinedBlock { header, mined: Some(mined) }) = chain.block(number) else { continue };
        if !filter.matches_bloom(header.logs_bloom) {
            continue;
        }
        let before = found.len();
        let logs = mined.receipt.logs().iter();
        found.extend(logs.filter(|log| filter.matches(&log.inner)).cloned());
        data_bytes += found[before..].iter().map(|log| log.data().data.len()).sum::<usize>();
        if before > 0 && (found.len() > LOGS_MAX || data_bytes > LOG_DATA_BYTES_MAX) {
            let message = format!("over `{LOGS_MAX}` logs or `{LOG_DATA_BYTES_MAX}` bytes of data");
            return Err(RpcError::limit_exceeded(message));
        }
    }
    Ok(found)
}

/// Base fees, gas used and the tips paid, of the last blocks up to one.
pub(super) fn fee_history(
    chain: &Chain,
    count: u64,
    newest: BlockNumberOrTag,
    percentiles: Option<&[f64]>,
) -> Result<FeeHistory, RpcError> {
    let newest =
        block_number(chain, newest.into()).ok_or_else(|| RpcError::block_not_found(newest.into()))?;
    let count = count.min(FEE_HISTORY_BLOCKS_MAX).min(newest + 1);
    let oldest_block = newest + 1 - count;
    let blocks = (oldest_block..=newest).filter_map(|number| chain.block(number));
    let length = count as usize;
    Ok(FeeHistory {
        base_fee_per_gas: vec![evm::BASE_FEE.into(); length + 1],
        gas_used_ratio: blocks
            .clone()
            .map(|block| block.header.gas_used as f64 / block.header.gas_limit as f64)
            .collect(),
        base_fee_per_blob_gas: vec![1; length + 1],
        blob_gas_used_ratio: vec![0.0; length],
        oldest_block,
        // With one transaction in a block, all percentiles of its tips are the same.
        reward: percentiles
            .map(|percentiles| blocks.map(|block| vec![tip(block); percentiles.len()]).collect()),
    })
}

fn tip(block: &MinedBlock) -> u128 {
    let transaction = block.mined.as_ref().map(|mined| &mined.transaction.inner);
    transaction.and_then(|it| it.effective_tip_per_gas(evm::BASE_FEE)).unwrap_or_default()
}

/// The block that a question runs in. A tag means now, so the time is the clock's: an idle chain
/// mines no blocks, and contracts that wait for a time would otherwise never be seen to go on. A
/// number or a hash means that very block.
fn environment(chain: &Chain, id: Option<BlockId>, now: u64) -> Result<BlockEnv, RpcError> {
    require_state(chain, id)?;
    let header = &chain.latest().header;
    let timestamp = now.max(header.timestamp);
    Ok(match id.unwrap_or_default() {
        BlockId::Hash(_) | BlockId::Number(BlockNumberOrTag::Number(_)) => evm::environment_of(header),
        BlockId::Number(BlockNumberOrTag::Pending) => {
            evm::block_environment(header.number + 1, timestamp, header.hash)
        }
        BlockId::Number(_) => evm::block_environment(header.number, timestamp, header.parent_hash),
    })
}

/// What the EVM needs to know of a question. Fees are left out: asking costs nothing.
fn transaction(request: TransactionRequest) -> Result<TxEnv, RpcError> {
    if request.sidecar.is_some() || request.blob_versioned_hashes.is_some_and(|it| !it.is_empty()) {
        return Err(RpcError::invalid_params("blob transactions are not supported"));
    }
    let authorizations = request.authorization_list.unwrap_or_default();
    let input = request.input.try_into_unique_input().map_err(RpcError::invalid_params)?;
    let mut transaction = TxEnv {
        caller: request.from.unwrap_or_default(),
        gas_limit: request.gas.unwrap_or(evm::BLOCK_GAS_LIMIT).min(evm::BLOCK_GAS_LIMIT),
        kind: request.to.unwrap_or(TxKind::Create),
        value: request.value.unwrap_or_default(),
        data: input.unwrap_or_default(),
        chain_id: request.chain_id,
        access_list: request.access_list.unwrap_or_default(),
        gas_priority_fee: (!authorizations.is_empty()).then_some(0),
        authorization_list: authorizations.into_iter().map(Either::Left).collect(),
        ..TxEnv::default()
    };
    transaction.derive_tx_type().map_err(RpcError::invalid_params)?;
    Ok(transaction)
}

fn run(chain: &Chain, environment: BlockEnv, transaction: TxEnv) -> Result<ExecutionResult, RpcError> {
    chain.simulate(environment, transaction).map_err(|error| RpcError::failed(evm::describe_invalid(&error)))
}

fn reverted(output: Bytes) -> RpcError {
    let message = match decode_revert_reason(&output) {
        Some(reason) => format!("execution reverted: {reason}"),
        None => "execution reverted".to_owned(),
    };
    RpcError::reverted(message, output)
}

fn spent_before_refund(gas: &ResultGas) -> u64 {
    gas.tx_gas_used().max(gas.total_gas_spent())
}

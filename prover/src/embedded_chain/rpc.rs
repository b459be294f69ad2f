//! Ethereum JSON-RPC: from the bytes of a request to the bytes of its answer, on the node's thread.

use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::rpc::types::{Filter, TransactionRequest};
use alloy_primitives::{Address, B256, Bytes, U64, U256};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::evm;
use super::node::{Node, SubmitError};
use super::queries;

/// The most calls of one batch.
pub(super) const BATCH_CALLS_MAX: usize = 100;

/// The most bytes of one answer. Calls of a batch beyond it are answered with an error.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Never another node's name: clients switch on it.
const CLIENT_VERSION: &str = concat!("fieldproof-embedded-chain/", env!("CARGO_PKG_VERSION"));

/// The error of one call, as JSON-RPC has it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct RpcError {
    code: i64,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Bytes>,
}

#[derive(Debug, Deserialize)]
struct Call {
    /// Absent in a notification, which is not answered; `null` is an id.
    #[serde(default, deserialize_with = "present")]
    id: Option<Value>,
    method: String,
    #[serde(default)]
    params: Value,
}

#[derive(Debug, Serialize)]
struct Answer {
    jsonrpc: &'static str,
    id: Value,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Result(Value),
    Error(RpcError),
}

/// The positional parameters of a call.
struct Params(Vec<Value>);

/// Answers the body of one HTTP request: a call or a batch. `None` if it holds only notifications.
///
/// When this returns the hash of a submitted transaction, that transaction is durable.
pub(super) fn answer(node: &mut Node, body: &[u8], now: u64) -> Option<Vec<u8>> {
    match serde_json::from_slice(body) {
        Err(error) => Some(refuse(RpcError::new(-32700, format!("not JSON: {error}")))),
        Ok(Value::Array(calls)) if calls.is_empty() => {
            Some(refuse(RpcError::invalid_request("the batch is empty")))
        }
        Ok(Value::Array(calls)) if calls.len() > BATCH_CALLS_MAX => {
            let message = format!("the batch has over `{BATCH_CALLS_MAX}` calls");
            Some(refuse(RpcError::invalid_request(message)))
        }
        Ok(Value::Array(calls)) => answer_batch(node, calls, now),
        Ok(call) => answer_call(node, call, now),
    }
}

fn answer_batch(node: &mut Node, calls: Vec<Value>, now: u64) -> Option<Vec<u8>> {
    let mut answers = Vec::new();
    for call in calls {
        let answer = if answers.len() > ANSWER_BYTES_MAX {
            let id = call.get("id").cloned().unwrap_or_default();
            let message = format!("the answer is over `{ANSWER_BYTES_MAX}` bytes");
            Some(encode(id, Err(RpcError::limit_exceeded(message))))
        } else {
            answer_call(node, call, now)
        };
        if let Some(answer) = answer {
            answers.push(if answers.is_empty() { b'[' } else { b',' });
            answers.extend(answer);
        }
    }
    if answers.is_empty() {
        return None;
    }
    answers.push(b']');
    Some(answers)
}

fn answer_call(node: &mut Node, call: Value, now: u64) -> Option<Vec<u8>> {
    let call: Call = match serde_json::from_value(call) {
        Ok(call) => call,
        Err(error) => return Some(refuse(RpcError::invalid_request(error))),
    };
    let outcome = Params::new(call.params)
        .and_then(|params| dispatch(node, &call.method, &params, now))
        .inspect_err(|error| {
            tracing::debug!(method = call.method, code = error.code, message = error.message);
        });
    call.id.map(|id| encode(id, outcome))
}

fn dispatch(node: &mut Node, method: &str, params: &Params, now: u64) -> Result<Value, RpcError> {
    let chain = node.chain();
    match method {
        "web3_clientVersion" => json(CLIENT_VERSION),
        "net_version" => json(chain.chain_id.to_string()),
        "eth_chainId" => json(U64::from(chain.chain_id)),
        "eth_syncing" => json(false),
        "eth_accounts" => json(Vec::<Address>::new()),
        "eth_blockNumber" => json(U64::from(chain.latest().header.number)),
        "eth_gasPrice" => json(U256::from(u128::from(evm::BASE_FEE) + evm::PRIORITY_FEE)),
        "eth_maxPriorityFeePerGas" => json(U256::from(evm::PRIORITY_FEE)),
        "eth_feeHistory" => {
            let percentiles: Option<Vec<f64>> = params.optional(2)?;
            let count: U64 = params.required(0)?;
            let newest = params.required(1)?;
            json(queries::fee_history(chain, count.to(), newest, percentiles.as_deref())?)
        }
        "eth_call" | "eth_estimateGas" => simulate(node, method, params, now),
        "eth_getBalance" => json(chain.account(params.address_with_state(node)?).balance),
        "eth_getTransactionCount" => json(U64::from(chain.account(params.address_with_state(node)?).nonce)),
        "eth_getCode" => json(chain.code(params.address_with_state(node)?)),
        "eth_getStorageAt" => {
            queries::require_state(chain, params.optional(2)?)?;
            json(B256::from(chain.storage(params.required(0)?, params.required(1)?)))
        }
        "eth_sendRawTransaction" => {
            let raw: Bytes = params.required(0)?;
            json(node.submit(&raw, now)?)
        }
        "eth_getTransactionReceipt" => json(chain.mined(params.required(0)?).map(|mined| &mined.receipt)),
        "eth_getTransactionByHash" => json(chain.mined(params.required(0)?).map(|mined| &mined.transaction)),
        "eth_getBlockByNumber" => {
            let number: BlockNumberOrTag = params.required(0)?;
            json(queries::block(chain, number.into(), params.optional(1)?.unwrap_or_default()))
        }
        "eth_getBlockByHash" => {
            let hash: B256 = params.required(0)?;
            json(queries::block(chain, hash.into(), params.optional(1)?.unwrap_or_default()))
        }
        "eth_getLogs" => json(queries::logs(chain, &params.required::<Filter>(0)?)?),
        _ => Err(RpcError::new(-32601, format!("the method `{method}` does not exist"))),
    }
}

fn simulate(node: &Node, method: &str, params: &Params, now: u64) -> Result<Value, RpcError> {
    let request: TransactionRequest = params.required(0)?;
    let block: Option<BlockId> = params.optional(1)?;
    if params.optional::<Value>(2)?.is_some() || params.optional::<Value>(3)?.is_some() {
        return Err(RpcError::invalid_params("overrides of state or block are not supported"));
    }
    match method {
        "eth_call" => json(queries::call(node.chain(), request, block, now)?),
        _ => json(U64::from(queries::estimate_gas(node.chain(), request, block, now)?)),
    }
}

fn json(value: impl Serialize) -> Result<Value, RpcError> {
    serde_json::to_value(value).map_err(|error| RpcError::new(-32603, error))
}

fn refuse(error: RpcError) -> Vec<u8> {
    encode(Value::Null, Err(error))
}

fn encode(id: Value, outcome: Result<Value, RpcError>) -> Vec<u8> {
    let outcome = outcome.map_or_else(Outcome::Error, Outcome::Result);
    serde_json::to_vec(&Answer { jsonrpc: "2.0", id, outcome })
        .expect("maps with string keys are always JSON")
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Params {
    fn new(params: Value) -> Result<Self, RpcError> {
        match params {
            Value::Array(params) => Ok(Self(params)),
            Value::Null => Ok(Self(Vec::new())),
            _ => Err(RpcError::invalid_params("the parameters are not an array")),
        }
    }

    fn required<T: DeserializeOwned>(&self, index: usize) -> Result<T, RpcError> {
        self.optional(index)?
            .ok_or_else(|| RpcError::invalid_params(format!("parameter `{index}` is missing")))
    }

    fn optional<T: DeserializeOwned>(&self, index: usize) -> Result<Option<T>, RpcError> {
        match self.0.get(index) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value)
                .map(Some)
                .map_err(|error| RpcError::invalid_params(format!("parameter `{index}`: {error}"))),
        }
    }

    /// An account, followed by the block whose state is meant.
    fn address_with_state(&self, node: &Node) -> Result<Address, RpcError> {
        queries::require_state(node.chain(), self.optional(1)?)?;
        self.required(0)
    }
}

impl RpcError {
    fn new(code: i64, message: impl ToString) -> Self {
        Self { code, message: message.to_string(), data: None }
    }

    fn invalid_request(message: impl ToString) -> Self {
        Self::new(-32600, message)
    }

    pub(super) fn invalid_params(message: impl ToString) -> Self {
        Self::new(-32602, message)
    }

    /// The transaction or call cannot be executed, or failed without saying why.
    pub(super) fn failed(message: impl ToString) -> Self {
        Self::new(-32000, message)
    }

    pub(super) fn block_not_found(id: BlockId) -> Self {
        Self::new(-32001, format!("block `{id}` is not found"))
    }

    pub(super) fn state_not_kept(number: u64, latest: u64) -> Self {
        let message = format!("the state of block `{number}` is not kept, only that of `{latest}`");
        Self::new(-32002, message)
    }

    pub(super) fn limit_exceeded(message: impl ToString) -> Self {
        Self::new(-32005, message)
    }

    /// A contract's revert. Clients know it by this code and decode its error from the data.
    pub(super) fn reverted(message: impl ToString, output: Bytes) -> Self {
        Self { data: Some(output), ..Self::new(3, message) }
    }
}

impl From<SubmitError> for RpcError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Refused(refusal) => Self::failed(refusal),
            SubmitError::NotStored(_) => Self::new(-32603, error),
        }
    }
}

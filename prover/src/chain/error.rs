//! What can go wrong between us and a chain, whose fault it is, and whether to try again.

use alloy::{
    primitives::{Address, B256},
    sol_types::{Panic, Revert, SolError as _, SolInterface as _},
    transports::{RpcError, TransportError, TransportErrorKind},
};

use super::abi::{RewardDistributor::RewardDistributorErrors, TestToken::TestTokenErrors};

/// The most characters of a node's own words that an error repeats.
const REASON_CHARACTERS_MAX: usize = 400;

/// Why the chain did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Our configuration: not a URL that we can speak to.
    #[error("`{0}` is not an http or https URL")]
    Url(String),
    /// The HTTP client could not be made.
    #[error("cannot make an HTTP client: {0}")]
    Client(String),
    /// The node could not be reached, or it answered with an error.
    #[error("`{endpoint}` does not answer `{method}`: {reason}")]
    Rpc {
        /// The node, without the path, which may be a secret.
        endpoint: String,
        /// The method, of the node or of the contract.
        method: String,
        /// What it said.
        reason: String,
        /// Whether the same question may be answered later.
        retryable: bool,
    },
    /// Our configuration: the node is of another chain.
    #[error("`{endpoint}` is of chain `{found}`, not of chain `{expected}`")]
    ChainId {
        /// The node.
        endpoint: String,
        /// The chain that we want.
        expected: u64,
        /// The chain that it is of.
        found: u64,
    },
    /// Our fault: a transaction without a key.
    #[error("`{method}` is a transaction, and there is no key to sign it with")]
    ReadOnly {
        /// The method of the contract.
        method: String,
    },
    /// The contract refuses.
    #[error("the contract refuses `{method}`: {reason}")]
    Reverted {
        /// The method of the contract.
        method: String,
        /// The contract's error with its values.
        reason: String,
    },
    /// Our configuration: no contract of this kind is at the address.
    #[error("`{address}` on `{endpoint}` does not answer `{method}`: it is no such contract")]
    NoContract {
        /// The address.
        address: Address,
        /// The node.
        endpoint: String,
        /// The method of the contract.
        method: String,
    },
    /// The transaction was sent, and may yet be mined. Read the chain before sending another.
    #[error("transaction `{transaction}` is not mined after `{seconds}` seconds")]
    NotMined {
        /// Its hash.
        transaction: B256,
        /// How long we waited.
        seconds: u64,
    },
    /// The node answered with something that a contract of ours never gives.
    #[error("`{endpoint}` gives an impossible answer to `{method}`: {reason}")]
    Answer {
        /// The node.
        endpoint: String,
        /// The method.
        method: String,
        /// What is wrong.
        reason: String,
    },
}

impl ChainError {
    /// Whether the same call may succeed later without anybody changing our configuration.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Rpc { retryable, .. } => *retryable,
            // What a contract refuses depends on its state, which others change: funds arrive, a
            // guardian raises a revision.
            Self::Reverted { .. } | Self::NotMined { .. } => true,
            // Or the node has not got to the block of its deployment yet.
            Self::NoContract { .. } => true,
            Self::Url(_)
            | Self::Client(_)
            | Self::ChainId { .. }
            | Self::ReadOnly { .. }
            | Self::Answer { .. } => false,
        }
    }

    /// Whether a contract refused.
    pub fn is_revert(&self) -> bool {
        matches!(self, Self::Reverted { .. })
    }
}

/// Our words for the client's error.
pub(super) fn from_rpc(url: &url::Url, method: &str, error: &TransportError) -> ChainError {
    if let RpcError::ErrorResp(payload) = error {
        let reverted = payload.as_revert_data();
        if reverted.is_some() || payload.message.contains("revert") {
            let reason = match reverted {
                Some(data) => revert_reason(&data),
                None => shorten(&payload.message),
            };
            return ChainError::Reverted { method: method.to_owned(), reason };
        }
    }
    let reason = match error {
        RpcError::ErrorResp(payload) => format!("error {}: {}", payload.code, payload.message),
        other => describe_with_sources(other),
    };
    ChainError::Rpc {
        endpoint: endpoint(url),
        method: method.to_owned(),
        // The client's errors repeat the URL, whose path is often an access token.
        reason: shorten(&reason.replace(url.as_str(), &endpoint(url))),
        retryable: is_retryable(error),
    }
}

/// What a revert's data says: the contract's error with its values, where it is one of ours.
pub(super) fn revert_reason(data: &[u8]) -> String {
    if data.is_empty() {
        return "no reason given, it may have run out of gas".to_owned();
    }
    let ours = RewardDistributorErrors::abi_decode(data).map(|error| format!("{error:?}"));
    let tokens = || TestTokenErrors::abi_decode(data).map(|error| format!("{error:?}"));
    if let Ok(text) = ours.or_else(|_| tokens()) {
        // `Name(Name { field: value })`: the enum says nothing that the struct does not.
        let inner = text.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
        return inner.unwrap_or(&text).to_owned();
    }
    let required = Revert::abi_decode(data).map(|error| error.reason);
    let broken = || Panic::abi_decode(data).map(|error| error.to_string());
    required.or_else(|_| broken()).unwrap_or_else(|_| shorten(&format!("error data 0x{}", hex::encode(data))))
}

/// The node without path, query and password: what errors and logs may name.
pub(super) fn endpoint(url: &url::Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme(), url.host_str().unwrap_or_default())
}

/// Whether the node refused a transaction because another one has its nonce.
pub(super) fn is_nonce_taken(error: &TransportError) -> bool {
    says(error, &["nonce too low", "nonce is too low", "invalid nonce", "nonce too high"])
}

/// Whether the node has this very transaction already.
pub(super) fn is_known(error: &TransportError) -> bool {
    says(error, &["already known", "already imported", "known transaction"])
}

/// Whether we do not know if the node took the transaction.
pub(super) fn is_ambiguous(error: &TransportError) -> bool {
    !matches!(error, RpcError::ErrorResp(_) | RpcError::SerError(_) | RpcError::LocalUsageError(_))
}

fn says(error: &TransportError, texts: &[&str]) -> bool {
    let RpcError::ErrorResp(payload) = error else { return false };
    let message = payload.message.to_ascii_lowercase();
    texts.iter().any(|text| message.contains(text))
}

fn is_retryable(error: &TransportError) -> bool {
    match error {
        // JSON-RPC: not JSON, not a request, no such method, bad parameters. The rest is state.
        RpcError::ErrorResp(payload) => !matches!(payload.code, -32700 | -32602..=-32600),
        RpcError::Transport(TransportErrorKind::HttpError(http)) => {
            http.status >= 500 || matches!(http.status, 408 | 429)
        }
        // What is not JSON-RPC comes from something between us and the node.
        RpcError::Transport(_) | RpcError::NullResp | RpcError::DeserError { .. } => true,
        _ => false,
    }
}

fn describe_with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(REASON_CHARACTERS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

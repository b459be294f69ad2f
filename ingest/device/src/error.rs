//! Why the SDK does not do what it was asked to.

use std::{io, path::PathBuf};

use fieldproof_proto::{
    ids::{DeviceId, Digest, OperatorKey},
    payload::PayloadError,
    receipt::ReceiptError,
};

/// Why a device does not go on.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The spool failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The readings cannot be encoded.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// A batch that starts before the last one ended.
    #[error("the batch starts at `{first_time_ms}` ms, the last one ended at `{last_time_ms}` ms")]
    TimeNotAfter {
        /// The first time of the batch.
        first_time_ms: u64,
        /// The last time of the batch before it.
        last_time_ms: u64,
    },
    /// A batch larger than the device may send.
    #[error("the batch has `{bytes}` bytes, more than `{bytes_max}`")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The spool is full of batches without an answer.
    #[error("the spool holds `{bytes}` bytes of `{bytes_max}`: batches must be answered first")]
    Full {
        /// What it holds.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The stream or the call failed in a way that trying again does not mend.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The file system failed.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process, or another `Device`, has the directory open.
    #[error("the spool `{0}` is in use")]
    InUse(PathBuf),
    /// The directory holds batches of another device or network.
    #[error("`{0}` holds batches of another device or network")]
    Foreign(PathBuf),
    /// More bytes are wrong than one torn write explains.
    #[error("`{path}` is damaged at byte `{at}`")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damage starts.
        at: u64,
    },
    /// An earlier write failed, so what is on disk is not known; the device must be opened anew.
    #[error("the spool failed before and must be opened anew")]
    Broken,
}

/// Why a stream or a call failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The endpoint is not an address.
    #[error("`{endpoint}` is not an endpoint: {reason}")]
    Endpoint {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no connection.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The other side took too long.
    #[error("no answer within `{0}` ms")]
    Timeout(u128),
    /// The call ended with a status.
    #[error("ingest answered {code:?}: {message}", code = .0.code(), message = .0.message())]
    Status(Box<tonic::Status>),
    /// The stream did not begin with a welcome.
    #[error("the stream did not begin with a welcome")]
    NoWelcome,
    /// The stream ended.
    #[error("the stream has ended")]
    Ended,
    /// An answer that is not true.
    #[error("ingest gave a false answer: {0}")]
    Answer(#[from] AnswerError),
}

/// Why an answer is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Form or signature is wrong.
    #[error(transparent)]
    Signature(#[from] ReceiptError),
    /// It is for another device or network.
    #[error("it is for device `{0}`, or for another network")]
    NotOurs(DeviceId),
    /// It is signed by another key than the stream's, or than the one that was pinned.
    #[error("it is of ingester `{found}`, not of `{expected}`")]
    Key {
        /// Whose it is.
        found: OperatorKey,
        /// Whose it should be.
        expected: OperatorKey,
    },
    /// It covers batches that were not sent, or that have an answer.
    #[error(
        "it covers batches `{from_seq}` to `{to_seq}` of boot `{boot}`, which do not all wait for an answer"
    )]
    Range {
        /// The boot.
        boot: u64,
        /// The first batch.
        from_seq: u64,
        /// The last batch.
        to_seq: u64,
    },
    /// It names a digest that is not our batch's.
    #[error("it names the digest `{0}`, which is none of ours there")]
    Digest(Digest),
}

impl LinkError {
    /// Whether trying again, later or elsewhere, may help.
    pub fn is_retryable(&self) -> bool {
        use tonic::Code;
        match self {
            Self::Status(status) => !matches!(
                status.code(),
                Code::InvalidArgument
                    | Code::FailedPrecondition
                    | Code::OutOfRange
                    | Code::Unimplemented
                    | Code::PermissionDenied
                    | Code::Unauthenticated
            ),
            Self::Endpoint { .. } => false,
            // Another ingester behind the same address may be honest.
            Self::Connect(_) | Self::Timeout(_) | Self::NoWelcome | Self::Ended | Self::Answer(_) => true,
        }
    }

    /// How long the other side asked to wait.
    pub(crate) fn retry_after(&self) -> Option<std::time::Duration> {
        use tonic_types::StatusExt as _;
        match self {
            Self::Status(status) => status.get_details_retry_info().and_then(|info| info.retry_delay),
            _ => None,
        }
    }
}

impl From<tonic::Status> for LinkError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

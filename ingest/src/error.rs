//! Why an ingester does not start, and why it refuses a call.

use std::{net::SocketAddr, time::Duration};

use fieldproof_proto::{genesis::GenesisError, ids::NetworkId};
use rdkafka::error::KafkaError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::metrics::Refused;

/// Why an ingester does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The genesis bytes are not a genesis.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// A limit under which the ingester could not work.
    #[error("the limit {field} is `{value}`, not from {minimum} to {maximum}")]
    Limit {
        /// The limit; durations in milliseconds.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The least it may be.
        minimum: u64,
        /// The most it may be.
        maximum: u64,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on `{address}`: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A topic is not there.
    #[error("the topic `{0}` does not exist")]
    TopicMissing(String),
    /// A topic has another number of partitions than the network needs.
    #[error("the topic `{topic}` has `{found}` partitions, the network needs `{expected}`")]
    Partitions {
        /// The topic.
        topic: String,
        /// How many it has.
        found: usize,
        /// How many it should have.
        expected: usize,
    },
    /// Kafka does not do what it should.
    #[error("cannot {action}: {source}")]
    Kafka {
        /// What was attempted.
        action: String,
        /// What the client said.
        source: KafkaError,
    },
    /// A cache did not reach the end of its topic in time.
    #[error("the topic `{topic}` was not read to its end within `{seconds}` s")]
    CacheTimeout {
        /// The topic.
        topic: String,
        /// How long it was given.
        seconds: u64,
    },
    /// A thread cannot be started.
    #[error("cannot start the thread `{name}`: {source}")]
    Thread {
        /// The thread.
        name: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A part of the ingester panicked.
    #[error("`{0}` panicked")]
    Panicked(&'static str),
    /// The gRPC server ended with an error.
    #[error("the gRPC server failed: {0}")]
    Serve(String),
    /// The deadline passed with work left; what was not acknowledged the devices send again.
    #[error("stopped at the deadline with `{streams}` streams open and `{records}` records in flight")]
    Deadline {
        /// Streams that had not ended.
        streams: usize,
        /// Records without a delivery report.
        records: usize,
    },
}

/// Why a call or a stream ends early. One match gives the gRPC status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The first message is not a hello, or none came in time.
    Hello(String),
    /// The hello, or the call, is for another network.
    WrongNetwork { found: String, expected: NetworkId },
    /// A message is not the protobuf it should be, or no message that belongs there.
    Message(String),
    /// A message is larger than any batch may be.
    MessageSize(String),
    /// More bytes under way than the stream has credits.
    Credit { bytes: u64, credit_bytes: u32 },
    /// More streams or calls than there is room for.
    Overload(&'static str),
    /// Too many batches of unregistered devices.
    UnregisteredRate { device: String },
    /// A registration that is refused.
    Registration(String),
    /// A registration for a program that the network does not have.
    Program { program: String, known: Vec<String> },
    /// The log did not take a record, or did not say so in time.
    Unavailable,
    /// The stream made no progress for too long.
    Idle(Duration),
    /// The connection broke.
    Broken(String),
    /// The ingester is about to end.
    Draining,
}

/// How long a client waits after an overload.
const RETRY_DELAY: Duration = Duration::from_millis(500);

impl Refusal {
    /// The name in the counters; none if nobody was refused anything.
    pub(crate) fn counted_as(&self) -> Option<Refused> {
        Some(match self {
            Self::Hello(_) => Refused::Hello,
            Self::WrongNetwork { .. } => Refused::WrongNetworkHello,
            Self::Message(_) => Refused::MalformedMessage,
            Self::MessageSize(_) => Refused::MessageTooLarge,
            Self::Credit { .. } => Refused::Credit,
            Self::Overload(_) => Refused::Overload,
            Self::UnregisteredRate { .. } => Refused::UnregisteredRate,
            Self::Registration(_) | Self::Program { .. } => Refused::Registration,
            Self::Unavailable => Refused::Unavailable,
            Self::Idle(_) => Refused::Idle,
            Self::Broken(_) | Self::Draining => return None,
        })
    }

    /// What a status that tonic made while it read a message means.
    pub(crate) fn from_read(status: &Status) -> Self {
        match status.code() {
            Code::OutOfRange => Self::MessageSize(status.message().to_owned()),
            Code::InvalidArgument | Code::Internal => Self::Message(status.message().to_owned()),
            _ => Self::Broken(status.message().to_owned()),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let retry = |message: String| {
            let details = ErrorDetails::with_retry_info(Some(RETRY_DELAY));
            Status::with_error_details(Code::ResourceExhausted, message, details)
        };
        match refusal {
            Refusal::Hello(message) | Refusal::Message(message) | Refusal::Registration(message) => {
                Status::invalid_argument(message)
            }
            Refusal::WrongNetwork { found, expected } => Status::failed_precondition(format!(
                "the call is for network `{found}`, this is network `{expected}`"
            )),
            Refusal::MessageSize(message) => Status::out_of_range(message),
            Refusal::Credit { bytes, credit_bytes } => {
                retry(format!("`{bytes}` bytes are under way, the stream has credit for `{credit_bytes}`"))
            }
            Refusal::Overload(what) => retry(format!("overload: there is no room for more {what}")),
            Refusal::UnregisteredRate { device } => retry(format!(
                "unregistered: device `{device}` is not registered, and too many unregistered batches came"
            )),
            Refusal::Program { program, known } => Status::failed_precondition(format!(
                "the program `{program}` is not known; there are: {}",
                known.join(", ")
            )),
            Refusal::Unavailable => Status::unavailable("the log did not confirm a record; send it again"),
            Refusal::Idle(timeout) => {
                Status::deadline_exceeded(format!("no progress for `{}` ms", timeout.as_millis()))
            }
            Refusal::Broken(message) => Status::cancelled(message),
            Refusal::Draining => Status::unavailable("this ingester is about to end; connect anew"),
        }
    }
}

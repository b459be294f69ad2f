//! The SDK that a device links: a durable spool of signed batches, and the stream that empties it.
//!
//! A batch is signed once, stored, and only then sent. What has neither a receipt nor a signed
//! rejection is sent again, the same bytes, to whichever ingester answers, until it has one. The SDK
//! believes no answer: it checks every signature, the ingester's key, the range and the digest.
//!
//! [`Device`] is the whole of it. [`Link`] is the stream alone, without spool and without checks,
//! for tools and tests that need to say something a device would not.

#[allow(missing_docs, clippy::all, clippy::let_underscore_must_use, clippy::unwrap_used)]
mod pb {
    include!(concat!(env!("OUT_DIR"), "/fieldproof.v1.rs"));
}

mod answers;
mod backoff;
mod config;
mod device;
mod error;
mod faults;
mod files;
mod link;
mod spool;
mod sync;

pub use config::{DeviceConfig, DeviceLimits};
pub use device::{Device, DeviceCounts, StoredReceipt};
pub use error::{AnswerError, DeviceError, LinkError, SpoolError};
pub use faults::LinkFaults;
pub use link::{Link, LinkReceiver, LinkSender};

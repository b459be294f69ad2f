//! What a device is told when it starts.

use std::{path::PathBuf, time::Duration};

use fieldproof_proto::{
    batch::BATCH_BYTES_MAX,
    ids::{NetworkId, OperatorKey},
    signature::DeviceSecret,
};

use crate::faults::LinkFaults;

/// Everything a device needs to know.
pub struct DeviceConfig {
    /// Where ingest is, such as `http://127.0.0.1:7070`.
    pub endpoint: String,
    /// The network that batches are signed for.
    pub network: NetworkId,
    /// The device's key.
    pub secret: DeviceSecret,
    /// The directory of this device alone. It is made if it is not there, and locked while open.
    pub spool: PathBuf,
    /// The counter of the registration that the device goes by.
    pub registration: u32,
    /// The only ingester key whose answers count; none takes the key of the stream's welcome, which
    /// an auditor will look for in `control`.
    pub ingester_key: Option<OperatorKey>,
    /// Bounds.
    pub limits: DeviceLimits,
    /// Loses answers on purpose; for tests and simulations.
    pub link_faults: Option<LinkFaults>,
}

/// The bounds of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceLimits {
    /// The most bytes of an encoded batch.
    pub batch_bytes_max: usize,
    /// The most bytes of batches in the spool; `push` refuses more until some are answered.
    pub spool_bytes_max: u64,
    /// The most bytes of old answers that are kept, besides those of batches still in the spool.
    pub answers_bytes_max: u64,
    /// How long a connection, a hello or a call may take.
    pub connect_timeout: Duration,
    /// How long batches may be under way without any answer before the stream is given up.
    pub answer_timeout: Duration,
    /// The shortest wait before connecting again.
    pub backoff_min: Duration,
    /// The longest wait before connecting again.
    pub backoff_max: Duration,
}

impl Default for DeviceLimits {
    fn default() -> Self {
        Self {
            batch_bytes_max: BATCH_BYTES_MAX,
            spool_bytes_max: 64 * 1024 * 1024,
            answers_bytes_max: 8 * 1024 * 1024,
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(60),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
        }
    }
}

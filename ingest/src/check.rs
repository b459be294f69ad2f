//! The check of a batch: a pure function, and the bounded pool that runs it.

use std::sync::{Arc, OnceLock};

use fieldproof_proto::{
    batch::{BatchError, BatchHeader, Place, WellFormedBatch, batch_digest},
    ids::{DeviceId, Digest, NetworkId},
    payload::PayloadError,
    receipt::RejectionCode,
    signature::{PublicKey, SignatureError, VerifyingKey},
    v1::SignedBatch,
    wire::LayoutError,
};
use prost::Message as _;
use tokio::sync::Semaphore;

/// What a batch is checked against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CheckRules {
    pub(crate) network: NetworkId,
    pub(crate) batch_bytes_max: u32,
    /// The device of the stream; none for a single submission.
    pub(crate) device: Option<DeviceId>,
}

/// The key of a stream's device, parsed once.
#[derive(Default)]
pub(crate) struct KeyCache(OnceLock<(PublicKey, VerifyingKey)>);

/// A batch that may go into the log.
#[derive(Debug, Clone)]
pub(crate) struct GoodBatch {
    pub(crate) device: DeviceId,
    pub(crate) place: Place,
    pub(crate) previous: Digest,
    pub(crate) digest: Digest,
    pub(crate) batch: SignedBatch,
    /// Its encoded size, which its answer gives back as credit.
    pub(crate) bytes: u32,
}

/// A batch that is refused for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadBatch {
    /// The device of the stream, or else of the header; zero if neither is known.
    pub(crate) device: DeviceId,
    pub(crate) place: Place,
    pub(crate) digest: Digest,
    pub(crate) code: RejectionCode,
    pub(crate) message: String,
    pub(crate) bytes: u32,
}

/// Runs checks on as many threads as there are cores.
#[derive(Clone)]
pub(crate) struct CheckPool(Arc<Semaphore>);

impl CheckPool {
    /// A pool for this machine.
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Semaphore::new(cores)))
    }

    /// Runs one piece of work when a core is free. A panic of the work is a panic here.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let permit = self.0.clone().acquire_owned().await.expect("the semaphore is never closed");
        let work = move || {
            let result = work();
            drop(permit);
            result
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(failed) => std::panic::resume_unwind(failed.into_panic()),
        }
    }
}

/// The encoded size of a batch.
pub(crate) fn batch_bytes(batch: &SignedBatch) -> u32 {
    u32::try_from(batch.encoded_len()).expect("a message that was read is far below 4 GiB")
}

/// Checks size, form, device and signature of a batch. Takes some ten microseconds: not for the
/// async runtime.
pub(crate) fn check(
    rules: &CheckRules,
    keys: &KeyCache,
    batch: SignedBatch,
) -> Result<GoodBatch, Box<BadBatch>> {
    let bytes = batch_bytes(&batch);
    let header = BatchHeader::parse(&batch.header);
    let said = header.as_ref().ok().map(|header| (header.device_id(), header.place));
    let refuse = |code, message: String| {
        Err(Box::new(BadBatch {
            device: rules.device.or(said.map(|(device, _)| device)).unwrap_or(DeviceId::ZERO),
            place: said.map_or(Place { boot: 0, seq: 0 }, |(_, place)| place),
            digest: batch_digest(&rules.network, &batch.header, &batch.payload),
            code,
            message,
            bytes,
        }))
    };
    if bytes > rules.batch_bytes_max {
        let message = format!("the batch has `{bytes}` bytes, more than `{}`", rules.batch_bytes_max);
        return refuse(RejectionCode::TooLarge, message);
    }
    if batch.header.is_empty() || batch.payload.is_empty() {
        return refuse(RejectionCode::Empty, "the batch has no header or no payload".to_owned());
    }
    let header = match header {
        Ok(header) => header,
        Err(error) => return refuse(code(&error), error.to_string()),
    };
    let device = header.device_id();
    if let Some(expected) = rules.device.filter(|expected| *expected != device) {
        let message = format!("the batch is of device `{device}`, the stream is of `{expected}`");
        return refuse(RejectionCode::WrongDevice, message);
    }
    let well_formed = match WellFormedBatch::parse(&rules.network, &batch) {
        Ok(well_formed) => well_formed,
        Err(error) => return refuse(code(&error), error.to_string()),
    };
    let digest = well_formed.digest;
    let verified = keys.get(&header.public_key).and_then(|key| key.verify(&digest, &batch.signature));
    if let Err(error) = verified {
        let message = format!("batch `{}`.`{}`: {error}", header.place.boot, header.place.seq);
        return refuse(RejectionCode::BadSignature, message);
    }
    Ok(GoodBatch { device, place: header.place, previous: header.previous, digest, batch, bytes })
}

impl KeyCache {
    fn get(&self, key: &PublicKey) -> Result<VerifyingKey, SignatureError> {
        if let Some((cached, parsed)) = self.0.get()
            && cached == key
        {
            return Ok(parsed.clone());
        }
        let parsed = key.verifying_key()?;
        // A stream is of one device, so the first key stays the only one.
        self.0.get_or_init(|| (*key, parsed.clone()));
        Ok(parsed)
    }
}

/// Which code stands for an error of form.
fn code(error: &BatchError) -> RejectionCode {
    match error {
        BatchError::Network { .. } => RejectionCode::WrongNetwork,
        BatchError::Signature(_) => RejectionCode::BadSignature,
        BatchError::Payload(PayloadError::ReadingCount(0)) => RejectionCode::Empty,
        BatchError::Header(LayoutError::Field { field: "reading count", value, .. }) if value == "0" => {
            RejectionCode::Empty
        }
        BatchError::Header(_) | BatchError::Payload(_) | BatchError::Mismatch { .. } => {
            RejectionCode::Malformed
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

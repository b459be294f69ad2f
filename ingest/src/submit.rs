//! One batch, one answer.

use std::sync::Arc;

use fieldproof_proto::{
    ids::{DeviceId, NetworkId},
    v1::{self, SignedBatch, submit_response::Answer},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::{
    check::{CheckRules, KeyCache, batch_bytes, check},
    error::Refusal,
    log::{LogRecord, RecordKind, Ticket},
    metrics::Refused,
    receipts::{Acknowledged, Coalescer},
    server::Core,
    stream::encode,
};

impl Core {
    /// Checks and logs one batch, and answers it. When a receipt is returned, the log has the batch.
    pub(crate) async fn submit(
        self: &Arc<Self>,
        network_id: &[u8],
        batch: Option<SignedBatch>,
    ) -> Result<v1::SubmitResponse, Refusal> {
        self.check_network(network_id)?;
        let batch = batch.ok_or_else(|| Refusal::Message("the submission has no batch".to_owned()))?;
        let share = self.share(batch_bytes(&batch)).await;
        let rules =
            CheckRules { network: self.network, batch_bytes_max: self.limits.batch_bytes_max, device: None };
        let checked = self.pool.run(move || check(&rules, &KeyCache::default(), batch)).await;
        let good = match checked {
            Ok(good) => good,
            Err(bad) => {
                let rejection = self.rejection(&bad);
                return Ok(v1::SubmitResponse {
                    answer: Some(Answer::Rejection(rejection)),
                    notices: Vec::new(),
                });
            }
        };
        let registered = self.admit(&good.device)?;
        let partition = good.device.partition(self.genesis.partitions);
        let value = encode(&good.batch);
        let record = LogRecord {
            topic: &self.topics.telemetry,
            partition,
            device: &good.device,
            kind: RecordKind::Batch,
            value: &value,
        };
        let offset = self.append_and_wait(&record, Some(share)).await?;
        self.metrics.batch_logged(good.bytes);
        let mut coalescer = Coalescer::default();
        let acknowledged = Acknowledged {
            place: good.place,
            previous: good.previous,
            digest: good.digest,
            offset,
            bytes: good.bytes,
        };
        let ended = coalescer.push(&acknowledged);
        let span = ended.or_else(|| coalescer.take()).expect("a batch was just pushed");
        let notices = if registered {
            Vec::new()
        } else {
            self.metrics.refused(Refused::Unregistered);
            vec![unregistered_notice(&good.device, good.place)]
        };
        let receipt = self.receipt(&span, good.device, partition);
        Ok(v1::SubmitResponse { answer: Some(Answer::Receipt(receipt)), notices })
    }

    /// Refuses a call for another network.
    pub(crate) fn check_network(&self, network_id: &[u8]) -> Result<(), Refusal> {
        if NetworkId::from_slice(network_id) == Some(self.network) {
            return Ok(());
        }
        // An id is 32 bytes; whatever was sent instead is cut to keep the message small.
        let found = network_id.iter().take(32).map(|byte| format!("{byte:02x}")).collect();
        Err(Refusal::WrongNetwork { found, expected: self.network })
    }

    /// Whether the device is registered. If it is not, its batch takes a token, and without a token
    /// it is refused.
    pub(crate) fn admit(&self, device: &DeviceId) -> Result<bool, Refusal> {
        if self.caches.is_registered(device) {
            return Ok(true);
        }
        let mut bucket = self.unregistered.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if bucket.take(std::time::Instant::now()) {
            return Ok(false);
        }
        Err(Refusal::UnregisteredRate { device: device.to_string() })
    }

    /// Waits for a share of the bytes that the process may hold.
    pub(crate) async fn share(&self, bytes: u32) -> OwnedSemaphorePermit {
        let share = self.bytes.clone().acquire_many_owned(bytes.min(self.limits.in_flight_bytes_max));
        share.await.expect("the semaphore is never closed")
    }

    /// Appends a record and waits for its report. When this returns `Ok`, the record is at that
    /// offset, on all in-sync replicas.
    pub(crate) async fn append_and_wait(
        &self,
        record: &LogRecord<'_>,
        share: Option<OwnedSemaphorePermit>,
    ) -> Result<u64, Refusal> {
        let (reports, mut report) = mpsc::unbounded_channel();
        let ticket = Ticket { index: 0, reports, _share: share };
        self.log.append(record, ticket).await.map_err(|error| {
            tracing::warn!(%error, "the producer did not take a record");
            Refusal::Unavailable
        })?;
        report.recv().await.and_then(|report| report.offset).ok_or(Refusal::Unavailable)
    }
}

/// Tells a device that it is not registered.
pub(crate) fn unregistered_notice(device: &DeviceId, place: fieldproof_proto::batch::Place) -> v1::Notice {
    v1::Notice {
        code: v1::NoticeCode::Unregistered.into(),
        boot: place.boot,
        seq: place.seq,
        message: format!("device `{device}` is not registered: the batch is in the log and will not be paid"),
    }
}

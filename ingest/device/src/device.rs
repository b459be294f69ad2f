//! The device: readings in, receipts out.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fieldproof_proto::{
    batch::{BatchFacts, Place, sign_batch},
    ids::DeviceId,
    payload::{Payload, PayloadError},
    receipt::{Receipt, SignedBody},
    v1::{RegisterRequest, RegisterResponse, SignedRegistration},
};
use prost::Message as _;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::{
    answers::Answer,
    config::DeviceConfig,
    error::{DeviceError, LinkError, SpoolError},
    pb::ingest_client::IngestClient,
    spool::{Spool, SpoolRules},
};

/// Keeps a connection known to be alive, also through address translation.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A device with its spool. Clones are the same device.
#[derive(Clone)]
pub struct Device(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: DeviceConfig,
    pub(crate) id: DeviceId,
    pub(crate) boot: u64,
    endpoint: Endpoint,
    spool: Mutex<Spool>,
    /// How many batches have no answer.
    pub(crate) unanswered: watch::Sender<u64>,
    /// Something was pushed.
    pub(crate) pushed: Notify,
    /// One `run` at a time. Holds the last place that was ever sent: batches go out in order, so
    /// one at or before it is sent again.
    pub(crate) running: tokio::sync::Mutex<Option<Place>>,
    pub(crate) counters: Counters,
}

/// What a device has done since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceCounts {
    /// Batches handed to a stream, each time.
    pub sent: u64,
    /// Of these, batches that had been handed to one before.
    pub resent: u64,
    /// Batches covered by a receipt.
    pub acknowledged: u64,
    /// Batches with a signed rejection.
    pub rejected: u64,
    /// Batches of which ingest said that the device is not registered.
    pub unregistered: u64,
    /// Streams opened.
    pub connected: u64,
    /// Answers that were not true.
    pub false_answers: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) sent: AtomicU64,
    pub(crate) resent: AtomicU64,
    pub(crate) acknowledged: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) unregistered: AtomicU64,
    pub(crate) connected: AtomicU64,
    pub(crate) false_answers: AtomicU64,
}

/// A receipt that the device keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReceipt {
    /// What it says.
    pub receipt: Receipt,
    /// The signed bytes: what an auditor asks for.
    pub signed: SignedBody,
}

impl Device {
    /// Opens the device and starts a new boot: the stored counter plus one, or `now_seconds`, the
    /// clock's seconds since 1970, if that is more. Durable when it returns: the boot. Blocks on
    /// the file system.
    pub fn open(config: DeviceConfig, now_seconds: u64) -> Result<Self, DeviceError> {
        let endpoint = Endpoint::from_shared(config.endpoint.clone())
            .map_err(|error| LinkError::Endpoint {
                endpoint: config.endpoint.clone(),
                reason: error.to_string(),
            })?
            .connect_timeout(config.limits.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let id = config.secret.public_key().device_id();
        let rules = SpoolRules {
            directory: config.spool.clone(),
            network: config.network,
            device: id,
            spool_bytes_max: config.limits.spool_bytes_max,
            answers_bytes_max: config.limits.answers_bytes_max,
        };
        let spool = Spool::open(rules, now_seconds)?;
        let inner = Inner {
            config,
            id,
            boot: spool.boot(),
            endpoint,
            unanswered: watch::Sender::new(spool.unanswered()),
            spool: Mutex::new(spool),
            pushed: Notify::new(),
            running: tokio::sync::Mutex::new(None),
            counters: Counters::default(),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// The device's id.
    pub fn id(&self) -> DeviceId {
        self.0.id
    }

    /// The boot that opening it started.
    pub fn boot(&self) -> u64 {
        self.0.boot
    }

    /// Signs a batch of readings and stores it. Durable when it returns: the batch, which is sent
    /// until it is answered, by this process or a later one. Blocks for one sync of the disk.
    pub fn push(&self, payload: Payload) -> Result<Place, DeviceError> {
        let config = &self.0.config;
        let mut spool = self.0.spool();
        let (Some(first_time_ms), Some(new_last_ms)) =
            (payload.times_ms.first().copied(), payload.times_ms.last().copied())
        else {
            return Err(PayloadError::ReadingCount(0).into());
        };
        let tail = spool.tail();
        if let Some(last_time_ms) = tail.last_time_ms.filter(|last| first_time_ms <= *last) {
            return Err(DeviceError::TimeNotAfter { first_time_ms, last_time_ms });
        }
        let facts = BatchFacts {
            network: config.network,
            registration: config.registration,
            place: spool.next_place(),
            previous: tail.digest,
        };
        let (batch, digest) = sign_batch(&config.secret, &facts, &payload)?;
        let (bytes, bytes_max) = (batch.encoded_len(), config.limits.batch_bytes_max);
        if bytes > bytes_max {
            return Err(DeviceError::TooLarge { bytes, bytes_max });
        }
        if let Some(bytes) = spool.full_with(bytes)? {
            return Err(DeviceError::Full { bytes, bytes_max: config.limits.spool_bytes_max });
        }
        let place = spool.append(&batch, digest, new_last_ms)?;
        self.0.publish(&spool);
        drop(spool);
        self.0.pushed.notify_one();
        Ok(place)
    }

    /// Sends everything without an answer, in order, and goes on with what is pushed, until
    /// `shutdown`; connects again as often as needed. An error is one that trying again does not
    /// mend. What is durable does not depend on it: dropping the future loses nothing.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), DeviceError> {
        self.0.clone().synchronise(shutdown).await
    }

    /// Waits until every batch that was pushed has an answer. Needs [`Device::run`] beside it.
    pub async fn flush(&self) {
        let answered = self.0.unanswered.subscribe().wait_for(|count| *count == 0).await.map(|_| ());
        answered.expect("the sender is part of the device");
    }

    /// How many batches have no answer.
    pub fn unanswered(&self) -> u64 {
        *self.0.unanswered.borrow()
    }

    /// Registers a device: puts the registration into the log. When it returns, it is there.
    pub async fn register(&self, registration: SignedRegistration) -> Result<RegisterResponse, DeviceError> {
        let request = RegisterRequest { registration: Some(registration) };
        let channel = self.0.connect().await?;
        let answer = IngestClient::new(channel).register(request).await.map_err(LinkError::from)?;
        Ok(answer.into_inner())
    }

    /// The receipts that are still kept, oldest first. Reads them from disk.
    pub fn receipts(&self) -> Result<Vec<StoredReceipt>, DeviceError> {
        let mut receipts = Vec::new();
        for answer in self.0.spool().stored_answers()? {
            let Ok(Answer::Receipt(receipt)) = answer.verify() else { continue };
            let Ok(signature) = answer.signature.try_into() else { continue };
            receipts.push(StoredReceipt { receipt, signed: SignedBody { body: answer.body, signature } });
        }
        Ok(receipts)
    }

    /// What it has done so far.
    pub fn counts(&self) -> DeviceCounts {
        let counters = &self.0.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DeviceCounts {
            sent: load(&counters.sent),
            resent: load(&counters.resent),
            acknowledged: load(&counters.acknowledged),
            rejected: load(&counters.rejected),
            unregistered: load(&counters.unregistered),
            connected: load(&counters.connected),
            false_answers: load(&counters.false_answers),
        }
    }
}

impl Inner {
    /// A new connection.
    pub(crate) async fn connect(&self) -> Result<Channel, LinkError> {
        self.endpoint.connect().await.map_err(|error| {
            // tonic says only "transport error"; the cause is below.
            let cause =
                std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            LinkError::Connect(cause)
        })
    }

    /// Works on the spool off the async runtime, for it may wait for the disk.
    pub(crate) async fn with_spool<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Spool) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let inner = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let mut spool = inner.spool();
            let result = work(&mut spool);
            inner.publish(&spool);
            result
        });
        match done.await {
            Ok(result) => result,
            Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            Err(_) => Err(SpoolError::Broken),
        }
    }

    fn spool(&self) -> MutexGuard<'_, Spool> {
        // The spool marks itself as broken when an operation does not come to its end.
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, spool: &Spool) {
        self.unanswered.send_replace(spool.unanswered());
    }
}

//! Starting and stopping an ingester.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ed25519_dalek::SigningKey;
use fieldproof_proto::{
    DESCRIPTORS,
    genesis::Genesis,
    ids::{NetworkId, OperatorKey},
    v1,
};
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::server::TcpIncoming;
use tonic_health::server::HealthReporter;

use crate::{
    bucket::TokenBucket,
    caches::{Caches, Followed, Follower, check_topics},
    check::CheckPool,
    config::{IngestConfig, IngestLimits, MESSAGE_BYTES_MAX, Topics},
    error::IngestError,
    failure::Failure,
    log::Log,
    metrics::{IngestCounts, Metrics},
    pb::ingest_server::IngestServer,
    service::Service,
};

/// HTTP/2 receive windows: what a peer may send before anyone has read it.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// The most bytes of a call's headers.
const HEADER_LIST_BYTES_MAX: u32 = 8 * 1024;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Unary calls at a time.
const CALLS_MAX: usize = 256;
/// What cancelled streams and closed connections get to end, past the deadline.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// A running ingester. Dropping it without [`Ingest::stop`] ends its streams unanswered, which
/// costs resends and nothing else.
pub struct Ingest {
    core: Arc<Core>,
    address: SocketAddr,
    health: HealthReporter,
    followers: Vec<Follower>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// What all calls share.
pub(crate) struct Core {
    pub(crate) network: NetworkId,
    pub(crate) genesis: Genesis,
    pub(crate) genesis_bytes: Vec<u8>,
    pub(crate) signing_key: SigningKey,
    pub(crate) ingester: OperatorKey,
    pub(crate) limits: IngestLimits,
    pub(crate) topics: Topics,
    pub(crate) log: Log,
    pub(crate) caches: Arc<Caches>,
    pub(crate) metrics: Metrics,
    pub(crate) pool: CheckPool,
    /// One permit for each byte that the process may hold until the log has it.
    pub(crate) bytes: Arc<Semaphore>,
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) calls: Arc<Semaphore>,
    pub(crate) unregistered: Mutex<TokenBucket>,
    pub(crate) failure: Failure,
    pub(crate) tasks: TaskTracker,
    /// The ingester is about to end: streams say so, and finish.
    pub(crate) drain: CancellationToken,
    /// The deadline has passed: streams end.
    pub(crate) abandon: CancellationToken,
}

impl Core {
    /// The limits as clients learn them.
    pub(crate) fn limits_message(&self) -> v1::Limits {
        v1::Limits {
            batch_bytes_max: self.limits.batch_bytes_max,
            readings_max: fieldproof_proto::payload::READINGS_MAX,
            credit_bytes: self.limits.credit_bytes,
        }
    }
}

impl Ingest {
    /// Binds the address, checks the topics, reads `control` and `registry` to their end, and
    /// serves. Nothing is served before the caches are complete.
    pub async fn start(config: IngestConfig) -> Result<Self, IngestError> {
        config.limits.check()?;
        let genesis = Genesis::from_bytes(&config.genesis)?;
        let network = Genesis::network_id(&config.genesis);
        let listen_error = |source| IngestError::Listen { address: config.listen, source };
        let incoming = TcpIncoming::bind(config.listen).map_err(listen_error)?.with_nodelay(Some(true));
        let address = incoming.local_addr().map_err(listen_error)?;

        let (kafka, topics) = (config.kafka.clone(), config.topics.clone());
        let partitions = usize::try_from(genesis.partitions.get()).unwrap_or(usize::MAX);
        let needed = [(topics.telemetry, partitions), (topics.control, 1), (topics.registry, 1)];
        blocking(move || check_topics(&kafka, &needed)).await?;
        let failure = Failure::default();
        let caches = Arc::new(Caches::default());
        let mut followers = start_followers(&config, &genesis, network, &caches, &failure)?;
        for follower in &mut followers {
            follower.caught_up().await?;
        }

        let core = Arc::new(core(config, genesis, network, caches, failure)?);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<IngestServer<Service>>().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(|error| IngestError::Serve(error.to_string()))?;
        let service = IngestServer::new(Service(core.clone())).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let router = tonic::transport::Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(core.limits.streams_max)
            .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_service(service)
            .add_service(health_service)
            .add_service(reflection);
        let drained = core.drain.clone().cancelled_owned();
        let server = tokio::spawn(router.serve_with_incoming_shutdown(incoming, drained));
        tracing::info!(%address, %network, "ingest serves");
        Ok(Self { core, address, health, followers, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has done so far.
    pub fn counts(&self) -> IngestCounts {
        self.core.metrics.counts()
    }

    /// Waits until the ingester cannot go on: a part of it panicked, or the producer failed for
    /// good. Whoever runs it then stops it and starts a new one; it keeps no state.
    pub async fn failed(&self) -> IngestError {
        self.core.failure.wait().await
    }

    /// Stops: accepts nothing new, tells the streams to drain, waits until what they sent is in the
    /// log and answered, and closes. Ends within [`IngestLimits::drain_deadline`] and a moment;
    /// [`IngestError::Deadline`] then says what was left. Every receipt that was sent stays true.
    pub async fn stop(self) -> Result<(), IngestError> {
        let Self { core, health, followers, mut server, address } = self;
        tracing::info!(%address, "ingest drains");
        let deadline = tokio::time::Instant::now() + core.limits.drain_deadline;
        health.set_not_serving::<IngestServer<Service>>().await;
        core.drain.cancel();
        core.tasks.close();
        let in_time = tokio::time::timeout_at(deadline, core.tasks.wait()).await.is_ok();
        let streams = core.tasks.len();
        core.abandon.cancel();
        if tokio::time::timeout(LAST_MOMENT, core.tasks.wait()).await.is_err() {
            tracing::warn!(streams = core.tasks.len(), "streams did not end when they were cancelled");
        }
        let served = tokio::time::timeout_at(deadline.max(soon()), &mut server).await;
        let served = served.unwrap_or_else(|_| {
            server.abort();
            Ok(Ok(()))
        });
        let flush_for = deadline.saturating_duration_since(tokio::time::Instant::now()).max(LAST_MOMENT);
        let stopped = core.clone();
        blocking(move || {
            stopped.log.stop(flush_for);
            followers.into_iter().for_each(Follower::stop);
        })
        .await;
        match served {
            Ok(result) => result.map_err(|error| IngestError::Serve(error.to_string()))?,
            Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            Err(_) => {}
        }
        let records = core.log.in_flight();
        if !in_time || records > 0 {
            return Err(IngestError::Deadline { streams, records });
        }
        core.failure.take().map_or(Ok(()), Err)
    }
}

fn soon() -> tokio::time::Instant {
    tokio::time::Instant::now() + LAST_MOMENT
}

fn core(
    config: IngestConfig,
    genesis: Genesis,
    network: NetworkId,
    caches: Arc<Caches>,
    failure: Failure,
) -> Result<Core, IngestError> {
    let limits = config.limits;
    let permits = |count: u32| Arc::new(Semaphore::new(usize::try_from(count).unwrap_or(usize::MAX >> 3)));
    let bucket = TokenBucket::new(limits.unregistered_batches_per_second_max, Instant::now());
    Ok(Core {
        network,
        genesis,
        genesis_bytes: config.genesis,
        ingester: OperatorKey(config.signing_key.verifying_key().to_bytes()),
        signing_key: config.signing_key,
        topics: config.topics,
        log: Log::start(&config.kafka, failure.clone())?,
        caches,
        metrics: Metrics::new(),
        pool: CheckPool::new(),
        bytes: permits(limits.in_flight_bytes_max),
        streams: permits(limits.streams_max),
        calls: Arc::new(Semaphore::new(CALLS_MAX)),
        unregistered: Mutex::new(bucket),
        failure,
        tasks: TaskTracker::new(),
        drain: CancellationToken::new(),
        abandon: CancellationToken::new(),
        limits,
    })
}

fn start_followers(
    config: &IngestConfig,
    genesis: &Genesis,
    network: NetworkId,
    caches: &Arc<Caches>,
    failure: &Failure,
) -> Result<Vec<Follower>, IngestError> {
    let (for_control, for_registry, operator) = (caches.clone(), caches.clone(), genesis.operator);
    let control = Followed {
        name: "ingest-control",
        topic: config.topics.control.clone(),
        apply: Box::new(move |_, value| {
            for_control.apply_control(&network, &operator, value.unwrap_or_default());
        }),
    };
    let registry = Followed {
        name: "ingest-registry",
        topic: config.topics.registry.clone(),
        apply: Box::new(move |key, value| for_registry.apply_registry(key, value)),
    };
    [control, registry]
        .map(|followed| Follower::start(&config.kafka, followed, failure))
        .into_iter()
        .collect()
}

/// Runs what blocks outside of the async runtime. A panic of the work is a panic here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

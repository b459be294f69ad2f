//! The running aggregator: its tasks, how they are started, how they end.

use std::sync::Arc;

use fieldproof_proto::{
    canonical_json,
    evidence::CONTROL_PARTITION,
    genesis::{Genesis, GenesisError},
    ids::Digest,
    manifest::{Manifest, manifest_digest, object_name},
};
use fieldproof_runtime::store::{Created, Store, StoreError};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    epoch::{ComputedEpoch, EpochError, EpochInputs},
    evidence::Segment,
    history::{History, HistoryError, control_grid},
    kafka::{Appender, LogError, Topics},
    policy::EngineSettings,
    writer::{SegmentLimits, Writer, WriterConfig, WriterError},
};

/// Segments that may wait for their verdicts.
const SEGMENTS_WAITING_MAX: usize = 64;

/// What an aggregator needs to know.
pub struct AggregatorConfig {
    /// The canonical genesis.
    pub genesis: Vec<u8>,
    /// Where Kafka is.
    pub bootstrap_servers: String,
    /// The network's topics.
    pub topics: Topics,
    /// Where evidence and epochs go.
    pub store: Store,
    /// When a segment is full.
    pub limits: SegmentLimits,
}

/// What an aggregator tells.
#[derive(Debug)]
pub enum AggregatorEvent {
    /// An epoch is committed: its manifest is in the store.
    Epoch(Box<ComputedEpoch>),
}

/// Why an aggregator ended.
#[derive(Debug, thiserror::Error)]
pub enum AggregatorError {
    /// The genesis is not valid.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// Kafka cannot be reached.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A partition is halted.
    #[error(transparent)]
    Writer(#[from] WriterError),
    /// The evidence contradicts itself.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// An epoch cannot be computed.
    #[error(transparent)]
    Epoch(#[from] EpochError),
    /// R1 is broken: the same evidence gave other bytes.
    #[error(
        "epoch `{epoch}` was computed before as `{there}`, now as `{mine}`: the computation is not deterministic"
    )]
    Determinism {
        /// The epoch.
        epoch: u64,
        /// The digest of the committed manifest.
        there: Digest,
        /// The digest of this one.
        mine: Digest,
    },
    /// A committed manifest cannot be read.
    #[error("the manifest `{name}` is not valid: {reason}")]
    Manifest {
        /// The object.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A task panicked.
    #[error("a task of the aggregator panicked: {0}")]
    Panicked(String),
}

/// A running aggregator.
pub struct Aggregator {
    tasks: JoinSet<Result<(), AggregatorError>>,
    shutdown: CancellationToken,
}

impl Aggregator {
    /// Starts the writers and the follower. Every committed epoch is told to `events`, from the first
    /// that is not committed yet.
    pub async fn start(
        config: AggregatorConfig,
        events: mpsc::Sender<AggregatorEvent>,
    ) -> Result<Self, AggregatorError> {
        let history = History::new(&config.genesis).map_err(AggregatorError::History)?;
        let genesis = Genesis::from_bytes(&config.genesis)?;
        let follower = Follower::open(config.store.clone(), history, events).await?;
        let ticks = Arc::new(Appender::connect(&config.bootstrap_servers)?);
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (segments, received) = mpsc::channel(SEGMENTS_WAITING_MAX);
        let telemetry = (0..genesis.partitions.get())
            .map(|partition| (config.topics.telemetry.clone(), partition, partition, genesis.epochs));
        let control = (config.topics.control.clone(), 0, CONTROL_PARTITION, control_grid(&genesis.epochs));
        for (topic, kafka_partition, partition, grid) in telemetry.chain([control]) {
            let writer = WriterConfig {
                bootstrap_servers: config.bootstrap_servers.clone(),
                topic,
                kafka_partition,
                partition,
                generation: config.topics.generation,
                grid,
                limits: config.limits,
                store: config.store.clone(),
                ticks: ticks.clone(),
            };
            let writer = Writer::new(writer, segments.clone());
            let shutdown = shutdown.clone();
            tasks.spawn(async move { Ok(writer.run(shutdown).await?) });
        }
        tasks.spawn(follower.run(received));
        Ok(Self { tasks, shutdown })
    }

    /// Waits until a task fails; for as long as all is well it does not return. Cancel-safe.
    pub async fn failed(&mut self) -> AggregatorError {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => return error,
                Some(Err(error)) => return AggregatorError::Panicked(error.to_string()),
                None => std::future::pending().await,
            }
        }
    }

    /// Commits what was read of the log and ends. Durable when it returns: evidence up to there.
    pub async fn stop(mut self) -> Result<(), AggregatorError> {
        self.shutdown.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.map_err(|error| AggregatorError::Panicked(error.to_string()))??;
        }
        Ok(())
    }
}

/// Follows the evidence and commits epochs.
struct Follower {
    store: Store,
    history: History,
    next_epoch: u64,
    previous: Option<Digest>,
    events: mpsc::Sender<AggregatorEvent>,
}

impl Follower {
    /// Finds the last committed epoch.
    async fn open(
        store: Store,
        history: History,
        events: mpsc::Sender<AggregatorEvent>,
    ) -> Result<Self, AggregatorError> {
        let mut follower = Self { store, history, next_epoch: 0, previous: None, events };
        if let Some(epoch) = last_epoch(&follower.store).await? {
            let name = object_name::manifest(epoch, 0);
            let (_, digest) = read_manifest(&follower.store, &name).await?;
            follower.next_epoch = epoch + 1;
            follower.previous = Some(digest);
        }
        Ok(follower)
    }

    async fn run(mut self, mut segments: mpsc::Receiver<Segment>) -> Result<(), AggregatorError> {
        while let Some(segment) = segments.recv().await {
            self = self.add(segment).await?;
            while self.history.is_ready(self.next_epoch) {
                self.commit_epoch().await?;
            }
        }
        Ok(())
    }

    /// Gives the records of a segment their verdicts, off the runtime: signatures take a while.
    async fn add(self, segment: Segment) -> Result<Self, AggregatorError> {
        let Self { store, mut history, next_epoch, previous, events } = self;
        let work = tokio::task::spawn_blocking(move || {
            history.add(segment)?;
            history.forget_before(next_epoch);
            Ok::<_, HistoryError>(history)
        });
        let history = work.await.map_err(|error| AggregatorError::Panicked(error.to_string()))??;
        Ok(Self { store, history, next_epoch, previous, events })
    }

    /// Computes and commits the next epoch. Durable when it returns: the objects, then the manifest.
    async fn commit_epoch(&mut self) -> Result<(), AggregatorError> {
        let inputs = EpochInputs::collect(&self.history, self.next_epoch)?;
        let computed = inputs.compute(self.previous, EngineSettings::default()).await?;
        for (digest, bytes) in &computed.objects {
            self.store.create_same(&object_name::object(digest), bytes.clone()).await?;
        }
        let name = object_name::manifest(self.next_epoch, 0);
        if let Created::Taken(there) = self.store.create(&name, computed.bytes.clone()).await?
            && there != computed.bytes
        {
            return Err(AggregatorError::Determinism {
                epoch: self.next_epoch,
                there: manifest_digest(&there),
                mine: computed.digest,
            });
        }
        crate::metrics::count(&computed.manifest);
        self.previous = Some(computed.digest);
        self.next_epoch += 1;
        self.history.forget_before(self.next_epoch);
        if self.events.send(AggregatorEvent::Epoch(Box::new(computed))).await.is_err() {
            tracing::debug!("nobody listens to the aggregator any more");
        }
        Ok(())
    }
}

/// The last epoch that has a manifest. Epochs are committed in order, so none before it is missing.
pub async fn last_epoch(store: &Store) -> Result<Option<u64>, StoreError> {
    let folders = store.list("epochs").await?;
    for folder in folders.iter().rev() {
        let number = folder.rsplit('/').next().and_then(|digits| digits.parse().ok());
        if let Some(epoch) = number
            && store.get(&object_name::manifest(epoch, 0)).await?.is_some()
        {
            return Ok(Some(epoch));
        }
    }
    Ok(None)
}

/// A committed manifest and its digest.
pub async fn read_manifest(store: &Store, name: &str) -> Result<(Manifest, Digest), AggregatorError> {
    let invalid = |reason: String| AggregatorError::Manifest { name: name.to_owned(), reason };
    let bytes = store.get(name).await?.ok_or_else(|| invalid("it is missing".to_owned()))?;
    let manifest = canonical_json::from_bytes(&bytes).map_err(|error| invalid(error.to_string()))?;
    Ok((manifest, manifest_digest(&bytes)))
}

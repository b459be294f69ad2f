//! The writer of one partition's evidence: reads the log, cuts segments, creates them.
//!
//! Creating the object is the commit. The writer keeps no state of its own: where it stands is where
//! the last segment ends. A writer that was asleep finds its name taken and goes on from what is
//! there; two writers at once only cost work.

use std::time::Duration;

use fieldproof_proto::{
    evidence::{KIND_TICK, Record},
    genesis::EpochGrid,
};
use fieldproof_runtime::store::Store;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{
    evidence::{EvidenceError, Segment, segment_offsets},
    history::{HistoryError, Position},
    kafka::{Appender, LogError, NewRecord, Source, SourceEvent},
};

/// When a segment is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentLimits {
    /// Records.
    pub records_max: usize,
    /// Bytes of their values.
    pub bytes_max: usize,
    /// How long a record may wait for its segment.
    pub age_max: Duration,
}

impl Default for SegmentLimits {
    fn default() -> Self {
        Self { records_max: 4096, bytes_max: 8 << 20, age_max: Duration::from_millis(500) }
    }
}

/// What a writer needs to know.
pub struct WriterConfig {
    /// Where Kafka is.
    pub bootstrap_servers: String,
    /// The topic.
    pub topic: String,
    /// The partition in Kafka.
    pub kafka_partition: u32,
    /// The partition in evidence: the same, or the number that stands for `control`.
    pub partition: u32,
    /// The generation of the topic.
    pub generation: u32,
    /// The grid by which this partition is cut.
    pub grid: EpochGrid,
    /// When a segment is full.
    pub limits: SegmentLimits,
    /// Where segments go.
    pub store: Store,
    /// Where ticks go.
    pub ticks: std::sync::Arc<Appender>,
}

/// Why a partition is halted.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// The evidence cannot be read or written.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// The segments do not tile the partition.
    #[error(transparent)]
    Tiling(#[from] HistoryError),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log and the evidence contradict each other.
    #[error(
        "partition `{partition}` is halted: record `{offset}` of the log is not the one in evidence; \
         was the topic truncated or created anew? only a gap record or a new generation continues it"
    )]
    Contradiction {
        /// The partition.
        partition: u32,
        /// The record.
        offset: u64,
    },
}

/// Collects the records of the next segment. Pure: the decision to cut is here, the clock is not.
struct Collector {
    grid: EpochGrid,
    limits: SegmentLimits,
    slot: u64,
    records: Vec<Record>,
    bytes: usize,
}

impl Collector {
    /// Whether what is collected must be committed before `record` may follow: a segment never spans
    /// a cut.
    fn is_cut_by(&self, record: &Record) -> bool {
        !self.records.is_empty() && self.grid.slot_after(self.slot, record.append_ms) != self.slot
    }

    fn push(&mut self, record: Record) {
        self.slot = self.grid.slot_after(self.slot, record.append_ms);
        self.bytes += record.value.as_ref().map_or(0, Vec::len);
        self.records.push(record);
    }

    fn is_full(&self) -> bool {
        self.records.len() >= self.limits.records_max || self.bytes >= self.limits.bytes_max
    }
}

/// One partition's writer.
pub struct Writer {
    config: WriterConfig,
    position: Position,
    collector: Collector,
    /// When the oldest collected record arrived.
    waiting_since: Option<Instant>,
    last_tick: Option<Instant>,
    segments: mpsc::Sender<Segment>,
}

impl Writer {
    /// A writer that hands every segment on, first those that are committed already.
    pub fn new(config: WriterConfig, segments: mpsc::Sender<Segment>) -> Self {
        let collector =
            Collector { grid: config.grid, limits: config.limits, slot: 0, records: Vec::new(), bytes: 0 };
        Self { config, position: Position::START, collector, waiting_since: None, last_tick: None, segments }
    }

    /// Writes until `shutdown`, then commits what is collected. An error halts the partition.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), WriterError> {
        // Both may take long: the replay where there is much evidence, the source where Kafka is away.
        let start = async {
            let last = self.replay().await?;
            self.open_source(last.as_ref()).await
        };
        let mut source = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            source = start => source?,
        };
        let mut clock = tokio::time::interval(Duration::from_millis(50));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut at_end = false;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                event = source.next() => match event {
                    SourceEvent::Record(record) => {
                        at_end = false;
                        if self.take(record).await? {
                            source = self.open_source(None).await?;
                        }
                    }
                    SourceEvent::End => at_end = true,
                    SourceEvent::Failed(error) => return Err(self.halted(error)),
                },
                _ = clock.tick() => {
                    if self.waiting_since.is_some_and(|since| since.elapsed() >= self.config.limits.age_max)
                        && self.commit().await?
                    {
                        source = self.open_source(None).await?;
                    }
                    if at_end {
                        self.tick(&shutdown).await;
                    }
                }
            }
        }
        self.commit().await?;
        Ok(())
    }

    /// Hands on the committed segments, checking that they tile (C2). Returns the last record.
    async fn replay(&mut self) -> Result<Option<Record>, WriterError> {
        let offsets =
            segment_offsets(&self.config.store, self.config.generation, self.config.partition).await?;
        let mut last = None;
        for offset in offsets {
            let segment =
                Segment::read(&self.config.store, self.config.generation, self.config.partition, offset)
                    .await?;
            last = segment.records.last().cloned();
            self.follow(segment).await?;
        }
        Ok(last)
    }

    /// Opens the source where the evidence ends. After a start, it first re-reads the last committed
    /// record: a log that has another one there was truncated or created anew.
    async fn open_source(&self, last: Option<&Record>) -> Result<Source, WriterError> {
        let start = |offset| {
            Source::start(
                &self.config.bootstrap_servers,
                &self.config.topic,
                self.config.kafka_partition,
                offset,
            )
        };
        let Some(last) = last else { return Ok(start(self.position.next_offset)?) };
        let mut source = start(last.offset)?;
        match source.next().await {
            SourceEvent::Record(record) if record == *last => Ok(source),
            SourceEvent::Record(_) | SourceEvent::End => {
                Err(WriterError::Contradiction { partition: self.config.partition, offset: last.offset })
            }
            SourceEvent::Failed(error) => Err(self.halted(error)),
        }
    }

    /// Takes the next record of the log. True if the source must be opened anew.
    async fn take(&mut self, record: Record) -> Result<bool, WriterError> {
        if (self.collector.is_cut_by(&record) || self.collector.is_full()) && self.commit().await? {
            return Ok(true);
        }
        self.collector.push(record);
        self.waiting_since.get_or_insert_with(Instant::now);
        Ok(false)
    }

    /// Commits what is collected. True if another writer was there first: what it wrote is followed,
    /// and the source must be opened anew.
    async fn commit(&mut self) -> Result<bool, WriterError> {
        if self.collector.records.is_empty() {
            return Ok(false);
        }
        let records = std::mem::take(&mut self.collector.records);
        self.collector.bytes = 0;
        self.waiting_since = None;
        // Before anything is created: a segment that does not follow could never be taken back.
        let (expected, partition) = (self.position.next_offset, self.config.partition);
        if let Some(found) = records.first().map(|record| record.offset).filter(|found| *found != expected) {
            return Err(EvidenceError::Hole { partition, expected, found }.into());
        }
        let mine =
            Segment::new(self.config.generation, self.config.partition, self.position.digest, records)?;
        let there = mine.commit(&self.config.store).await?;
        let lost = there.digest != mine.digest;
        if lost {
            tracing::warn!(
                partition = self.config.partition,
                offset = mine.name.first_offset,
                "another writer committed this segment; going on from there"
            );
            let both = mine.records.iter().zip(there.records.iter());
            if let Some((_, other)) = both.into_iter().find(|(mine, other)| mine != other) {
                return Err(WriterError::Contradiction {
                    partition: self.config.partition,
                    offset: other.offset,
                });
            }
        }
        self.follow(there).await?;
        Ok(lost)
    }

    async fn follow(&mut self, segment: Segment) -> Result<(), WriterError> {
        self.position = self.position.after(&segment)?;
        let slot = |slot, record: &Record| self.config.grid.slot_after(slot, record.append_ms);
        // The collector is empty here: the slot goes on from what is committed.
        self.collector.slot = segment.records.iter().fold(self.collector.slot, slot);
        if self.segments.send(segment).await.is_err() {
            tracing::debug!(partition = self.config.partition, "nobody follows the evidence any more");
        }
        Ok(())
    }

    /// Appends a tick if the slot should be closed by now and no record has done it. The clock only
    /// says when it is worth trying: what closes the slot is the time the broker gives the record.
    async fn tick(&mut self, shutdown: &CancellationToken) {
        const PAUSE: Duration = Duration::from_millis(500);
        let closes_ms = self.config.grid.close_ms(self.collector.slot);
        if clock_ms() < closes_ms || self.last_tick.is_some_and(|last| last.elapsed() < PAUSE) {
            return;
        }
        self.last_tick = Some(Instant::now());
        let record = NewRecord {
            topic: &self.config.topic,
            partition: self.config.kafka_partition,
            kind: KIND_TICK,
            value: &[],
        };
        // A tick may be lost or come twice: neither changes what the log says.
        tokio::select! {
            () = shutdown.cancelled() => {}
            appended = self.config.ticks.append(&record) => if let Err(error) = appended {
                tracing::warn!(partition = self.config.partition, %error, "a tick was not appended; it is tried again");
            },
        }
    }

    fn halted(&self, error: LogError) -> WriterError {
        if error.contradicts_evidence() {
            WriterError::Contradiction { partition: self.config.partition, offset: self.position.next_offset }
        } else {
            error.into()
        }
    }
}

fn clock_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

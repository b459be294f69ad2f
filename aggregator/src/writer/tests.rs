//! The writer against a broker: what is in the log is in evidence, once (C2, D1, M2).

mod crashes;
mod mock_kafka;

use std::sync::Arc;

use fieldproof_proto::{
    evidence::{KIND_BATCH, KIND_HEADER},
    ids::Digest,
};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use super::*;
use mock_kafka::{MockKafka, TOPIC};

/// Windows of 10 s from 1,000 s on: far in the past, so that nobody's clock matters.
const GRID: EpochGrid = EpochGrid { start_ms: 1_000_000, length_ms: 10_000, grace_ms: 0, future_ms: 0 };
/// Windows that no test sees the end of.
const ONE_SLOT: EpochGrid = EpochGrid { start_ms: 200_000_000_000_000, ..GRID };
/// Nothing here takes so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store, and a broker to fill it from.
struct Bench {
    kafka: MockKafka,
    store: Store,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new(records: &[Record]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        Self { kafka: MockKafka::with(records), store, _folder: folder }
    }

    fn config(&self, grid: EpochGrid, limits: SegmentLimits) -> WriterConfig {
        WriterConfig {
            bootstrap_servers: self.kafka.bootstrap_servers.clone(),
            topic: TOPIC.to_owned(),
            kafka_partition: 0,
            partition: 0,
            generation: 1,
            grid,
            limits,
            store: self.store.clone(),
            ticks: Arc::new(Appender::connect(&self.kafka.bootstrap_servers).unwrap()),
        }
    }

    fn start(&self, grid: EpochGrid, limits: SegmentLimits) -> Running {
        Running::start(self.config(grid, limits))
    }

    /// All records in evidence, after a check that the segments tile and cut where they must.
    async fn evidence(&self, grid: EpochGrid) -> Vec<Record> {
        let mut position = Position::START;
        let mut records: Vec<Record> = Vec::new();
        let mut slot = 0;
        for offset in segment_offsets(&self.store, 1, 0).await.unwrap() {
            let segment = Segment::read(&self.store, 1, 0, offset).await.unwrap();
            position = position.after(&segment).unwrap();
            slot = grid.slot_after(slot, segment.records[0].append_ms);
            for record in segment.records.iter() {
                assert_eq!(
                    grid.slot_after(slot, record.append_ms),
                    slot,
                    "C2: segment `{offset}` spans a cut"
                );
            }
            records.extend(segment.records.iter().cloned());
        }
        records
    }
}

/// A writer at work, and what it has told so far.
struct Running {
    task: JoinHandle<Result<(), WriterError>>,
    shutdown: CancellationToken,
    segments: mpsc::Receiver<Segment>,
    told: Vec<Segment>,
}

impl Running {
    fn start(config: WriterConfig) -> Self {
        let (sender, segments) = mpsc::channel(1_000);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(Writer::new(config, sender).run(shutdown.clone()));
        Self { task, shutdown, segments, told: Vec::new() }
    }

    /// Waits until it has told of a segment that reaches `offset`.
    async fn until(&mut self, offset: u64) {
        while self.told.last().is_none_or(|segment| segment.name.next_offset < offset) {
            let next = timeout(PATIENCE, self.segments.recv()).await.expect("the writer makes progress");
            match next {
                Some(segment) => self.told.push(segment),
                None => panic!("the writer ended: {:?}", (&mut self.task).await),
            }
        }
    }

    async fn stop(mut self) -> (Result<(), WriterError>, Vec<Segment>) {
        self.shutdown.cancel();
        let result = timeout(PATIENCE, &mut self.task).await.expect("M2: the writer ends").unwrap();
        while let Some(segment) = self.segments.recv().await {
            self.told.push(segment);
        }
        (result, self.told)
    }

    /// The error that halts it.
    async fn halted(mut self) -> WriterError {
        timeout(PATIENCE, &mut self.task).await.expect("the writer halts").unwrap().unwrap_err()
    }
}

fn limits(records_max: usize) -> SegmentLimits {
    SegmentLimits { records_max, age_max: Duration::from_millis(50), ..SegmentLimits::default() }
}

/// Full segments only: nothing is committed by age.
fn patient(records_max: usize) -> SegmentLimits {
    SegmentLimits { records_max, age_max: Duration::from_secs(3600), ..SegmentLimits::default() }
}

fn record(offset: u64, append_ms: i64) -> Record {
    Record {
        offset,
        append_ms,
        key: Some(vec![7; 32]),
        headers: vec![(KIND_HEADER.to_owned(), Some(KIND_BATCH.to_vec()))],
        value: Some(offset.to_le_bytes().to_vec()),
    }
}

fn records(count: u64) -> Vec<Record> {
    (0..count).map(|offset| record(offset, 1_700_000_000_000)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_records_are_copied_byte_for_byte() {
    let optional = [None, Some(Vec::new()), Some(vec![0, 0xff]), Some(vec![5; 3_000])];
    let mut log = Vec::new();
    for key in &optional {
        for value in &optional {
            let headers =
                optional.iter().map(|value| (["", "kind", "ä"][log.len() % 3].to_owned(), value.clone()));
            let headers = headers.take(log.len() % 5).collect();
            let append_ms = 1_700_000_000_000 + 3 * log.len() as i64;
            log.push(Record {
                offset: log.len() as u64,
                append_ms,
                key: key.clone(),
                headers,
                value: value.clone(),
            });
        }
    }
    let bench = Bench::new(&log).await;
    let mut writer = bench.start(ONE_SLOT, limits(5));
    writer.until(log.len() as u64).await;
    let (result, told) = writer.stop().await;
    result.unwrap();
    assert!(told.iter().all(|segment| segment.records.len() <= 5), "M1: a segment is bounded");
    let told: Vec<_> = told.iter().flat_map(|segment| segment.records.iter().cloned()).collect();
    assert_eq!(told, log);
    assert_eq!(bench.evidence(ONE_SLOT).await, log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c2_segments_end_where_slots_end() {
    let close = |slot| i64::try_from(GRID.close_ms(slot)).unwrap();
    // 0 would be the broker's own time.
    let times = [
        1,
        2,
        close(0) - 1,
        close(0),
        close(0) + 1,
        5,
        close(1),
        close(5),
        close(5) - 1,
        close(6) - 1,
        close(6),
    ];
    let log: Vec<_> = (0..).zip(times).map(|(offset, append_ms)| record(offset, append_ms)).collect();
    let bench = Bench::new(&log).await;
    let writer = bench.start(GRID, patient(100));
    let mut writer = writer;
    // The last slot is open, and the writer ticks it closed as the clock is far beyond.
    writer.until(log.len() as u64).await;
    let (result, _) = writer.stop().await;
    result.unwrap();
    let evidence = bench.evidence(GRID).await;
    assert_eq!(evidence[..log.len()], log);
    let starts = segment_offsets(&bench.store, 1, 0).await.unwrap();
    assert_eq!(starts[..5], [0, 3, 6, 7, 10]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m1_a_segment_is_full_by_its_bytes() {
    let log: Vec<_> =
        records(20).into_iter().map(|record| Record { value: Some(vec![1; 1_000]), ..record }).collect();
    let bench = Bench::new(&log).await;
    let mut writer = bench.start(ONE_SLOT, SegmentLimits { bytes_max: 2_500, ..patient(1_000) });
    writer.until(18).await;
    assert!(writer.told.iter().all(|segment| segment.records.len() == 3));
    writer.stop().await.0.unwrap();
    let evidence = bench.evidence(ONE_SLOT).await;
    assert_eq!(evidence, log[..evidence.len()]);
}

/// D1, M2: what was taken from the log is committed before the writer ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_m2_shutdown_commits_what_was_read() {
    let bench = Bench::new(&records(8)).await;
    let mut writer = bench.start(ONE_SLOT, patient(5));
    // The first segment is committed when the record behind it is taken.
    writer.until(5).await;
    let (result, told) = writer.stop().await;
    result.unwrap();
    let evidence = bench.evidence(ONE_SLOT).await;
    assert!(evidence.len() >= 6, "the record that was taken is in evidence");
    assert_eq!(evidence, records(8)[..evidence.len()]);
    assert_eq!(told.last().unwrap().name.next_offset, evidence.len() as u64);
}

/// A partition where nothing happens closes its slots all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c2_ticks_close_the_slots_of_idle_partitions() {
    let bench = Bench::new(&[]).await;
    let grid = EpochGrid { start_ms: clock_ms(), length_ms: 300, grace_ms: 50, future_ms: 0 };
    let mut writer = bench.start(grid, limits(10));
    writer.until(3).await;
    writer.stop().await.0.unwrap();
    let evidence = bench.evidence(grid).await;
    let mut slot = 0;
    for tick in &evidence {
        assert_eq!((tick.kind(), tick.key.as_ref()), (Some(KIND_TICK), None));
        assert!(tick.value.as_ref().is_none_or(Vec::is_empty));
        let closed = grid.slot_after(slot, tick.append_ms);
        assert!(closed > slot, "every tick closes a slot");
        slot = closed;
    }
    assert!(slot >= 3);
}

/// A partition where things happen needs no ticks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c2_no_ticks_before_their_time() {
    let bench = Bench::new(&records(3)).await;
    let mut writer = bench.start(ONE_SLOT, limits(1));
    writer.until(3).await;
    // The end of the log was told before these, and several turns of the writer's clock.
    bench.kafka.produce(&[record(3, 1_700_000_000_000)]);
    writer.until(4).await;
    writer.stop().await.0.unwrap();
    assert_eq!(bench.evidence(ONE_SLOT).await, records(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_a_restart_goes_on_where_evidence_ends() {
    let log = records(40);
    let bench = Bench::new(&log[..20]).await;
    let mut first = bench.start(ONE_SLOT, limits(3));
    first.until(20).await;
    let (result, before) = first.stop().await;
    result.unwrap();
    bench.kafka.produce(&log[20..]);
    let mut second = bench.start(ONE_SLOT, limits(7));
    second.until(40).await;
    let (result, after) = second.stop().await;
    result.unwrap();
    assert_eq!(after[..before.len()], before, "what is committed is told again, first");
    assert_eq!(bench.evidence(ONE_SLOT).await, log);
    // Once more with nothing new.
    let mut third = bench.start(ONE_SLOT, limits(7));
    third.until(40).await;
    assert_eq!(third.stop().await.1, after);
}

/// Two writers that both believe the partition is theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn c2_two_writers_make_one_tiling() {
    for round in 0..2 {
        let log = records(120);
        let bench = Bench::new(&log[..60]).await;
        let mut writers = [(3, 1), (7, 200)].map(|(records_max, age_ms)| {
            let limits = SegmentLimits { age_max: Duration::from_millis(age_ms), ..limits(records_max) };
            bench.start(ONE_SLOT, limits)
        });
        bench.kafka.produce(&log[60..]);
        for writer in &mut writers {
            writer.until(120).await;
        }
        let [one, other] = writers;
        let (one, other) = (one.stop().await, other.stop().await);
        one.0.unwrap();
        other.0.unwrap();
        assert_eq!(one.1, other.1, "round {round}: both tell the same");
        assert_eq!(bench.evidence(ONE_SLOT).await, log);
    }
}

/// A log that is not the one in evidence any more halts the partition.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_a_topic_created_anew_halts_the_partition() {
    let log = records(10);
    let mut bench = Bench::new(&log).await;
    let mut writer = bench.start(ONE_SLOT, limits(4));
    writer.until(10).await;
    writer.stop().await.0.unwrap();
    let evidence = bench.evidence(ONE_SLOT).await;
    let change = |change: fn(&mut Record)| {
        let mut log = records(15);
        change(&mut log[9]);
        log
    };
    let logs = [
        ("shorter", records(9)),
        ("much shorter", records(1)),
        ("empty", Vec::new()),
        ("another value", change(|record| record.value = Some(b"x".to_vec()))),
        ("another time", change(|record| record.append_ms += 1)),
        ("another key", change(|record| record.key = None)),
        ("other headers", change(|record| record.headers.clear())),
    ];
    for (what, log) in logs {
        bench.kafka = MockKafka::with(&log);
        let error = bench.start(ONE_SLOT, limits(4)).halted().await;
        assert!(matches!(error, WriterError::Contradiction { .. }), "{what}: {error}");
        assert_eq!(bench.evidence(ONE_SLOT).await, evidence, "{what}");
    }
    // The same log at another address is no contradiction.
    bench.kafka = MockKafka::with(&records(15));
    let mut writer = bench.start(ONE_SLOT, limits(4));
    writer.until(15).await;
    writer.stop().await.0.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_a_broker_that_goes_away_and_comes_back_loses_nothing() {
    let bench = Bench::new(&records(10)).await;
    let mut writer = bench.start(ONE_SLOT, limits(4));
    writer.until(10).await;
    bench.kafka.go_down();
    bench.kafka.come_up();
    bench.kafka.produce(&records(20)[10..]);
    writer.until(20).await;
    writer.stop().await.0.unwrap();
    assert_eq!(bench.evidence(ONE_SLOT).await, records(20));
}

/// M2: a writer ends also where Kafka does not answer: at its start, and while it ticks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m2_shutdown_does_not_wait_for_a_broker_that_is_gone() {
    let deadline = Duration::from_secs(5);
    let bench = Bench::new(&records(5)).await;
    let mut writer = bench.start(ONE_SLOT, limits(10));
    writer.until(5).await;
    bench.kafka.go_down();
    let stopped = timeout(deadline, writer.stop()).await;
    stopped.expect("M2: ends while it reads").0.unwrap();
    // There is evidence now, so a start first looks for the last record in the log.
    let mut writer = bench.start(ONE_SLOT, limits(10));
    writer.until(5).await;
    let stopped = timeout(deadline, writer.stop()).await;
    stopped.expect("M2: ends while it starts").0.unwrap();
    let mut writer = idle_writer(&bench);
    writer.collector.grid = GRID;
    writer.config.grid = GRID;
    let shutdown = CancellationToken::new();
    let both = async { tokio::join!(writer.tick(&shutdown), async { shutdown.cancel() }) };
    timeout(deadline, both).await.expect("M2: ends while it ticks");
    assert!(writer.last_tick.is_some(), "it was time for a tick");
}

fn idle_writer(bench: &Bench) -> Writer {
    let (sender, receiver) = mpsc::channel(1_000);
    drop(receiver);
    Writer::new(bench.config(ONE_SLOT, patient(100)), sender)
}

/// C2: a log with a hole is not evidence, also where the hole is between two segments. Nothing is
/// created: what is in the store stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c2_a_hole_in_the_log_is_never_committed() {
    let bench = Bench::new(&[]).await;
    for offsets in [vec![1], vec![0, 2], vec![7, 8]] {
        let mut writer = idle_writer(&bench);
        offsets.iter().for_each(|offset| writer.collector.push(record(*offset, 0)));
        let error = writer.commit().await.unwrap_err();
        assert!(matches!(error, WriterError::Evidence(EvidenceError::Hole { .. })), "{offsets:?}: {error}");
        assert!(segment_offsets(&bench.store, 1, 0).await.unwrap().is_empty(), "{offsets:?}");
    }
}

/// A zombie finds its name taken and goes on from what is there; where that is another log, it halts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c2_a_zombie_follows_or_halts() {
    for (mine, theirs) in [(2, 5), (5, 2)] {
        let bench = Bench::new(&[]).await;
        let [mut winner, mut zombie] = [theirs, mine].map(|count| {
            let mut writer = idle_writer(&bench);
            records(count).into_iter().for_each(|record| writer.collector.push(record));
            writer
        });
        assert!(!winner.commit().await.unwrap());
        assert!(zombie.commit().await.unwrap(), "it lost");
        assert_eq!(zombie.position, winner.position);
        assert_eq!(zombie.position.next_offset, theirs);
        assert!(zombie.collector.records.is_empty() && zombie.collector.bytes == 0);
        assert_ne!(zombie.position.digest, Digest::ZERO);
        let mut stranger = idle_writer(&bench);
        stranger.collector.push(Record { value: None, ..record(0, 1_700_000_000_000) });
        let error = stranger.commit().await.unwrap_err();
        assert!(matches!(error, WriterError::Contradiction { offset: 0, .. }), "{error}");
    }
}

//! Crashes before and after every durable step, at seeded points.

use super::*;
use crate::admission::tests::network::Seeded;

/// How many schedules are run.
const SEEDS: u64 = 20;

/// A log whose slots end at seeded places.
fn log(random: &mut Seeded) -> Vec<Record> {
    // 0 would be the broker's own time.
    let mut append_ms = 1;
    let mut next = |offset| {
        if random.once_in(9) {
            append_ms += i64::try_from(random.below(30_000)).unwrap();
        }
        record(offset, append_ms)
    };
    (0..60).map(&mut next).collect()
}

/// D1, C2: writers die at any point, also while a segment is being created, and others take over.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn d1_c2_crashes_at_any_point_lose_and_repeat_nothing() {
    let schedules = (0..SEEDS).map(|seed| tokio::spawn(crash_schedule(seed)));
    for (seed, schedule) in schedules.collect::<Vec<_>>().into_iter().enumerate() {
        assert!(schedule.await.is_ok(), "seed {seed}");
    }
}

async fn crash_schedule(seed: u64) {
    // The clock is far beyond all windows: ticks follow the log's end, and do not count here.
    let grid = EpochGrid { start_ms: 0, length_ms: 10_000, grace_ms: 0, future_ms: 0 };
    let mut random = Seeded(seed);
    let log = log(&mut random);
    let produced = usize::try_from(random.below(60)).unwrap();
    let bench = Bench::new(&log[..produced]).await;
    for _ in 0..1 + random.below(4) {
        let mut writer = bench.start(grid, limits(usize::try_from(1 + random.below(9)).unwrap()));
        let reached = random.below(produced as u64 + 1);
        if reached > 0 {
            writer.until(reached).await;
        }
        for _ in 0..random.below(200) {
            tokio::task::yield_now().await;
        }
        // Aborted between two polls; what runs on a thread, like creating a file, goes on meanwhile.
        writer.task.abort();
    }
    bench.kafka.produce(&log[produced..]);
    let mut last = bench.start(grid, limits(4));
    // Ticks of the writers before stand between the records, so the last one's offset is not known.
    let is_last = |record: &Record| record.value == log[59].value;
    while !last.told.iter().any(|segment| segment.records.iter().any(is_last)) {
        let next = last.told.last().map_or(0, |segment| segment.name.next_offset);
        last.until(next + 1).await;
    }
    last.stop().await.0.unwrap();
    let evidence = bench.evidence(grid).await;
    let (ticks, copied): (Vec<_>, Vec<_>) =
        evidence.into_iter().partition(|record| record.kind() == Some(KIND_TICK));
    let content = |record: &Record| (record.append_ms, record.value.clone());
    assert_eq!(
        copied.iter().map(content).collect::<Vec<_>>(),
        log.iter().map(content).collect::<Vec<_>>(),
        "seed {seed}"
    );
    assert!(ticks.iter().all(|tick| tick.append_ms > 1_700_000_000_000), "seed {seed}");
}

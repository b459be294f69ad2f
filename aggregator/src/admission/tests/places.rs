//! The place rules, as tables: batches on the left, verdicts on the right.
//!
//! A line is `label boot.seq previous times verdict`. The label names the batch and so its digest;
//! `previous` is the label of another batch, `-` for none, or `?` for one that nobody will see; times
//! are the first and the last reading's. `unsent` defines a batch that does not reach the log here.

use std::collections::BTreeMap;

use fieldproof_proto::{batch::Place, ids::Digest};
use proptest::prelude::*;

use super::{
    Log, growth,
    network::{GRID, PROGRAM, TestBatch, TestDevice, TestNetwork, provider},
};
use crate::{
    admission::{
        Admitted, Verdict,
        device::{GAPS_MAX, RECENT_MAX},
    },
    readings::Baselines,
};

struct Table {
    log: Log,
    device: TestDevice,
    batches: BTreeMap<String, TestBatch>,
}

impl Table {
    fn new() -> Self {
        let network = TestNetwork::new(GRID, 1);
        let mut log = Log::new(&network, 0);
        let mut device = TestDevice::new(&network, 1);
        assert_eq!(log.send(&device.registration_record(&provider(1), PROGRAM)).verdict, Verdict::Registered);
        Self { log, device, batches: BTreeMap::new() }
    }

    fn run(text: &str) -> Self {
        let mut table = Self::new();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|line| !line.is_empty())
            .collect();
        for line in &lines {
            table.define(&lines, line[0]);
        }
        for line in &lines {
            let [label, _, _, _, expected] = line[..] else { panic!("not a line of a table: {line:?}") };
            if expected != "unsent" {
                let admitted = table.send(label);
                assert_eq!(admitted.verdict.name(), expected, "{line:?}: {}", admitted.reason);
            }
        }
        table
    }

    /// Makes the batch of a label, and before it the one it is chained to.
    fn define(&mut self, lines: &[Vec<&str>], label: &str) -> Digest {
        if let Some(batch) = self.batches.get(label) {
            return batch.digest;
        }
        let line = lines.iter().find(|line| line[0] == label).expect("every label is defined");
        let previous = match line[2] {
            "-" => Digest::ZERO,
            "?" => Digest([9; 32]),
            label => self.define(lines, label),
        };
        let (boot, seq) = line[1].split_once('.').unwrap();
        let place = Place { boot: boot.parse().unwrap(), seq: seq.parse().unwrap() };
        let (first, last) = line[3].split_once('-').unwrap();
        let times: [u64; 2] = [first.parse().unwrap(), last.parse().unwrap()];
        // The counter reads as many units as milliseconds went by.
        let mut readings = times.map(|time_ms| (time_ms, i64::try_from(time_ms).unwrap())).to_vec();
        readings.dedup();
        let batch = self.device.batch_at(place, previous, &readings);
        let digest = batch.digest;
        self.batches.insert(label.to_owned(), batch);
        digest
    }

    fn send(&mut self, label: &str) -> Admitted {
        self.log.send(&self.device.batch_record(&self.batches[label]))
    }

    fn is_flagged(&self) -> bool {
        self.log.is_flagged(self.device.id)
    }

    fn gaps(&self) -> usize {
        self.log.admission.devices[&self.device.id].gaps.len()
    }
}

/// What a device does that keeps to the rules: it is never flagged.
#[track_caller]
fn honest(gaps: usize, text: &str) {
    let table = Table::run(text);
    assert_eq!(table.gaps(), gaps, "open gaps");
    assert!(!table.is_flagged());
}

#[track_caller]
fn cheat(text: &str) {
    assert!(Table::run(text).is_flagged());
}

#[test]
fn d2_in_order_and_again() {
    honest(
        0,
        "a 1.0 - 10-19 accepted
         b 1.1 a 20-29 accepted
         c 1.2 b 30-30 accepted
         b 1.1 a 20-29 duplicate
         a 1.0 - 10-19 duplicate
         c 1.2 b 30-30 duplicate",
    );
}

#[test]
fn d2_out_of_order() {
    honest(
        0,
        "a 1.0 - 10-19 accepted
         d 1.3 c 40-49 accepted
         b 1.1 a 20-29 accepted
         c 1.2 b 30-39 accepted
         c 1.2 b 30-39 duplicate",
    );
    honest(
        0,
        "d 1.3 c 40-49 accepted
         c 1.2 b 30-39 accepted
         a 1.0 - 10-19 accepted
         b 1.1 a 20-29 accepted",
    );
    honest(
        2,
        "a 1.0 - 10-19 accepted
         e 1.4 d 50-59 accepted
         c 1.2 b 30-39 accepted
         b 1.1 a 20-29 unsent
         d 1.3 c 40-49 unsent",
    );
}

#[test]
fn d2_a_log_that_starts_in_the_middle() {
    honest(
        2,
        "d 7.3 ? 40-49 accepted
         e 7.4 d 50-59 accepted
         b 7.1 ? 20-29 accepted
         a 7.0 ? 10-19 unsent",
    );
    honest(
        2,
        "b 7.0 ? 20-29 accepted
         a 3.9 ? 10-19 accepted",
    );
    honest(
        0,
        "b 7.0 a 20-29 accepted
         a 3.0 - 10-19 accepted
         y 2.0 - 1-2 stale",
    );
}

#[test]
fn d2_over_restarts() {
    honest(
        0,
        "a 1.0 - 10-19 accepted
         b 5.0 a 20-29 accepted
         c 6.0 b 30-39 accepted
         x 5.1 b 40-49 stale
         y 1.1 a 12-13 stale",
    );
    honest(
        0,
        "a 1.0 - 10-19 accepted
         c 5.0 b 30-39 accepted
         b 1.1 a 20-29 accepted
         x 1.2 b 29-29 stale",
    );
    // Two boots whose last batches never come: what is between may still.
    honest(
        2,
        "a 1.0 - 10-19 accepted
         d 9.0 ? 50-59 accepted
         c 5.0 ? 30-39 accepted
         x 4.7 ? 60-69 overlap
         y 9.0 ? 50-59 duplicate",
    );
}

#[test]
fn d2_times_strictly_rise_along_places() {
    honest(
        0,
        "a 1.0 - 10-19 accepted
         x 1.1 a 19-29 overlap
         y 2.0 a 10-19 overlap
         z 2.0 a 1-9 overlap
         b 1.1 a 20-29 accepted",
    );
    honest(
        1,
        "a 1.0 - 10-19 accepted
         d 1.3 c 40-49 accepted
         x 1.2 ? 19-25 overlap
         y 1.2 ? 25-40 overlap
         z 1.1 ? 5-60 overlap
         c 1.2 b 30-39 accepted
         b 1.1 a 20-29 unsent",
    );
    honest(
        1,
        "d 1.3 ? 40-49 accepted
         x 1.0 - 40-41 overlap",
    );
}

#[test]
fn d2_two_batches_for_one_place_flag_the_device() {
    cheat(
        "a 1.0 - 10-19 accepted
         x 1.0 - 10-18 equivocation
         a 1.0 - 10-19 duplicate
         b 1.1 a 20-29 accepted",
    );
    // Also where one of the two is not in the log, and a neighbour names it.
    cheat(
        "a 1.0 - 10-19 accepted
         x 1.0 - 10-18 unsent
         y 1.1 x 20-29 equivocation",
    );
    cheat(
        "a 1.0 - 10-19 accepted
         d 1.3 c 40-49 accepted
         b 1.1 ? 20-29 equivocation
         c 1.2 ? 30-39 unsent",
    );
    cheat(
        "a 1.0 - 10-19 accepted
         d 1.3 c 40-49 accepted
         c 1.2 ? 30-39 unsent
         x 1.2 ? 30-38 equivocation
         c 1.2 ? 30-39 accepted",
    );
    cheat(
        "b 1.1 a 20-29 accepted
         x 1.0 - 10-18 equivocation
         a 1.0 - 10-19 accepted",
    );
    // The one that the place already has an overlap with is taken all the same.
    cheat(
        "a 1.0 - 10-19 accepted
         b 1.1 a 20-29 accepted
         x 1.1 a 5-6 equivocation",
    );
}

#[test]
fn d2_the_same_readings_under_a_new_name_do_not_fit() {
    honest(
        0,
        "a 1.0 - 10-19 accepted
         b 1.1 a 20-29 accepted
         x 2.0 b 10-19 overlap
         y 2.0 b 20-29 overlap
         z 3.5 ? 20-20 overlap
         w 1.2 b 29-29 overlap
         v 0.0 - 10-19 stale
         u 0.9 - 1-2 stale",
    );
}

/// Every second batch is missing: gaps are bounded, the oldest are closed, and what would have filled
/// them is stale, not paid.
#[test]
fn m1_at_most_64_gaps_are_open() {
    let mut table = Table::new();
    let mut device = table.device.clone();
    let last = 2 * (GAPS_MAX as u64 + 10);
    let batches: Vec<_> = (0..=last).map(|seq| device.batch(&[(10 * seq, 1), (10 * seq + 9, 2)])).collect();
    for batch in batches.iter().step_by(2) {
        assert_eq!(table.log.send(&device.batch_record(batch)).verdict, Verdict::Accepted);
        assert!(table.gaps() <= GAPS_MAX);
    }
    assert_eq!(table.gaps(), GAPS_MAX);
    let mut verdicts = BTreeMap::<_, usize>::new();
    for batch in batches.iter().skip(1).step_by(2) {
        *verdicts.entry(table.log.send(&device.batch_record(batch)).verdict).or_default() += 1;
    }
    assert_eq!(verdicts, BTreeMap::from([(Verdict::Accepted, GAPS_MAX), (Verdict::Stale, 10)]));
    assert_eq!(table.gaps(), 0);
    assert!(!table.is_flagged());
}

/// A fill that splits a gap may be the one that is too many.
#[test]
fn m1_a_split_closes_the_oldest_gap() {
    let mut table = Table::new();
    let device = table.device.clone();
    let place = |seq| Place { boot: 1, seq };
    let apart = |seq: u64| device.batch_at(place(seq), Digest([1; 32]), &[(seq * 10, 1)]);
    let mut send = |seq| table.log.send(&device.batch_record(&apart(seq))).verdict;
    for index in 0..GAPS_MAX as u64 {
        assert_eq!(send(100 + 10 * index), Verdict::Accepted);
    }
    let newest = 100 + 10 * (GAPS_MAX as u64 - 1) - 5;
    assert_eq!(send(newest), Verdict::Accepted);
    assert_eq!(send(50), Verdict::Stale, "the gap before the first batch was the oldest");
    assert_eq!(send(105), Verdict::Accepted);
    assert_eq!(table.gaps(), GAPS_MAX);
}

/// Only the last places are known with their digests: an older one is stale, whatever it is. Nothing
/// is paid twice; a cheat that comes so late is not flagged.
#[test]
fn m1_old_places_are_stale() {
    let mut table = Table::new();
    let mut device = table.device.clone();
    let other = device.batch_at(device.next, device.previous, &[(0, 1)]);
    let batches: Vec<_> =
        (0..=RECENT_MAX as u64).map(|seq| device.batch(&[(10 * seq, 1), (10 * seq + 9, 2)])).collect();
    for batch in &batches {
        assert_eq!(table.log.send(&device.batch_record(batch)).verdict, Verdict::Accepted);
    }
    let mut verdict = |batch: &TestBatch| table.log.send(&device.batch_record(batch)).verdict;
    assert_eq!(verdict(&batches[0]), Verdict::Stale);
    assert_eq!(verdict(&other), Verdict::Stale);
    assert_eq!(verdict(&batches[1]), Verdict::Duplicate);
    assert!(!table.is_flagged());
}

#[test]
fn m1_places_at_the_end_of_their_range() {
    let mut table = Table::new();
    let device = table.device.clone();
    let send = |table: &mut Table, boot, seq, time_ms| {
        let batch = device.batch_at(Place { boot, seq }, Digest([1; 32]), &[(time_ms, 1)]);
        table.log.send(&device.batch_record(&batch)).verdict
    };
    let last = u64::MAX - 1;
    assert_eq!(send(&mut table, last, last, 1_000), Verdict::Accepted);
    assert_eq!(send(&mut table, last, last - 1, 900), Verdict::Equivocation);
    assert_eq!(send(&mut table, last, 0, 500), Verdict::Accepted);
    assert_eq!(send(&mut table, 0, last, 400), Verdict::Accepted);
    assert_eq!(send(&mut table, 0, 0, 0), Verdict::Accepted);
}

/// Growth is the difference to the latest accepted value, once, in the order of the log.
#[test]
fn d2_growth_counts_once() {
    let mut table = Table::new();
    let mut device = table.device.clone();
    let readings: [&[(u64, i64)]; 6] = [
        &[(10, 100), (11, 103)],
        &[(20, 110), (21, 115)],
        &[(30, 120)],
        // A reset: the counter starts again.
        &[(40, 7), (41, 9), (42, 3), (43, 4)],
        &[(50, 10)],
        &[(60, i64::from(u32::MAX))],
    ];
    let batches: Vec<_> = readings.iter().map(|readings| device.batch(readings)).collect();
    let mut growth_of = |index: usize| {
        let admitted = table.log.send(&device.batch_record(&batches[index]));
        growth(&admitted.accepted.unwrap())
    };
    assert_eq!(growth_of(0), [(100, 0, false), (103, 3, false)], "the first value ever grows nothing");
    // Batch 1 is late: batch 2 grows over batch 0, and the fill adds nothing.
    assert_eq!(growth_of(2), [(120, 17, false)]);
    assert_eq!(growth_of(1), [(110, 0, false), (115, 0, false)]);
    assert_eq!(growth_of(3), [(7, 0, true), (9, 2, false), (3, 0, true), (4, 1, false)]);
    assert_eq!(growth_of(4), [(10, 6, false)]);
    assert_eq!(growth_of(5), [(i64::from(u32::MAX), i64::from(u32::MAX) - 10, false)]);
    assert_eq!(table.log.admission.devices[&device.id].counters.len(), 1);
}

#[test]
fn d2_a_fill_never_moves_a_counter() {
    let mut table = Table::new();
    let mut device = table.device.clone();
    let batches: Vec<_> =
        [10, 20, 30].map(|value: i64| device.batch(&[(value.unsigned_abs(), value)])).to_vec();
    let mut send = |index: usize| table.log.send(&device.batch_record(&batches[index])).accepted.unwrap();
    assert_eq!(send(1).record.baselines, Baselines::Head(Vec::new()), "there is no value before the first");
    assert_eq!(send(0).record.baselines, Baselines::Fill);
    assert_eq!(send(2).record.baselines, Baselines::Head(vec![(1, 20)]));
}

proptest! {
    /// Whatever a device signs, its counters grow by no more than they moved upwards along the heads.
    #[test]
    fn d2_growth_is_never_more_than_the_way_up(values in prop::collection::vec(0_i64..1_000, 1..40)) {
        let mut table = Table::new();
        let mut device = table.device.clone();
        let mut grown = 0;
        for (index, pair) in values.chunks(2).enumerate() {
            let time_ms = 10 * index as u64;
            let readings: Vec<_> = pair.iter().zip(time_ms..).map(|(value, time_ms)| (time_ms, *value)).collect();
            let batch = device.batch(&readings);
            let admitted = table.log.send(&device.batch_record(&batch));
            grown += growth(&admitted.accepted.unwrap()).iter().map(|(_, growth, _)| growth).sum::<i64>();
        }
        let way_up: i64 = values.windows(2).map(|pair| (pair[1] - pair[0]).max(0)).sum();
        prop_assert_eq!(grown, way_up);
    }
}

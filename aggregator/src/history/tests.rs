//! Slots, tiling, counts, and what is in force when (C1, C2, R1, M1).

pub(crate) mod story;

use std::collections::BTreeMap;

use fieldproof_proto::{
    control::{ControlBody, Program},
    evidence::KIND_CONTROL,
};

use super::*;
use crate::{
    admission::tests::network::{
        ENERGY, GRID, NewRecord, PROGRAM, Seeded, TestDevice, first_changes, metric, program, provider,
    },
    epoch::EpochInputs,
};
use story::{Story, interleaved, segments};

fn tick_segment(first_offset: u64, previous: Digest, append_ms: &[i64]) -> Segment {
    let records =
        append_ms.iter().zip(first_offset..).map(|(ms, offset)| NewRecord::tick().at(offset, *ms)).collect();
    Segment::new(1, 0, previous, records).unwrap()
}

fn empty_history() -> History {
    Story::new(GRID, 1).history()
}

#[test]
fn c2_segments_tile_or_are_refused() {
    let first = tick_segment(0, Digest::ZERO, &[0, 0, 0]);
    let good = tick_segment(3, first.digest, &[0]);
    let cases = [
        ("a gap", tick_segment(4, first.digest, &[0])),
        ("an overlap", tick_segment(2, first.digest, &[0, 0])),
        ("the same again", first.clone()),
        ("another past", tick_segment(3, Digest([1; 32]), &[0])),
        ("no past", tick_segment(3, Digest::ZERO, &[0])),
        ("its own past", tick_segment(3, good.digest, &[0])),
    ];
    for (what, segment) in cases {
        let mut history = empty_history();
        history.add(first.clone()).unwrap();
        let position = history.position(0);
        let error = history.add(segment).unwrap_err();
        assert!(matches!(error, HistoryError::Tiling { partition: 0, expected: 3, .. }), "{what}: {error}");
        assert_eq!(history.position(0), position, "{what}");
        history.add(good.clone()).unwrap();
    }
    let mut history = empty_history();
    let error = history.add(tick_segment(1, Digest::ZERO, &[0])).unwrap_err();
    assert!(matches!(error, HistoryError::Tiling { expected: 0, found: 1, .. }), "{error}");
}

#[test]
fn c2_partitions_that_the_network_does_not_have() {
    for partition in [1, 7, CONTROL_PARTITION - 1] {
        let segment = Segment::new(1, partition, Digest::ZERO, vec![NewRecord::tick().at(0, 0)]).unwrap();
        let error = empty_history().add(segment).unwrap_err();
        assert!(matches!(error, HistoryError::Partition(found) if found == partition), "{error}");
    }
}

#[test]
fn c2_no_segment_spans_a_cut() {
    let close = i64::try_from(GRID.close_ms(0)).unwrap();
    let opening = i64::try_from(GRID.window_start_ms(0)).unwrap();
    let cases: [(u32, &[i64], Option<u64>); 7] = [
        (0, &[0, close - 1], None),
        (0, &[0, close], Some(1)),
        (0, &[close, close + 1], None),
        (0, &[close, 0], None),
        (0, &[0, 0, close + 100_000, 0], Some(2)),
        (CONTROL_PARTITION, &[0, opening - 1], None),
        (CONTROL_PARTITION, &[opening - 1, opening], Some(1)),
    ];
    for (partition, append_ms, expected) in cases {
        let mut story = Story::new(GRID, 1);
        story.tick(10_000_000);
        let mut history = History::new(&story.network.genesis_bytes).unwrap();
        if partition == 0 {
            // What is admitted waits for the topic `control`.
            history.add(story.segments(|| 1).pop().unwrap().remove(0)).unwrap();
        }
        let segment = tick_segment(0, Digest::ZERO, append_ms);
        let segment = Segment::new(1, partition, Digest::ZERO, segment.records.to_vec()).unwrap();
        let found = match history.add(segment) {
            Err(HistoryError::SpansCut { offset, .. }) => Some(offset),
            other => other.map(|()| None).unwrap(),
        };
        assert_eq!(found, expected, "{partition} {append_ms:?}");
    }
}

/// The slots of a partition's records, by their append times.
#[test]
fn c2_slots_follow_the_log_and_never_go_back() {
    let close = |slot| GRID.close_ms(slot);
    let cases: [(&[u64], &[u64]); 8] = [
        (&[0, 1, close(0) - 1], &[0, 0, 0]),
        (&[close(0)], &[1]),
        (&[close(0) - 1, close(0), close(1) - 1, close(1)], &[0, 1, 1, 2]),
        // A clock that goes back does not open a slot again.
        (&[close(0), 0, close(0) - 1, close(1), close(0)], &[1, 1, 1, 2, 2]),
        // An idle partition closes all slots that went by at once.
        (&[0, close(4)], &[0, 5]),
        (&[close(99_999), 0], &[100_000, 100_000]),
        (&[GRID.start_ms, GRID.start_ms + GRID.length_ms], &[0, 0]),
        (&[0, u64::try_from(i64::MAX).unwrap()], &[0, GRID.slot_after(0, i64::MAX)]),
    ];
    for (append_ms, expected) in cases {
        let mut story = Story::new(GRID, 1);
        append_ms.iter().for_each(|append_ms| story.send(0, *append_ms, &NewRecord::tick()));
        story.change(u64::try_from(i64::MAX).unwrap(), ControlBody::Metric(metric(ENERGY)));
        let mut history = History::new(&story.network.genesis_bytes).unwrap();
        for segment in story.segments(|| 1).into_iter().rev().flatten() {
            history.add(segment).unwrap();
        }
        let last = expected[expected.len() - 1];
        let known: Vec<u64> =
            history.slots(0).flat_map(|(slot, content)| content.segments.iter().map(move |_| slot)).collect();
        assert_eq!(known, expected, "{append_ms:?}");
        assert!(!history.is_closed(0, last), "{append_ms:?}");
        for slot in [0, last / 2, last.saturating_sub(1)].into_iter().filter(|slot| *slot < last) {
            assert!(history.is_closed(0, slot), "{append_ms:?}: {slot}");
            assert!(history.devices_at_cut(0, slot).is_some(), "{append_ms:?}: {slot}");
        }
        assert!(history.devices_at_cut(0, last).is_none());
    }
}

/// A tick closes a slot like any record, and all of them must be closed.
#[test]
fn r1_an_epoch_waits_for_every_partition() {
    let mut story = Story::new(GRID, 2);
    story.send(0, GRID.close_ms(1), &NewRecord::tick());
    story.send(1, GRID.close_ms(0), &NewRecord::tick());
    story.change(GRID.window_start_ms(0), ControlBody::Metric(metric(ENERGY)));
    let history = story.history();
    let ready = |history: &History| (0..4).map(|epoch| history.is_ready(epoch)).collect::<Vec<_>>();
    assert_eq!(ready(&history), [true, false, false, false]);
    story.send(1, GRID.close_ms(2), &NewRecord::tick());
    assert_eq!(ready(&story.history()), [true, false, false, false], "control is not there yet");
    story.change(GRID.window_start_ms(1), ControlBody::Metric(metric(ENERGY)));
    assert_eq!(ready(&story.history()), [true, true, false, false]);
}

/// Nothing is admitted before all that is in force for it is known.
#[test]
fn r1_telemetry_waits_for_control() {
    let mut story = Story::new(GRID, 1);
    story.send(0, 0, &NewRecord::tick());
    story.change(0, ControlBody::Metric(metric(ENERGY)));
    assert_eq!(story.history().slots(0).count(), 0);
    story.change(GRID.window_start_ms(0) - 1, ControlBody::Metric(metric(ENERGY)));
    assert_eq!(story.history().slots(0).count(), 0);
    story.change(GRID.window_start_ms(0), ControlBody::Metric(metric(ENERGY)));
    assert_eq!(story.history().slots(0).count(), 1);
}

/// A change applies to the epochs whose window opens after it was appended.
#[test]
fn r1_control_records_apply_from_the_next_window_on() {
    let start = |epoch| GRID.window_start_ms(epoch);
    let pool = |pool| ControlBody::Program(Program { pool, ..program(PROGRAM) });
    let mut story = Story::new(GRID, 1);
    story.change(0, pool(1));
    story.change(start(0) - 1, pool(2));
    story.change(start(0), pool(3));
    story.change(start(1) - 1, pool(4));
    story.change(start(3) + 1, pool(5));
    // The clock goes back, the log does not.
    story.change(start(0), pool(6));
    story.change(start(4), pool(7));
    story.change(start(5), pool(8));
    story.tick(GRID.close_ms(9));
    let history = story.history();
    let expected = [(0, 2, 2), (1, 4, 4), (2, 4, 4), (3, 4, 4), (4, 6, 6), (5, 7, 7), (6, 8, 8), (9, 8, 8)];
    for (epoch, records, pool) in expected {
        let (state, count, head) = history.control_for(epoch);
        assert_eq!((count, state.programs[PROGRAM].pool), (records, pool), "epoch {epoch}");
        let last_in_force = head.expect("there is a head").next_offset - 1;
        assert!(last_in_force >= records - 1 && last_in_force < 9, "epoch {epoch}");
    }
}

/// The same for the records of a slot: they go by what was in force when the window opened.
#[test]
fn r1_records_go_by_the_state_of_their_slot() {
    let verdict = |change_ms: u64, append_ms: u64| {
        let mut story = Story::new(GRID, 1);
        let mut device = TestDevice::new(&story.network, 1);
        first_changes().into_iter().for_each(|change| story.change(change_ms, change));
        story.tick(change_ms);
        story.send(0, append_ms, &device.registration_record(&provider(1), PROGRAM));
        story.tick(GRID.close_ms(9));
        let history = story.history();
        let verdicts = history.slots(0).flat_map(|(_, content)| content.counts.verdicts.keys().cloned());
        verdicts.filter(|verdict| verdict.starts_with("regist")).collect::<Vec<_>>()
    };
    let start = |epoch| GRID.window_start_ms(epoch);
    assert_eq!(verdict(start(0) - 1, start(0)), ["registered"]);
    assert_eq!(verdict(start(0), start(0)), ["registration_refused"]);
    assert_eq!(verdict(start(0), GRID.close_ms(0) - 1), ["registration_refused"]);
    assert_eq!(verdict(start(0), GRID.close_ms(0)), ["registered"]);
    assert_eq!(verdict(start(1) - 1, GRID.close_ms(0)), ["registered"]);
    assert_eq!(verdict(start(1), GRID.close_ms(1) - 1), ["registration_refused"]);
    assert_eq!(verdict(start(1), GRID.close_ms(1)), ["registered"]);
}

#[test]
fn r1_control_records_that_are_not_valid_change_nothing() {
    let mut story = Story::new(GRID, 1);
    let other = crate::admission::tests::network::TestNetwork::new(GRID, 2);
    let good = story.network.control(ControlBody::Metric(metric(ENERGY)));
    let mut flipped = good.clone();
    let last = flipped.len() - 3;
    flipped[last] ^= 1;
    let spaced = [&good[..], b" "].concat();
    for value in
        [Vec::new(), b"{}".to_vec(), other.control(ControlBody::Metric(metric(ENERGY))), flipped, spaced]
    {
        let record = NewRecord { kind: KIND_CONTROL, key: None, value };
        story.control.push(record.at(story.control.len() as u64, 0));
    }
    let wrong_kind = NewRecord { value: good.clone(), ..NewRecord::tick() };
    story.control.push(wrong_kind.at(story.control.len() as u64, 0));
    story.tick(GRID.close_ms(9));
    let history = story.history();
    assert_eq!(history.control_for(0).1, 0);
    assert_eq!(history.control.refused, 5);
    assert_eq!(history.control_for(0).0, ControlState::default());
}

/// A log of everything, over several epochs: devices come late, clocks go back, partitions are idle.
pub(crate) fn any_story(seed: u64) -> Story {
    let mut random = Seeded(seed);
    let mut story = Story::new(GRID, 2);
    first_changes().into_iter().for_each(|change| story.change(random.below(GRID.start_ms), change));
    let mut devices: Vec<_> = (1..=4).map(|seed| (TestDevice::new(&story.network, seed), 0_u64)).collect();
    let mut append_ms = GRID.start_ms - 3_000;
    for step in 0..160 {
        append_ms += random.below(900);
        if random.once_in(40) {
            append_ms += random.below(3 * GRID.length_ms);
        }
        let heard_ms =
            if random.once_in(10) { append_ms.saturating_sub(random.below(20_000)) } else { append_ms };
        let pick = usize::try_from(random.below(devices.len() as u64)).unwrap();
        let (device, time_ms) = &mut devices[pick];
        let partition = device.id.partition(story.network.genesis.partitions);
        if step < 8 && device.registration == 0 || random.once_in(25) {
            let owner = provider(u8::try_from(1 + random.below(3)).unwrap());
            let record = device.registration_record(&owner, PROGRAM);
            story.send(partition, heard_ms, &record);
        }
        *time_ms = (*time_ms + 1).max((append_ms + 3_000).saturating_sub(random.below(30_000)));
        let readings: Vec<_> = (0..1 + random.below(4))
            .map(|index| *time_ms + index)
            .map(|ms| (ms, i64::try_from(ms).unwrap()))
            .collect();
        *time_ms += 4;
        let batch = device.batch(&readings);
        let record = device.batch_record(&batch);
        if random.once_in(40) && device.next.seq > 1 {
            let used = fieldproof_proto::batch::Place { seq: device.next.seq - 2, ..device.next };
            let conflict = device.batch_at(used, Digest([8; 32]), &readings);
            story.send(partition, heard_ms, &device.batch_record(&conflict));
        }
        match random.below(12) {
            0 => {}
            1 => (0..2).for_each(|_| story.send(partition, heard_ms, &record)),
            2 => story.send(1 - partition, heard_ms, &record),
            3 => story.send(partition, heard_ms, &NewRecord { value: record.value[..50].to_vec(), ..record }),
            _ => story.send(partition, heard_ms, &record),
        }
        if random.once_in(30) {
            let quota = 5 + u32::try_from(random.below(40)).unwrap();
            story.change(
                heard_ms,
                ControlBody::Program(Program { readings_per_device_max: quota, ..program(PROGRAM) }),
            );
        }
    }
    story.tick(append_ms + 2 * GRID.length_ms);
    story
}

#[test]
fn c1_counts_add_up_for_any_log() {
    let mut seen = BTreeMap::<String, u64>::new();
    for seed in 0..20 {
        let story = any_story(seed);
        let history = story.history();
        for (partition, records) in (0..).zip(&story.telemetry) {
            let mut total = Counts::default();
            for (slot, content) in history.slots(partition) {
                let counts = &content.counts;
                assert!(counts.add_up(), "seed {seed}, slot {slot}: {counts:?}");
                let listed: u64 =
                    content.segments.iter().map(|segment| segment.next_offset - segment.first_offset).sum();
                assert_eq!(counts.records, listed, "seed {seed}, slot {slot}");
                let counted = [Verdict::Accepted, Verdict::Registered, Verdict::Tick]
                    .map(|verdict| content.verdicts(verdict));
                let excluded = content.exclusions.len() as u64;
                assert_eq!(
                    counts.records,
                    counted.iter().sum::<u64>() + excluded,
                    "every other record has a reason"
                );
                assert!(content.exclusions.iter().all(|exclusion| !exclusion.verdict.is_empty()));
                assert_eq!(content.accepted.len() as u64, counted[0]);
                let readings = content.accepted.iter().flat_map(|batch| batch.readings.iter());
                let (mut on_time, mut late) = (0, 0);
                for (time_ms, count) in readings {
                    let of_epoch = *time_ms >= GRID.window_start_ms(slot);
                    *(if of_epoch { &mut on_time } else { &mut late }) += u64::from(*count);
                }
                assert_eq!((counts.on_time, counts.late), (on_time, late), "seed {seed}, slot {slot}");
                total.add(counts);
            }
            // The last tick's slot is not closed, and is admitted all the same once `control` is there.
            let waiting =
                history.partitions[partition as usize].waiting.iter().map(|segment| segment.records.len());
            assert_eq!(total.records + waiting.sum::<usize>() as u64, records.len() as u64, "seed {seed}");
            for (verdict, count) in total.verdicts {
                *seen.entry(verdict).or_default() += count;
            }
            *seen.entry("late readings".to_owned()).or_default() += total.late;
        }
    }
    for name in [
        "accepted",
        "duplicate",
        "future",
        "malformed",
        "misrouted",
        "over_quota",
        "registered",
        "late readings",
    ] {
        assert!(seen.get(name).is_some_and(|count| *count > 0), "the logs never came to `{name}`: {seen:?}");
    }
}

/// Every accepted reading is in exactly one place of one epoch: on time in the epoch of its event, or
/// late in the epoch of its slot.
#[test]
fn d2_every_reading_belongs_to_one_epoch() {
    for seed in 0..20 {
        let history = any_story(seed).history();
        let mut found = BTreeMap::<(u32, u64, u64), u32>::new();
        let ready: Vec<u64> = (0..100).take_while(|epoch| history.is_ready(*epoch)).collect();
        for partition in 0..2 {
            for epoch in &ready {
                let window = GRID.window_start_ms(*epoch)..GRID.window_end_ms(*epoch);
                for slot in history.slots_for(*epoch) {
                    let Some(content) = history.slot(partition, slot) else { continue };
                    for batch in &content.accepted {
                        for (time_ms, _) in &batch.readings {
                            let late = slot == *epoch && *time_ms < window.start;
                            if late || window.contains(time_ms) {
                                *found.entry((partition, batch.record.offset, *time_ms)).or_default() += 1;
                            }
                        }
                    }
                }
            }
        }
        assert!(found.values().all(|count| *count == 1), "seed {seed}");
        let closed_until = GRID.window_end_ms(*ready.last().unwrap());
        for partition in 0..2 {
            for (slot, content) in history.slots(partition).filter(|(slot, _)| ready.contains(slot)) {
                for batch in &content.accepted {
                    for (time_ms, _) in batch.readings.iter().filter(|(time_ms, _)| *time_ms < closed_until) {
                        let key = (partition, batch.record.offset, *time_ms);
                        assert!(
                            found.contains_key(&key),
                            "seed {seed}: {key:?} of slot {slot} is in no epoch"
                        );
                    }
                }
            }
        }
    }
}

/// Follows segments as the aggregator does, and forgets as it goes. What each epoch would read, as text.
fn epochs_of(story: &Story, order: &[Segment], forget: bool) -> Vec<String> {
    let mut history = History::new(&story.network.genesis_bytes).unwrap();
    let mut epochs = Vec::new();
    for segment in order {
        history.add(segment.clone()).unwrap();
        while history.is_ready(epochs.len() as u64) {
            let inputs = EpochInputs::collect(&history, epochs.len() as u64).unwrap();
            epochs.push(format!("{inputs:?}"));
            if forget {
                history.forget_before(epochs.len() as u64);
            }
        }
    }
    epochs
}

#[test]
fn r1_any_interleaving_with_and_without_forgetting_gives_the_same_epochs() {
    for seed in 0..6 {
        let story = any_story(seed);
        let mut random = Seeded(seed);
        let parts = story.segments(|| 5);
        let control_first: Vec<_> = parts.iter().rev().flatten().cloned().collect();
        let control_last: Vec<_> = parts.iter().flatten().cloned().collect();
        let expected = epochs_of(&story, &control_first, false);
        assert!(expected.len() > 3, "seed {seed}");
        let mut orders = vec![control_first, control_last];
        orders.extend((0..3).map(|_| interleaved(parts.clone(), &mut random)));
        for order in &orders {
            for forget in [true, false] {
                assert_eq!(epochs_of(&story, order, forget), expected, "seed {seed}, forget {forget}");
            }
        }
    }
}

#[test]
fn m1_a_history_forgets_what_no_epoch_reads() {
    let story = any_story(3);
    let mut history = story.history();
    let last = (0..100).take_while(|epoch| history.is_ready(*epoch)).last().unwrap();
    history.forget_before(last);
    for partition in &history.partitions {
        let first = *history.slots_for(last).start();
        assert!(partition.slots.keys().all(|slot| *slot >= first));
        assert!(partition.cuts.len() <= 3, "{:?}", partition.cuts.keys());
    }
    assert!(EpochInputs::collect(&history, last).is_ok());
}

/// A log that wakes up after years closes all slots at once, without one step for each.
#[test]
fn m1_a_jump_over_a_billion_slots_is_one_step() {
    let grid = EpochGrid { start_ms: 1_000, length_ms: 1, grace_ms: 0, future_ms: 0 };
    let mut story = Story::new(grid, 1);
    story.tick(0);
    story.tick(1_000_000_000_000);
    let mut history = story.history();
    assert!(history.is_ready(999_999_998_000));
    for epoch in [0, 1, 500_000_000_000, 999_999_998_000] {
        history.forget_before(epoch);
        assert!(history.devices_at_cut(0, epoch).is_some(), "{epoch}");
        assert!(EpochInputs::collect(&history, epoch).is_ok(), "{epoch}");
    }
    assert!(history.devices_at_cut(0, 2_000_000_000_000).is_none());
}

#[test]
fn c2_any_cutting_has_the_same_slots() {
    for seed in 0..6 {
        let story = any_story(seed);
        let mut random = Seeded(seed);
        let counts = |history: &History| -> Vec<(u64, Counts)> {
            (0..2)
                .flat_map(|partition| history.slots(partition))
                .map(|(slot, content)| (slot, content.counts.clone()))
                .collect()
        };
        let expected = counts(&story.history());
        for _ in 0..4 {
            let mut history = History::new(&story.network.genesis_bytes).unwrap();
            for segment in
                story.segments(|| usize::try_from(1 + random.below(40)).unwrap()).into_iter().rev().flatten()
            {
                history.add(segment).unwrap();
            }
            assert_eq!(counts(&history), expected, "seed {seed}");
        }
    }
    assert!(segments(&GRID, 0, &[], || 1).is_empty());
}

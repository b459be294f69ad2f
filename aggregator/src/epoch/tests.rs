//! From a log to a manifest (C1, C3, D2, R1), with the energy policy that ships.

use std::num::NonZeroUsize;

use fieldproof_proto::{
    batch::Place,
    control::{ControlBody, PolicyBundle},
    evm::EvmSecret,
    manifest::{Exclusions, object_digest},
};

use super::*;
use crate::{
    admission::tests::{
        growth,
        network::{ENERGY, GRID, PROGRAM, Seeded, TestDevice, first_changes, metric, program, provider},
    },
    evidence::Segment,
    history::tests::{any_story, story::Story},
};

fn compute_with(
    history: &History,
    epoch: u64,
    settings: EngineSettings,
) -> Result<ComputedEpoch, EpochError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let previous = epoch.checked_sub(1).map(|epoch| Digest([u8::try_from(epoch).unwrap(); 32]));
    runtime.block_on(EpochInputs::collect(history, epoch)?.compute(previous, settings))
}

fn compute(history: &History, epoch: u64) -> ComputedEpoch {
    compute_with(history, epoch, settings(2, 8192)).unwrap()
}

fn settings(target_partitions: usize, batch_size: usize) -> EngineSettings {
    EngineSettings {
        target_partitions: NonZeroUsize::new(target_partitions).unwrap(),
        batch_size: NonZeroUsize::new(batch_size).unwrap(),
    }
}

fn contributions(computed: &ComputedEpoch, program: &str) -> Contributions {
    let section = computed.manifest.programs.iter().find(|section| section.program == program).unwrap();
    canonical_json::from_bytes(&computed.objects[&section.contributions]).unwrap()
}

fn weights(computed: &ComputedEpoch) -> BTreeMap<Address, u128> {
    contributions(computed, PROGRAM).providers.into_iter().map(|row| (row.provider, row.weight)).collect()
}

/// What must hold of every epoch, whatever was in the log.
fn check(computed: &ComputedEpoch) {
    let manifest = &computed.manifest;
    assert_eq!(canonical_json::from_bytes::<Manifest>(&computed.bytes).unwrap(), *manifest);
    assert_eq!(manifest_digest(&computed.bytes), computed.digest);
    let mut counts = Counts::default();
    for section in &manifest.partitions {
        assert!(section.counts.add_up(), "C1: {:?}", section.counts);
        counts.add(&section.counts);
        let exclusions: Exclusions =
            canonical_json::from_bytes(&computed.objects[&section.exclusions]).unwrap();
        assert_eq!((exclusions.partition, exclusions.slot), (section.partition, manifest.epoch));
        let own: u64 = section
            .segments
            .iter()
            .filter(|segment| segment.slot == manifest.epoch)
            .map(|segment| segment.next_offset - segment.first_offset)
            .sum();
        assert_eq!(section.counts.records, own, "C1: the counts are those of the epoch's own slot");
        for pair in section.segments.windows(2) {
            assert_eq!(pair[0].next_offset, pair[1].first_offset, "C2");
            assert!(pair[0].slot <= pair[1].slot);
        }
    }
    assert_eq!(counts, manifest.counts);
    let segments: Vec<_> =
        manifest.partitions.iter().flat_map(|section| &section.segments).map(|one| one.digest).collect();
    assert_eq!(manifest.evidence_root, evidence_root(&segments));
    for (digest, bytes) in &computed.objects {
        assert_eq!(object_digest(bytes), *digest);
    }
    for section in &manifest.programs {
        let rows = contributions(computed, &section.program).providers;
        let rewards: u128 = rows.iter().map(|row| row.reward).sum();
        let weight: u128 = rows.iter().map(|row| row.weight).sum();
        assert_eq!(rewards, if weight == 0 { 0 } else { section.pool }, "C3");
        assert_eq!((section.paid, section.weight.clone()), (rewards, weight.to_string()), "C3");
        assert!(rows.windows(2).all(|pair| pair[0].provider < pair[1].provider));
        assert!(rows.iter().all(|row| row.weight > 0 || row.reward == 0));
    }
}

/// Two partitions; everybody registers before the first window.
struct Town {
    story: Story,
    devices: Vec<TestDevice>,
}

impl Town {
    /// A device for each of these owners, by their seeds.
    fn new(owners: &[u8]) -> Self {
        let mut story = Story::new(GRID, 2);
        first_changes().into_iter().for_each(|change| story.change(1, change));
        let mut devices = Vec::new();
        for (owner, seed) in owners.iter().zip(1..) {
            let mut device = TestDevice::new(&story.network, seed);
            let record = device.registration_record(&provider(*owner), PROGRAM);
            story.send(partition_of(&device), GRID.start_ms, &record);
            devices.push(device);
        }
        Self { story, devices }
    }

    /// A device's next batch reaches the log.
    fn reads(&mut self, device: usize, append_ms: u64, readings: &[(u64, i64)]) {
        let batch = self.devices[device].batch(readings);
        let record = self.devices[device].batch_record(&batch);
        self.story.send(partition_of(&self.devices[device]), append_ms, &record);
    }

    fn moves(&mut self, device: usize, append_ms: u64, owner: &EvmSecret, program: &str) {
        let record = self.devices[device].registration_record(owner, program);
        self.story.send(partition_of(&self.devices[device]), append_ms, &record);
    }

    /// The history up to the close of slot 3.
    fn history(&mut self) -> History {
        self.story.tick(GRID.close_ms(3));
        self.story.history()
    }
}

fn partition_of(device: &TestDevice) -> u32 {
    device.id.partition(device.network.genesis.partitions)
}

/// A time within a window, and just as well an append time of its slot.
fn at(epoch: u64, ms: u64) -> u64 {
    GRID.window_start_ms(epoch) + 3_000 + ms
}

#[test]
fn c3_the_pool_is_divided_by_the_energy() {
    let mut town = Town::new(&[1, 1, 2, 3]);
    town.reads(0, at(0, 10), &[(at(0, 0), 1_000), (at(0, 1), 1_100)]);
    town.reads(1, at(0, 10), &[(at(0, 0), 50), (at(0, 5), 150)]);
    town.reads(2, at(0, 10), &[(at(0, 0), 7), (at(0, 5), 107)]);
    town.reads(0, at(0, 20), &[(at(0, 15), 1_400)]);
    let history = town.history();
    let computed = compute(&history, 0);
    check(&computed);
    let rows = contributions(&computed, PROGRAM).providers;
    let rows: BTreeMap<_, _> = rows.into_iter().map(|row| (row.provider, row)).collect();
    let [one, two, three] = [1, 2, 3].map(|owner| rows[&provider(owner).address()].clone());
    assert_eq!((one.weight, two.weight, three.weight), (500, 100, 0));
    // 1,000,003 · 500/600 and · 100/600: the unit that is left goes to the larger remainder.
    assert_eq!((one.reward, two.reward, three.reward), (833_336, 166_667, 0));
    assert_eq!(one.explanation["devices"], "2");
    assert_eq!(one.explanation["readings"], "5");
    let manifest = computed.manifest;
    assert_eq!((manifest.epoch, manifest.revision, manifest.previous), (0, 0, None));
    assert_eq!((manifest.window.start_ms, manifest.window.end_ms), (1_000_000, 1_010_000));
    assert_eq!(manifest.engine, ENGINE);
    assert_eq!((manifest.control.records, manifest.counts.records, manifest.counts.on_time), (3, 8, 7));
    // Nothing happened in window 1: nothing is paid, and everybody is named.
    let computed = compute(&history, 1);
    check(&computed);
    assert_eq!(computed.manifest.programs[0].paid, 0);
    assert_eq!(computed.manifest.previous, Some(Digest([0; 32])));
    assert_eq!(contributions(&computed, PROGRAM).providers.len(), 3);
}

#[test]
fn d2_a_late_reading_is_credited_once_in_a_later_epoch() {
    let mut town = Town::new(&[1]);
    town.reads(0, at(0, 10), &[(at(0, 0), 100)]);
    // Of window 0 and 1, and after slot 0 was cut: the readings of window 0 are late.
    town.reads(0, at(1, 10), &[(at(0, 50), 110), (at(1, 0), 150)]);
    town.reads(0, at(2, 10), &[(at(2, 0), 151)]);
    let history = town.history();
    let epochs = [0, 1, 2].map(|epoch| compute(&history, epoch));
    epochs.iter().for_each(check);
    let weight = |computed: &ComputedEpoch| weights(computed)[&provider(1).address()];
    assert_eq!(epochs.each_ref().map(weight), [0, 50, 1]);
    assert_eq!(epochs.each_ref().map(|computed| computed.manifest.counts.late), [0, 1, 0]);
    let explanation = &contributions(&epochs[1], PROGRAM).providers[0].explanation;
    assert_eq!((&*explanation["readings"], &*explanation["late_readings"]), ("1", "1"));
}

/// A reading ahead of its window lies in an earlier slot, which its epoch reads too.
#[test]
fn d2_an_early_reading_counts_in_its_own_epoch() {
    let mut town = Town::new(&[1]);
    let start = GRID.window_start_ms(1);
    town.reads(0, start - 5_000, &[(start - 10, 100), (start - 1, 105), (start, 120)]);
    let history = town.history();
    let weight = |epoch| weights(&compute(&history, epoch))[&provider(1).address()];
    assert_eq!([0, 1, 2].map(weight), [5, 15, 0]);
}

#[test]
fn d2_a_flagged_device_is_not_paid_and_others_are() {
    let mut town = Town::new(&[1, 1, 2]);
    for device in 0..3 {
        town.reads(device, at(0, 10), &[(at(0, 0), 100), (at(0, 1), 200)]);
    }
    for device in 0..3 {
        town.reads(device, at(1, 10), &[(at(1, 0), 300)]);
    }
    let cheat = &town.devices[0];
    let conflict = cheat.batch_at(Place { boot: 1, seq: 1 }, Digest::ZERO, &[(at(1, 0), 900)]);
    let (partition, record) = (partition_of(cheat), cheat.batch_record(&conflict));
    town.story.send(partition, at(1, 20), &record);
    let history = town.history();
    let [one, two] = [1, 2].map(|owner| provider(owner).address());
    let epochs = [0, 1, 2].map(|epoch| compute(&history, epoch));
    epochs.iter().for_each(check);
    assert_eq!(weights(&epochs[0]), BTreeMap::from([(one, 200), (two, 100)]), "it was cut before");
    assert_eq!(weights(&epochs[1]), BTreeMap::from([(one, 100), (two, 100)]));
    for computed in &epochs[1..] {
        let rows = contributions(computed, PROGRAM).providers;
        let row = rows.iter().find(|row| row.provider == one).unwrap();
        assert_eq!((&*row.explanation["flagged_devices"], &*row.explanation["devices"]), ("1", "2"));
    }
}

#[test]
fn c3_a_policy_that_is_refused_pays_nothing_and_the_epoch_is_computed() {
    let mut town = Town::new(&[1, 2]);
    let broken = |name: &str, sql: &str| {
        let policy = PolicyBundle { contribution_sql: sql.to_owned(), ..program(PROGRAM).policy };
        ControlBody::Program(Program { policy, ..program(name) })
    };
    town.story.change(2, broken("broken", "SELECT provider, random() AS weight FROM devices"));
    town.story.change(3, broken("empty", ""));
    town.reads(0, at(0, 10), &[(at(0, 0), 100), (at(0, 1), 200)]);
    town.moves(1, at(1, 0), &provider(2), "broken");
    town.reads(1, at(1, 10), &[(at(1, 0), 100), (at(1, 1), 200)]);
    let history = town.history();
    for epoch in 0..3 {
        let computed = compute(&history, epoch);
        check(&computed);
        let paid: BTreeMap<_, _> =
            computed.manifest.programs.iter().map(|section| (&*section.program, section.paid)).collect();
        let energy = if epoch == 0 { program(PROGRAM).pool } else { 0 };
        assert_eq!(paid, BTreeMap::from([("broken", 0), ("empty", 0), (PROGRAM, energy)]), "epoch {epoch}");
        assert!(contributions(&computed, "broken").providers.is_empty());
    }
}

#[test]
fn d2_a_device_that_changes_hands_inside_an_epoch_is_counted_once() {
    let mut town = Town::new(&[1, 1]);
    town.reads(0, at(0, 10), &[(at(0, 0), 100), (at(0, 1), 130)]);
    town.reads(1, at(0, 10), &[(at(0, 0), 0), (at(0, 1), 1)]);
    town.moves(0, at(1, 0), &provider(2), PROGRAM);
    town.reads(0, at(1, 10), &[(at(1, 0), 140), (at(1, 1), 141)]);
    town.moves(0, at(2, 0), &provider(1), PROGRAM);
    // Late and on time, for the third registration.
    town.reads(0, at(2, 10), &[(at(1, 50), 150), (at(2, 0), 1_000)]);
    let history = town.history();
    let [one, two] = [1, 2].map(|owner| provider(owner).address());
    let epochs = [0, 1, 2].map(|epoch| compute(&history, epoch));
    epochs.iter().for_each(check);
    assert_eq!(weights(&epochs[0]), BTreeMap::from([(one, 31)]));
    assert_eq!(weights(&epochs[1]), BTreeMap::from([(one, 0), (two, 11)]));
    assert_eq!(weights(&epochs[2])[&one], 859);
    let all: u128 = epochs.iter().flat_map(|computed| weights(computed).into_values()).sum();
    assert_eq!(all, 900 + 1, "all growth, once");
}

/// Early readings under the old owner, read again by the next epoch beside those under the new one.
#[test]
fn d2_both_owners_of_a_window_are_paid_their_part() {
    let mut town = Town::new(&[1]);
    let start = GRID.window_start_ms(1);
    town.reads(0, start - 4_000, &[(start - 4_000, 10), (start, 20), (start + 500, 25)]);
    town.moves(0, start + 2_000, &provider(2), PROGRAM);
    town.reads(0, start + 3_000, &[(start + 2_500, 125)]);
    let history = town.history();
    let [one, two] = [1, 2].map(|owner| provider(owner).address());
    let computed = compute(&history, 1);
    check(&computed);
    assert_eq!(weights(&computed), BTreeMap::from([(one, 15), (two, 100)]));
}

#[test]
fn d2_a_device_that_changes_programs_is_paid_by_each_for_its_part() {
    let mut town = Town::new(&[1]);
    town.story.change(2, ControlBody::Program(program("other")));
    let start = GRID.window_start_ms(1);
    town.reads(0, start - 4_000, &[(start - 4_000, 10), (start, 20)]);
    town.moves(0, start + 2_000, &provider(1), "other");
    town.reads(0, start + 3_000, &[(start + 2_500, 125)]);
    let computed = compute(&town.history(), 1);
    check(&computed);
    let weight = |program: &str| contributions(&computed, program).providers[0].weight;
    assert_eq!((weight(PROGRAM), weight("other")), (10, 105));
}

/// A network's limits may be lowered while the log still holds what the old ones let in. What was
/// accepted stays accepted, and no epoch may hang on it.
#[test]
fn c3_limits_that_are_lowered_stop_no_epoch() {
    let mut town = Town::new(&[1, 2, 3, 4, 5, 6, 7, 8]);
    let start = GRID.window_start_ms(1);
    // A policy whose numbers fit into 38 digits only with the new range.
    let policy = PolicyBundle {
        policy_toml: "name = \"powers\"\nversion = 1\ndescription = \"Fourth powers.\"\n".to_owned(),
        contribution_sql: "SELECT d.provider AS provider, \
            coalesce(sum(r.value * r.value * r.value * r.value), 0) AS weight \
            FROM readings AS r JOIN devices AS d ON r.device = d.device AND r.provider = d.provider \
            WHERE r.metric = 1 GROUP BY d.provider"
            .to_owned(),
    };
    town.story.change(2, ControlBody::Program(Program { policy, ..program("powers") }));
    let mut device = TestDevice::new(&town.story.network, 50);
    let record = device.registration_record(&provider(1), "powers");
    town.story.send(partition_of(&device), GRID.start_ms, &record);
    town.devices.push(device);
    let old_maximum = 1_000_000_000_000;
    town.reads(8, start - 4_000, &[(start, old_maximum - 1), (start + 1, old_maximum)]);
    town.reads(1, start - 4_000, &[(start, 5), (start + 1, 10), (start + 2, 15)]);
    let lowered = Program { devices_max: 1, readings_per_device_max: 1, ..program(PROGRAM) };
    town.story.change(start - 1, ControlBody::Program(lowered));
    town.story.change(start - 1, ControlBody::Metric(Metric { maximum: 9, ..metric(ENERGY) }));
    town.reads(8, at(2, 0), &[(at(2, 0), 3)]);
    let history = town.history();
    for epoch in 0..3 {
        let computed = compute_with(&history, epoch, settings(2, 8192));
        check(&computed.unwrap_or_else(|error| panic!("epoch {epoch}: {error}")));
    }
    assert_eq!(weights(&compute(&history, 1))[&provider(2).address()], 10);
    // What cannot be proven pays nothing; as soon as nothing of the old range is read, it is proven.
    let powers = |epoch| contributions(&compute(&history, epoch), "powers").providers;
    assert!(powers(0).is_empty() && powers(1).is_empty());
    assert_eq!(powers(2)[0].weight, 81);
}

#[test]
fn r1_an_epoch_that_is_not_closed_is_not_computed() {
    let mut town = Town::new(&[1]);
    let history = town.history();
    let error = EpochInputs::collect(&history, 4).unwrap_err();
    assert!(matches!(error, EpochError::NotClosed { epoch: 4, .. }), "{error}");
}

/// The same manifest without what names segments: how the log was cut is no part of what it says.
fn uncut(computed: &ComputedEpoch) -> (Manifest, BTreeMap<Digest, Vec<u8>>) {
    let mut manifest = computed.manifest.clone();
    manifest.partitions.iter_mut().for_each(|section| section.segments.clear());
    manifest.evidence_root = Digest::ZERO;
    manifest.control.head = None;
    (manifest, computed.objects.clone())
}

fn ready(history: &History) -> impl Iterator<Item = u64> {
    (0..100).take_while(|epoch| history.is_ready(*epoch))
}

#[test]
fn r1_the_same_bytes_under_any_settings() {
    for seed in 0..3 {
        let history = any_story(seed).history();
        for epoch in ready(&history).skip(1).step_by(3) {
            let expected = compute_with(&history, epoch, settings(1, 8192)).unwrap();
            check(&expected);
            for settings in [settings(1, 1), settings(2, 3), settings(7, 100), settings(16, 8192)] {
                assert_eq!(
                    compute_with(&history, epoch, settings).unwrap(),
                    expected,
                    "seed {seed}, epoch {epoch}"
                );
            }
        }
    }
}

#[test]
fn r1_the_same_result_however_the_log_is_cut() {
    for seed in 0..3 {
        let story = any_story(seed);
        let mut random = Seeded(seed);
        let first = story.history();
        let mut history = History::new(&story.network.genesis_bytes).unwrap();
        let parts: Vec<Vec<Segment>> = story.segments(|| usize::try_from(1 + random.below(20)).unwrap());
        for segment in parts.into_iter().rev().flatten() {
            history.add(segment).unwrap();
        }
        for epoch in ready(&first) {
            let (one, other) = (compute(&first, epoch), compute(&history, epoch));
            assert_eq!(uncut(&one), uncut(&other), "seed {seed}, epoch {epoch}");
        }
    }
}

/// A second, plain engine for the energy policy: every accepted reading once, in the epoch of its
/// event or, late, of its slot; nothing for devices that are flagged when the epoch is cut.
fn plain_weights(history: &History, epoch: u64) -> BTreeMap<Address, u128> {
    let mut weights = BTreeMap::new();
    for partition in 0..history.partition_count() {
        let devices = history.devices_at_cut(partition, epoch).unwrap();
        for device in devices.registered.iter() {
            weights.entry(device.provider).or_insert(0);
        }
        for (slot, content) in history.slots(partition).filter(|(slot, _)| *slot <= epoch) {
            for batch in &content.accepted {
                let flagged = devices
                    .registered
                    .iter()
                    .any(|device| device.device == batch.record.device && device.flagged);
                if history.slots_for(epoch).contains(&slot) {
                    weights.entry(batch.record.provider).or_insert(0);
                }
                for ((time_ms, _), (_, grown, _)) in batch.readings.iter().zip(growth(batch)) {
                    let of_epoch = GRID.epoch_of(*time_ms).filter(|epoch| *epoch >= slot).unwrap_or(slot);
                    if of_epoch == epoch && !flagged {
                        *weights.get_mut(&batch.record.provider).unwrap() += u128::try_from(grown).unwrap();
                    }
                }
            }
        }
    }
    weights
}

#[test]
fn d2_r1_weights_are_those_of_a_plain_engine() {
    let (mut paid, mut flagged) = (0, 0);
    for seed in 0..12 {
        let history = any_story(seed).history();
        for epoch in ready(&history) {
            let computed = compute(&history, epoch);
            check(&computed);
            assert_eq!(weights(&computed), plain_weights(&history, epoch), "seed {seed}, epoch {epoch}");
            paid += u64::from(computed.manifest.programs[0].paid > 0);
            let devices = (0..2).filter_map(|partition| history.devices_at_cut(partition, epoch));
            flagged +=
                devices.flat_map(|devices| devices.registered.iter()).filter(|device| device.flagged).count();
        }
    }
    assert!(paid > 20 && flagged > 20, "the stories pay and flag: {paid}, {flagged}");
}

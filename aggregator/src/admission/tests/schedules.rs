//! Seeded schedules: what devices, networks and thieves do to a log, and what must hold all the same.

use std::collections::{BTreeMap, BTreeSet};

use fieldproof_proto::{
    batch::{BatchHeader, Place},
    evidence::{KIND_BATCH, Record},
    ids::{DeviceId, Digest},
    v1::SignedBatch,
};
use prost::Message as _;

use super::{
    Log, growth,
    network::{GRID, NewRecord, PROGRAM, Seeded, TestBatch, TestDevice, TestNetwork, provider},
};
use crate::admission::{
    Admitted, Verdict,
    device::{GAPS_MAX, RECENT_MAX},
    inspect_all,
};

/// How many schedules of each kind are run.
const SEEDS: u64 = 40;
/// How many records of a log share a slot.
const SLOT_RECORDS: usize = 40;

/// What happens between a device and the log.
#[derive(Debug, Clone, Copy)]
struct Fate {
    batches: u64,
    /// How far a batch may be moved in the log.
    window: u64,
    /// Of so many batches one is lost, sent again, and so on; `u64::MAX` is never.
    lost: u64,
    again: u64,
    restart: u64,
    changes_owner: bool,
    cheats: bool,
    robbed: bool,
}

const HONEST: Fate = Fate {
    batches: 60,
    window: 16,
    lost: u64::MAX,
    again: 4,
    restart: 9,
    changes_owner: false,
    cheats: false,
    robbed: true,
};

/// A record and when it reaches the log.
type Sending = (u64, NewRecord);

struct Device {
    device: TestDevice,
    signed: Vec<TestBatch>,
    sendings: Vec<Sending>,
}

impl Device {
    /// Lives a device's life: the counter reads a hundred units for each millisecond.
    fn live(seed: u16, fate: Fate, random: &mut Seeded) -> Self {
        let network = TestNetwork::new(GRID, 1);
        let mut device = TestDevice::new(&network, seed);
        let registration = device.registration_record(&provider(1), PROGRAM);
        let mut life = Self { device, signed: Vec::new(), sendings: vec![(0, registration)] };
        let mut time_ms = 900_000;
        for index in 0..fate.batches {
            let now = 1_000 + 10 * index;
            if random.once_in(fate.restart) {
                let boot = life.device.next.boot + 1 + random.below(3);
                life.device.restart(boot);
            }
            if fate.changes_owner && index == fate.batches / 2 {
                let registration = life.device.registration_record(&provider(2), PROGRAM);
                life.sendings.push((now, registration));
            }
            let readings = readings(&mut time_ms, random);
            let batch = life.device.batch(&readings);
            life.deliver(&batch, now, fate, random);
            if fate.cheats {
                life.cheat(now, random);
            }
            if fate.robbed && random.once_in(3) {
                life.rob(&batch, now, random);
            }
        }
        life
    }

    fn deliver(&mut self, batch: &TestBatch, now: u64, fate: Fate, random: &mut Seeded) {
        self.signed.push(batch.clone());
        let record = self.device.batch_record(batch);
        if !random.once_in(fate.lost) {
            self.sendings.push((now + random.below(10 * fate.window), record.clone()));
        }
        while random.once_in(fate.again) {
            self.sendings.push((now + random.below(40 * fate.window), record.clone()));
        }
    }

    /// The owner of the key signs what is no honest chain.
    fn cheat(&mut self, now: u64, random: &mut Seeded) {
        let victim = random.pick(&self.signed).clone();
        let (place, previous, readings) = match random.below(5) {
            // Other readings at a place that was used.
            0 => (victim.place, self.device.previous, victim.readings[..1].to_vec()),
            // The same readings under a new boot, before or after.
            1 => (Place { boot: self.device.next.boot + 50, seq: 0 }, self.device.previous, victim.readings),
            2 => (Place { boot: 0, seq: random.below(9) }, Digest::ZERO, victim.readings),
            // The same readings where no batch is yet.
            3 => (
                Place { boot: victim.place.boot, seq: victim.place.seq + 1 + random.below(9) },
                Digest([3; 32]),
                victim.readings,
            ),
            _ => return,
        };
        let batch = self.device.batch_at(place, previous, &readings);
        let record = self.device.batch_record(&batch);
        self.signed.push(batch);
        self.sendings.push((now + random.below(100), record));
    }

    /// Somebody without the key meddles.
    fn rob(&mut self, batch: &TestBatch, now: u64, random: &mut Seeded) {
        let mut record = self.device.batch_record(batch);
        if random.once_in(3) {
            record.key = Some(random.next().to_le_bytes().repeat(4));
        } else {
            let index = usize::try_from(random.below(record.value.len() as u64)).unwrap();
            record.value[index] ^= 1 << random.below(8);
        }
        self.sendings.push((now, record));
    }
}

/// Some times after the last, each with what the counter reads then.
fn readings(time_ms: &mut u64, random: &mut Seeded) -> Vec<(u64, i64)> {
    let count = 1 + random.below(3);
    let mut next = || {
        *time_ms += 1 + random.below(20);
        (*time_ms, counter_at(*time_ms))
    };
    (0..count).map(|_| next()).collect()
}

fn counter_at(time_ms: u64) -> i64 {
    i64::try_from(time_ms * 100).unwrap()
}

fn in_order(mut sendings: Vec<Sending>) -> Vec<NewRecord> {
    sendings.sort_by_key(|(when, _)| *when);
    sendings.into_iter().map(|(_, record)| record).collect()
}

/// What the log made of a schedule.
struct Outcome {
    log: Log,
    admitted: Vec<Admitted>,
    slots: Vec<u64>,
}

fn run(records: &[NewRecord]) -> Outcome {
    let mut log = Log::new(&TestNetwork::new(GRID, 1), 0);
    let mut outcome =
        Outcome { admitted: Vec::new(), slots: Vec::new(), log: Log::new(&TestNetwork::new(GRID, 1), 0) };
    for (index, record) in records.iter().enumerate() {
        log.slot = (index / SLOT_RECORDS) as u64;
        outcome.slots.push(log.slot);
        outcome.admitted.push(log.send(record));
        for state in log.admission.devices.values() {
            assert!(state.gaps.len() <= GAPS_MAX && state.recent.len() <= RECENT_MAX, "M1: state is bounded");
        }
    }
    outcome.log = log;
    outcome
}

impl Outcome {
    fn verdicts_of(&self, device: DeviceId) -> Vec<(Verdict, String)> {
        let of_device = self.admitted.iter().filter(|admitted| admitted.device == Some(device));
        of_device.map(|admitted| (admitted.verdict, admitted.reason.clone())).collect()
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.admitted.iter().filter(|admitted| admitted.verdict == verdict).count()
    }

    fn header(&self, index: usize) -> BatchHeader {
        let value = self.log.records[index].value.as_deref().unwrap();
        BatchHeader::parse(&SignedBatch::decode(value).unwrap().header).unwrap()
    }

    /// D2, whatever was sent.
    fn check(&self, devices: &[Device], seed: u64) {
        let mut counted = BTreeSet::new();
        let mut spans: BTreeMap<(DeviceId, Place), (u64, u64)> = BTreeMap::new();
        let mut grown: BTreeMap<DeviceId, i64> = BTreeMap::new();
        for (index, admitted) in self.admitted.iter().enumerate() {
            let Some(accepted) = &admitted.accepted else { continue };
            let header = self.header(index);
            let device =
                devices.iter().find(|life| life.device.id == header.device_id()).expect("it is one of ours");
            let place = header.place;
            assert!(
                device.signed.iter().any(|batch| device.device.batch_record(batch).value
                    == self.log.records[index].value.clone().unwrap()),
                "seed {seed}: only what the device signed counts"
            );
            for (time_ms, _) in &accepted.readings {
                assert!(
                    counted.insert((device.device.id, *time_ms)),
                    "seed {seed}: the reading at {time_ms} counts twice"
                );
            }
            let taken = spans.insert((device.device.id, place), (header.first_time_ms, header.last_time_ms));
            assert_eq!(taken, None, "seed {seed}: {place:?} is taken twice");
            *grown.entry(device.device.id).or_default() +=
                growth(accepted).iter().map(|(_, growth, _)| growth).sum::<i64>();
        }
        let spans: Vec<_> = spans.into_iter().collect();
        for pair in spans.windows(2) {
            let [((one, below), (_, last)), ((other, above), (first, _))] = pair else { unreachable!() };
            assert!(one != other || last < first, "seed {seed}: times of {below:?} and {above:?} cross");
        }
        for life in devices {
            let times = life.signed.iter().flat_map(|batch| &batch.readings).map(|(time_ms, _)| *time_ms);
            let (first, last) = (times.clone().min().unwrap(), times.max().unwrap());
            let grown = grown.get(&life.device.id).copied().unwrap_or_default();
            assert!(grown <= counter_at(last) - counter_at(first), "seed {seed}: growth of {grown}");
        }
    }

    /// R1: the verdicts and the states are those of the log, however it is cut.
    fn check_pure(&self, seed: u64) {
        let all = self.log.records.len();
        for size in [1, 3, SLOT_RECORDS, all] {
            let mut again = Log::new(&TestNetwork::new(GRID, 1), 0);
            let mut verdicts = Vec::new();
            for (chunk, start) in self.log.records.chunks(size).zip((0..).step_by(size)) {
                let inspected = inspect_all(again.admission.context(), chunk);
                for ((record, inspected), slot) in chunk.iter().zip(inspected).zip(&self.slots[start..]) {
                    verdicts.push(again.admission.admit(record, inspected, *slot, &again.control));
                }
            }
            let text = |admitted: &[Admitted]| format!("{admitted:?}");
            assert_eq!(text(&verdicts), text(&self.admitted), "seed {seed}, {size} records at once");
            assert_eq!(again.admission.state_digest(), self.log.admission.state_digest(), "seed {seed}");
        }
    }
}

fn is_by(device: &TestDevice) -> impl Fn(&NewRecord) -> bool {
    let id = device.id;
    move |record| record.key.as_deref() == Some(&id.0[..])
}

#[test]
fn d1_d2_all_of_an_honest_device_counts_once_in_any_order_within_a_window() {
    for seed in 0..SEEDS {
        let mut random = Seeded(seed);
        let mut life = Device::live(1, HONEST, &mut random);
        let outcome = run(&in_order(std::mem::take(&mut life.sendings)));
        assert_eq!(outcome.count(Verdict::Accepted), life.signed.len(), "seed {seed}");
        assert_eq!(outcome.count(Verdict::Equivocation), 0, "seed {seed}");
        assert!(!outcome.log.is_flagged(life.device.id), "seed {seed}");
        let state = &outcome.log.admission.devices[&life.device.id];
        assert_eq!(state.gaps, [], "seed {seed}: nothing is missing, so nothing is open");
        outcome.check(&[life], seed);
    }
}

#[test]
fn d2_in_order_all_growth_is_counted() {
    for seed in 0..SEEDS {
        let mut random = Seeded(seed);
        let mut life = Device::live(1, Fate { window: 1, again: u64::MAX, ..HONEST }, &mut random);
        let outcome = run(&in_order(std::mem::take(&mut life.sendings)));
        let grown: i64 = outcome
            .admitted
            .iter()
            .filter_map(|admitted| admitted.accepted.as_ref())
            .flat_map(growth)
            .map(|step| step.1)
            .sum();
        let first = life.signed.first().unwrap().readings.first().unwrap();
        let last = life.signed.last().unwrap().readings.last().unwrap();
        assert_eq!(grown, last.1 - first.1, "seed {seed}");
    }
}

#[test]
fn d2_m1_r1_whatever_is_resent_renamed_reregistered_or_forged() {
    let mut seen = BTreeMap::<Verdict, usize>::new();
    for seed in 0..SEEDS {
        let mut random = Seeded(1_000 + seed);
        let window = *random.pick(&[1, 4, 30, 100]);
        let lost = *random.pick(&[2, 10, u64::MAX]);
        let honest = Fate { window, lost, ..HONEST };
        let cheat = Fate { cheats: true, changes_owner: true, ..honest };
        let mut lives = [Device::live(1, honest, &mut random), Device::live(2, cheat, &mut random)];
        let sendings = lives.iter_mut().flat_map(|life| std::mem::take(&mut life.sendings)).collect();
        let outcome = run(&in_order(sendings));
        outcome.check(&lives, seed);
        outcome.check_pure(seed);
        assert!(!outcome.log.is_flagged(lives[0].device.id), "seed {seed}: an honest device is flagged");
        let equivocated = outcome.count(Verdict::Equivocation) > 0;
        assert_eq!(outcome.log.is_flagged(lives[1].device.id), equivocated, "seed {seed}");
        for admitted in &outcome.admitted {
            *seen.entry(admitted.verdict).or_default() += 1;
        }
    }
    for verdict in [
        Verdict::Accepted,
        Verdict::Duplicate,
        Verdict::Equivocation,
        Verdict::Overlap,
        Verdict::Stale,
        Verdict::Unregistered,
        Verdict::Misrouted,
        Verdict::BadSignature,
        Verdict::Malformed,
        Verdict::Registered,
    ] {
        assert!(seen.contains_key(&verdict), "the schedules never came to `{}`", verdict.name());
    }
}

/// A conflicting batch that follows the one it contradicts is always seen, and flags from its slot on.
#[test]
fn d2_a_cheat_is_flagged() {
    for seed in 0..SEEDS {
        let mut random = Seeded(2_000 + seed);
        let mut life = Device::live(1, Fate { robbed: false, again: u64::MAX, ..HONEST }, &mut random);
        let mut records = in_order(std::mem::take(&mut life.sendings));
        let at = 1 + usize::try_from(random.below(records.len() as u64 - 1)).unwrap();
        let victim = life.signed.iter().find(|batch| batch.value == records[at].value).unwrap();
        let (time_ms, value) = victim.readings[0];
        let conflict = life.device.batch_at(victim.place, Digest([5; 32]), &[(time_ms, value + 1)]);
        records.insert(at + 1, life.device.batch_record(&conflict));
        let outcome = run(&records);
        assert_eq!(outcome.admitted[at + 1].verdict, Verdict::Equivocation, "seed {seed}");
        let state = &outcome.log.admission.devices[&life.device.id];
        assert_eq!(state.flagged_slot, Some(outcome.slots[at + 1]), "seed {seed}");
        assert_eq!(outcome.count(Verdict::Accepted), life.signed.len(), "seed {seed}: the first stands");
    }
}

/// R1: a device's verdicts are its own affair: they are the same with and without the others.
#[test]
fn r1_verdicts_do_not_depend_on_other_devices() {
    for seed in 0..SEEDS / 4 {
        let mut random = Seeded(3_000 + seed);
        let cheat = Fate { cheats: true, lost: 5, changes_owner: true, ..HONEST };
        let mut lives: Vec<_> = (1..=3).map(|device| Device::live(device, cheat, &mut random)).collect();
        let sendings = lives.iter_mut().flat_map(|life| std::mem::take(&mut life.sendings)).collect();
        let records = in_order(sendings);
        let all = run(&records);
        for life in &lives {
            let mut alone = Log::new(&TestNetwork::new(GRID, 1), 0);
            let of_device = is_by(&life.device);
            let mut verdicts = Vec::new();
            for (record, slot) in records.iter().zip(&all.slots).filter(|(record, _)| of_device(record)) {
                alone.slot = *slot;
                let admitted = alone.send(record);
                if admitted.device == Some(life.device.id) {
                    verdicts.push((admitted.verdict, admitted.reason));
                }
            }
            let foreign = |(verdict, _): &(Verdict, String)| *verdict != Verdict::Misrouted;
            let together: Vec<_> = all.verdicts_of(life.device.id).into_iter().filter(foreign).collect();
            assert_eq!(verdicts.into_iter().filter(foreign).collect::<Vec<_>>(), together, "seed {seed}");
        }
    }
}

/// R1: the digest of the states covers all of them.
#[test]
fn r1_the_state_digest_tells_logs_apart() {
    let mut random = Seeded(4_000);
    let mut life = Device::live(1, Fate { robbed: false, again: u64::MAX, ..HONEST }, &mut random);
    let records = in_order(std::mem::take(&mut life.sendings));
    let digests: BTreeSet<_> =
        (0..=records.len()).map(|count| run(&records[..count]).log.admission.state_digest()).collect();
    assert_eq!(digests.len(), records.len() + 1);
}

/// Bytes that nobody signed never count, whatever they are.
#[test]
fn d2_no_flipped_bit_of_a_batch_counts() {
    let network = TestNetwork::new(GRID, 1);
    let mut log = Log::new(&network, 0);
    let mut device = TestDevice::new(&network, 1);
    assert_eq!(log.send(&device.registration_record(&provider(1), PROGRAM)).verdict, Verdict::Registered);
    let batch = device.batch(&[(900_000, 1), (900_007, 2)]);
    let before = log.admission.state_digest();
    let records: Vec<Record> = (0..batch.value.len() * 8)
        .map(|bit| {
            let mut value = batch.value.clone();
            value[bit / 8] ^= 1 << (bit % 8);
            NewRecord { kind: KIND_BATCH, key: Some(device.id.0.to_vec()), value }.at(bit as u64, 1_000_000)
        })
        .collect();
    let inspected = inspect_all(log.admission.context(), &records);
    for (record, inspected) in records.iter().zip(inspected) {
        let admitted = log.admission.admit(record, inspected, 0, &log.control);
        let refused =
            matches!(admitted.verdict, Verdict::Malformed | Verdict::BadSignature | Verdict::Misrouted);
        assert!(refused, "bit {}: {:?}", record.offset, admitted.verdict);
    }
    assert_eq!(log.admission.state_digest(), before);
}

//! One case per verdict, and the order in which the rules are asked.

use std::collections::BTreeSet;

use alloy_primitives::Address;
use ed25519_dalek::SigningKey;
use fieldproof_proto::{
    batch::Place,
    control::ControlBody,
    evidence::{KIND_BATCH, KIND_CONTROL, KIND_HEADER, KIND_REGISTRATION, KIND_TICK},
    ids::{DeviceId, Digest},
    payload::{Column, Payload},
    registration::Registration,
    v1::{SignedBatch, SignedRegistration},
};
use prost::Message as _;

use super::{
    Log,
    network::{
        ENERGY, GRID, NewRecord, PROGRAM, TEMPERATURE, TestBatch, TestDevice, TestNetwork, metric, program,
        provider,
    },
};
use crate::admission::{Admitted, Verdict, members_max};

const FIRST: Place = Place { boot: 1, seq: 0 };

/// A log in which a device is registered, and that device.
fn registered_log() -> (Log, TestDevice) {
    let network = TestNetwork::new(GRID, 1);
    let mut log = Log::new(&network, 0);
    let mut device = TestDevice::new(&network, 1);
    let admitted = log.send(&device.registration_record(&provider(1), PROGRAM));
    assert_eq!(admitted.verdict, Verdict::Registered, "{}", admitted.reason);
    (log, device)
}

fn tampered(batch: &TestBatch, change: impl Fn(&mut SignedBatch)) -> Vec<u8> {
    let mut envelope = SignedBatch::decode(&batch.value[..]).unwrap();
    change(&mut envelope);
    envelope.encode_to_vec()
}

fn flipped(bytes: &[u8], index: usize) -> bytes::Bytes {
    let mut bytes = bytes.to_vec();
    bytes[index] ^= 1;
    bytes.into()
}

#[track_caller]
fn check(admitted: &Admitted, expected: Verdict) {
    assert_eq!(admitted.verdict, expected, "{}", admitted.reason);
    assert_eq!(admitted.reason.is_empty(), !expected.excludes(), "`{}` needs a reason", expected.name());
    assert_eq!(admitted.accepted.is_some(), expected == Verdict::Accepted);
}

#[test]
fn every_verdict_has_a_name_of_its_own() {
    let names: BTreeSet<_> = Verdict::ALL.iter().map(|verdict| verdict.name()).collect();
    assert_eq!(names.len(), Verdict::ALL.len());
}

#[test]
fn c1_a_batch_is_accepted_duplicate_or_an_equivocation() {
    let (mut log, mut device) = registered_log();
    let other = device.batch_at(FIRST, Digest::ZERO, &[(1_000_001, 2)]);
    let batch = device.batch(&[(1_000_000, 1)]);
    check(&log.send(&device.batch_record(&batch)), Verdict::Accepted);
    check(&log.send(&device.batch_record(&batch)), Verdict::Duplicate);
    assert!(!log.is_flagged(device.id));
    check(&log.send(&device.batch_record(&other)), Verdict::Equivocation);
    log.slot = 3;
    check(&log.send(&device.batch_record(&other)), Verdict::Equivocation);
    assert_eq!(log.admission.devices[&device.id].flagged_slot, Some(0), "from the first on");
}

#[test]
fn c1_ticks_and_what_only_looks_like_one() {
    let (mut log, device) = registered_log();
    let tick = |key: Option<&[u8]>, value: &[u8]| NewRecord {
        kind: KIND_TICK,
        key: key.map(<[u8]>::to_vec),
        value: value.to_vec(),
    };
    check(&log.send(&tick(None, b"")), Verdict::Tick);
    check(&log.send(&tick(Some(&device.id.0), b"")), Verdict::Tick);
    check(&log.send(&tick(None, b"x")), Verdict::Malformed);
    let mut absent = NewRecord::tick().at(4, 1_000_000);
    absent.value = None;
    check(&log.send_record(absent), Verdict::Tick);
}

#[test]
fn c1_what_cannot_be_read_is_malformed() {
    let (mut log, device) = registered_log();
    let good = device.batch_at(FIRST, Digest::ZERO, &[(1_000_000, 1), (1_000_001, 2)]);
    let key = Some(device.id.0.to_vec());
    let envelope_twice = [good.value.clone(), good.value.clone()].concat();
    let unknown_field = [good.value.clone(), vec![0x22, 1, 0]].concat();
    let values = [
        ("no envelope", b"not protobuf".to_vec()),
        ("empty", Vec::new()),
        ("cut short", good.value[..good.value.len() - 1].to_vec()),
        ("fields twice", envelope_twice),
        ("an unknown field", unknown_field),
        ("header version", tampered(&good, |batch| batch.header = flipped(&batch.header, 0))),
        ("network tag", tampered(&good, |batch| batch.header = flipped(&batch.header, 1))),
        (
            "algorithm",
            tampered(&good, |batch| {
                batch.header = flipped(&batch.header, 5)
                    .to_vec()
                    .into_iter()
                    .enumerate()
                    .map(|(at, byte)| if at == 5 { 9 } else { byte })
                    .collect::<Vec<_>>()
                    .into()
            }),
        ),
        ("reading count", tampered(&good, |batch| batch.header = flipped(&batch.header, 91))),
        ("last time", tampered(&good, |batch| batch.header = flipped(&batch.header, 103))),
        ("long header", tampered(&good, |batch| batch.header = [&batch.header[..], b"x"].concat().into())),
        ("long payload", tampered(&good, |batch| batch.payload = [&batch.payload[..], b"x"].concat().into())),
        ("no payload", tampered(&good, |batch| batch.payload = bytes::Bytes::new())),
    ];
    for (what, value) in values {
        let admitted = log.send(&NewRecord { kind: KIND_BATCH, key: key.clone(), value });
        assert_eq!(admitted.verdict, Verdict::Malformed, "{what}: {}", admitted.reason);
        assert_eq!(admitted.device, None, "{what}");
    }
    for kind in [KIND_CONTROL, b"Batch", b""] {
        check(
            &log.send(&NewRecord { kind, key: key.clone(), value: good.value.clone() }),
            Verdict::Malformed,
        );
    }
    let mut record = NewRecord { kind: KIND_BATCH, key, value: good.value.clone() }.at(0, 1_000_000);
    record.headers =
        vec![(KIND_HEADER.to_owned(), None), (KIND_HEADER.to_owned(), Some(KIND_BATCH.to_vec()))];
    check(&log.send_record(record.clone()), Verdict::Malformed);
    record.headers.clear();
    check(&log.send_record(record.clone()), Verdict::Malformed);
    // The first header named `kind` decides, wherever it stands.
    record.headers = vec![
        ("other".to_owned(), Some(KIND_TICK.to_vec())),
        (KIND_HEADER.to_owned(), Some(KIND_BATCH.to_vec())),
        (KIND_HEADER.to_owned(), Some(KIND_TICK.to_vec())),
    ];
    check(&log.send_record(record), Verdict::Accepted);
}

#[test]
fn d2_a_batch_of_another_network_does_not_count() {
    let (mut log, _) = registered_log();
    let other = TestNetwork::new(fieldproof_proto::genesis::EpochGrid { length_ms: 1, ..GRID }, 1);
    let mut device = TestDevice::new(&other, 1);
    device.registration = 1;
    let batch = device.batch(&[(1_000_000, 1)]);
    check(&log.send(&device.batch_record(&batch)), Verdict::Malformed);
}

#[test]
fn c1_any_flipped_bit_of_signature_payload_or_place_is_a_bad_signature() {
    let (mut log, device) = registered_log();
    let good = device.batch_at(FIRST, Digest::ZERO, &[(1_000_000, 1), (1_000_001, 2)]);
    let key = Some(device.id.0.to_vec());
    let boot = 43;
    let values = [
        tampered(&good, |batch| batch.signature = flipped(&batch.signature, 0)),
        tampered(&good, |batch| batch.signature = flipped(&batch.signature, 63)),
        tampered(&good, |batch| batch.signature = batch.signature.slice(..63)),
        tampered(&good, |batch| batch.signature = [&batch.signature[..], b"x"].concat().into()),
        tampered(&good, |batch| batch.header = flipped(&batch.header, boot)),
        tampered(&good, |batch| batch.payload = flipped(&batch.payload, batch.payload.len() - 1)),
    ];
    for value in values {
        check(&log.send(&NewRecord { kind: KIND_BATCH, key: key.clone(), value }), Verdict::BadSignature);
    }
    let unsigned = tampered(&good, |batch| batch.signature = bytes::Bytes::new());
    check(
        &log.send(&NewRecord { kind: KIND_BATCH, key: key.clone(), value: unsigned }),
        Verdict::BadSignature,
    );
    assert!(!log.is_flagged(device.id), "nobody else can flag a device");
    check(&log.send(&device.batch_record(&good)), Verdict::Accepted);
}

#[test]
fn d2_a_batch_counts_in_one_partition_only() {
    let network = TestNetwork::new(GRID, 4);
    let mut device = TestDevice::in_partition(&network, 2, 1);
    let registration = device.registration_record(&provider(1), PROGRAM);
    let batch = device.batch(&[(1_000_000, 1)]);
    for partition in 0..4 {
        let mut log = Log::new(&network, partition);
        let (registered, accepted) = match partition {
            2 => (Verdict::Registered, Verdict::Accepted),
            _ => (Verdict::Misrouted, Verdict::Misrouted),
        };
        check(&log.send(&registration), registered);
        check(&log.send(&device.batch_record(&batch)), accepted);
    }
    let mut log = Log::new(&network, 2);
    let other = TestDevice::in_partition(&network, 2, 500);
    for key in [None, Some(Vec::new()), Some(other.id.0.to_vec()), Some(device.id.0[..31].to_vec())] {
        check(&log.send(&NewRecord { key: key.clone(), ..registration.clone() }), Verdict::Misrouted);
        check(&log.send(&NewRecord { key, ..device.batch_record(&batch) }), Verdict::Misrouted);
    }
}

#[test]
fn c1_unregistered_until_the_registration_in_force_is_the_one_of_the_header() {
    let network = TestNetwork::new(GRID, 1);
    let mut log = Log::new(&network, 0);
    let mut device = TestDevice::new(&network, 1);
    let first = device.clone().batch(&[(1_000_000, 1)]);
    check(&log.send(&device.batch_record(&first)), Verdict::Unregistered);
    check(&log.send(&device.registration_record(&provider(1), PROGRAM)), Verdict::Registered);
    check(&log.send(&device.batch_record(&first)), Verdict::Accepted);
    device.batch(&[(1_000_000, 1)]);
    let under_first = device.clone().batch(&[(1_000_010, 2)]);
    log.slot = 1;
    check(&log.send(&device.registration_record(&provider(2), PROGRAM)), Verdict::Registered);
    let under_second = device.batch(&[(1_000_010, 2)]);
    check(&log.send(&device.batch_record(&under_first)), Verdict::Unregistered);
    check(&log.send(&device.batch_record(&first)), Verdict::Unregistered);
    let admitted = log.send(&device.batch_record(&under_second));
    check(&admitted, Verdict::Accepted);
    assert_eq!(admitted.accepted.unwrap().record.provider, provider(2).address());
    // A program that is not in force any more pays nobody.
    log.control.programs.clear();
    let later = device.batch(&[(1_000_020, 3)]);
    check(&log.send(&device.batch_record(&later)), Verdict::Unregistered);
}

#[test]
fn d2_registrations_that_are_refused() {
    let (mut log, device) = registered_log();
    let owner = provider(1);
    let body = |counter, program: &str| Registration {
        public_key: device.secret.public_key(),
        counter,
        provider: owner.address(),
        replaces: DeviceId::ZERO,
        program: program.to_owned(),
        attributes: "{}".to_owned(),
    };
    let admitter = SigningKey::from_bytes(&[102; 32]);
    let sign = |body: &Registration| device.sign_registration(body, &owner, &admitter);
    let good = sign(&body(2, PROGRAM));
    let change = |change: &dyn Fn(&mut SignedRegistration)| {
        let mut signed = SignedRegistration::decode(&good[..]).unwrap();
        change(&mut signed);
        signed.encode_to_vec()
    };
    log.slot = 1;
    let values = [
        ("the counter again", sign(&body(1, PROGRAM))),
        ("a counter too high", sign(&body(3, PROGRAM))),
        ("an unknown program", sign(&body(2, "other"))),
        (
            "another admitter",
            device.sign_registration(&body(2, PROGRAM), &owner, &SigningKey::from_bytes(&[103; 32])),
        ),
        (
            "another provider",
            change(&|signed| {
                let other = device.sign_registration(
                    &Registration { provider: provider(2).address(), ..body(2, PROGRAM) },
                    &owner,
                    &admitter,
                );
                *signed = SignedRegistration::decode(&other[..]).unwrap();
            }),
        ),
        ("no device", change(&|signed| signed.device_signature = flipped(&signed.device_signature, 3))),
        ("no provider", change(&|signed| signed.provider_signature = flipped(&signed.provider_signature, 3))),
        ("no admitter", change(&|signed| signed.admitter_signature = flipped(&signed.admitter_signature, 3))),
        ("another body", change(&|signed| signed.body = flipped(&signed.body, 40))),
        ("cut short", good[..good.len() - 1].to_vec()),
        ("bytes behind", [good.clone(), vec![0x2a, 1, 0]].concat()),
    ];
    let key = Some(device.id.0.to_vec());
    for (what, value) in values {
        let admitted = log.send(&NewRecord { kind: KIND_REGISTRATION, key: key.clone(), value });
        assert_eq!(admitted.verdict, Verdict::RegistrationRefused, "{what}: {}", admitted.reason);
    }
    check(
        &log.send(&NewRecord { kind: KIND_REGISTRATION, key: key.clone(), value: good.clone() }),
        Verdict::Registered,
    );
    // The same again, and a second one in the same slot.
    check(
        &log.send(&NewRecord { kind: KIND_REGISTRATION, key: key.clone(), value: good }),
        Verdict::RegistrationRefused,
    );
    let third = NewRecord { kind: KIND_REGISTRATION, key, value: sign(&body(3, PROGRAM)) };
    check(&log.send(&third), Verdict::RegistrationRefused);
    log.slot = 2;
    check(&log.send(&third), Verdict::Registered);
}

#[test]
fn m1_a_program_takes_its_devices_and_no_more() {
    let network = TestNetwork::new(GRID, 1);
    let mut log = Log::new(&network, 0);
    for name in [PROGRAM, "other"] {
        let capped = fieldproof_proto::control::Program { devices_max: 2, ..program(name) };
        log.control.apply(&ControlBody::Program(capped));
    }
    let mut devices: Vec<_> = (1..=4).map(|seed| TestDevice::new(&network, seed)).collect();
    let mut register = |log: &mut Log, index: usize, program: &str| {
        let before = devices[index].clone();
        let admitted = log.send(&devices[index].registration_record(&provider(1), program));
        if admitted.verdict != Verdict::Registered {
            devices[index] = before;
        }
        admitted.verdict
    };
    assert_eq!(register(&mut log, 0, PROGRAM), Verdict::Registered);
    assert_eq!(register(&mut log, 1, PROGRAM), Verdict::Registered);
    assert_eq!(register(&mut log, 2, PROGRAM), Verdict::RegistrationRefused);
    log.slot = 1;
    // Who is a member stays one, full or not.
    assert_eq!(register(&mut log, 0, PROGRAM), Verdict::Registered);
    assert_eq!(register(&mut log, 1, "other"), Verdict::Registered);
    // The place that became free is taken once.
    assert_eq!(register(&mut log, 2, PROGRAM), Verdict::Registered);
    assert_eq!(register(&mut log, 3, PROGRAM), Verdict::RegistrationRefused);
    assert_eq!(register(&mut log, 3, "other"), Verdict::Registered);
    let counts = |program: &str| {
        log.admission.registered().iter().filter(|device| &*device.program == program).count()
    };
    assert_eq!((counts(PROGRAM), counts("other")), (2, 2));
}

#[test]
fn m1_the_shares_of_all_partitions_hold_the_cap() {
    for (devices_max, partitions, expected) in
        [(1, 1, 1), (1, 3, 1), (10, 3, 4), (u32::MAX, 1, u32::MAX), (9, 3, 3)]
    {
        let capped = fieldproof_proto::control::Program { devices_max, ..program(PROGRAM) };
        assert_eq!(members_max(&capped, partitions.try_into().unwrap()), expected);
    }
}

#[test]
fn c1_out_of_range_takes_no_place() {
    let (mut log, device) = registered_log();
    let column = |metric, value| Column { metric, values: vec![Some(value)] };
    let payload = |columns: Vec<Column>| Payload { times_ms: vec![1_000_000], columns };
    let maximum = metric(ENERGY).maximum;
    let cases = [
        ("an unknown metric", vec![column(3, 0)], Verdict::OutOfRange),
        ("an unknown metric beside a known one", vec![column(ENERGY, 0), column(3, 0)], Verdict::OutOfRange),
        ("below the minimum", vec![column(ENERGY, -1)], Verdict::OutOfRange),
        ("far below", vec![column(TEMPERATURE, i64::MIN)], Verdict::OutOfRange),
        ("above the maximum", vec![column(ENERGY, maximum + 1)], Verdict::OutOfRange),
        ("far above", vec![column(ENERGY, i64::MAX)], Verdict::OutOfRange),
        ("the gauge below", vec![column(ENERGY, 1), column(TEMPERATURE, -101)], Verdict::OutOfRange),
        ("both bounds", vec![column(ENERGY, maximum), column(TEMPERATURE, -100)], Verdict::Accepted),
    ];
    for (what, columns, expected) in cases {
        let (batch, _) = device.sign(FIRST, Digest::ZERO, &payload(columns));
        let record =
            NewRecord { kind: KIND_BATCH, key: Some(device.id.0.to_vec()), value: batch.encode_to_vec() };
        let admitted = log.send(&record);
        assert_eq!(admitted.verdict, expected, "{what}: {}", admitted.reason);
    }
    assert!(!log.is_flagged(device.id));
}

#[test]
fn c1_readings_from_the_future_are_measured_against_the_log() {
    let future_ms = GRID.future_ms;
    let cases = [
        (1_000_000, 1_000_000 + future_ms, Verdict::Accepted),
        (1_000_000, 1_000_001 + future_ms, Verdict::Future),
        (0, future_ms, Verdict::Accepted),
        (-5, future_ms, Verdict::Accepted),
        (i64::MIN, future_ms + 1, Verdict::Future),
        (i64::MAX, fieldproof_proto::payload::TIME_MS_MAX, Verdict::Accepted),
    ];
    for (append_ms, last_time_ms, expected) in cases {
        let (mut log, mut device) = registered_log();
        log.append_ms = append_ms;
        let batch = device.batch(&[(0, 1), (last_time_ms, 2)]);
        check(&log.send(&device.batch_record(&batch)), expected);
        // What was too early counts when its time has come: it took no place.
        log.append_ms = i64::try_from(last_time_ms).unwrap();
        let again = if expected == Verdict::Future { Verdict::Accepted } else { Verdict::Duplicate };
        check(&log.send(&device.batch_record(&batch)), again);
    }
}

#[test]
fn c1_the_quota_is_of_a_device_in_a_slot() {
    let (mut log, mut device) = registered_log();
    let quota = fieldproof_proto::control::Program { readings_per_device_max: 5, ..program(PROGRAM) };
    log.control.apply(&ControlBody::Program(quota));
    let three = device.batch(&[(1, 1), (2, 2), (3, 3)]);
    let two = device.batch(&[(4, 4), (5, 5)]);
    let one = device.batch(&[(6, 6)]);
    check(&log.send(&device.batch_record(&three)), Verdict::Accepted);
    check(&log.send(&device.batch_record(&two)), Verdict::Accepted);
    check(&log.send(&device.batch_record(&one)), Verdict::OverQuota);
    let mut other = TestDevice::new(&device.network, 2);
    check(&log.send(&other.registration_record(&provider(1), PROGRAM)), Verdict::Registered);
    let others = other.batch(&[(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]);
    check(&log.send(&other.batch_record(&others)), Verdict::Accepted);
    log.slot = 1;
    check(&log.send(&device.batch_record(&one)), Verdict::Accepted);
    // Every value counts, not every time.
    let columns = [ENERGY, TEMPERATURE].map(|metric| Column { metric, values: vec![Some(9); 3] });
    let payload = Payload { times_ms: vec![7, 8, 9], columns: columns.to_vec() };
    let (batch, _) = device.sign(device.next, device.previous, &payload);
    let six = NewRecord { kind: KIND_BATCH, key: Some(device.id.0.to_vec()), value: batch.encode_to_vec() };
    check(&log.send(&six), Verdict::OverQuota);
}

/// A batch that fails several rules gets the verdict of the first (SPEC.md section 11).
#[test]
fn c1_the_rules_are_asked_in_their_order() {
    let network = TestNetwork::new(GRID, 2);
    let device = TestDevice::in_partition(&network, 0, 1);
    let mut log = Log::new(&network, 0);
    log.control.apply(&ControlBody::Program(fieldproof_proto::control::Program {
        readings_per_device_max: 1,
        ..program(PROGRAM)
    }));
    let key = |device: &TestDevice| Some(device.id.0.to_vec());
    let bad = device.batch_at(FIRST, Digest::ZERO, &[(0, -1), (9_000_000, -2)]);
    let bad_signature = tampered(&bad, |batch| batch.signature = flipped(&batch.signature, 9));
    let send = |log: &mut Log, key: Option<Vec<u8>>, value: &[u8]| {
        log.send(&NewRecord { kind: KIND_BATCH, key, value: value.to_vec() }).verdict
    };
    assert_eq!(send(&mut log, None, &bad_signature), Verdict::Misrouted);
    assert_eq!(send(&mut log, key(&device), &bad_signature), Verdict::BadSignature);
    assert_eq!(send(&mut log, key(&device), &bad.value), Verdict::Unregistered);
    let mut device = device;
    check(&log.send(&device.registration_record(&provider(1), PROGRAM)), Verdict::Registered);
    assert_eq!(send(&mut log, key(&device), &bad.value), Verdict::OutOfRange);
    let future = device.batch_at(FIRST, Digest::ZERO, &[(0, 1), (9_000_000, 2)]);
    assert_eq!(send(&mut log, key(&device), &future.value), Verdict::Future);
    let quota = device.batch_at(FIRST, Digest::ZERO, &[(0, 1), (1, 2)]);
    assert_eq!(send(&mut log, key(&device), &quota.value), Verdict::OverQuota);
    let good = device.batch_at(FIRST, Digest::ZERO, &[(0, 1)]);
    assert_eq!(send(&mut log, key(&device), &good.value), Verdict::Accepted);
    // The place is asked before the worth, also where it flags.
    assert_eq!(send(&mut log, key(&device), &future.value), Verdict::Equivocation);
    assert!(log.is_flagged(device.id));
}

#[test]
fn d2_p256_devices_count_too() {
    let network = TestNetwork::new(GRID, 1);
    let mut log = Log::new(&network, 0);
    let mut device = TestDevice::new(&network, 1);
    device.secret = fieldproof_proto::signature::DeviceSecret::p256([9; 32]).unwrap();
    device.id = device.secret.public_key().device_id();
    check(&log.send(&device.registration_record(&provider(1), PROGRAM)), Verdict::Registered);
    let batch = device.batch(&[(1_000_000, 1)]);
    check(&log.send(&device.batch_record(&batch)), Verdict::Accepted);
    // The other signature of the pair (r, s), (r, n - s) is no second record of the same readings.
    let order = hex::decode("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551").unwrap();
    let high = tampered(&batch, |batch| {
        let mut borrow = 0_i16;
        let mut signature = batch.signature.to_vec();
        for index in (0..32).rev() {
            let digit = i16::from(order[index]) - i16::from(signature[32 + index]) - borrow;
            borrow = i16::from(digit < 0);
            signature[32 + index] = u8::try_from(digit.rem_euclid(256)).unwrap();
        }
        batch.signature = signature.into();
    });
    let high = NewRecord { value: high, ..device.batch_record(&batch) };
    check(&log.send(&high), Verdict::BadSignature);
}

#[test]
fn d2_the_owner_is_the_one_in_force_and_places_go_on() {
    let (mut log, mut device) = registered_log();
    let batches: Vec<_> =
        (0..3).map(|index: i64| device.batch(&[(1_000_000 + index.unsigned_abs(), index)])).collect();
    let owner = |admitted: Admitted| -> Address { admitted.accepted.unwrap().record.provider };
    assert_eq!(owner(log.send(&device.batch_record(&batches[0]))), provider(1).address());
    log.slot = 1;
    check(&log.send(&device.registration_record(&provider(2), PROGRAM)), Verdict::Registered);
    // The same readings signed anew under the new owner do not fit.
    let renamed = device.batch_at(Place { boot: 2, seq: 0 }, device.previous, &batches[0].readings);
    check(&log.send(&device.batch_record(&renamed)), Verdict::Overlap);
    let again = device.batch_at(FIRST, Digest::ZERO, &batches[0].readings);
    check(&log.send(&device.batch_record(&again)), Verdict::Equivocation);
    let next = device.batch_at(Place { boot: 1, seq: 1 }, batches[0].digest, &[(1_000_050, 50)]);
    assert_eq!(owner(log.send(&device.batch_record(&next))), provider(2).address());
}

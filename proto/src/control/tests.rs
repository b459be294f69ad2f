#![allow(clippy::unwrap_used)]

use super::*;

const NETWORK: NetworkId = NetworkId([9; 32]);

fn operator() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn metric() -> Metric {
    Metric {
        id: 1,
        name: "energy_exported".to_owned(),
        unit: "Wh".to_owned(),
        scale: 3,
        metric_kind: MetricKind::Counter,
        minimum: 0,
        maximum: i64::MAX,
    }
}

fn program() -> Program {
    Program {
        name: "energy".to_owned(),
        admitter: OperatorKey([2; 32]),
        pool: POOL_MAX,
        readings_per_device_max: 1,
        devices_max: 1,
        policy: PolicyBundle { policy_toml: String::new(), contribution_sql: "SELECT 1".to_owned() },
    }
}

fn verify(record: &ControlRecord) -> Result<ControlRecord, ControlError> {
    let operator = OperatorKey(operator().verifying_key().to_bytes());
    ControlRecord::verify(&NETWORK, &operator, &record.to_bytes()?)
}

fn sign(body: ControlBody) -> ControlRecord {
    ControlRecord::sign(&NETWORK, body, &operator()).unwrap()
}

#[test]
fn every_kind_verifies() {
    for body in [
        ControlBody::Metric(metric()),
        ControlBody::Program(program()),
        ControlBody::Ingester { key: OperatorKey([3; 32]) },
        ControlBody::Distributor { address: Address::repeat_byte(4) },
    ] {
        let record = sign(body.clone());
        assert_eq!(verify(&record).unwrap().body, body);
        let other = ControlRecord::sign(&NetworkId([8; 32]), body.clone(), &operator()).unwrap();
        assert!(verify(&other).is_err());
        let stranger = ControlRecord::sign(&NETWORK, body, &SigningKey::from_bytes(&[2; 32])).unwrap();
        assert!(verify(&stranger).is_err());
    }
}

#[test]
fn bodies_out_of_bounds_are_refused() {
    let check = |body, field: &str| {
        let error = verify(&sign(body)).unwrap_err();
        assert!(matches!(&error, ControlError::Field { field: found, .. } if *found == field), "{error}");
    };
    check(ControlBody::Metric(Metric { minimum: 2, maximum: 1, ..metric() }), "minimum");
    check(ControlBody::Metric(Metric { minimum: -1, ..metric() }), "minimum");
    check(ControlBody::Program(Program { pool: POOL_MAX + 1, ..program() }), "pool");
    check(ControlBody::Program(Program { devices_max: 0, ..program() }), "quota");
    check(ControlBody::Program(Program { readings_per_device_max: 0, ..program() }), "quota");
    for name in ["", "Energy", "a b", &"a".repeat(65)] {
        check(ControlBody::Program(Program { name: name.to_owned(), ..program() }), "name");
    }
}

/// A record has one form only: upper-case digits would be a second one with the same meaning.
#[test]
fn the_signature_is_in_lower_case() {
    let record = sign(ControlBody::Metric(metric()));
    let upper = ControlRecord { signature: record.signature.to_uppercase(), ..record.clone() };
    assert_ne!(upper, record);
    assert!(matches!(verify(&upper), Err(ControlError::Signature(SignatureError::Invalid))));
}

#[test]
fn p1_one_flipped_bit_anywhere_fails() {
    let bytes = sign(ControlBody::Program(program())).to_bytes().unwrap();
    let operator = OperatorKey(operator().verifying_key().to_bytes());
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(ControlRecord::verify(&NETWORK, &operator, &bytes).is_err(), "bit {bit}");
    }
}

#[test]
fn r1_the_state_is_the_last_of_each() {
    let mut state = ControlState::default();
    let mut reordered = ControlState::default();
    let second = Metric { id: 2, ..metric() };
    for body in [metric(), second.clone(), Metric { scale: 0, ..metric() }] {
        state.apply(&ControlBody::Metric(body));
    }
    for body in [second, metric(), Metric { scale: 0, ..metric() }] {
        reordered.apply(&ControlBody::Metric(body));
    }
    assert_eq!(state, reordered);
    assert_eq!(state.metrics[&1].scale, 0);
    assert_eq!(state.digest().unwrap(), reordered.digest().unwrap());
    assert_ne!(state.digest().unwrap(), ControlState::default().digest().unwrap());
}

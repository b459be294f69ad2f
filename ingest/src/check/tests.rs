use fieldproof_proto::{
    batch::{BatchFacts, sign_batch},
    payload::{Column, Payload},
    signature::DeviceSecret,
};

use super::*;

const RULES: CheckRules = CheckRules { network: NetworkId([7; 32]), batch_bytes_max: 10_000, device: None };

fn batch(secret: &DeviceSecret) -> SignedBatch {
    let payload = Payload {
        times_ms: vec![1_000, 2_000],
        columns: vec![Column { metric: 1, values: vec![Some(5), Some(6)] }],
    };
    let facts = BatchFacts {
        network: RULES.network,
        registration: 1,
        place: Place { boot: 3, seq: 4 },
        previous: Digest([1; 32]),
    };
    sign_batch(secret, &facts, &payload).unwrap().0
}

fn refused(rules: &CheckRules, batch: SignedBatch) -> RejectionCode {
    check(rules, &KeyCache::default(), batch).unwrap_err().code
}

#[test]
fn a_good_batch_passes_with_both_algorithms_and_one_cache_serves_one_device() {
    for secret in [DeviceSecret::ed25519([1; 32]), DeviceSecret::p256([1; 32]).unwrap()] {
        let keys = KeyCache::default();
        for _ in 0..2 {
            let good = check(&RULES, &keys, batch(&secret)).unwrap();
            assert_eq!(good.device, secret.public_key().device_id());
            assert_eq!((good.place.boot, good.place.seq), (3, 4));
            assert_eq!(good.previous, Digest([1; 32]));
        }
        // Another device on the same cache is checked with its own key.
        let other = batch(&DeviceSecret::ed25519([9; 32]));
        assert!(check(&RULES, &keys, other.clone()).is_ok());
        let mut forged = other;
        forged.signature = batch(&secret).signature;
        assert_eq!(check(&RULES, &keys, forged).unwrap_err().code, RejectionCode::BadSignature);
    }
}

#[test]
fn one_flipped_bit_anywhere_is_refused() {
    let good = batch(&DeviceSecret::ed25519([1; 32]));
    let parts = [good.header.len(), good.payload.len(), good.signature.len()];
    for (part, bytes) in parts.into_iter().enumerate() {
        for bit in 0..bytes * 8 {
            let mut flipped = good.clone();
            let field = match part {
                0 => &mut flipped.header,
                1 => &mut flipped.payload,
                _ => &mut flipped.signature,
            };
            let mut changed = field.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            *field = changed.into();
            refused(&RULES, flipped);
        }
    }
}

#[test]
fn size_comes_first_and_is_the_whole_message() {
    let good = batch(&DeviceSecret::ed25519([1; 32]));
    let exact = CheckRules { batch_bytes_max: batch_bytes(&good), ..RULES };
    assert!(check(&exact, &KeyCache::default(), good.clone()).is_ok());
    let less = CheckRules { batch_bytes_max: batch_bytes(&good) - 1, ..RULES };
    assert_eq!(refused(&less, good), RejectionCode::TooLarge);
}

#[test]
fn a_header_without_readings_is_empty_and_not_malformed() {
    let mut none = batch(&DeviceSecret::ed25519([1; 32]));
    let mut header = BatchHeader::parse(&none.header).unwrap();
    header.reading_count = 0;
    none.header = header.encode().to_vec().into();
    assert_eq!(refused(&RULES, none), RejectionCode::Empty);
}

#![allow(clippy::unwrap_used)]

use p256::ecdsa::signature::Verifier as _;
use proptest::prelude::*;

use super::*;

fn secrets() -> [DeviceSecret; 2] {
    [DeviceSecret::ed25519([1; 32]), DeviceSecret::p256([2; 32]).unwrap()]
}

fn verify(key: &PublicKey, message: &Digest, signature: &[u8]) -> Result<(), SignatureError> {
    key.verifying_key()?.verify(message, signature)
}

/// The eight points of small order, and the encodings of them that are not canonical.
#[test]
fn ed25519_keys_of_small_order_are_refused() {
    let points = curve_points_of_small_order();
    assert_eq!(points.len(), 14);
    for point in points {
        let mut bytes = [0; 33];
        bytes[..32].copy_from_slice(&point);
        let key = PublicKey { algorithm: Algorithm::Ed25519, bytes };
        assert_eq!(key.verifying_key().err(), Some(SignatureError::Key), "{}", hex::encode(point));
    }
}

fn curve_points_of_small_order() -> Vec<[u8; 32]> {
    let order_eight = [
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ];
    let mut points: Vec<[u8; 32]> =
        order_eight.iter().map(|text| hex::decode(text).unwrap().try_into().unwrap()).collect();
    // y = 0 and y = ±1, as they are and with p added where that fits into 255 bits.
    let mut high = [0xff; 32];
    high[31] = 0x7f;
    for low in [0xec, 0xed, 0xee] {
        high[0] = low;
        points.push(high);
    }
    points.push([0; 32]);
    let mut one = [0; 32];
    one[0] = 1;
    points.push(one);
    let negative = points.iter().map(|point| {
        let mut negative = *point;
        negative[31] |= 0x80;
        negative
    });
    negative.collect::<Vec<_>>().into_iter().chain(points).collect()
}

#[test]
fn ed25519_keys_that_are_not_canonical_are_refused() {
    for low in 0xed..=0xff {
        for high in [0x7f, 0xff] {
            let mut bytes = [0xff; 33];
            (bytes[0], bytes[31], bytes[32]) = (low, high, 0);
            let key = PublicKey { algorithm: Algorithm::Ed25519, bytes };
            assert_eq!(key.verifying_key().err(), Some(SignatureError::Key));
        }
    }
    let mut key = secrets()[0].public_key();
    key.bytes[32] = 1;
    assert_eq!(key.verifying_key().err(), Some(SignatureError::Key));
}

/// The order of the group of Ed25519 added to S gives the same equation, and is refused.
#[test]
fn ed25519_s_is_below_the_order() {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let (secret, message) = (&secrets()[0], Digest([5; 32]));
    let mut signature = secret.sign(&message);
    verify(&secret.public_key(), &message, &signature).unwrap();
    let mut carry = 0_u16;
    for (byte, order) in signature[32..].iter_mut().zip(ORDER) {
        carry += u16::from(*byte) + u16::from(order);
        *byte = carry as u8;
        carry >>= 8;
    }
    assert_eq!(verify(&secret.public_key(), &message, &signature), Err(SignatureError::Invalid));
}

#[test]
fn ed25519_r_of_small_order_or_not_canonical_is_refused() {
    let (secret, message) = (&secrets()[0], Digest([5; 32]));
    let signature = secret.sign(&message);
    for point in curve_points_of_small_order() {
        let changed = [&point[..], &signature[32..]].concat();
        assert_eq!(verify(&secret.public_key(), &message, &changed), Err(SignatureError::Invalid));
        assert_eq!(
            verify(&secret.public_key(), &message, &[&point[..], &[0; 32]].concat()),
            Err(SignatureError::Invalid)
        );
    }
}

/// SEC 1 has a "compact" form of 33 bytes with tag 5, which the p256 crate reads: with it one key
/// would be two devices.
#[test]
fn p256_keys_have_one_form() {
    let key = secrets()[1].public_key();
    assert!(key.verifying_key().is_ok());
    let compact = [&[5], &key.bytes[1..]].concat();
    assert!(p256::PublicKey::from_sec1_bytes(&compact).is_ok(), "the check is not needed any more");
    for tag in (0..=255).filter(|tag| !matches!(tag, 2 | 3)) {
        let mut other = key;
        other.bytes[0] = tag;
        assert_eq!(other.verifying_key().err(), Some(SignatureError::Key), "tag {tag}");
    }
}

#[test]
fn p256_high_s_is_refused() {
    for seed in 1..20 {
        let (secret, message) = (DeviceSecret::p256([seed; 32]).unwrap(), Digest([seed; 32]));
        let signature = secret.sign(&message);
        verify(&secret.public_key(), &message, &signature).unwrap();
        let low = p256::ecdsa::Signature::from_slice(&signature).unwrap();
        let high = p256::ecdsa::Signature::from_scalars(low.r(), -low.s()).unwrap().to_bytes();
        assert_eq!(verify(&secret.public_key(), &message, &high), Err(SignatureError::Invalid));
    }
}

#[test]
fn other_lengths_are_refused() {
    for secret in secrets() {
        let signature = secret.sign(&Digest::ZERO);
        for length in [0, 1, 63] {
            let error = verify(&secret.public_key(), &Digest::ZERO, &signature[..length]).unwrap_err();
            assert_eq!(error, SignatureError::Length(length));
        }
        let longer = [&signature[..], &[0]].concat();
        assert_eq!(verify(&secret.public_key(), &Digest::ZERO, &longer), Err(SignatureError::Length(65)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn p1_one_flipped_bit_anywhere_fails(message in any::<[u8; 32]>(), seed in 1_u8..9, bit in 0_usize..512) {
        for secret in [DeviceSecret::ed25519([seed; 32]), DeviceSecret::p256([seed; 32]).unwrap()] {
            let key = secret.public_key();
            let signature = secret.sign(&Digest(message));
            prop_assert!(verify(&key, &Digest(message), &signature).is_ok());
            let mut changed = signature;
            changed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(verify(&key, &Digest(message), &changed).is_err());
            let mut changed = message;
            changed[bit / 16] ^= 1 << (bit % 8);
            prop_assert!(verify(&key, &Digest(changed), &signature).is_err());
        }
    }

    /// ring, which we use, and the p256 crate agree: on signatures, changed ones, and random ones.
    #[test]
    fn r1_ring_and_p256_agree(
        scalar in 1_u8.., message in any::<[u8; 32]>(), at in 0_usize..64, other in any::<u8>(),
        random in any::<[u8; 32]>(),
    ) {
        let secret = DeviceSecret::p256([scalar; 32]).unwrap_or(DeviceSecret::p256([1; 32]).unwrap());
        let key = secret.public_key();
        let signature = secret.sign(&Digest(message));
        let mut changed = signature;
        changed[at] = other;
        let mut both = [0; 64];
        both[..32].copy_from_slice(&random);
        both[32..].copy_from_slice(&message);
        let oracle = p256::ecdsa::VerifyingKey::from_sec1_bytes(&key.bytes).unwrap();
        for signature in [signature, changed, both] {
            let expected = p256::ecdsa::Signature::from_slice(&signature)
                .ok()
                .filter(|parsed| parsed.normalize_s().is_none())
                .is_some_and(|parsed| oracle.verify(&message, &parsed).is_ok());
            prop_assert_eq!(verify(&key, &Digest(message), &signature).is_ok(), expected);
        }
    }

    #[test]
    fn random_bytes_never_panic(
        code in 0_u8..4,
        key in prop::collection::vec(any::<u8>(), 33),
        signature in prop::collection::vec(any::<u8>(), 0..70),
    ) {
        if let Ok(algorithm) = Algorithm::from_code(code) {
            let key = PublicKey { algorithm, bytes: key.try_into().unwrap() };
            prop_assert!(verify(&key, &Digest::ZERO, &signature).is_err());
        }
    }
}

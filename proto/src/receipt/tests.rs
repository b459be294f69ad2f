#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn key() -> SigningKey {
    SigningKey::from_bytes(&[4; 32])
}

fn receipt() -> Receipt {
    Receipt {
        network: NetworkId([1; 32]),
        generation: 1,
        partition: 2,
        offset: 3,
        device: DeviceId([4; 32]),
        boot: 5,
        from_seq: 6,
        to_seq: 7,
        digest: Digest([8; 32]),
        ingester: OperatorKey(key().verifying_key().to_bytes()),
    }
}

fn rejection(code: RejectionCode) -> Rejection {
    let Receipt { network, device, digest, ingester, .. } = receipt();
    Rejection { network, device, place: Place { boot: 5, seq: 6 }, digest, code, ingester }
}

#[test]
fn d1_a_receipt_verifies_and_one_flipped_bit_fails() {
    let SignedBody { body, signature } = receipt().sign(&key());
    assert_eq!(body.len(), 169);
    assert_eq!(Receipt::verify(&body, &signature).unwrap(), receipt());
    for bit in 0..body.len() * 8 {
        let mut body = body.clone();
        body[bit / 8] ^= 1 << (bit % 8);
        assert!(Receipt::verify(&body, &signature).is_err(), "bit {bit}");
    }
    assert!(Rejection::verify(&body, &signature).is_err());
}

#[test]
fn every_rejection_verifies_and_one_flipped_bit_fails() {
    for (index, code) in RejectionCode::ALL.into_iter().enumerate() {
        assert_eq!(usize::from(code.number()), index + 1);
        let SignedBody { body, signature } = rejection(code).sign(&key());
        assert_eq!(body.len(), 147);
        assert_eq!(Rejection::verify(&body, &signature).unwrap(), rejection(code));
        for bit in 0..body.len() * 8 {
            let mut body = body.clone();
            body[bit / 8] ^= 1 << (bit % 8);
            assert!(Rejection::verify(&body, &signature).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn a_receipt_covers_a_rising_range() {
    let signed = Receipt { from_seq: 8, ..receipt() }.sign(&key());
    assert!(matches!(Receipt::verify(&signed.body, &signed.signature), Err(ReceiptError::Layout(_))));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(
        body in prop::collection::vec(any::<u8>(), 0..200),
        signature in prop::collection::vec(any::<u8>(), 0..70),
    ) {
        prop_assert!(Receipt::verify(&body, &signature).is_err());
        prop_assert!(Rejection::verify(&body, &signature).is_err());
    }
}

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::payload::Column;

fn payload() -> Payload {
    Payload {
        times_ms: vec![1_000, 1_250, 9_000],
        columns: vec![
            Column { metric: 1, values: vec![Some(5), None, Some(-5)] },
            Column { metric: 4, values: vec![Some(i64::MAX), Some(0), Some(1)] },
        ],
    }
}

fn facts() -> BatchFacts {
    BatchFacts {
        network: NetworkId([7; 32]),
        registration: 2,
        place: Place { boot: 3, seq: 9 },
        previous: Digest([8; 32]),
    }
}

fn secrets() -> [DeviceSecret; 2] {
    [DeviceSecret::ed25519([1; 32]), DeviceSecret::p256([2; 32]).unwrap()]
}

/// Form and signature, as everybody checks them.
fn verify(network: &NetworkId, batch: &SignedBatch) -> Result<WellFormedBatch, BatchError> {
    let well_formed = WellFormedBatch::parse(network, batch)?;
    well_formed.header.public_key.verifying_key()?.verify(&well_formed.digest, &batch.signature)?;
    Ok(well_formed)
}

#[test]
fn a_signed_batch_verifies() {
    for secret in secrets() {
        let (batch, digest) = sign_batch(&secret, &facts(), &payload()).unwrap();
        let verified = verify(&facts().network, &batch).unwrap();
        assert_eq!((verified.digest, verified.payload), (digest, payload()));
        assert_eq!(verified.header.place, facts().place);
        assert_eq!(verified.header.device_id(), secret.public_key().device_id());
        assert_eq!(batch.header.len(), HEADER_BYTES);
        assert!(matches!(
            verify(&NetworkId([9; 32]), &batch).unwrap_err(),
            BatchError::Network { found, .. } if found == "07070707"
        ));
        // The tag is four bytes only: the digest binds all of the network id.
        let mut neighbour = facts().network;
        neighbour.0[31] ^= 1;
        assert_eq!(verify(&neighbour, &batch).unwrap_err(), BatchError::Signature(SignatureError::Invalid));
    }
}

#[test]
fn p1_one_flipped_bit_anywhere_fails() {
    let flipped = |bytes: &[u8], bit: usize| {
        let mut bytes = bytes.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes.into()
    };
    for secret in secrets() {
        let (batch, digest) = sign_batch(&secret, &facts(), &payload()).unwrap();
        let network = facts().network;
        for bit in 0..batch.header.len() * 8 {
            let changed = SignedBatch { header: flipped(&batch.header, bit), ..batch.clone() };
            assert!(verify(&network, &changed).is_err(), "header bit {bit}");
            assert_ne!(batch_digest(&network, &changed.header, &changed.payload), digest);
        }
        for bit in 0..batch.payload.len() * 8 {
            let changed = SignedBatch { payload: flipped(&batch.payload, bit), ..batch.clone() };
            assert!(verify(&network, &changed).is_err(), "payload bit {bit}");
            assert_ne!(batch_digest(&network, &changed.header, &changed.payload), digest);
        }
        for bit in 0..batch.signature.len() * 8 {
            let changed = SignedBatch { signature: flipped(&batch.signature, bit), ..batch.clone() };
            assert!(verify(&network, &changed).is_err(), "signature bit {bit}");
        }
    }
}

#[test]
fn the_digest_knows_where_the_header_ends() {
    let network = facts().network;
    assert_ne!(batch_digest(&network, b"ab", b"c"), batch_digest(&network, b"a", b"bc"));
}

#[test]
fn header_and_payload_agree() {
    let (batch, _) = sign_batch(&secrets()[0], &facts(), &payload()).unwrap();
    let header = BatchHeader::parse(&batch.header).unwrap();
    let check = |header: BatchHeader, expected: BatchError| {
        let changed = SignedBatch { header: header.encode().to_vec().into(), ..batch.clone() };
        assert_eq!(WellFormedBatch::parse(&facts().network, &changed).unwrap_err(), expected);
    };
    check(
        BatchHeader { reading_count: 6, ..header },
        BatchError::Mismatch { field: "reading count", header: 6, payload: 5 },
    );
    check(
        BatchHeader { last_time_ms: 9_001, ..header },
        BatchError::Mismatch { field: "last time", header: 9_001, payload: 9_000 },
    );
}

/// An unknown algorithm is a matter of form: the batch is malformed, not badly signed.
#[test]
fn an_unknown_algorithm_is_a_matter_of_form() {
    let (batch, _) = sign_batch(&secrets()[0], &facts(), &payload()).unwrap();
    for code in [0, 3, 255] {
        let mut header = batch.header.to_vec();
        header[5] = code;
        assert!(matches!(BatchHeader::parse(&header), Err(BatchError::Header(LayoutError::Field { .. }))));
    }
}

proptest! {
    #[test]
    fn r1_every_header_has_exactly_one_encoding(
        mut bytes in prop::collection::vec(any::<u8>(), HEADER_BYTES),
    ) {
        // Random bytes are never a header: these make the checked fields plausible.
        bytes[0] = 1;
        bytes[5] = 1 + bytes[5] % 2;
        bytes[93..95].fill(0); // the reading count
        bytes[100..103].fill(0); // the first time
        bytes[108..111].fill(0); // the last time
        if let Ok(header) = BatchHeader::parse(&bytes) {
            prop_assert_eq!(&header.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn random_bytes_never_panic(
        header in prop::collection::vec(any::<u8>(), 0..200),
        payload in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let (header, payload, signature) = (header.into(), payload.into(), Default::default());
        let batch = SignedBatch { header, payload, signature };
        prop_assert!(WellFormedBatch::parse(&facts().network, &batch).is_err());
    }
}

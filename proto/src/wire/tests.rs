#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::v1::SignedBatch;

#[test]
fn integers_have_one_form() {
    let check = |bytes: &[u8], expected: Option<u64>| {
        let mut reader = Reader::new("test", bytes);
        assert_eq!(reader.varint().ok(), expected, "{bytes:?}");
    };
    check(&[0], Some(0));
    check(&[0x7f], Some(127));
    check(&[0x80, 1], Some(128));
    check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], Some(u64::MAX));
    check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], None);
    check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x81, 0], None);
    check(&[0x80, 0], None);
    check(&[0x80, 0x80, 0], None);
    check(&[0x80], None);
    check(&[], None);
}

/// Protobuf libraries agree on these only if everybody insists on the one form.
#[test]
fn r1_envelopes_have_one_form() {
    let check = |text: &str, accepted: bool| {
        let bytes = hex::decode(text).unwrap();
        assert_eq!(decode_envelope::<SignedBatch>("the batch", &bytes).is_ok(), accepted, "{text}");
    };
    check("0a0161120162", true);
    check("0a01611a0163", true);
    check("1201620a0161", false);
    check("0a01610a0161", false);
    check("0a00", false);
    check("0a01614a0178", false);
    check("0a810061", false);
    check("0801", false);
}

proptest! {
    #[test]
    fn r1_varint_round_trips(value in any::<u64>(), bits in 0_u32..64) {
        let value = value >> bits;
        let mut bytes = Vec::new();
        put_varint(&mut bytes, value);
        let mut reader = Reader::new("test", &bytes);
        prop_assert_eq!(reader.varint().unwrap(), value);
        reader.end().unwrap();
    }

    #[test]
    fn r1_whatever_is_read_is_what_would_be_written(bytes in prop::collection::vec(any::<u8>(), 1..12)) {
        let mut reader = Reader::new("test", &bytes);
        if let Ok(value) = reader.varint() {
            let mut written = Vec::new();
            put_varint(&mut written, value);
            prop_assert_eq!(&written[..], &bytes[..bytes.len() - reader.left()]);
        }
    }

    #[test]
    fn random_envelopes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(batch) = decode_envelope::<SignedBatch>("the batch", &bytes) {
            prop_assert_eq!(prost::Message::encode_to_vec(&batch), bytes);
        }
    }
}

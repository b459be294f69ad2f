use proptest::prelude::*;

use super::*;
use crate::digest::{tree_proof, tree_verify};

fn record(offset: u64) -> Record {
    Record {
        offset,
        append_ms: 1_760_000_000_000,
        key: Some(vec![1, 2]),
        headers: vec![(KIND_HEADER.to_owned(), Some(KIND_BATCH.to_vec()))],
        value: Some(offset.to_le_bytes().to_vec()),
    }
}

fn name() -> SegmentName {
    SegmentName { generation: 1, partition: 2, first_offset: 0, next_offset: 5, previous: Digest([7; 32]) }
}

#[test]
fn p1_every_record_proves_its_segment() {
    for count in 1..20 {
        let records: Vec<_> = (0..count).map(record).collect();
        let leaves = record_leaves(&records);
        let root = tree_root(&leaves);
        for (index, record) in records.iter().enumerate() {
            let path = tree_proof(&leaves, index).expect("the index is inside");
            let leaf = tree_leaf(&record.canonical_bytes());
            assert!(tree_verify(&root, &leaf, index, leaves.len(), &path));
            let changed = Record { append_ms: record.append_ms + 1, ..record.clone() };
            assert!(!tree_verify(&root, &tree_leaf(&changed.canonical_bytes()), index, leaves.len(), &path));
        }
    }
}

#[test]
fn c2_a_segment_binds_its_name_and_every_record() {
    let leaves = record_leaves(&(0..5).map(record).collect::<Vec<_>>());
    let digest = segment_digest(&name(), &leaves);
    for changed in [
        SegmentName { generation: 2, ..name() },
        SegmentName { partition: 3, ..name() },
        SegmentName { partition: CONTROL_PARTITION, ..name() },
        SegmentName { first_offset: 1, ..name() },
        SegmentName { next_offset: 6, ..name() },
        SegmentName { previous: Digest::ZERO, ..name() },
    ] {
        assert_ne!(segment_digest(&changed, &leaves), digest);
    }
    assert_ne!(segment_digest(&name(), &leaves[..4]), digest);
    let mut swapped = leaves.clone();
    swapped.swap(1, 2);
    assert_ne!(segment_digest(&name(), &swapped), digest);
}

#[test]
fn an_evidence_root_binds_order_and_count() {
    let [one, other] = [Digest([1; 32]), Digest([2; 32])];
    let roots = [
        evidence_root(&[]),
        evidence_root(&[one]),
        evidence_root(&[other]),
        evidence_root(&[one, other]),
        evidence_root(&[other, one]),
        evidence_root(&[one, other, Digest::ZERO]),
    ];
    for (index, root) in roots.iter().enumerate() {
        assert!(!roots[..index].contains(root));
    }
}

#[test]
fn the_first_kind_header_decides() {
    let kind = |headers: &[(&str, Option<&[u8]>)]| {
        let headers =
            headers.iter().map(|(name, value)| ((*name).to_owned(), value.map(<[u8]>::to_vec))).collect();
        Record { headers, ..record(0) }.kind().map(<[u8]>::to_vec)
    };
    assert_eq!(kind(&[]), None);
    assert_eq!(kind(&[("Kind", Some(b"tick"))]), None);
    assert_eq!(kind(&[("kind", None), ("kind", Some(b"tick"))]), None);
    assert_eq!(
        kind(&[("x", None), ("kind", Some(b"tick")), ("kind", Some(b"batch"))]),
        Some(b"tick".to_vec())
    );
}

fn records() -> impl Strategy<Value = Record> {
    let bytes = || prop::option::of(prop::collection::vec(0_u8..3, 0..4));
    let headers = prop::collection::vec(("[a-c]{0,2}", bytes()), 0..3);
    (0_u64..3, -1_i64..2, bytes(), headers, bytes()).prop_map(|(offset, append_ms, key, headers, value)| {
        Record { offset, append_ms, key, headers, value }
    })
}

proptest! {
    #[test]
    fn r1_other_records_have_other_bytes(one in records(), other in records()) {
        prop_assert_eq!(one == other, one.canonical_bytes() == other.canonical_bytes());
    }
}

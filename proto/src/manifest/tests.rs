use super::*;

#[test]
fn c1_counts_add_up() {
    let counts = |records, verdicts: &[(&str, u64)], readings, on_time, late| Counts {
        records,
        verdicts: verdicts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
        readings,
        on_time,
        late,
    };
    let mut one = counts(3, &[("accepted", 2), ("tick", 1)], 9, 8, 1);
    assert!(one.add_up());
    one.add(&counts(2, &[("accepted", 1), ("stale", 1)], 4, 0, 4));
    assert_eq!(one, counts(5, &[("accepted", 3), ("stale", 1), ("tick", 1)], 13, 8, 5));
    assert!(one.add_up());
    assert!(!counts(1, &[], 0, 0, 0).add_up());
    assert!(!counts(0, &[], 1, 0, 0).add_up());
    // Counts that wrap around do not add up.
    assert!(!counts(0, &[("accepted", 1), ("tick", u64::MAX)], 0, 1, u64::MAX).add_up());
}

#[test]
fn names_of_objects() {
    let digest = Digest([0xab; 32]);
    let (root, account) = (B256::repeat_byte(1), Address::repeat_byte(0xcd));
    let (ones, account_text) = ("01".repeat(32), "cd".repeat(20));
    assert_eq!(object_name::segment(3, 4, 5), "evidence/3/4/00000000000000000005.parquet");
    assert_eq!(object_name::segment(3, u32::MAX, 0), "evidence/3/control/00000000000000000000.parquet");
    assert_eq!(object_name::manifest(12, 1), "epochs/00000000000000000012/1.json");
    assert_eq!(object_name::object(&digest), format!("objects/{}.json", "ab".repeat(32)));
    assert_eq!(object_name::tree(&root), format!("roots/{ones}/tree.json"));
    assert_eq!(object_name::claim(&root, &account), format!("roots/{ones}/claims/0x{account_text}.json"));
    assert_eq!(object_name::root_statement(12, 1), "statements/00000000000000000012/1/root.json");
    assert_eq!(
        object_name::attestation(12, 1, &account),
        format!("statements/00000000000000000012/1/attestations/0x{account_text}.json")
    );
}

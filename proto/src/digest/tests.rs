use std::collections::BTreeSet;

use super::*;

fn leaves(count: usize) -> Vec<Digest> {
    (0..count).map(|number| tree_leaf(&number.to_le_bytes())).collect()
}

fn flipped(digest: &Digest, bit: usize) -> Digest {
    let mut digest = *digest;
    digest.0[bit / 8] ^= 1 << (bit % 8);
    digest
}

#[test]
fn p1_every_leaf_proves_and_one_flipped_bit_anywhere_fails() {
    for count in 1..=40 {
        let leaves = leaves(count);
        let root = tree_root(&leaves);
        for (index, leaf) in leaves.iter().enumerate() {
            let path = tree_proof(&leaves, index).expect("the index is inside");
            assert!(tree_verify(&root, leaf, index, count, &path));
            for bit in 0..256 {
                assert!(!tree_verify(&flipped(&root, bit), leaf, index, count, &path));
                assert!(!tree_verify(&root, &flipped(leaf, bit), index, count, &path));
            }
            for (place, word) in path.iter().enumerate() {
                let mut path = path.clone();
                path[place] = flipped(word, (index * 7 + place) % 256);
                assert!(!tree_verify(&root, leaf, index, count, &path));
            }
        }
    }
}

#[test]
fn p1_a_proof_holds_at_its_own_place_only() {
    let leaves = leaves(13);
    let root = tree_root(&leaves);
    for index in 0..13 {
        let path = tree_proof(&leaves, index).expect("the index is inside");
        for other in (0..20).filter(|other| *other != index) {
            assert!(!tree_verify(&root, &leaves[index], other, 13, &path));
        }
        assert!(!tree_verify(&root, &leaves[index], index, 0, &path));
        assert!(!tree_verify(&root, &leaves[index], index, 13, &path[1..]));
        assert!(!tree_verify(&root, &leaves[index], index, 13, &[&path[..], &[Digest::ZERO]].concat()));
        assert!(!tree_verify(&root, &leaves[index], index, usize::MAX, &path));
    }
    assert_eq!(tree_proof(&leaves, 13), None);
    assert_eq!(tree_proof(&[], 0), None);
}

#[test]
fn p1_counts_and_nodes_are_apart() {
    let roots: BTreeSet<_> = (0..70).map(|count| tree_root(&leaves(count))).collect();
    assert_eq!(roots.len(), 70);
    assert_eq!(tree_root(&[]), Digest::ZERO);
    // A node's 64 bytes as a leaf are another digest than the node.
    let two = leaves(2);
    assert_ne!(tree_leaf(&[two[0].0, two[1].0].concat()), tree_root(&two));
}

#[test]
fn parts_are_one_string_and_contexts_are_apart() {
    assert_eq!(digest(context::BATCH, &[b"ab", b"", b"c"]), digest(context::BATCH, &[b"abc"]));
    assert_ne!(digest(context::BATCH, &[b"abc"]), digest(context::RECEIPT, &[b"abc"]));
}

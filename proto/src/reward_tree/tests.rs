#![allow(clippy::unwrap_used)]

use super::*;

fn context() -> LeafContext {
    LeafContext { domain: domain_word(31_337, Address::repeat_byte(0xd1)), token: Address::repeat_byte(0x5f) }
}

fn tree(count: u8) -> RewardTree {
    let account = |number: u8| Address::from_slice(&keccak256([number])[..20]);
    let leaves = (0..count).map(|number| (account(number), u128::from(number) << 64 | 7)).collect();
    RewardTree::new(context(), &leaves).unwrap()
}

fn flipped(word: &B256, bit: usize) -> B256 {
    let mut word = *word;
    word.0[bit / 8] ^= 1 << (bit % 8);
    word
}

#[test]
fn p1_every_leaf_proves_and_one_flipped_bit_anywhere_fails() {
    for count in 1..=40 {
        // All bits in the small trees, every 37th in the others.
        let bits = || (0..256).step_by(if count < 8 { 1 } else { 37 });
        let tree = tree(count);
        assert_eq!(tree.leaves().len(), usize::from(count));
        for (account, cumulative) in tree.leaves() {
            let (amount, path) = tree.proof(account).unwrap();
            assert_eq!(amount, cumulative);
            let leaf = leaf_hash(tree.context(), account, cumulative);
            assert!(verify_proof(&tree.root(), &leaf, &path));
            for bit in bits() {
                assert!(!verify_proof(&flipped(&tree.root(), bit), &leaf, &path));
                assert!(!verify_proof(&tree.root(), &flipped(&leaf, bit), &path));
            }
            for (index, word) in path.iter().enumerate() {
                for bit in bits() {
                    let mut path = path.clone();
                    path[index] = flipped(word, bit);
                    assert!(!verify_proof(&tree.root(), &leaf, &path));
                }
            }
            assert!(path.is_empty() || !verify_proof(&tree.root(), &leaf, &path[1..]));
        }
    }
}

#[test]
fn p1_every_part_of_a_leaf_is_bound() {
    let (account, amount) = (Address::repeat_byte(1), 9);
    let leaf = leaf_hash(&context(), account, amount);
    let other_chain = LeafContext { domain: domain_word(1, Address::repeat_byte(0xd1)), ..context() };
    let other_contract = LeafContext { domain: domain_word(31_337, Address::repeat_byte(0xd2)), ..context() };
    let other_token = LeafContext { token: Address::repeat_byte(0x60), ..context() };
    for context in [other_chain, other_contract, other_token] {
        assert_ne!(leaf_hash(&context, account, amount), leaf);
    }
    assert_ne!(leaf_hash(&context(), Address::repeat_byte(2), amount), leaf);
    assert_ne!(leaf_hash(&context(), account, 10), leaf);
}

#[test]
fn a_dump_loads_and_a_changed_one_does_not() {
    for count in [1, 2, 3, 7] {
        let tree = tree(count);
        let dump = tree.dump();
        assert_eq!(RewardTree::from_dump(context(), &dump).unwrap(), tree);
        let check = |change: &dyn Fn(&mut TreeDump)| {
            let mut changed = dump.clone();
            change(&mut changed);
            assert!(RewardTree::from_dump(context(), &changed).is_err());
        };
        check(&|dump| dump.format = "standard-v2".to_owned());
        check(&|dump| dump.leaf_encoding[3] = "uint128".to_owned());
        check(&|dump| dump.tree[0] = B256::ZERO);
        check(&|dump| dump.values.clear());
        check(&|dump| dump.values[0].tree_index += 1);
        check(&|dump| dump.values[0].value[0] = "1".to_owned());
        check(&|dump| dump.values[0].value[1] = "nobody".to_owned());
        check(&|dump| dump.values[0].value[3] = "1".to_owned());
        check(&|dump| dump.values[0].value[3] = "-1".to_owned());
        let twice = dump.values[0].clone();
        check(&|dump| dump.values.push(twice.clone()));
        check(&|dump| dump.values[0].value[1] = dump.values[0].value[1].to_uppercase().replace("0X", "0x"));
    }
    assert_eq!(RewardTree::new(context(), &BTreeMap::new()).unwrap_err(), TreeError::Empty);
    assert!(tree(3).proof(Address::ZERO).is_none());
}

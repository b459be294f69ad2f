#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn address(number: usize) -> Address {
    let mut bytes = [0; 20];
    bytes[12..].copy_from_slice(&(number as u64).to_be_bytes());
    Address::from(bytes)
}

fn rewards(pool: u128, weights: &[u128]) -> Vec<u128> {
    let weights = weights.iter().enumerate().map(|(number, weight)| (address(number), *weight)).collect();
    allocate(pool, &weights).unwrap().into_values().collect()
}

#[test]
fn ties_go_to_the_lower_address() {
    let check = |pool, weights: &[u128], expected: &[u128]| assert_eq!(rewards(pool, weights), expected);
    check(100, &[1, 1, 1], &[34, 33, 33]);
    check(101, &[1, 1, 1], &[34, 34, 33]);
    check(2, &[1, 1, 1], &[1, 1, 0]);
    check(1, &[0, 7, 7], &[0, 1, 0]);
    check(10, &[1, 2, 4], &[1, 3, 6]);
    check(0, &[1, 2], &[0, 0]);
    check(5, &[0, 0], &[0, 0]);
    check(5, &[], &[]);
}

#[test]
fn c3_extremes() {
    for pool in [WEIGHT_MAX, WEIGHT_MAX - 1, 999, 1] {
        for weights in [vec![WEIGHT_MAX; 1_000], [vec![1], vec![WEIGHT_MAX; 999]].concat(), vec![1; 1_000]] {
            let rewards = rewards(pool, &weights);
            assert_eq!(rewards.iter().sum::<u128>(), pool);
            assert!(rewards.iter().max().unwrap() - rewards.iter().skip(1).min().unwrap() <= 1);
        }
    }
}

#[test]
fn above_the_largest_is_refused() {
    let weights = |weight| BTreeMap::from([(address(1), weight)]);
    let check = |pool, weight, what| {
        assert_eq!(
            allocate(pool, &weights(weight)).unwrap_err(),
            AllocationError { what, value: WEIGHT_MAX + 1 }
        );
    };
    check(WEIGHT_MAX + 1, 1, "pool");
    check(1, WEIGHT_MAX + 1, "weight");
}

proptest! {
    #[test]
    fn c3_rewards_add_up_to_the_pool(
        pool in prop_oneof![0_u128..1_000, 0..=WEIGHT_MAX],
        weights in prop::collection::vec(prop_oneof![0_u128..4, 0_u128..1_000_000, 0..=WEIGHT_MAX], 0..60),
    ) {
        let rewards = rewards(pool, &weights);
        let total: U256 = weights.iter().map(|weight| U256::from(*weight)).sum();
        let expected = if total.is_zero() { 0 } else { pool };
        prop_assert_eq!(rewards.iter().sum::<u128>(), expected);
        for (weight, reward) in weights.iter().zip(&rewards) {
            prop_assert!(*weight > 0 || *reward == 0);
            // Each is its exact share, rounded down or up.
            if !total.is_zero() {
                let share = U256::from(pool) * U256::from(*weight) / total;
                let reward = U256::from(*reward);
                prop_assert!(reward == share || reward == share + U256::from(1));
            }
        }
    }

    /// The same answer in whatever order the providers come, and by a second way to compute it.
    #[test]
    fn r1_by_search(pool in 0_u128..500, weights in prop::collection::vec(0_u128..20, 1..9)) {
        let total: u128 = weights.iter().sum();
        prop_assume!(total > 0);
        let mut expected: Vec<u128> = weights.iter().map(|weight| pool * weight / total).collect();
        let mut remainders: Vec<u128> = weights.iter().map(|weight| pool * weight % total).collect();
        while expected.iter().sum::<u128>() < pool {
            let largest = *remainders.iter().max().unwrap();
            let winner = remainders.iter().position(|remainder| *remainder == largest).unwrap();
            expected[winner] += 1;
            remainders[winner] = 0;
        }
        prop_assert_eq!(rewards(pool, &weights), expected);
    }
}

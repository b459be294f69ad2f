#![allow(clippy::unwrap_used, reason = "a test")]

use fieldproof_proto::manifest::Contribution;
use fieldproof_runtime::store::Store;
use proptest::prelude::*;

use super::*;
use crate::{
    objects,
    testing::{Program, TestNetwork, provider},
};

type Epoch = (Manifest, Vec<Contributions>);

async fn epochs(programs: &[&[Program<'_>]]) -> (Vec<Epoch>, BTreeMap<Address, u128>) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let mut network = TestNetwork::new(store, 31337, Address::repeat_byte(0xee));
    let mut epochs = Vec::new();
    for programs in programs {
        network.epoch(programs).await;
        let manifest = network.manifests.last().unwrap().0.clone();
        let contributions = objects::read_contributions(&network.store, &manifest).await.unwrap();
        epochs.push((manifest, contributions));
    }
    (epochs, network.earned)
}

#[tokio::test]
async fn rewards_add_up_over_programs_and_epochs() {
    let (epochs, earned) = epochs(&[
        &[("energy", 100, &[(provider(1), 1), (provider(2), 2)]), ("telecom", 7, &[(provider(2), 5)])],
        &[("energy", 100, &[(provider(1), 0), (provider(3), 0)])],
        &[("energy", 100, &[(provider(3), 1)])],
    ])
    .await;
    let cumulative = next_cumulative(&BTreeMap::new(), &epochs).unwrap();
    let expected = BTreeMap::from([(provider(1), 33), (provider(2), 67 + 7), (provider(3), 100)]);
    assert_eq!(cumulative, expected);
    assert_eq!(cumulative, earned);
    assert_eq!(total(&cumulative), Some(207));
    // In one go or one after the other: the same.
    let one_by_one =
        epochs.chunks(1).fold(BTreeMap::new(), |sum, epoch| next_cumulative(&sum, epoch).unwrap());
    assert_eq!(one_by_one, cumulative);
}

#[tokio::test]
async fn providers_who_earned_nothing_have_no_leaf_and_none_disappears() {
    let (epochs, _) = epochs(&[&[("energy", 100, &[(provider(1), 0)])]]).await;
    assert_eq!(next_cumulative(&BTreeMap::new(), &epochs).unwrap(), BTreeMap::new());
    let before = BTreeMap::from([(provider(9), 5)]);
    assert_eq!(next_cumulative(&before, &epochs).unwrap(), before);
}

#[tokio::test]
async fn what_does_not_add_up_is_refused() {
    let (epochs, _) = epochs(&[&[("energy", 100, &[(provider(1), 1), (provider(2), 2)])]]).await;
    let check = |change: fn(&mut Epoch), expected: &str| {
        let mut changed = epochs.clone();
        change(&mut changed[0]);
        let error = next_cumulative(&BTreeMap::new(), &changed).unwrap_err().to_string();
        assert!(error.contains(expected), "`{error}` should say `{expected}`");
    };
    check(|epoch| epoch.1[0].providers[0].reward += 1, "not the pool divided by the weights");
    check(|epoch| epoch.1[0].providers[0].weight += 1, "do not add up to the manifest's");
    check(|epoch| epoch.0.programs[0].paid -= 1, "not the pool, or not nothing");
    check(|epoch| epoch.0.programs[0].pool += 1, "not the pool divided by the weights");
    check(|epoch| epoch.1[0].providers.reverse(), "rising order");
    check(|epoch| drop(epoch.1.pop()), "contributions of epoch `0`, []");
    check(|epoch| epoch.1[0].epoch = 1, "contributions of epoch `1`");
    check(|epoch| epoch.1[0].program = "telecom".to_owned(), "[\"telecom\"]");
    check(|epoch| epoch.0.programs[0].pool = u128::MAX, "the largest pool");
    let twice = |epoch: &mut Epoch| {
        let first: Contribution = epoch.1[0].providers[0].clone();
        epoch.1[0].providers.insert(0, first);
    };
    check(twice, "rising order");
}

#[tokio::test]
async fn the_sum_of_all_leaves_has_a_bound() {
    let (epochs, _) = epochs(&[&[("energy", 1, &[(provider(1), 1)])]]).await;
    let most = BTreeMap::from([(provider(2), TOTAL_MAX)]);
    assert_eq!(next_cumulative(&most, &epochs), Err(RewardError::Overflow { epoch: 0 }));
    let almost = BTreeMap::from([(provider(2), TOTAL_MAX - 1)]);
    assert_eq!(total(&next_cumulative(&almost, &epochs).unwrap()), Some(TOTAL_MAX));
    let beyond = BTreeMap::from([(provider(1), u128::MAX), (provider(2), u128::MAX)]);
    assert_eq!(total(&beyond), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// C3: the leaves add up to what the epochs paid, and none ever decreases.
    #[test]
    fn leaves_add_up_to_what_was_paid(
        pools in prop::collection::vec(0..=10_u128.pow(37), 1..4),
        weights in prop::collection::btree_map(1..20_u8, 0..=10_u128.pow(38) - 1, 0..8),
    ) {
        let weights: Vec<(Address, u128)> =
            weights.into_iter().map(|(number, weight)| (provider(number), weight)).collect();
        let programs: Vec<[Program<'_>; 1]> =
            pools.iter().map(|pool| [("energy", *pool, weights.as_slice())]).collect();
        let programs: Vec<&[Program<'_>]> = programs.iter().map(|programs| &programs[..]).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (epochs, _) = runtime.block_on(epochs(&programs));
        let mut before = BTreeMap::new();
        let mut paid = 0;
        for epoch in &epochs {
            let after = next_cumulative(&before, std::slice::from_ref(epoch)).unwrap();
            prop_assert!(before.iter().all(|(account, earned)| after[account] >= *earned));
            paid += epoch.0.programs[0].paid;
            prop_assert_eq!(total(&after), Some(paid));
            before = after;
        }
    }
}

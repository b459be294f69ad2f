//! What every provider has earned so far: the leaves of the next tree. Pure.
//!
//! The prover does not believe the sums of a manifest, it makes them again: each program's rewards
//! are allocated anew from the weights, so a wrong one never reaches a root (C3).

use std::collections::BTreeMap;

use alloy_primitives::{Address, U256};
use fieldproof_proto::{
    allocation::{AllocationError, allocate},
    control::POOL_MAX,
    manifest::{Contributions, Manifest, ProgramSection},
};

/// The largest sum of all leaves: 38 decimal digits, as of a pool.
pub const TOTAL_MAX: u128 = POOL_MAX;

/// Why an epoch's rewards are not added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RewardError {
    /// The contributions are not those that the manifest names.
    #[error("epoch `{epoch}` has contributions of {found}, not of {expected}")]
    Programs {
        /// The epoch.
        epoch: u64,
        /// What the manifest names.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A program's parts do not fit each other.
    #[error("program `{program}` of epoch `{epoch}`: {rule}")]
    Rule {
        /// The epoch.
        epoch: u64,
        /// The program.
        program: String,
        /// What does not hold.
        rule: &'static str,
    },
    /// A weight or pool out of bounds.
    #[error("program `{program}` of epoch `{epoch}`: {source}")]
    Allocation {
        /// The epoch.
        epoch: u64,
        /// The program.
        program: String,
        /// Which one.
        source: AllocationError,
    },
    /// The rewards of all epochs are more than any contract should hold.
    #[error("with epoch `{epoch}` the rewards add up to more than 10^38 - 1")]
    Overflow {
        /// The epoch.
        epoch: u64,
    },
}

/// The cumulative rewards after these epochs, in their order. No leaf decreases or disappears;
/// providers who earned nothing so far have none. Their sum is the sum before and all that the
/// epochs paid.
pub fn next_cumulative(
    previous: &BTreeMap<Address, u128>,
    epochs: &[(Manifest, Vec<Contributions>)],
) -> Result<BTreeMap<Address, u128>, RewardError> {
    let mut cumulative = previous.clone();
    for (manifest, contributions) in epochs {
        let epoch = manifest.epoch;
        let programs = |names: Vec<String>, epoch: u64| format!("epoch `{epoch}`, {names:?}");
        let expected =
            programs(manifest.programs.iter().map(|section| section.program.clone()).collect(), epoch);
        let names = contributions.iter().map(|object| object.program.clone()).collect();
        let of_epoch = contributions.iter().map(|object| object.epoch).find(|other| *other != epoch);
        let found = programs(names, of_epoch.unwrap_or(epoch));
        if found != expected {
            return Err(RewardError::Programs { epoch, expected, found });
        }
        for (section, object) in manifest.programs.iter().zip(contributions) {
            check_program(epoch, section, object)?;
            for provider in object.providers.iter().filter(|provider| provider.reward > 0) {
                let earned = cumulative.entry(provider.provider).or_default();
                *earned = earned.checked_add(provider.reward).ok_or(RewardError::Overflow { epoch })?;
            }
        }
        total(&cumulative).ok_or(RewardError::Overflow { epoch })?;
    }
    Ok(cumulative)
}

/// The sum of all leaves, unless it is above [`TOTAL_MAX`].
pub fn total(cumulative: &BTreeMap<Address, u128>) -> Option<u128> {
    let sum = cumulative.values().try_fold(0_u128, |sum, earned| sum.checked_add(*earned))?;
    (sum <= TOTAL_MAX).then_some(sum)
}

fn check_program(epoch: u64, section: &ProgramSection, object: &Contributions) -> Result<(), RewardError> {
    let refuse = |rule| RewardError::Rule { epoch, program: section.program.clone(), rule };
    if !object.providers.is_sorted_by(|one, next| one.provider < next.provider) {
        return Err(refuse("the providers are not in rising order"));
    }
    let weights: BTreeMap<Address, u128> =
        object.providers.iter().map(|provider| (provider.provider, provider.weight)).collect();
    let weight: U256 = weights.values().copied().map(U256::from).sum();
    if weight.to_string() != section.weight {
        return Err(refuse("the weights do not add up to the manifest's"));
    }
    let rewards = allocate(section.pool, &weights).map_err(|source| RewardError::Allocation {
        epoch,
        program: section.program.clone(),
        source,
    })?;
    if object.providers.iter().any(|provider| rewards.get(&provider.provider) != Some(&provider.reward)) {
        return Err(refuse("the rewards are not the pool divided by the weights"));
    }
    let paid = if weight.is_zero() { 0 } else { section.pool };
    if section.paid != paid {
        return Err(refuse("what it paid is not the pool, or not nothing where all weights are zero"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! Dividing a pool by weights, exactly: floor, then the largest remainders, ties by address.

use std::collections::BTreeMap;

use alloy_primitives::{Address, U256};

/// The largest weight: 38 decimal digits.
pub const WEIGHT_MAX: u128 = 10_u128.pow(38) - 1;

/// A weight or a pool out of bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is above 10^38 - 1, the largest {what}")]
pub struct AllocationError {
    /// A weight or the pool.
    pub what: &'static str,
    /// Its value.
    pub value: u128,
}

/// What each provider gets of `pool`. The rewards add up to the pool exactly (C3), or to nothing if
/// every weight is zero. Each gets floor(pool · w / W); the units left go one each to the largest
/// remainders of pool · w modulo W, among equal ones to the lower address.
pub fn allocate(
    pool: u128,
    weights: &BTreeMap<Address, u128>,
) -> Result<BTreeMap<Address, u128>, AllocationError> {
    let bounded =
        |what, value| if value > WEIGHT_MAX { Err(AllocationError { what, value }) } else { Ok(()) };
    bounded("pool", pool)?;
    weights.values().try_for_each(|weight| bounded("weight", *weight))?;
    // 2^128 weights of 127 bits stay below 256 bits, so this sum cannot wrap.
    let total: U256 = weights.values().map(|weight| U256::from(*weight)).sum();
    if total.is_zero() {
        return Ok(weights.keys().map(|provider| (*provider, 0)).collect());
    }
    let mut rewards = BTreeMap::new();
    let mut remainders = Vec::with_capacity(weights.len());
    let mut left = pool;
    for (provider, weight) in weights {
        let (share, remainder) = (U256::from(pool) * U256::from(*weight)).div_rem(total);
        let share = u128::try_from(share).expect("a share is at most the pool");
        left -= share;
        rewards.insert(*provider, share);
        remainders.push((remainder, *provider));
    }
    // Stable, and the providers stand in rising order: ties go to the lower address.
    remainders.sort_by_key(|(remainder, _)| std::cmp::Reverse(*remainder));
    for (_, provider) in
        remainders.into_iter().take(usize::try_from(left).expect("fewer units are left than providers"))
    {
        *rewards.get_mut(&provider).expect("every provider has a share") += 1;
    }
    Ok(rewards)
}

#[cfg(test)]
mod tests;

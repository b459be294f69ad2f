//! From the engine's batches to contributions, checked as a stranger would.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;
use datafusion::{
    arrow::{
        array::{Array, ArrayRef, AsArray, RecordBatch},
        compute::cast,
        datatypes::{DataType, Decimal128Type},
    },
    error::DataFusionError,
};
use fieldproof_proto::allocation::WEIGHT_MAX;

use super::error::PolicyError;

/// What a provider contributed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContributionRow {
    /// Who.
    pub provider: Address,
    /// How much.
    pub weight: u128,
    /// The further columns, as text; a null is left out.
    pub explanation: BTreeMap<String, String>,
}

/// The contributions in rising order of provider; providers without a row get weight 0.
pub(super) fn contributions(
    batches: &[RecordBatch],
    providers: &BTreeSet<Address>,
) -> Result<Vec<ContributionRow>, PolicyError> {
    let mut rows = BTreeMap::new();
    for batch in batches {
        for row in batch_rows(batch)? {
            if !providers.contains(&row.provider) {
                let message = format!("provider `{}` has no device", row.provider);
                return Err(PolicyError::Result(message));
            }
            if let Some(twice) = rows.insert(row.provider, row) {
                let message = format!("provider `{}` has two rows", twice.provider);
                return Err(PolicyError::Result(message));
            }
        }
    }
    for provider in providers {
        let nothing = || ContributionRow { provider: *provider, weight: 0, explanation: BTreeMap::new() };
        rows.entry(*provider).or_insert_with(nothing);
    }
    let total = rows.values().try_fold(0_u128, |total, row| total.checked_add(row.weight));
    if total.is_none_or(|total| total > WEIGHT_MAX) {
        return Err(PolicyError::Result("the weights add up to more than 10^38 - 1".to_owned()));
    }
    Ok(rows.into_values().collect())
}

fn batch_rows(batch: &RecordBatch) -> Result<Vec<ContributionRow>, PolicyError> {
    let column = |name: &str| {
        let missing = || PolicyError::Result(format!("column `{name}` is missing"));
        batch.column_by_name(name).ok_or_else(missing)
    };
    let providers = column("provider")?.as_binary_opt::<i32>();
    let providers = providers.ok_or_else(|| PolicyError::Result("`provider` is not bytes".to_owned()))?;
    let weights = converted(column("weight")?, &DataType::Decimal128(38, 0))?;
    let weights = weights.as_primitive::<Decimal128Type>();
    let schema = batch.schema();
    let mut explanations = Vec::new();
    for (field, array) in schema.fields().iter().zip(batch.columns()) {
        if !matches!(field.name().as_str(), "provider" | "weight") {
            explanations.push((field.name(), converted(array, &DataType::Utf8)?));
        }
    }
    let row = |index: usize| {
        let provider = providers.is_valid(index).then(|| Address::try_from(providers.value(index)));
        let Some(Ok(provider)) = provider else {
            return Err(PolicyError::Result("a provider is not an address".to_owned()));
        };
        let weight = weights.is_valid(index).then(|| u128::try_from(weights.value(index)));
        let Some(Ok(weight)) = weight else {
            let message = format!("the weight of provider `{provider}` is null or negative");
            return Err(PolicyError::Result(message));
        };
        let mut explanation = BTreeMap::new();
        for (name, array) in explanations.iter().filter(|(_, array)| array.is_valid(index)) {
            explanation.insert((*name).clone(), array.as_string::<i32>().value(index).to_owned());
        }
        Ok(ContributionRow { provider, weight, explanation })
    };
    (0..batch.num_rows()).map(row).collect()
}

fn converted(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, PolicyError> {
    cast(array, to).map_err(|error| PolicyError::from(DataFusionError::from(error)))
}

//! What the result of a policy has to be.

use datafusion::{arrow::datatypes::DataType, logical_expr::LogicalPlan};
use fieldproof_proto::allocation::WEIGHT_MAX;

use alloy_primitives::U256;

use super::Relation;
use crate::policy::error::{PolicyError, Rule};

/// The most explanations a policy may give.
const EXPLANATIONS_MAX: usize = 32;
/// The most bytes of an explanation's name.
const NAME_BYTES_MAX: usize = 64;

/// Refuses results that are not one row per provider of `devices` with a weight.
pub(in crate::policy) fn check_output(plan: &LogicalPlan, relation: &Relation) -> Result<(), PolicyError> {
    let fields = plan.schema().fields();
    let refused = |rule, message: String| Err(PolicyError::refused(rule, None, message));
    if fields.len() > EXPLANATIONS_MAX + 2 {
        let message = format!("there are {} columns, more than {}", fields.len(), EXPLANATIONS_MAX + 2);
        return refused(Rule::Output, message);
    }
    for field in fields {
        check_column(field.name(), field.data_type())?;
    }
    let find = |name: &str| {
        let mut found = (0..fields.len()).filter(|index| fields[*index].name() == name);
        match (found.next(), found.next()) {
            (Some(index), None) => Ok(index),
            _ => refused(Rule::Output, format!("the result does not have one column `{name}`")).map(|()| 0),
        }
    };
    let (provider, weight) = (find("provider")?, find("weight")?);
    for (index, field) in fields.iter().enumerate() {
        if fields.iter().skip(index + 1).any(|other| other.name() == field.name()) {
            return refused(Rule::Output, format!("the result has two columns `{}`", field.name()));
        }
    }
    let fact = relation.columns[provider];
    if !fact.provider {
        let message = "`provider` is not taken from `devices`: select devices.provider, or join it";
        return refused(Rule::Provider, message.to_owned());
    }
    if fact.nullable {
        return refused(Rule::Provider, "`provider` can be null".to_owned());
    }
    if !relation.keys.iter().any(|key| key.iter().all(|column| *column == provider)) {
        let message = "a provider can have two rows: end with GROUP BY provider alone";
        return refused(Rule::OneRowPerProvider, message.to_owned());
    }
    let fact = relation.columns[weight];
    let Some(number) = fact.number else {
        return refused(Rule::Weight, "`weight` is not a whole number".to_owned());
    };
    if fact.nullable {
        return refused(Rule::Weight, "`weight` can be null: use coalesce(..., 0)".to_owned());
    }
    if number.low.is_negative() {
        let message = format!("`weight` can be negative, down to {}: use greatest(..., 0)", number.low);
        return refused(Rule::Weight, message);
    }
    if number.mass > U256::from(WEIGHT_MAX) {
        return refused(Rule::Bounds, "the weights can add up to more than 10^38 - 1".to_owned());
    }
    Ok(())
}

fn check_column(name: &str, data_type: &DataType) -> Result<(), PolicyError> {
    let refused = |message: String| Err(PolicyError::refused(Rule::Output, None, message));
    let named = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if !named || name.is_empty() || name.len() > NAME_BYTES_MAX {
        return refused(format!("column `{name}` has no name of letters, digits and `_`: use AS"));
    }
    let is_whole = data_type.is_integer() || matches!(data_type, DataType::Decimal128(_, 0));
    match name {
        "provider" if *data_type == DataType::Binary => Ok(()),
        "provider" => {
            let message = format!("`provider` has type `{data_type}`, not the bytes of devices.provider");
            Err(PolicyError::refused(Rule::Provider, None, message))
        }
        "weight" if is_whole => Ok(()),
        "weight" => {
            let message = format!("`weight` has type `{data_type}`, not a whole number");
            Err(PolicyError::refused(Rule::Weight, None, message))
        }
        _ if is_whole || *data_type == DataType::Utf8 => Ok(()),
        _ => refused(format!("column `{name}` has type `{data_type}`, not a whole number or text")),
    }
}

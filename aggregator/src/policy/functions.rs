//! The functions that are ours: a sum that cannot wrap and a division that says how it rounds.

use std::sync::Arc;

use datafusion::{
    arrow::{
        array::{ArrayRef, AsArray, Decimal128Array},
        datatypes::{DataType, Decimal128Type, FieldRef},
    },
    common::{exec_err, plan_err},
    error::Result,
    functions_aggregate::sum::sum_udaf,
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, GroupsAccumulator, ScalarFunctionArgs,
        ScalarUDFImpl, Signature, Volatility,
        function::{AccumulatorArgs, StateFieldsArgs},
        utils::AggregateOrderSensitivity,
    },
};

/// The digits that hold any 64-bit integer, signed or not.
pub(super) const INTEGER_DIGITS: u8 = 20;
/// The most digits of what is summed. A sum of numbers of 28 digits needs 10^10 rows to pass 38
/// digits and more to wrap an i128; the cast to 28 digits is checked.
pub(super) const SUMMAND_DIGITS: u8 = 28;

/// `sum`: DataFusion's own over decimals of at most [`SUMMAND_DIGITS`]. Its sum of Int64 wraps, and so
/// does its sum of decimals; and only for its own does the optimizer turn `sum(x + c)` into
/// `sum(x) + c * count(x)`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct WideSum {
    inner: Arc<AggregateUDF>,
    signature: Signature,
}

impl WideSum {
    pub(super) fn new() -> Self {
        Self { inner: sum_udaf(), signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for WideSum {
    fn name(&self) -> &str {
        "sum"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [integer] if integer.is_integer() => Ok(vec![DataType::Decimal128(INTEGER_DIGITS, 0)]),
            [DataType::Decimal128(digits, 0)] => {
                Ok(vec![DataType::Decimal128((*digits).min(SUMMAND_DIGITS), 0)])
            }
            other => plan_err!("sum takes one whole number, not `{other:?}`"),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        self.inner.create_groups_accumulator(args)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

/// `div_floor(a, b)`: the largest whole number that is not above a / b.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DivFloor {
    signature: Signature,
}

impl DivFloor {
    pub(super) fn new() -> Self {
        Self { signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for DivFloor {
    fn name(&self) -> &str {
        "div_floor"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let widened = |given: &DataType| match given {
            integer if integer.is_integer() => Ok(DataType::Decimal128(INTEGER_DIGITS, 0)),
            DataType::Null => Ok(DataType::Decimal128(INTEGER_DIGITS, 0)),
            DataType::Decimal128(digits, 0) => Ok(DataType::Decimal128(*digits, 0)),
            other => plan_err!("div_floor takes whole numbers, not `{other:?}`"),
        };
        match types {
            [dividend, divisor] => Ok(vec![widened(dividend)?, widened(divisor)?]),
            _ => plan_err!("div_floor takes two whole numbers, not {} arguments", types.len()),
        }
    }

    /// The quotient by a whole number has no more digits than the dividend.
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [DataType::Decimal128(digits, 0), DataType::Decimal128(_, 0)] => {
                Ok(DataType::Decimal128(*digits, 0))
            }
            other => plan_err!("div_floor takes two whole numbers, not `{other:?}`"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [dividends, divisors] = args.args.as_slice() else {
            return exec_err!("div_floor takes two whole numbers, not {} arguments", args.args.len());
        };
        let dividends = dividends.to_array(args.number_rows)?;
        let divisors = divisors.to_array(args.number_rows)?;
        let dividends = dividends.as_primitive::<Decimal128Type>();
        let divisors = divisors.as_primitive::<Decimal128Type>();
        let quotient = |(dividend, divisor): (Option<i128>, Option<i128>)| match (dividend, divisor) {
            (Some(dividend), Some(divisor)) => div_floor(dividend, divisor).map(Some),
            _ => Ok(None),
        };
        let quotients: Decimal128Array =
            dividends.iter().zip(divisors.iter()).map(quotient).collect::<Result<_>>()?;
        let (precision, scale) = (dividends.precision(), dividends.scale());
        let quotients: ArrayRef = Arc::new(quotients.with_precision_and_scale(precision, scale)?);
        Ok(ColumnarValue::Array(quotients))
    }
}

/// The quotient, rounded down.
pub(super) fn div_floor(dividend: i128, divisor: i128) -> Result<i128> {
    let quotient = dividend.checked_div(divisor);
    let remainder = dividend.checked_rem(divisor);
    match quotient.zip(remainder) {
        None => exec_err!("`{dividend}` cannot be divided by `{divisor}`"),
        Some((quotient, remainder)) if remainder != 0 && (remainder < 0) != (divisor < 0) => Ok(quotient - 1),
        Some((quotient, _)) => Ok(quotient),
    }
}

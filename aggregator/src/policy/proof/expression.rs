//! The facts of expressions.

use alloy_primitives::{I256, U256};
use datafusion::{
    arrow::datatypes::DataType,
    common::ScalarValue,
    logical_expr::{
        BinaryExpr, Case, Expr, ExprSchemable, Operator,
        expr::{AggregateFunction, AggregateFunctionParams, Cast, ScalarFunction},
    },
};

use super::{Fact, Number, Prover, Relation, check_type, number::largest, place};
use crate::policy::error::{PolicyError, Rule};

/// The digits of every decimal at most.
const DIGITS_MAX: u8 = 38;

impl Prover<'_> {
    /// The fact of an expression over a relation's rows; refuses what can fail on any of them.
    pub(super) fn fact(&self, expr: &Expr, relation: &Relation) -> Result<Fact, PolicyError> {
        let data_type = expr.get_type(relation.schema.as_ref())?;
        check_type(&data_type, place(expr), &expr.to_string())?;
        let fact = match expr {
            Expr::Alias(alias) => return self.fact(&alias.expr, relation),
            Expr::Column(column) => relation.columns[relation.index(column)?],
            Expr::Literal(value, _) => literal(value, relation.rows),
            Expr::BinaryExpr(binary) => self.binary(expr, binary, relation)?,
            Expr::Not(inner)
            | Expr::IsTrue(inner)
            | Expr::IsFalse(inner)
            | Expr::IsUnknown(inner)
            | Expr::IsNotTrue(inner)
            | Expr::IsNotFalse(inner)
            | Expr::IsNotUnknown(inner)
            | Expr::IsNull(inner)
            | Expr::IsNotNull(inner) => {
                self.fact(inner, relation)?;
                Fact::other(true)
            }
            Expr::Between(between) => {
                for part in [&between.expr, &between.low, &between.high] {
                    self.fact(part, relation)?;
                }
                Fact::other(true)
            }
            Expr::InList(list) => {
                self.fact(&list.expr, relation)?;
                for item in &list.list {
                    self.fact(item, relation)?;
                }
                Fact::other(true)
            }
            Expr::Case(case) => self.case(case, relation)?,
            Expr::Cast(cast) => self.cast(expr, cast, relation)?,
            Expr::ScalarFunction(call) => self.scalar_function(expr, call, relation)?,
            other => {
                let message = format!("`{other}` is not part of the language");
                return Err(PolicyError::refused(Rule::Syntax, place(other), message));
            }
        };
        bounded(expr, &data_type, fact.number)?;
        Ok(fact)
    }

    fn binary(&self, expr: &Expr, binary: &BinaryExpr, relation: &Relation) -> Result<Fact, PolicyError> {
        let left = self.fact(&binary.left, relation)?;
        let right = self.fact(&binary.right, relation)?;
        let nullable = left.nullable || right.nullable;
        if !matches!(binary.op, Operator::Plus | Operator::Minus | Operator::Multiply) {
            return comparison(binary.op).then_some(Fact::other(nullable)).ok_or_else(|| {
                PolicyError::refused(
                    Rule::Arithmetic,
                    place(expr),
                    format!("`{}` is not part of the language", binary.op),
                )
            });
        }
        for side in [&binary.left, &binary.right] {
            if !matches!(side.get_type(relation.schema.as_ref())?, DataType::Decimal128(_, 0)) {
                let message = format!("`{side}` is not a whole number to calculate with");
                return Err(PolicyError::refused(Rule::Arithmetic, place(expr), message));
            }
        }
        let (Some(left), Some(right)) = (left.number, right.number) else {
            let message = format!("`{expr}` has a side without bounds");
            return Err(PolicyError::refused(Rule::Bounds, place(expr), message));
        };
        let number = match binary.op {
            Operator::Plus => left.plus(right),
            Operator::Minus => left.minus(right),
            _ => left.times(right),
        };
        Ok(Fact::number(number.capped(relation.rows), nullable))
    }

    fn case(&self, case: &Case, relation: &Relation) -> Result<Fact, PolicyError> {
        if let Some(operand) = &case.expr {
            self.fact(operand, relation)?;
        }
        let mut facts = Vec::with_capacity(case.when_then_expr.len() + 1);
        for (when, then) in &case.when_then_expr {
            self.fact(when, relation)?;
            // Engines may calculate a branch on rows that do not take it, so it must be safe on all.
            let mut fact = self.fact(then, relation)?;
            if case.expr.is_none() {
                let taken = self.narrow(relation, when)?;
                fact = self.fact(then, &taken)?;
            }
            facts.push(fact);
        }
        match &case.else_expr {
            Some(otherwise) => facts.push(self.fact(otherwise, relation)?),
            None => facts.push(null(relation.rows)),
        }
        Ok(one_of(&facts, relation.rows))
    }

    fn cast(&self, expr: &Expr, cast: &Cast, relation: &Relation) -> Result<Fact, PolicyError> {
        let fact = self.fact(&cast.expr, relation)?;
        let from = cast.expr.get_type(relation.schema.as_ref())?;
        let to = cast.field.data_type();
        let whole = |given: &DataType| given.is_integer() || matches!(given, DataType::Decimal128(_, 0));
        match (&from, to) {
            (DataType::Null, to) if whole(to) => Ok(null(relation.rows)),
            (DataType::Null, _) => Ok(Fact::other(true)),
            (from, to) if from == to => Ok(fact),
            // A cast keeps the number, so what is known of its source stays; `bounded` checks the fit.
            (from, to) if whole(from) && whole(to) => Ok(fact),
            (from, DataType::Utf8) if whole(from) => Ok(Fact::other(fact.nullable)),
            _ => {
                let message = format!("`{expr}` can fail: only whole numbers are cast, and only to text");
                Err(PolicyError::refused(Rule::Casts, place(expr), message))
            }
        }
    }

    fn scalar_function(
        &self,
        expr: &Expr,
        call: &ScalarFunction,
        relation: &Relation,
    ) -> Result<Fact, PolicyError> {
        let facts = call.args.iter().map(|arg| self.fact(arg, relation)).collect::<Result<Vec<_>, _>>()?;
        let nullable = facts.iter().all(|fact| fact.nullable);
        match (call.func.name(), facts.as_slice()) {
            ("coalesce", facts) => Ok(Fact { nullable, ..one_of(facts, relation.rows) }),
            ("nullif", [first, _]) => Ok(Fact { nullable: true, source: None, ..*first }),
            ("greatest", facts) => Ok(extreme(facts, nullable, relation.rows, true)),
            ("least", facts) => Ok(extreme(facts, nullable, relation.rows, false)),
            ("div_floor", [dividend, divisor]) => {
                let Some(quotient) = dividend.number.zip(divisor.number).and_then(|(a, b)| a.div_floor(b))
                else {
                    let message = format!("`{expr}` can divide by zero: use greatest(..., 1) or nullif");
                    return Err(PolicyError::refused(Rule::Bounds, place(expr), message));
                };
                Ok(Fact::number(quotient, dividend.nullable || divisor.nullable))
            }
            (name, _) => {
                let message = format!("`{name}` is not a function of the language");
                Err(PolicyError::refused(Rule::Functions, place(expr), message))
            }
        }
    }

    /// The fact of an aggregate. Over no rows, which only happens without GROUP BY or behind a FILTER,
    /// all but count are null.
    pub(super) fn aggregate_fact(
        &self,
        expr: &Expr,
        relation: &Relation,
        can_be_empty: bool,
    ) -> Result<Fact, PolicyError> {
        let call = match expr {
            Expr::Alias(alias) => return self.aggregate_fact(&alias.expr, relation, can_be_empty),
            Expr::AggregateFunction(call) => call,
            other => {
                let message = format!("`{other}` is not a function of the language");
                return Err(PolicyError::refused(Rule::Functions, place(other), message));
            }
        };
        let AggregateFunction { func, params } = call;
        let AggregateFunctionParams { args, distinct, filter, order_by, null_treatment } = params;
        if !order_by.is_empty() || null_treatment.is_some() {
            let message = format!("`{expr}` depends on the order of rows");
            return Err(PolicyError::refused(Rule::Order, place(expr), message));
        }
        let data_type = expr.get_type(relation.schema.as_ref())?;
        check_type(&data_type, place(expr), &expr.to_string())?;
        // The engine calculates the argument on all rows and filters afterwards.
        let mut facts = args.iter().map(|arg| self.fact(arg, relation)).collect::<Result<Vec<_>, _>>()?;
        if let Some(filter) = filter {
            self.fact(filter, relation)?;
            let left = self.narrow(relation, filter)?;
            facts = args.iter().map(|arg| self.fact(arg, &left)).collect::<Result<Vec<_>, _>>()?;
        }
        let can_be_empty = can_be_empty || filter.is_some();
        let fact = match (func.name(), facts.as_slice()) {
            ("count", _) => Fact::number(Number::count(relation.rows), false),
            ("sum", [Fact { number: Some(number), nullable, .. }]) if !distinct => {
                Fact::number(number.sum(relation.rows), *nullable || can_be_empty)
            }
            ("min" | "max", [fact]) if !distinct => {
                Fact { nullable: fact.nullable || can_be_empty, source: None, ..*fact }
            }
            (name, _) => {
                let message = format!("`{name}` is not a function of the language");
                return Err(PolicyError::refused(Rule::Functions, place(expr), message));
            }
        };
        bounded(expr, &data_type, fact.number)?;
        Ok(fact)
    }
}

fn comparison(op: Operator) -> bool {
    matches!(
        op,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::And
            | Operator::Or
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

fn literal(value: &ScalarValue, rows: U256) -> Fact {
    match whole_number(value) {
        _ if value.is_null() => null(rows),
        Some(number) => Fact::number(Number::of(number, rows), false),
        None => Fact::other(false),
    }
}

/// The number that a literal is.
pub(super) fn whole_number(value: &ScalarValue) -> Option<i128> {
    match value {
        ScalarValue::Decimal128(number, _, 0) => *number,
        ScalarValue::Int8(number) => number.map(i128::from),
        ScalarValue::Int16(number) => number.map(i128::from),
        ScalarValue::Int32(number) => number.map(i128::from),
        ScalarValue::Int64(number) => number.map(i128::from),
        ScalarValue::UInt8(number) => number.map(i128::from),
        ScalarValue::UInt16(number) => number.map(i128::from),
        ScalarValue::UInt32(number) => number.map(i128::from),
        ScalarValue::UInt64(number) => number.map(i128::from),
        _ => None,
    }
}

/// A null is within any bounds.
fn null(rows: U256) -> Fact {
    Fact { provider: true, ..Fact::number(Number::of(0, rows), true) }
}

/// One of several in each row.
fn one_of(facts: &[Fact], rows: U256) -> Fact {
    let joined = facts.iter().copied().reduce(|a, b| Fact {
        number: a.number.zip(b.number).map(|(a, b)| a.either(b)),
        nullable: a.nullable || b.nullable,
        provider: a.provider && b.provider,
        source: None,
    });
    let joined = joined.unwrap_or(Fact::other(true));
    Fact { number: joined.number.map(|number| number.capped(rows)), source: None, ..joined }
}

/// The greatest or least of several; nulls are passed over.
fn extreme(facts: &[Fact], nullable: bool, rows: U256, greatest: bool) -> Fact {
    let fact = one_of(facts, rows);
    let Some(mut number) = fact.number else {
        return Fact { nullable, ..fact };
    };
    // An argument that is never null bounds the result from its side.
    for other in facts.iter().filter(|fact| !fact.nullable).filter_map(|fact| fact.number) {
        if greatest {
            number.low = number.low.max(other.low);
        } else {
            number.high = number.high.min(other.high);
        }
        if !greatest && number.low >= I256::ZERO {
            number.mass = number.mass.min(other.mass);
        }
    }
    Fact { number: Some(number.capped(rows)), nullable, ..fact }
}

/// Refuses numbers that can exceed their type, or 38 digits.
fn bounded(expr: &Expr, data_type: &DataType, number: Option<Number>) -> Result<(), PolicyError> {
    let Some(number) = number else {
        return Ok(());
    };
    let (low, high) = match data_type {
        DataType::Decimal128(digits, _) => {
            let largest = I256::from_raw(largest((*digits).min(DIGITS_MAX)));
            (-largest, largest)
        }
        integer if integer.is_integer() => {
            let bits = 8 * integer.primitive_width().unwrap_or(0);
            let half = I256::ONE << bits.saturating_sub(1);
            if integer.is_signed_integer() {
                (-half, half - I256::ONE)
            } else {
                (I256::ZERO, half + half - I256::ONE)
            }
        }
        _ => return Ok(()),
    };
    if number.low >= low && number.high <= high {
        return Ok(());
    }
    let worst = if number.high > high { number.high } else { number.low };
    let worst = if number.magnitude() > largest(DIGITS_MAX + 1) {
        format!("a number of more than {DIGITS_MAX} digits")
    } else {
        format!("{worst}")
    };
    let message = format!("`{expr}` can reach {worst}, which `{data_type}` does not hold");
    Err(PolicyError::refused(Rule::Bounds, place(expr), message))
}

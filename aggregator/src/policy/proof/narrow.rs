//! What a predicate tells of the rows that obey it.

use std::collections::BTreeSet;

use alloy_primitives::I256;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, expr::Cast, utils::split_conjunction};

use super::{Fact, Prover, Relation, Source, expression::whole_number, place};
use crate::policy::error::{PolicyError, Rule};

impl Prover<'_> {
    /// The facts of the rows that obey a predicate.
    pub(super) fn narrow(&self, relation: &Relation, predicate: &Expr) -> Result<Relation, PolicyError> {
        let mut narrowed = relation.clone();
        for conjunct in split_conjunction(predicate) {
            if let Some((scan, metrics)) = self.metrics(relation, conjunct)? {
                self.narrow_metrics(&mut narrowed, scan, &metrics);
            }
            narrow_column(&mut narrowed, conjunct);
        }
        Ok(narrowed)
    }

    /// The metrics that a condition leaves of a scan, if it is about metrics alone.
    fn metrics(
        &self,
        relation: &Relation,
        condition: &Expr,
    ) -> Result<Option<(usize, BTreeSet<u32>)>, PolicyError> {
        let (column, numbers) = match condition {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
                let left = self.metrics(relation, left)?;
                let right = self.metrics(relation, right)?;
                return Ok(match (left, right) {
                    (Some((scan, a)), Some((other, b))) if scan == other => Some((scan, &a | &b)),
                    _ => None,
                });
            }
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
                match (number(left), number(right)) {
                    (None, Some(number)) => (left.as_ref(), vec![number]),
                    (Some(number), None) => (right.as_ref(), vec![number]),
                    _ => return Ok(None),
                }
            }
            Expr::InList(list) if !list.negated => {
                match list.list.iter().map(number).collect::<Option<Vec<_>>>() {
                    Some(numbers) => (list.expr.as_ref(), numbers),
                    None => return Ok(None),
                }
            }
            _ => return Ok(None),
        };
        let Some((scan, Source::Metric)) =
            column_of(relation, column).and_then(|index| relation.columns[index].source)
        else {
            return Ok(None);
        };
        let metric = |number: i128| {
            let id = u32::try_from(number).ok().filter(|id| self.facts.metrics.contains_key(id));
            id.ok_or_else(|| {
                let message = format!("metric `{number}` is not in the catalogue");
                PolicyError::refused(Rule::Metrics, place(condition), message)
            })
        };
        let metrics = numbers.into_iter().map(metric).collect::<Result<_, _>>()?;
        Ok(Some((scan, metrics)))
    }

    fn narrow_metrics(&self, relation: &mut Relation, scan: usize, metrics: &BTreeSet<u32>) {
        let rows = relation.rows;
        for fact in &mut relation.columns {
            let Fact { number: Some(number), source: Some((of, source)), .. } = fact else {
                continue;
            };
            if *of == scan && *source != Source::Metric {
                let (low, high, nullable) = self.metric_bounds(*source, Some(metrics));
                let bound = |value: i128| I256::try_from(value).expect("256 bits hold 128");
                *number = number.within(bound(low), bound(high), rows);
                fact.nullable &= nullable;
            }
        }
    }
}

/// Narrows a column by its comparison with a number, or with null.
fn narrow_column(relation: &mut Relation, condition: &Expr) {
    let (column, op, bound) = match condition {
        Expr::IsNotNull(column) => {
            if let Some(index) = column_of(relation, column) {
                relation.columns[index].nullable = false;
            }
            return;
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (number(left), number(right)) {
            (None, Some(number)) => (left, Some(*op), number),
            (Some(number), None) => (right, op.swap(), number),
            _ => return,
        },
        _ => return,
    };
    let Some(index) = column_of(relation, column) else {
        return;
    };
    let rows = relation.rows;
    let fact = &mut relation.columns[index];
    let (Some(number), Ok(bound)) = (fact.number, I256::try_from(bound)) else {
        return;
    };
    let number = match op {
        Some(Operator::Eq) => number.within(bound, bound, rows),
        Some(Operator::Lt) => number.within(number.low, bound - I256::ONE, rows),
        Some(Operator::LtEq) => number.within(number.low, bound, rows),
        Some(Operator::Gt) => number.within(bound + I256::ONE, number.high, rows),
        Some(Operator::GtEq) => number.within(bound, number.high, rows),
        _ => return,
    };
    *fact = Fact { number: Some(number), nullable: false, ..*fact };
}

/// The column under casts, which keep the number.
fn column_of(relation: &Relation, expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Cast(Cast { expr, field })
            if !matches!(field.data_type(), datafusion::arrow::datatypes::DataType::Utf8) =>
        {
            column_of(relation, expr)
        }
        _ => relation.plain_column(expr),
    }
}

/// The number that a literal is, under casts.
fn number(expr: &Expr) -> Option<i128> {
    match expr {
        Expr::Literal(value, _) => whole_number(value),
        Expr::Cast(Cast { expr, .. }) => number(expr),
        _ => None,
    }
}

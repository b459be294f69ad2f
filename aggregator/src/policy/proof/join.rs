//! The facts of joins.

use std::collections::BTreeSet;

use alloy_primitives::U256;
use datafusion::{
    common::NullEquality,
    logical_expr::{BinaryExpr, Operator, utils::split_conjunction},
};

use super::{Expr, Fact, Join, JoinType, Prover, Relation, place};
use crate::policy::error::{PolicyError, Rule};

impl Prover<'_> {
    pub(super) fn join(&mut self, join: &Join) -> Result<Relation, PolicyError> {
        let left = self.prove(&join.left)?;
        let right = self.prove(&join.right)?;
        let refused = |message: &str| {
            let at = join.filter.as_ref().and_then(place);
            Err(PolicyError::refused(Rule::Joins, at, message))
        };
        let outer = match join.join_type {
            JoinType::Inner => false,
            JoinType::Left => true,
            _ => return refused("only inner and left joins are part of the language"),
        };
        if join.null_equality != NullEquality::NullEqualsNothing {
            return refused("a null equals nothing");
        }
        let pairs = self.equalities(join, &left, &right)?;
        if pairs.is_empty() {
            return refused("a join needs an equality of a column of each side");
        }
        let mut joined = combine(join, &left, &right, &pairs, outer);
        if let Some(filter) = &join.filter {
            self.fact(filter, &joined)?;
        }
        let offset = left.columns.len();
        for (in_left, in_right) in pairs {
            let in_right = in_right + offset;
            let (a, b) = (joined.columns[in_left], joined.columns[in_right]);
            let provider = a.provider || b.provider;
            // What matched is equal; rows of the left that match none stay what they were.
            if outer {
                joined.columns[in_right].provider = provider;
            } else {
                joined.columns[in_left] = Fact { provider, nullable: false, ..a };
                joined.columns[in_right] = Fact { provider, nullable: false, ..b };
            }
        }
        Ok(joined)
    }

    /// The columns, by place in their side, that a join sets equal.
    fn equalities(
        &self,
        join: &Join,
        left: &Relation,
        right: &Relation,
    ) -> Result<Vec<(usize, usize)>, PolicyError> {
        let mut pairs = Vec::new();
        let mut add = |a: &Expr, b: &Expr| {
            let sides = left.plain_column(a).zip(right.plain_column(b));
            pairs.extend(sides.or_else(|| left.plain_column(b).zip(right.plain_column(a))));
        };
        for (in_left, in_right) in &join.on {
            self.fact(in_left, left)?;
            self.fact(in_right, right)?;
            add(in_left, in_right);
        }
        for conjunct in join.filter.iter().flat_map(split_conjunction) {
            if let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = conjunct {
                add(left, right);
            }
        }
        Ok(pairs)
    }
}

/// The rows and columns of both sides; `outer` keeps rows of the left that match none.
fn combine(
    join: &Join,
    left: &Relation,
    right: &Relation,
    pairs: &[(usize, usize)],
    outer: bool,
) -> Relation {
    let unique = |side: &Relation, set: &BTreeSet<usize>| side.keys.iter().any(|key| key.is_subset(set));
    let left_unique = unique(left, &pairs.iter().map(|pair| pair.0).collect());
    let right_unique = unique(right, &pairs.iter().map(|pair| pair.1).collect());
    let one = U256::from(1);
    let left_repeats = if right_unique { one } else { right.rows.max(one) };
    let right_repeats = if left_unique { one } else { left.rows };
    let unmatched = if outer { left.rows } else { U256::ZERO };
    let rows = left.rows.saturating_mul(left_repeats);
    let rows = rows.min(right.rows.saturating_mul(right_repeats).saturating_add(unmatched));
    let repeat = |fact: &Fact, times: U256, nullable: bool| Fact {
        number: fact.number.map(|number| number.repeated(times, rows)),
        nullable: fact.nullable || nullable,
        ..*fact
    };
    let from_left = left.columns.iter().map(|fact| repeat(fact, left_repeats, false));
    let from_right = right.columns.iter().map(|fact| repeat(fact, right_repeats, outer));
    let mut keys = Vec::new();
    if right_unique {
        keys.extend(left.keys.iter().cloned());
    }
    if left_unique && !outer {
        let shift = |key: &BTreeSet<usize>| key.iter().map(|column| column + left.columns.len()).collect();
        keys.extend(right.keys.iter().map(shift));
    }
    Relation { schema: join.schema.clone(), columns: from_left.chain(from_right).collect(), rows, keys }
}

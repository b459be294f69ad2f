//! The proof that no evidence can make a policy fail: bounds of every number, over the plan.
//!
//! Facts go up the plan: how many rows a node gives at most, which columns tell its rows apart, and of
//! each column its bounds, whether it can be null, and whether it holds providers of `devices`. Nodes
//! and expressions that are not known here are refused, so this is a whitelist of plans too; it runs
//! over the plan as written, and again over the optimized one, which is what is executed. A predicate
//! narrows bounds only where every row that is left obeys it.

use std::collections::BTreeSet;

use alloy_primitives::{I256, U256};
use datafusion::{
    arrow::datatypes::DataType,
    common::{
        Column, DFSchemaRef, JoinType, TableReference,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Aggregate, Distinct, Expr, Join, LogicalPlan, TableScan, Union},
};
use fieldproof_proto::{control::MetricKind, payload::TIME_MS_MAX};

use self::number::Number;
use super::{
    PolicyFacts,
    error::{Place, PolicyError, Rule, SQL_FILE},
};

mod expression;
mod join;
mod narrow;
mod number;
mod output;

pub(super) use output::check_output;

/// What is known of a node's result.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    schema: DFSchemaRef,
    columns: Vec<Fact>,
    /// At most so many rows.
    rows: U256,
    /// Sets of columns, by place, no two rows are equal in.
    keys: Vec<BTreeSet<usize>>,
}

/// What is known of a column.
#[derive(Debug, Clone, Copy)]
struct Fact {
    /// Bounds, if it is a number.
    number: Option<Number>,
    nullable: bool,
    /// Every value that is not null is a provider of `devices`.
    provider: bool,
    /// The scan and the column of the view it is, unchanged.
    source: Option<(usize, Source)>,
}

/// The columns of `readings` that a metric's range bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Metric,
    Value,
    Growth,
}

/// Proves a plan.
pub(super) struct Prover<'a> {
    facts: &'a PolicyFacts,
    scans: usize,
}

impl Fact {
    const fn other(nullable: bool) -> Self {
        Self { number: None, nullable, provider: false, source: None }
    }

    const fn number(number: Number, nullable: bool) -> Self {
        Self { number: Some(number), nullable, provider: false, source: None }
    }
}

impl<'a> Prover<'a> {
    pub(super) fn new(facts: &'a PolicyFacts) -> Self {
        Self { facts, scans: 0 }
    }

    /// The facts of a plan's result.
    pub(super) fn prove(&mut self, plan: &LogicalPlan) -> Result<Relation, PolicyError> {
        for field in plan.schema().fields() {
            check_type(field.data_type(), None, field.name())?;
        }
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::SubqueryAlias(alias) => {
                Ok(Relation { schema: alias.schema.clone(), ..self.prove(&alias.input)? })
            }
            LogicalPlan::Projection(projection) => {
                let input = self.prove(&projection.input)?;
                self.project(&projection.expr, &projection.schema, &input)
            }
            LogicalPlan::Filter(filter) => {
                let input = self.prove(&filter.input)?;
                self.fact(&filter.predicate, &input)?;
                self.narrow(&input, &filter.predicate)
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let mut relation = self.prove(input)?;
                relation.keys.push((0..relation.columns.len()).collect());
                Ok(relation)
            }
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::EmptyRelation(empty) => {
                let rows = U256::from(u8::from(empty.produce_one_row));
                let zero = Fact::number(Number::of(0, U256::ZERO), true);
                Ok(Relation {
                    schema: empty.schema.clone(),
                    columns: vec![zero; empty.schema.fields().len()],
                    rows,
                    keys: vec![BTreeSet::new()],
                })
            }
            other => {
                let name = other.display().to_string();
                let rule = match other {
                    LogicalPlan::Limit(_) => Rule::Limit,
                    LogicalPlan::Window(_) => Rule::Windows,
                    LogicalPlan::Sort(_) => Rule::Order,
                    LogicalPlan::Subquery(_) => Rule::Subqueries,
                    _ => Rule::OneSelect,
                };
                Err(PolicyError::refused(rule, None, format!("`{name}` is not part of the language")))
            }
        }
    }

    fn project(
        &mut self,
        exprs: &[Expr],
        schema: &DFSchemaRef,
        input: &Relation,
    ) -> Result<Relation, PolicyError> {
        let columns = exprs.iter().map(|expr| self.fact(expr, input)).collect::<Result<Vec<_>, _>>()?;
        let keys = input.keys_through(exprs);
        Ok(Relation { schema: schema.clone(), columns, rows: input.rows, keys })
    }

    fn aggregate(&mut self, aggregate: &Aggregate) -> Result<Relation, PolicyError> {
        let input = self.prove(&aggregate.input)?;
        let groups = &aggregate.group_expr;
        let mut columns = Vec::with_capacity(groups.len() + aggregate.aggr_expr.len());
        for group in groups {
            columns.push(self.fact(group, &input)?);
        }
        for expr in &aggregate.aggr_expr {
            columns.push(self.aggregate_fact(expr, &input, groups.is_empty())?);
        }
        // Without GROUP BY there is one row, even over none: the empty set of columns is a key.
        let rows = if groups.is_empty() { U256::from(1) } else { input.rows };
        let mut keys = input.keys_through(groups);
        keys.push((0..groups.len()).collect());
        Ok(Relation { schema: aggregate.schema.clone(), columns, rows, keys })
    }

    fn union(&mut self, union: &Union) -> Result<Relation, PolicyError> {
        let inputs = union.inputs.iter().map(|input| self.prove(input)).collect::<Result<Vec<_>, _>>()?;
        let fact = |column: usize| {
            let facts = inputs.iter().map(|input| input.columns[column]);
            facts
                .reduce(|a, b| Fact {
                    number: a.number.zip(b.number).map(|(a, b)| a.either(b)),
                    nullable: a.nullable || b.nullable,
                    provider: a.provider && b.provider,
                    source: None,
                })
                .unwrap_or(Fact::other(true))
        };
        Ok(Relation {
            schema: union.schema.clone(),
            columns: (0..union.schema.fields().len()).map(fact).collect(),
            rows: inputs.iter().fold(U256::ZERO, |rows, input| rows.saturating_add(input.rows)),
            keys: Vec::new(),
        })
    }

    fn scan(&mut self, scan: &TableScan) -> Result<Relation, PolicyError> {
        if scan.fetch.is_some() {
            return Err(PolicyError::refused(Rule::Limit, None, "a scan picks rows by their order"));
        }
        let view = scan.table_name.table();
        let rows = match view {
            "readings" => self.facts.readings_max(),
            "late_readings" => self.facts.late_readings_max(),
            "devices" => U256::from(self.facts.devices_max),
            _ => {
                let message = format!("there is no view `{view}`");
                return Err(PolicyError::refused(Rule::Views, None, message));
            }
        };
        self.scans += 1;
        let schema = scan.source.schema();
        let columns = schema.fields().iter().map(|field| self.column(view, field.name(), rows)).collect();
        // A device has one row per provider that it had.
        let keys = if view == "devices" { vec![BTreeSet::from([0, 1])] } else { Vec::new() };
        let all = datafusion::common::DFSchema::try_from_qualified_schema(
            TableReference::bare(view),
            schema.as_ref(),
        )?;
        let mut relation = Relation { schema: DFSchemaRef::new(all), columns, rows, keys };
        for filter in &scan.filters {
            // The scan's own filters name columns under the scan's name, which is the view's here.
            self.fact(filter, &relation)?;
            relation = self.narrow(&relation, filter)?;
        }
        let taken = scan.projection.clone().unwrap_or_else(|| (0..relation.columns.len()).collect());
        let place = |column: &usize| taken.iter().position(|taken| taken == column);
        let keys =
            relation.keys.iter().filter_map(|key| key.iter().map(place).collect::<Option<_>>()).collect();
        Ok(Relation {
            schema: scan.projected_schema.clone(),
            columns: taken.iter().map(|column| relation.columns[*column]).collect(),
            rows,
            keys,
        })
    }

    /// What the catalogue says of a view's column.
    fn column(&self, view: &str, name: &str, rows: U256) -> Fact {
        let range = |low: i128, high: i128| {
            let bound = |value: i128| I256::try_from(value).expect("256 bits hold 128");
            Number::new(bound(low), bound(high), rows)
        };
        let source = |source| Some((self.scans, source));
        match (view, name) {
            ("devices", "provider") => Fact { provider: true, ..Fact::other(false) },
            (_, "metric") => {
                Fact { source: source(Source::Metric), ..Fact::number(range(0, i128::from(u32::MAX)), false) }
            }
            (_, "time") => Fact::number(range(0, i128::from(TIME_MS_MAX)), false),
            (_, "value") => {
                let (low, high, _) = self.metric_bounds(Source::Value, None);
                Fact { source: source(Source::Value), ..Fact::number(range(low, high), false) }
            }
            (_, "growth") => {
                let (low, high, nullable) = self.metric_bounds(Source::Growth, None);
                Fact { source: source(Source::Growth), ..Fact::number(range(low, high), nullable) }
            }
            _ => Fact::other(false),
        }
    }

    /// Bounds over some metrics, or all: least, greatest, and whether one has no such value.
    fn metric_bounds(&self, source: Source, only: Option<&BTreeSet<u32>>) -> (i128, i128, bool) {
        let metrics = self.facts.metrics.values();
        let metrics = metrics.filter(|metric| only.is_none_or(|only| only.contains(&metric.id)));
        let bounds = metrics.map(|metric| match (source, metric.metric_kind) {
            (Source::Growth, MetricKind::Gauge) => (0, 0, true),
            // A counter may have started at zero, whatever the range says.
            (Source::Growth, MetricKind::Counter) => (0, i128::from(metric.maximum.max(0)), false),
            _ => (i128::from(metric.minimum), i128::from(metric.maximum), false),
        });
        bounds.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1), a.2 || b.2)).unwrap_or((
            0,
            0,
            source == Source::Growth,
        ))
    }
}

impl Relation {
    fn index(&self, column: &Column) -> Result<usize, PolicyError> {
        Ok(self.schema.index_of_column(column)?)
    }

    /// The keys of which every column is among these expressions, by its new place.
    fn keys_through(&self, exprs: &[Expr]) -> Vec<BTreeSet<usize>> {
        let sources: Vec<_> = exprs.iter().map(|expr| self.plain_column(expr)).collect();
        let place = |column: &usize| sources.iter().position(|source| *source == Some(*column));
        self.keys.iter().filter_map(|key| key.iter().map(place).collect()).collect()
    }

    /// The column that an expression is, unchanged.
    fn plain_column(&self, expr: &Expr) -> Option<usize> {
        match expr {
            Expr::Alias(alias) => self.plain_column(&alias.expr),
            Expr::Column(column) => self.schema.maybe_index_of_column(column),
            _ => None,
        }
    }
}

/// Refuses types that are not whole numbers, text, bytes or booleans.
fn check_type(given: &DataType, at: Option<Place>, what: &str) -> Result<(), PolicyError> {
    let (rule, why) = match given {
        DataType::Null | DataType::Boolean | DataType::Utf8 | DataType::Binary => return Ok(()),
        DataType::Decimal128(_, 0) => return Ok(()),
        integer if integer.is_integer() => return Ok(()),
        DataType::Decimal128(_, scale) => (Rule::WholeNumbers, format!("has scale {scale}, not 0")),
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            (Rule::WholeNumbers, "is a float".to_owned())
        }
        DataType::Decimal256(..) => (Rule::Bounds, "has more than 38 digits".to_owned()),
        other => (Rule::Types, format!("has type `{other}`")),
    };
    Err(PolicyError::refused(rule, at, format!("`{what}` {why}")))
}

/// Where an expression stands: at its first column, since plans keep no other places.
fn place(expr: &Expr) -> Option<Place> {
    let mut found = None;
    let visited = expr.apply(|part| {
        if let Expr::Column(column) = part
            && let Some(span) = column.spans.first()
        {
            found = Some(Place { file: SQL_FILE, line: span.start.line, column: span.start.column });
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    visited.ok().and(found)
}

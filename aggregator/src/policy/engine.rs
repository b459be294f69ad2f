//! The query engine a policy runs on: DataFusion with nothing registered but what is listed here.

use std::sync::{Arc, LazyLock};

use datafusion::{
    arrow::datatypes::DataType,
    catalog::TableProvider,
    common::{DFSchema, TableReference, config::ConfigOptions, plan_err},
    datasource::provider_as_source,
    error::Result,
    execution::{SessionState, SessionStateBuilder},
    functions::core::{coalesce, greatest, least, nullif},
    functions_aggregate::{
        count::count_udaf,
        min_max::{max_udaf, min_udaf},
        planner::AggregateFunctionPlanner,
    },
    logical_expr::{
        AggregateUDF, Expr, ExprSchemable, HigherOrderUDF, LogicalPlan, Operator, ScalarUDF, TableSource,
        WindowUDF, binary_expr, cast,
        planner::{ContextProvider, ExprPlanner, PlannerResult, RawBinaryExpr},
    },
    optimizer::Optimizer,
    prelude::SessionConfig,
    sql::{
        planner::{ParserOptions, SqlToRel},
        sqlparser::ast::{BinaryOperator, Statement},
    },
};

use super::{
    EngineSettings,
    functions::{DivFloor, INTEGER_DIGITS, WideSum},
};

/// Name and exact version of the engine; part of every policy's id, because optimizer releases do
/// change answers.
pub const ENGINE: &str = "datafusion 55.2.0";

/// Rewrites of the optimizer that are left out: this one splits `sum` beside `count(DISTINCT)` into
/// two, and the outer would sum an argument that is not narrowed to the digits it may have.
const RULES_LEFT_OUT: [&str; 1] = ["single_distinct_aggregation_to_group_by"];

static SCALAR_FUNCTIONS: LazyLock<Vec<Arc<ScalarUDF>>> = LazyLock::new(|| {
    vec![coalesce(), greatest(), least(), nullif(), Arc::new(ScalarUDF::from(DivFloor::new()))]
});
static AGGREGATE_FUNCTIONS: LazyLock<Vec<Arc<AggregateUDF>>> = LazyLock::new(|| {
    vec![count_udaf(), max_udaf(), min_udaf(), Arc::new(AggregateUDF::from(WideSum::new()))]
});
static EXPR_PLANNERS: LazyLock<Vec<Arc<dyn ExprPlanner>>> =
    LazyLock::new(|| vec![Arc::new(CheckedArithmetic), Arc::new(AggregateFunctionPlanner)]);

/// An engine over the three views and nothing else.
pub(super) struct Engine {
    pub(super) state: SessionState,
    views: Vec<(&'static str, Arc<dyn TableSource>)>,
}

impl Engine {
    pub(super) fn new(
        settings: EngineSettings,
        views: impl IntoIterator<Item = (&'static str, Arc<dyn TableProvider>)>,
    ) -> Self {
        let mut config = SessionConfig::new()
            .with_target_partitions(settings.target_partitions.get())
            .with_batch_size(settings.batch_size.get());
        let parser = &mut config.options_mut().sql_parser;
        parser.parse_float_as_decimal = true;
        parser.map_string_types_to_utf8view = false;
        parser.collect_spans = true;
        let rules = Optimizer::new().rules;
        let rules = rules.into_iter().filter(|rule| !RULES_LEFT_OUT.contains(&rule.name())).collect();
        // `new`, not `new_with_default_features`: no functions, formats or planners.
        let mut builder = SessionStateBuilder::new().with_config(config);
        *builder.optimizer() = Some(Optimizer::with_rules(rules));
        let views = views.into_iter().map(|(name, table)| (name, provider_as_source(table))).collect();
        Self { state: builder.build(), views }
    }

    /// The plan of a query with its types in order, as its author wrote it.
    pub(super) fn plan(&self, statement: &Statement) -> Result<LogicalPlan> {
        let parser = &self.state.config_options().sql_parser;
        let options = ParserOptions::new()
            .with_parse_float_as_decimal(parser.parse_float_as_decimal)
            .with_map_string_types_to_utf8view(parser.map_string_types_to_utf8view)
            .with_collect_spans(parser.collect_spans);
        let plan = SqlToRel::new_with_options(self, options).sql_statement_to_plan(statement.clone())?;
        self.state.analyzer().execute_and_check(plan, self.state.config_options(), |_, _| {})
    }
}

impl ContextProvider for Engine {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        match self.views.iter().find(|(view, _)| *view == name.table()) {
            Some((_, source)) => Ok(Arc::clone(source)),
            None => plan_err!("there is no view `{name}`"),
        }
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &EXPR_PLANNERS
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        SCALAR_FUNCTIONS.iter().find(|function| function.name() == name).cloned()
    }

    fn get_higher_order_meta(&self, _: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        AGGREGATE_FUNCTIONS.iter().find(|function| function.name() == name).cloned()
    }

    fn get_window_meta(&self, _: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        SCALAR_FUNCTIONS.iter().map(|function| function.name().to_owned()).collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        AGGREGATE_FUNCTIONS.iter().map(|function| function.name().to_owned()).collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Arithmetic on decimals only: on Int64 it wraps, on decimals Arrow checks it against i128.
#[derive(Debug)]
struct CheckedArithmetic;

impl ExprPlanner for CheckedArithmetic {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let op = match expr.op {
            BinaryOperator::Plus => Operator::Plus,
            BinaryOperator::Minus => Operator::Minus,
            BinaryOperator::Multiply => Operator::Multiply,
            BinaryOperator::Divide | BinaryOperator::Modulo => return plan_err!("use div_floor(a, b)"),
            _ => return Ok(PlannerResult::Original(expr)),
        };
        let wide = |side: Expr| -> Result<Expr> {
            let narrow =
                matches!(side.get_type(schema)?, DataType::Null) || side.get_type(schema)?.is_integer();
            Ok(if narrow { cast(side, DataType::Decimal128(INTEGER_DIGITS, 0)) } else { side })
        };
        Ok(PlannerResult::Planned(binary_expr(wide(expr.left)?, op, wide(expr.right)?)))
    }
}

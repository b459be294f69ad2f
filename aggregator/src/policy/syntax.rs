//! The policy language, as a whitelist over the syntax tree.
//!
//! Whatever is not listed here is refused with the place where it stands. The proof over the plan
//! checks what matters a second time; this walk is there so that an author learns the rule and the
//! line instead of an engine's message.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use datafusion::sql::sqlparser::{
    ast::{
        Cte, Distinct, Expr, GroupByExpr, Ident, Join, JoinConstraint, JoinOperator, ObjectName,
        ObjectNamePart, Query, Select, SelectFlavor, SelectItem, SetExpr, SetOperator, SetQuantifier,
        Spanned, Statement, TableAlias, TableFactor, TableWithJoins, UnaryOperator, Value, VisitMut,
        VisitorMut, With,
    },
    dialect::GenericDialect,
    parser::{Parser, ParserError},
    tokenizer::Span,
};

use super::error::{Place, PolicyError, Rule, SQL_FILE};

mod expression;

/// The most bytes of a query.
const SQL_BYTES_MAX: usize = 16 * 1024;
/// The most nested expressions, joins and subqueries; the engine recurses over them.
const DEPTH_MAX: usize = 48;

/// The views a policy reads.
pub(super) const VIEWS: [&str; 3] = ["readings", "late_readings", "devices"];

/// Parses the query, checks it against the policy language and puts the parameters in.
pub(super) fn parse(sql: &str, parameters: &BTreeMap<String, i64>) -> Result<Statement, PolicyError> {
    if sql.len() > SQL_BYTES_MAX {
        let message = format!("the query has {} bytes, more than {SQL_BYTES_MAX}", sql.len());
        return Err(PolicyError::refused(Rule::Syntax, None, message));
    }
    let statements = Parser::new(&GenericDialect {})
        .with_recursion_limit(DEPTH_MAX)
        .try_with_sql(sql)
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|error| syntax_error(&error))?;
    let mut statement = match <[Statement; 1]>::try_from(statements) {
        Ok([statement]) => statement,
        Err(statements) => {
            let at = statements.get(1).and_then(|second| start(second.span()));
            let message = format!("there are {} statements, not one SELECT", statements.len());
            return Err(PolicyError::refused(Rule::OneSelect, at, message));
        }
    };
    let mut walk = Walk { parameters, used: BTreeSet::new(), tables: Vec::new(), depth: 0 };
    match &statement {
        Statement::Query(query) => walk.query(query)?,
        other => return refuse(Rule::OneSelect, other.span(), "the statement is not a SELECT"),
    }
    if let Some(unused) = parameters.keys().find(|name| !walk.used.contains(*name)) {
        let message = format!("parameter `{unused}` is not used by the query");
        return Err(PolicyError::refused(Rule::Parameters, None, message));
    }
    match VisitMut::visit(&mut statement, &mut Substitute { parameters }) {
        ControlFlow::Continue(()) | ControlFlow::Break(()) => Ok(statement),
    }
}

fn syntax_error(error: &ParserError) -> PolicyError {
    let message = match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message.as_str(),
        ParserError::RecursionLimitExceeded => "the query is nested too deep",
    };
    let (text, at) = message.rsplit_once(" at Line: ").unwrap_or((message, ""));
    let place = at.split_once(", Column: ").and_then(|(line, column)| {
        Some(Place { file: SQL_FILE, line: line.parse().ok()?, column: column.parse().ok()? })
    });
    PolicyError::refused(Rule::Syntax, place, text)
}

fn start(span: Span) -> Option<Place> {
    let place = Place { file: SQL_FILE, line: span.start.line, column: span.start.column };
    (place.line > 0).then_some(place)
}

fn refuse<T>(rule: Rule, span: Span, message: impl Into<String>) -> Result<T, PolicyError> {
    Err(PolicyError::refused(rule, start(span), message))
}

/// Puts the parameters in the place of their placeholders.
struct Substitute<'a> {
    parameters: &'a BTreeMap<String, i64>,
}

impl VisitorMut for Substitute<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Value(value) = expr
            && let Value::Placeholder(name) = &value.value
            && let Some(number) = self.parameters.get(name.trim_start_matches('$'))
        {
            let digits = Value::Number(number.unsigned_abs().to_string(), false);
            let magnitude = Expr::Value(digits.with_span(value.span));
            *expr = if *number < 0 {
                Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(magnitude) }
            } else {
                magnitude
            };
        }
        ControlFlow::Continue(())
    }
}

/// The walk over a query.
struct Walk<'a> {
    parameters: &'a BTreeMap<String, i64>,
    used: BTreeSet<String>,
    /// The common table expressions in scope.
    tables: Vec<String>,
    depth: usize,
}

impl Walk<'_> {
    fn deeper(
        &mut self,
        span: Span,
        step: impl FnOnce(&mut Self) -> Result<(), PolicyError>,
    ) -> Result<(), PolicyError> {
        if self.depth == DEPTH_MAX {
            let message = format!("more than {DEPTH_MAX} levels are nested here");
            return refuse(Rule::Syntax, span, message);
        }
        self.depth += 1;
        let result = step(self);
        self.depth -= 1;
        result
    }

    fn query(&mut self, query: &Query) -> Result<(), PolicyError> {
        let Query {
            with,
            body,
            order_by,
            limit_clause,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        if let Some(limit) = limit_clause {
            return refuse(Rule::Limit, limit.span(), "LIMIT and OFFSET pick rows by their order");
        }
        if fetch.is_some() {
            return refuse(Rule::Limit, query.span(), "FETCH picks rows by their order");
        }
        if let Some(order_by) = order_by {
            let message = "rows have no order: the result is sorted by provider";
            return refuse(Rule::Order, order_by.span(), message);
        }
        let plain = locks.is_empty()
            && for_clause.is_none()
            && settings.is_none()
            && format_clause.is_none()
            && pipe_operators.is_empty();
        if !plain {
            return refuse(
                Rule::Syntax,
                query.span(),
                "a clause after the SELECT is not part of the language",
            );
        }
        let in_scope = self.tables.len();
        self.deeper(query.span(), |walk| {
            with.as_ref().map_or(Ok(()), |with| walk.with(with))?;
            walk.set_expr(body)
        })?;
        self.tables.truncate(in_scope);
        Ok(())
    }

    fn with(&mut self, with: &With) -> Result<(), PolicyError> {
        if with.recursive {
            return refuse(Rule::Syntax, with.span(), "WITH RECURSIVE has no bound");
        }
        for Cte { alias, query, from, materialized, closing_paren_token: _ } in &with.cte_tables {
            let name = self.alias(alias)?;
            if from.is_some() || materialized.is_some() {
                return refuse(Rule::Syntax, alias.name.span, "write WITH name AS (SELECT ...)");
            }
            if VIEWS.contains(&name.as_str()) {
                return refuse(Rule::Views, alias.name.span, format!("`{name}` is the name of a view"));
            }
            self.query(query)?;
            self.tables.push(name);
        }
        Ok(())
    }

    fn alias(&mut self, alias: &TableAlias) -> Result<String, PolicyError> {
        let TableAlias { explicit: _, name, columns, at } = alias;
        if !columns.is_empty() || at.is_some() {
            return refuse(Rule::Syntax, name.span, "name columns with AS in the SELECT");
        }
        Ok(normalised(name))
    }

    fn set_expr(&mut self, body: &SetExpr) -> Result<(), PolicyError> {
        match body {
            SetExpr::Select(select) => self.select(select),
            SetExpr::Query(query) => self.query(query),
            SetExpr::SetOperation { left, op: SetOperator::Union, set_quantifier, right } => {
                match set_quantifier {
                    SetQuantifier::All | SetQuantifier::Distinct | SetQuantifier::None => {}
                    _ => return refuse(Rule::Syntax, body.span(), "UNION matches columns by place"),
                }
                self.deeper(body.span(), |walk| {
                    walk.set_expr(left)?;
                    walk.set_expr(right)
                })
            }
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                refuse(Rule::OneSelect, body.span(), "the statement is not a SELECT")
            }
            SetExpr::SetOperation { .. } | SetExpr::Values(_) | SetExpr::Table(_) => {
                refuse(Rule::Syntax, body.span(), "only SELECT and UNION are part of the language")
            }
        }
    }

    fn select(&mut self, select: &Select) -> Result<(), PolicyError> {
        check_clauses(select)?;
        for item in &select.projection {
            match item {
                SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => self.expr(expr)?,
                other => return refuse(Rule::Output, other.span(), "name the columns instead of `*`"),
            }
        }
        for TableWithJoins { relation, joins } in &select.from {
            self.table(relation)?;
            joins.iter().try_for_each(|join| self.join(join))?;
        }
        if let [_, second, ..] = select.from.as_slice() {
            return refuse(Rule::Joins, second.span(), "write JOIN ... ON instead of a comma");
        }
        match &select.group_by {
            GroupByExpr::Expressions(exprs, modifiers) if modifiers.is_empty() => {
                exprs.iter().try_for_each(|expr| self.expr(expr))?;
            }
            other => return refuse(Rule::Syntax, other.span(), "GROUP BY takes a list of expressions"),
        }
        select.selection.iter().chain(&select.having).try_for_each(|expr| self.expr(expr))
    }

    fn table(&mut self, table: &TableFactor) -> Result<(), PolicyError> {
        match table {
            TableFactor::Table {
                name,
                alias,
                args: None,
                with_hints,
                version: None,
                with_ordinality: false,
                partitions,
                json_path: None,
                sample: None,
                index_hints,
            } if with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty() => {
                if let Some(alias) = alias {
                    self.alias(alias)?;
                }
                self.table_name(name)
            }
            TableFactor::Derived { lateral: false, subquery, alias, sample: None } => {
                if let Some(alias) = alias {
                    self.alias(alias)?;
                }
                self.query(subquery)
            }
            TableFactor::NestedJoin { table_with_joins, alias: None } => self.deeper(table.span(), |walk| {
                walk.table(&table_with_joins.relation)?;
                table_with_joins.joins.iter().try_for_each(|join| walk.join(join))
            }),
            other => refuse(Rule::Views, other.span(), "only the views and subqueries can be read"),
        }
    }

    fn table_name(&self, name: &ObjectName) -> Result<(), PolicyError> {
        if let [ObjectNamePart::Identifier(ident)] = name.0.as_slice() {
            let table = normalised(ident);
            if VIEWS.contains(&table.as_str()) || self.tables.contains(&table) {
                return Ok(());
            }
        }
        let message = format!("there is no table `{name}`: the views are {}", VIEWS.join(", "));
        refuse(Rule::Views, name.span(), message)
    }

    fn join(&mut self, join: &Join) -> Result<(), PolicyError> {
        let Join { relation, global, join_operator } = join;
        self.table(relation)?;
        let constraint = match join_operator {
            JoinOperator::Join(constraint)
            | JoinOperator::Inner(constraint)
            | JoinOperator::Left(constraint)
            | JoinOperator::LeftOuter(constraint)
                if !global =>
            {
                constraint
            }
            _ => {
                return refuse(
                    Rule::Joins,
                    join.span(),
                    "only inner and left joins are part of the language",
                );
            }
        };
        match constraint {
            JoinConstraint::On(expr) => self.expr(expr),
            _ => refuse(Rule::Joins, join.span(), "a join needs ON with an equality of columns"),
        }
    }
}

/// Refuses every clause of a SELECT that is not part of the language.
fn check_clauses(select: &Select) -> Result<(), PolicyError> {
    let Select {
        select_token: _,
        optimizer_hints,
        distinct,
        select_modifiers,
        top,
        top_before_distinct: _,
        projection: _,
        exclude,
        into,
        from: _,
        lateral_views,
        prewhere,
        selection: _,
        connect_by,
        group_by: _,
        cluster_by,
        distribute_by,
        sort_by,
        having: _,
        named_window,
        qualify,
        window_before_qualify: _,
        value_table_mode,
        flavor,
    } = select;
    let span = select.span();
    if top.is_some() {
        return refuse(Rule::Limit, span, "TOP picks rows by their order");
    }
    if matches!(distinct, Some(Distinct::On(_))) {
        return refuse(Rule::Order, span, "DISTINCT ON picks rows by their order");
    }
    if !named_window.is_empty() || qualify.is_some() {
        return refuse(Rule::Windows, span, "window functions are not part of the language yet");
    }
    if into.is_some() {
        return refuse(Rule::OneSelect, span, "SELECT INTO writes a table");
    }
    let plain = optimizer_hints.is_empty()
        && select_modifiers.is_none()
        && exclude.is_none()
        && lateral_views.is_empty()
        && prewhere.is_none()
        && connect_by.is_empty()
        && cluster_by.is_empty()
        && distribute_by.is_empty()
        && sort_by.is_empty()
        && value_table_mode.is_none()
        && *flavor == SelectFlavor::Standard;
    if plain {
        Ok(())
    } else {
        refuse(Rule::Syntax, span, "a clause of the SELECT is not part of the language")
    }
}

/// An identifier as the planner reads it: lower case unless quoted.
fn normalised(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

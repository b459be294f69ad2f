//! The expressions of the policy language.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, DataType, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, ObjectNamePart, Spanned, UnaryOperator, Value, ValueWithSpan,
};

use super::{Walk, normalised, refuse};
use crate::policy::error::{PolicyError, Rule};

/// The functions over one row.
pub(in crate::policy) const SCALAR_FUNCTIONS: [&str; 5] =
    ["coalesce", "div_floor", "greatest", "least", "nullif"];
/// The functions over many rows.
pub(in crate::policy) const AGGREGATE_FUNCTIONS: [&str; 4] = ["count", "max", "min", "sum"];

impl Walk<'_> {
    pub(super) fn expr(&mut self, expr: &Expr) -> Result<(), PolicyError> {
        self.deeper(expr.span(), |walk| walk.expr_here(expr))
    }

    fn expr_here(&mut self, expr: &Expr) -> Result<(), PolicyError> {
        match expr {
            Expr::Identifier(_) => Ok(()),
            Expr::CompoundIdentifier(parts) if parts.len() == 2 => Ok(()),
            Expr::Value(value) => self.value(value),
            Expr::Nested(inner)
            | Expr::IsTrue(inner)
            | Expr::IsNotTrue(inner)
            | Expr::IsFalse(inner)
            | Expr::IsNotFalse(inner)
            | Expr::IsNull(inner)
            | Expr::IsNotNull(inner)
            | Expr::IsUnknown(inner)
            | Expr::IsNotUnknown(inner) => self.expr(inner),
            Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => {
                self.expr(left)?;
                self.expr(right)
            }
            Expr::InList { expr, list, negated: _ } => {
                self.expr(expr)?;
                list.iter().try_for_each(|item| self.expr(item))
            }
            Expr::Between { expr, low, high, negated: _ } => {
                [expr, low, high].into_iter().try_for_each(|expr| self.expr(expr))
            }
            Expr::BinaryOp { left, op, right } => {
                binary_operator(expr, op)?;
                self.expr(left)?;
                self.expr(right)
            }
            Expr::UnaryOp { op, expr: inner } => self.unary(expr, *op, inner),
            Expr::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr: inner,
                data_type,
                array: false,
                format: None,
            } => {
                cast_target(expr, data_type)?;
                self.expr(inner)
            }
            Expr::Cast { .. } | Expr::Convert { .. } => {
                refuse(Rule::Casts, expr.span(), "write CAST(... AS ...)")
            }
            Expr::Case { operand, conditions, else_result, case_token: _, end_token: _ } => {
                operand.iter().chain(else_result).try_for_each(|expr| self.expr(expr))?;
                conditions.iter().try_for_each(|when| {
                    self.expr(&when.condition)?;
                    self.expr(&when.result)
                })
            }
            Expr::Function(function) => self.function(function),
            Expr::Like { .. } | Expr::ILike { .. } | Expr::SimilarTo { .. } | Expr::RLike { .. } => {
                refuse(Rule::Patterns, expr.span(), "compare text with `=` or IN")
            }
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => {
                refuse(Rule::Subqueries, expr.span(), "join the subquery in FROM instead")
            }
            Expr::Ceil { .. } | Expr::Floor { .. } => {
                refuse(Rule::Functions, expr.span(), "numbers are whole: use div_floor(a, b)")
            }
            Expr::Extract { .. } | Expr::Position { .. } | Expr::Substring { .. } | Expr::Trim { .. } => {
                refuse(Rule::Functions, expr.span(), format!("`{expr}` is not one of {}", functions()))
            }
            other => refuse(Rule::Syntax, other.span(), format!("`{other}` is not part of the language")),
        }
    }

    fn value(&mut self, value: &ValueWithSpan) -> Result<(), PolicyError> {
        match &value.value {
            Value::Number(digits, false) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(()),
            Value::Number(number, _) => {
                let message = format!("`{number}` is not a whole number in digits");
                refuse(Rule::WholeNumbers, value.span, message)
            }
            Value::SingleQuotedString(_) | Value::Boolean(_) | Value::Null => Ok(()),
            Value::Placeholder(name) => {
                let parameter = name.trim_start_matches('$');
                if !name.starts_with('$') || !self.parameters.contains_key(parameter) {
                    let message = format!("`{name}` is not a parameter of policy.toml");
                    return refuse(Rule::Parameters, value.span, message);
                }
                self.used.insert(parameter.to_owned());
                Ok(())
            }
            other => refuse(Rule::Syntax, value.span, format!("`{other}` is not part of the language")),
        }
    }

    fn unary(&mut self, whole: &Expr, op: UnaryOperator, inner: &Expr) -> Result<(), PolicyError> {
        match (op, inner) {
            (UnaryOperator::Not, _) => self.expr(inner),
            (UnaryOperator::Minus, Expr::Value(value)) if matches!(value.value, Value::Number(..)) => {
                self.value(value)
            }
            (UnaryOperator::Minus, _) => {
                let message = "negation overflows silently: write `0 - x`";
                refuse(Rule::Arithmetic, whole.span(), message)
            }
            _ => refuse(Rule::Arithmetic, whole.span(), format!("`{op}` is not part of the language")),
        }
    }

    fn function(&mut self, function: &Function) -> Result<(), PolicyError> {
        let Function { name, uses_odbc_syntax, parameters, args, filter, null_treatment, over, within_group } =
            function;
        let called = match name.0.as_slice() {
            [ObjectNamePart::Identifier(ident)] => normalised(ident),
            _ => name.to_string(),
        };
        let is_aggregate = AGGREGATE_FUNCTIONS.contains(&called.as_str());
        if over.is_some() {
            let message = "window functions are not part of the language yet";
            return refuse(Rule::Windows, function.span(), message);
        }
        if !is_aggregate && !SCALAR_FUNCTIONS.contains(&called.as_str()) {
            let message = format!("`{called}` is not one of {}", functions());
            return refuse(Rule::Functions, function.span(), message);
        }
        let plain = !uses_odbc_syntax
            && matches!(parameters, FunctionArguments::None)
            && null_treatment.is_none()
            && within_group.is_empty()
            && (is_aggregate || filter.is_none());
        let FunctionArguments::List(FunctionArgumentList { duplicate_treatment, args, clauses }) = args
        else {
            return refuse(Rule::Functions, function.span(), format!("`{called}` needs a list of arguments"));
        };
        if !plain || !clauses.is_empty() {
            let message = format!("`{called}` takes arguments, and an aggregate FILTER, and nothing else");
            return refuse(Rule::Functions, function.span(), message);
        }
        let distinct = matches!(duplicate_treatment, Some(DuplicateTreatment::Distinct));
        if distinct && called != "count" {
            return refuse(Rule::Functions, function.span(), "DISTINCT is for count alone");
        }
        for arg in args {
            match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => self.expr(expr)?,
                FunctionArg::Unnamed(FunctionArgExpr::Wildcard) if called == "count" && !distinct => {}
                _ => return refuse(Rule::Functions, function.span(), format!("`{arg}` is not an argument")),
            }
        }
        filter.as_ref().map_or(Ok(()), |filter| self.expr(filter))
    }
}

fn functions() -> String {
    [&AGGREGATE_FUNCTIONS[..], &SCALAR_FUNCTIONS[..]].concat().join(", ")
}

fn binary_operator(expr: &Expr, op: &BinaryOperator) -> Result<(), PolicyError> {
    match op {
        BinaryOperator::Plus
        | BinaryOperator::Minus
        | BinaryOperator::Multiply
        | BinaryOperator::Gt
        | BinaryOperator::Lt
        | BinaryOperator::GtEq
        | BinaryOperator::LtEq
        | BinaryOperator::Eq
        | BinaryOperator::NotEq
        | BinaryOperator::And
        | BinaryOperator::Or => Ok(()),
        BinaryOperator::Divide | BinaryOperator::Modulo => {
            let message = format!("`{op}` does not say how it rounds: use div_floor(a, b)");
            refuse(Rule::Arithmetic, expr.span(), message)
        }
        BinaryOperator::PGRegexMatch
        | BinaryOperator::PGRegexIMatch
        | BinaryOperator::PGRegexNotMatch
        | BinaryOperator::PGRegexNotIMatch
        | BinaryOperator::PGLikeMatch
        | BinaryOperator::PGILikeMatch
        | BinaryOperator::PGNotLikeMatch
        | BinaryOperator::PGNotILikeMatch => {
            refuse(Rule::Patterns, expr.span(), "compare text with `=` or IN")
        }
        other => refuse(Rule::Arithmetic, expr.span(), format!("`{other}` is not part of the language")),
    }
}

fn cast_target(expr: &Expr, target: &DataType) -> Result<(), PolicyError> {
    match target {
        DataType::BigInt(None)
        | DataType::Int(None)
        | DataType::Integer(None)
        | DataType::Decimal(_)
        | DataType::Numeric(_)
        | DataType::Text
        | DataType::Varchar(None) => Ok(()),
        DataType::Float(_) | DataType::Real | DataType::Double(_) | DataType::DoublePrecision => {
            refuse(Rule::WholeNumbers, expr.span(), format!("`{target}` is not whole"))
        }
        other => {
            let message = format!("`{other}` is not BIGINT, INT, DECIMAL(digits, 0) or TEXT");
            refuse(Rule::Casts, expr.span(), message)
        }
    }
}

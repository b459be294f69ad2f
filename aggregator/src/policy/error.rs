//! Why a policy is refused, and why a run fails.

use std::fmt;

use alloy_primitives::Address;
use datafusion::error::DataFusionError;
use fieldproof_proto::ids::DeviceId;

/// Why a policy is refused, or a run fails.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The bundle breaks a rule; its author has to change it.
    #[error("{}: {message} (rule `{rule}`)", place(.at))]
    Refused {
        /// The rule.
        rule: Rule,
        /// Where, if the parser knows.
        at: Option<Place>,
        /// What is wrong, and what to write instead.
        message: String,
    },
    /// A device stands twice under one provider in the inputs of a run: the caller's fault.
    #[error("the inputs have device `{device}` of provider `{provider}` twice")]
    DuplicateDevice {
        /// The device.
        device: DeviceId,
        /// Its provider.
        provider: Address,
    },
    /// More devices than the proof was made for: the caller's fault.
    #[error("the inputs have {count} devices, more than the {devices_max} that the policy was proven for")]
    TooManyDevices {
        /// How many there are.
        count: usize,
        /// How many there may be.
        devices_max: u32,
    },
    /// A result that the proof rules out: a defect of this module or of the engine. Nothing is paid.
    #[error("the policy's result is not a contribution: {0}")]
    Result(String),
    /// The engine failed. Trying again helps only if it ran out of resources.
    #[error("the engine failed")]
    Engine(#[source] Box<DataFusionError>),
}

/// What a policy has to obey. The names are part of the interface of `policy check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `policy.toml` has exactly the known keys, of the right types.
    Manifest,
    /// Every placeholder has a parameter, and every parameter a placeholder.
    Parameters,
    /// The text is SQL, of bounded size and depth.
    Syntax,
    /// There is one statement, a query.
    OneSelect,
    /// Only the views and the query's own common table expressions are read.
    Views,
    /// Only listed functions are called.
    Functions,
    /// Only `+`, `-`, `*` and `div_floor`.
    Arithmetic,
    /// Numbers are whole: no floats, fractions or exponents.
    WholeNumbers,
    /// No LIKE and no regular expressions.
    Patterns,
    /// No LIMIT, OFFSET, FETCH, TOP.
    Limit,
    /// No window functions.
    Windows,
    /// No ORDER BY.
    Order,
    /// Subqueries stand only in FROM and WITH.
    Subqueries,
    /// Casts lose nothing.
    Casts,
    /// Inner and left joins on equality.
    Joins,
    /// Columns are integers, decimals of scale 0, text, bytes or booleans.
    Types,
    /// The result has `provider`, `weight`, and named explanations.
    Output,
    /// `provider` comes from `devices`.
    Provider,
    /// One row per provider.
    OneRowPerProvider,
    /// `weight` is whole, never null and never negative.
    Weight,
    /// No number can exceed 38 digits, whatever the evidence.
    Bounds,
    /// Metrics that are named are in the catalogue.
    Metrics,
    /// The engine can plan the query.
    Plan,
}

/// A place in a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: &'static str,
    /// From 1.
    pub line: u64,
    /// From 1.
    pub column: u64,
}

/// The name of the query's file.
pub(super) const SQL_FILE: &str = "contribution.sql";
/// The name of the manifest's file.
pub(super) const TOML_FILE: &str = "policy.toml";

impl PolicyError {
    /// A broken rule.
    pub(super) fn refused(rule: Rule, at: Option<Place>, message: impl Into<String>) -> Self {
        Self::Refused { rule, at, message: message.into() }
    }

    /// The rule that is broken, if that is what is wrong.
    pub fn rule(&self) -> Option<Rule> {
        match self {
            Self::Refused { rule, .. } => Some(*rule),
            _ => None,
        }
    }
}

impl From<DataFusionError> for PolicyError {
    fn from(error: DataFusionError) -> Self {
        Self::Engine(Box::new(error))
    }
}

impl Rule {
    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Parameters => "parameters",
            Self::Syntax => "syntax",
            Self::OneSelect => "one-select",
            Self::Views => "views",
            Self::Functions => "functions",
            Self::Arithmetic => "arithmetic",
            Self::WholeNumbers => "whole-numbers",
            Self::Patterns => "patterns",
            Self::Limit => "limit",
            Self::Windows => "windows",
            Self::Order => "order",
            Self::Subqueries => "subqueries",
            Self::Casts => "casts",
            Self::Joins => "joins",
            Self::Types => "types",
            Self::Output => "output",
            Self::Provider => "provider",
            Self::OneRowPerProvider => "one-row-per-provider",
            Self::Weight => "weight",
            Self::Bounds => "bounds",
            Self::Metrics => "metrics",
            Self::Plan => "plan",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}", self.file, self.line, self.column)
    }
}

fn place(at: &Option<Place>) -> String {
    at.map_or_else(|| "the policy".to_owned(), |at| at.to_string())
}

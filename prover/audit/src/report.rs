//! What an audit says: checks, each with what it found, and a verdict over all of them.

use fieldproof_aggregator::{
    AggregatorError, epoch::EpochError, evidence::EvidenceError, history::HistoryError,
};
use fieldproof_proto::{canonical_json::CanonicalError, genesis::GenesisError};
use fieldproof_prover::{chain::ChainError, objects::ObjectError};
use fieldproof_runtime::store::StoreError;
use serde::Serialize;

/// What an audit comes to. The number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything that was checked holds.
    Valid,
    /// Something that is needed for the answer is not there.
    Unavailable,
    /// Something is not what it should be.
    Invalid,
}

impl Verdict {
    /// The exit code: 0 valid, 3 invalid, 4 data unavailable.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Valid => 0,
            Self::Invalid => 3,
            Self::Unavailable => 4,
        }
    }
}

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// What came of it.
    pub verdict: Verdict,
    /// The figures, or what is wrong.
    pub detail: String,
}

/// The report of an audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What was audited: `epoch` or `claim`.
    pub audit: &'static str,
    /// Which epoch or provider.
    pub subject: String,
    /// The verdict over all checks.
    pub verdict: Verdict,
    /// The checks, in their order. After the first that does not hold, none follows that needs it.
    pub checks: Vec<Check>,
    /// What the audit computed.
    pub result: serde_json::Map<String, serde_json::Value>,
}

/// Why a check does not hold, or cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The data says something else than it should.
    #[error("{0}")]
    Invalid(String),
    /// The data is not there.
    #[error("{0}")]
    Unavailable(String),
    /// The audit itself failed: nothing is known.
    #[error("{0}")]
    Failed(String),
}

impl Report {
    /// An empty report, valid until something is found.
    pub fn new(audit: &'static str, subject: String) -> Self {
        Self { audit, subject, verdict: Verdict::Valid, checks: Vec::new(), result: serde_json::Map::new() }
    }

    /// Records a check. `Ok` with what it gave, or the reason to stop; a failure of the audit itself
    /// is passed on.
    pub fn record<T>(
        &mut self,
        name: &'static str,
        outcome: Result<(T, String), AuditError>,
    ) -> Result<Option<T>, AuditError> {
        let (value, verdict, detail) = match outcome {
            Ok((value, detail)) => (Some(value), Verdict::Valid, detail),
            Err(AuditError::Invalid(detail)) => (None, Verdict::Invalid, detail),
            Err(AuditError::Unavailable(detail)) => (None, Verdict::Unavailable, detail),
            Err(failed @ AuditError::Failed(_)) => return Err(failed),
        };
        self.checks.push(Check { name, verdict, detail });
        self.verdict = self.verdict.max(verdict);
        Ok(value)
    }
}

impl AuditError {
    /// Data that contradicts itself or what was computed.
    pub fn invalid(reason: impl ToString) -> Self {
        Self::Invalid(reason.to_string())
    }

    /// An object that is not there.
    pub fn missing(name: &str) -> Self {
        Self::Unavailable(format!("`{name}` is missing"))
    }
}

impl From<StoreError> for AuditError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::TooLarge { .. } => Self::Invalid(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<EvidenceError> for AuditError {
    fn from(error: EvidenceError) -> Self {
        match error {
            EvidenceError::Store(error) => error.into(),
            EvidenceError::Missing(name) => Self::missing(&name),
            EvidenceError::Invalid { .. } | EvidenceError::Hole { .. } => Self::invalid(error),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<ObjectError> for AuditError {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::Store(error) => error.into(),
            ObjectError::Missing(name) => Self::missing(&name),
            ObjectError::Invalid { .. } => Self::invalid(error),
        }
    }
}

impl From<AggregatorError> for AuditError {
    fn from(error: AggregatorError) -> Self {
        match error {
            AggregatorError::Store(error) => error.into(),
            AggregatorError::Manifest { .. } => Self::invalid(error),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<HistoryError> for AuditError {
    fn from(error: HistoryError) -> Self {
        Self::invalid(error)
    }
}

impl From<GenesisError> for AuditError {
    fn from(error: GenesisError) -> Self {
        Self::invalid(error)
    }
}

impl From<CanonicalError> for AuditError {
    fn from(error: CanonicalError) -> Self {
        Self::invalid(error)
    }
}

impl From<EpochError> for AuditError {
    fn from(error: EpochError) -> Self {
        Self::invalid(error)
    }
}

impl From<ChainError> for AuditError {
    fn from(error: ChainError) -> Self {
        if error.is_revert() { Self::invalid(error) } else { Self::Unavailable(error.to_string()) }
    }
}

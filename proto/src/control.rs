//! Control records: everything about a network that may change, signed by the operator.
//!
//! A record applies to the epochs whose window opens after it was appended; so the state in force
//! for an epoch is a function of the log, and nobody chooses anything outside it.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;
use ed25519_dalek::{Signer as _, SigningKey};
use serde::{Deserialize, Serialize};

use crate::{
    canonical_json::{self, CanonicalError},
    digest::{context, digest},
    ids::{Digest, NetworkId, OperatorKey},
    registration::is_program_name,
    signature::{SignatureError, verify_operator},
};

/// One change to the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ControlBody {
    /// Adds a metric to the catalogue, or replaces it.
    Metric(Metric),
    /// Adds a program, or replaces it.
    Program(Program),
    /// Certifies an ingester's key.
    Ingester {
        /// Signs receipts and rejections.
        key: OperatorKey,
    },
    /// Names the contract that pays.
    Distributor {
        /// On the chain of the genesis.
        address: Address,
    },
}

/// A metric of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// The number that payloads carry.
    pub id: u32,
    /// The name that policies use.
    pub name: String,
    /// The unit of a value of 1 at scale 0.
    pub unit: String,
    /// A value v means v · 10^-scale units.
    pub scale: u8,
    /// Gauge or counter.
    pub metric_kind: MetricKind,
    /// The least value that is in range.
    #[serde(with = "decimal")]
    pub minimum: i64,
    /// The greatest value that is in range.
    #[serde(with = "decimal")]
    pub maximum: i64,
}

/// What a metric's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricKind {
    /// A state at a time.
    Gauge,
    /// A register that only rises, until it is reset.
    Counter,
}

/// A policy and what it may pay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// The name that registrations use.
    pub name: String,
    /// The key that admits devices.
    pub admitter: OperatorKey,
    /// What an epoch pays, in the token's smallest unit.
    #[serde(with = "decimal")]
    pub pool: u128,
    /// The most readings of one device that are accepted in one slot.
    pub readings_per_device_max: u32,
    /// The most devices the program may have; part of the proof that no sum overflows.
    pub devices_max: u32,
    /// The policy.
    pub policy: PolicyBundle,
}

/// The text of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyBundle {
    /// `policy.toml`.
    pub policy_toml: String,
    /// `contribution.sql`.
    pub contribution_sql: String,
}

/// A control record as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlRecord {
    /// The change.
    pub body: ControlBody,
    /// Ed25519 by the operator, in hexadecimal.
    pub signature: String,
}

/// Why a control record is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Not the canonical JSON of a control record.
    #[error("the control record is not valid: {0}")]
    Json(#[from] CanonicalError),
    /// The operator did not sign it.
    #[error("the operator's signature is refused: {0}")]
    Signature(#[from] SignatureError),
    /// A value out of bounds.
    #[error("the control record has {field} `{value}`, {rule}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        rule: &'static str,
    },
}

/// The state that control records make.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ControlState {
    /// The catalogue.
    pub metrics: BTreeMap<u32, Metric>,
    /// The programs by name.
    pub programs: BTreeMap<String, Program>,
    /// The certified ingesters.
    pub ingesters: BTreeSet<OperatorKey>,
    /// The contract that pays.
    pub distributor: Option<Address>,
}

/// The largest pool: 38 decimal digits, which fit every engine's decimals.
pub const POOL_MAX: u128 = 10_u128.pow(38) - 1;

impl ControlRecord {
    /// Signs a change.
    pub fn sign(network: &NetworkId, body: ControlBody, operator: &SigningKey) -> Result<Self, ControlError> {
        let message = signed_digest(network, &body)?;
        Ok(Self { body, signature: hex::encode(operator.sign(&message.0).to_bytes()) })
    }

    /// The canonical bytes, the value of the record in the log.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ControlError> {
        Ok(canonical_json::to_bytes(self)?)
    }

    /// Reads a record and checks form, bounds and signature.
    pub fn verify(network: &NetworkId, operator: &OperatorKey, bytes: &[u8]) -> Result<Self, ControlError> {
        let record: Self = canonical_json::from_bytes(bytes)?;
        let signature = hex::decode(&record.signature).map_err(|_| SignatureError::Invalid)?;
        // Upper-case digits would be a second record with the same meaning.
        if hex::encode(&signature) != record.signature {
            return Err(SignatureError::Invalid.into());
        }
        verify_operator(operator, &signed_digest(network, &record.body)?, &signature)?;
        record.body.check()?;
        Ok(record)
    }
}

impl ControlBody {
    fn check(&self) -> Result<(), ControlError> {
        let refuse = |field, value: String, rule| Err(ControlError::Field { field, value, rule });
        match self {
            Self::Metric(metric) if metric.minimum > metric.maximum => {
                refuse("minimum", metric.minimum.to_string(), "above the maximum")
            }
            Self::Metric(metric) if metric.metric_kind == MetricKind::Counter && metric.minimum < 0 => {
                refuse("minimum", metric.minimum.to_string(), "below zero: a counter never is")
            }
            Self::Program(program) if !is_program_name(&program.name) => refuse(
                "name",
                program.name.clone(),
                "no registration could name it: not 1 to 64 of a-z, 0-9 and -",
            ),
            Self::Program(program) if program.pool > POOL_MAX => {
                refuse("pool", program.pool.to_string(), "above 10^38 - 1")
            }
            Self::Program(program) if program.readings_per_device_max == 0 || program.devices_max == 0 => {
                refuse("quota", "0".to_owned(), "a program needs at least one device and one reading")
            }
            _ => Ok(()),
        }
    }
}

impl ControlState {
    /// The state after one more change.
    pub fn apply(&mut self, body: &ControlBody) {
        match body {
            ControlBody::Metric(metric) => {
                self.metrics.insert(metric.id, metric.clone());
            }
            ControlBody::Program(program) => {
                self.programs.insert(program.name.clone(), program.clone());
            }
            ControlBody::Ingester { key } => {
                self.ingesters.insert(*key);
            }
            ControlBody::Distributor { address } => self.distributor = Some(*address),
        }
    }

    /// The digest that manifests carry.
    pub fn digest(&self) -> Result<Digest, ControlError> {
        Ok(digest(context::CONTROL_STATE, &[&canonical_json::to_bytes(self)?]))
    }
}

fn signed_digest(network: &NetworkId, body: &ControlBody) -> Result<Digest, ControlError> {
    Ok(digest(context::CONTROL, &[&network.0, &canonical_json::to_bytes(body)?]))
}

/// Integers as strings of decimal digits, for JSON readers that know only doubles.
pub mod decimal {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes the digits.
    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// Reads digits, in their only form.
    pub fn deserialize<'de, T: FromStr + Display, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        let value = text.parse::<T>().ok().filter(|value| value.to_string() == text);
        value.ok_or_else(|| {
            D::Error::custom(format!("`{text}` is not an integer in decimal digits within its bounds"))
        })
    }
}

#[cfg(test)]
mod tests;

//! The genesis of a network: what never changes about it, and the grid of its epochs.

use alloy_primitives::Address;
use serde::{Deserialize, Serialize};

use crate::{
    canonical_json::{self, CanonicalError},
    digest::{context, digest},
    ids::{NetworkId, OperatorKey},
    payload::TIME_MS_MAX,
};

/// Everything about a network that never changes. Its canonical JSON names the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// The format of this object.
    pub format: GenesisFormat,
    /// A name for people.
    pub name: String,
    /// The chain that the token lives on.
    pub chain_id: u64,
    /// The token that rewards are paid in.
    pub token: Address,
    /// The grid of epochs.
    pub epochs: EpochGrid,
    /// How many partitions each generation of the topic `telemetry` has, until a control record
    /// says otherwise.
    pub partitions: std::num::NonZeroU32,
    /// The key that signs control records.
    pub operator: OperatorKey,
}

/// The version of the genesis format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GenesisFormat {
    /// The first.
    #[serde(rename = "fieldproof-genesis-1")]
    V1,
}

/// The grid of epochs: epoch k is the half-open window [start + k·length, start + (k+1)·length) of
/// event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochGrid {
    /// Start of epoch 0, in milliseconds since 1970.
    pub start_ms: u64,
    /// Length of every epoch.
    pub length_ms: u64,
    /// How long after a window's end its readings may still reach the log.
    pub grace_ms: u64,
    /// How far a reading's time may be ahead of its record's append time.
    pub future_ms: u64,
}

/// Why a genesis is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// Not the canonical JSON of a genesis.
    #[error("the genesis is not valid: {0}")]
    Json(#[from] CanonicalError),
    /// A value out of bounds.
    #[error("the genesis has {field} `{value}`, {rule}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What it should be.
        rule: &'static str,
    },
}

impl Genesis {
    /// The canonical bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, GenesisError> {
        self.check()?;
        Ok(canonical_json::to_bytes(self)?)
    }

    /// Reads canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, GenesisError> {
        let genesis: Self = canonical_json::from_bytes(bytes)?;
        genesis.check()?;
        Ok(genesis)
    }

    /// The id of the network that these canonical bytes found.
    pub fn network_id(bytes: &[u8]) -> NetworkId {
        NetworkId(digest(context::NETWORK, &[bytes]).0)
    }

    fn check(&self) -> Result<(), GenesisError> {
        let grid = &self.epochs;
        let limits = [
            ("epochs.start_ms", grid.start_ms, 0),
            ("epochs.length_ms", grid.length_ms, 1),
            ("epochs.grace_ms", grid.grace_ms, 0),
            ("epochs.future_ms", grid.future_ms, 0),
        ];
        for (field, value, minimum) in limits {
            if value < minimum || value > TIME_MS_MAX {
                return Err(GenesisError::Field {
                    field,
                    value,
                    rule: "not between its minimum and the year 9999",
                });
            }
        }
        Ok(())
    }
}

impl EpochGrid {
    /// The epoch whose window holds `time_ms`; none before epoch 0.
    pub fn epoch_of(&self, time_ms: u64) -> Option<u64> {
        time_ms.checked_sub(self.start_ms).map(|since| since / self.length_ms)
    }

    /// Start of the window of `epoch`, saturating at the end of time.
    pub fn window_start_ms(&self, epoch: u64) -> u64 {
        self.start_ms.saturating_add(epoch.saturating_mul(self.length_ms))
    }

    /// End of the window of `epoch`: the first millisecond after it.
    pub fn window_end_ms(&self, epoch: u64) -> u64 {
        self.window_start_ms(epoch.saturating_add(1))
    }

    /// The append time that closes slot `epoch`: the first record of a partition that reaches it
    /// is the first of a later slot.
    pub fn close_ms(&self, epoch: u64) -> u64 {
        self.window_end_ms(epoch).saturating_add(self.grace_ms)
    }

    /// The slot of a record that is appended at `append_ms` to a partition whose last record was in
    /// slot `current`: slots never go back, whatever a broker's clock does.
    pub fn slot_after(&self, current: u64, append_ms: i64) -> u64 {
        let append_ms = u64::try_from(append_ms).unwrap_or(0);
        let by_time = match append_ms.checked_sub(self.close_ms(0)) {
            None => 0,
            Some(since) => since / self.length_ms + 1,
        };
        current.max(by_time)
    }

    /// The first slot whose records can hold readings of the window of `epoch`: records of earlier
    /// slots were appended too early for any reading of theirs to be in it.
    pub fn first_slot_for(&self, epoch: u64) -> u64 {
        // An accepted reading is at most future_ms ahead of its record's append time, and a record
        // stands in no slot before the one its append time gives.
        let earliest_append_ms = self.window_start_ms(epoch).saturating_sub(self.future_ms);
        match earliest_append_ms.checked_sub(self.close_ms(0)) {
            None => 0,
            Some(since) => since / self.length_ms + 1,
        }
        .min(epoch)
    }
}

#[cfg(test)]
mod tests;

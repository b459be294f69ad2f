//! What every process of Fieldproof shares: the durable store, telemetry.

pub mod store;
pub mod telemetry;

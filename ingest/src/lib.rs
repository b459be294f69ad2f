//! Ingest: signed batches in by gRPC, signed receipts out, everything into the log.
//!
//! An ingester is stateless. It checks the form and the signature of a batch, hands its bytes as
//! they came to Kafka with `acks=all`, and answers with a receipt once the delivery report is
//! there: never before, never on a report that failed. What has no receipt and no signed rejection
//! the device sends again, to any ingester. Nothing here decides what a batch is worth: admission
//! reads the log and checks again.
//!
//! One task owns each stream, one thread polls the producer, one thread follows each cache. Every
//! queue between them is bounded in bytes or in number, by [`IngestLimits`] and the constants
//! beside the code.

#[allow(missing_docs, clippy::all, clippy::let_underscore_must_use, clippy::unwrap_used)]
mod pb {
    include!(concat!(env!("OUT_DIR"), "/fieldproof.v1.rs"));
}

mod bucket;
mod caches;
mod check;
mod codec;
mod config;
mod credits;
mod error;
mod failure;
mod log;
mod metrics;
mod receipts;
mod register;
mod server;
mod service;
mod stream;
mod submit;

pub use config::{IngestConfig, IngestLimits, KafkaSettings, Topics};
pub use error::IngestError;
pub use metrics::IngestCounts;
pub use server::Ingest;

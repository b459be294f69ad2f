//! The contract of Fieldproof: ids, signed bytes, canonical digests, Merkle trees, verification.
//!
//! Everything that two machines must agree on to the byte is here and only here; `SPEC.md` beside
//! this crate says the same in words. There is no I/O, no clock and no async in this crate: a rule
//! that depended on one could not be repeated by an auditor.

pub mod allocation;
pub mod batch;
pub mod canonical_json;
pub mod control;
pub mod digest;
pub mod evidence;
pub mod evm;
pub mod genesis;
pub mod ids;
pub mod manifest;
pub mod payload;
pub mod receipt;
pub mod registration;
pub mod reward_tree;
pub mod signature;
pub mod wire;

/// The protobuf messages of `fieldproof/v1/ingest.proto`.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/fieldproof.v1.rs"));
}

/// The encoded descriptors of the protobuf messages, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

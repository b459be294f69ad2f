//! The prover: what carries rewards onto the chain.
//!
//! It reads manifests from the object store, makes the tree of cumulative rewards again from them,
//! publishes it with a proof for everybody, signs the root, and posts it once enough provers did.
//! It believes nothing that it reads: digests, sums and allocations are checked before it signs.
//! It stores nothing of its own: every decision is made anew from the store and the chain, so it
//! may die at any moment, run twice, or be replaced by somebody else's.

pub mod chain;
pub mod claims;
pub mod commit;
pub mod embedded_chain;
pub mod objects;
pub mod publish;
pub mod rewards;
pub mod statement;

mod backoff;
mod facts;
mod prover;
#[cfg(test)]
mod testing;

pub use self::prover::{Prover, ProverConfig, ProverError, ProverEvent};

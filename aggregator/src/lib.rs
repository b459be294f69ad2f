//! The aggregator: copies the log into evidence, and computes epochs from it.
//!
//! One task per partition writes evidence; one task follows all of it, gives every record its
//! verdict, and computes an epoch when every partition has closed its slot. Creating the manifest is
//! the only commit of an epoch. Nothing is kept but objects that anyone can recompute.

pub mod admission;
pub mod epoch;
pub mod evidence;
pub mod history;
pub mod kafka;
mod metrics;
pub mod policy;
pub mod readings;
mod role;
mod writer;

pub use role::{Aggregator, AggregatorConfig, AggregatorError, AggregatorEvent, last_epoch, read_manifest};
pub use writer::{SegmentLimits, WriterError};

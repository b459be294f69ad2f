//! The auditor: recomputes what was committed, from the object store and a chain RPC alone.
//!
//! Nothing is believed that can be computed: evidence digests, signatures, verdicts, the policy, the
//! allocation and the tree are made anew and compared with what was committed. A report names what
//! was checked and what it gave, in canonical JSON without clocks, paths or versions of the moment:
//! two audits of one epoch give the same bytes.

mod claim;
mod epoch;
mod replay;
mod report;

pub use claim::audit_claim;
pub use epoch::audit_epoch;
pub use replay::{Replayed, replay};
pub use report::{AuditError, Check, Report, Verdict};

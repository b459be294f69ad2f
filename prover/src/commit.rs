//! The next step of a prover: facts in, decision out. Pure, without a clock.
//!
//! One root at a time: the next is built only on a live root that is final, so no statement ever
//! stands on something that a reorganisation takes away. When epochs have piled up, one root goes
//! through the newest of them.

use alloy_primitives::B256;

/// A root in the contract, or in the pointer to the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootMark {
    /// Its place in the contract.
    pub index: u64,
    /// The root.
    pub root: B256,
    /// The last epoch in it.
    pub through_epoch: u64,
}

/// What is known of a statement that is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatementFacts {
    /// The last epoch of its root.
    pub through_epoch: u64,
    /// Whether it builds on the root that is live now: only then it can be posted.
    pub on_live_root: bool,
    /// How many attestors signed it.
    pub signatures: u64,
    /// Whether we are one of them.
    pub signed_by_us: bool,
}

/// All that a decision rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The live root by the newest block.
    pub live: Option<RootMark>,
    /// The live root by the newest block that stays.
    pub final_live: Option<RootMark>,
    /// What the pointer to the latest root names.
    pub latest: Option<RootMark>,
    /// The newest epoch up to which the manifests after the final live root are complete; none when
    /// nobody earned anything in them.
    pub complete_through: Option<u64>,
    /// The statements for epochs after the final live root, in the order of epochs.
    pub statements: Vec<StatementFacts>,
    /// How many signatures a root needs.
    pub threshold: u64,
    /// Whether the contract takes our signature.
    pub attestor: bool,
    /// Whether the others had their time to sign what we signed.
    pub patience_over: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Move the pointer to the final live root.
    AdvanceLatest(RootMark),
    /// Post the root through this epoch.
    Post(u64),
    /// Check and sign the statement through this epoch.
    Attest(u64),
    /// Make the root through this epoch.
    Publish(u64),
    /// Nothing, until something changes.
    Wait(Waiting),
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// The live root is not final yet.
    Finality {
        /// The last epoch of the live root, if there is one.
        through_epoch: Option<u64>,
    },
    /// Other provers have not signed yet.
    Signatures {
        /// The last epoch of the root.
        through_epoch: u64,
        /// How many are missing.
        missing: u64,
    },
    /// The newest statement cannot be posted any more: a later epoch goes on from the live root.
    NextEpoch {
        /// The epoch of the statement.
        after: u64,
    },
    /// There is no further manifest, or none that pays anybody.
    Manifest,
}

/// The next step.
pub fn next_step(facts: &Facts) -> Step {
    match facts.final_live {
        Some(root) if facts.latest != Some(root) => return Step::AdvanceLatest(root),
        _ => {}
    }
    if facts.live != facts.final_live {
        let through_epoch = facts.live.map(|live| live.through_epoch);
        return Step::Wait(Waiting::Finality { through_epoch });
    }
    let mut open = facts.statements.iter().rev().filter(|statement| statement.on_live_root);
    if let Some(ready) = open.clone().find(|statement| statement.signatures >= facts.threshold) {
        // An attestor helps nothing onto the chain that it has not checked itself.
        return match facts.attestor && !ready.signed_by_us {
            true => Step::Attest(ready.through_epoch),
            false => Step::Post(ready.through_epoch),
        };
    }
    let newest_open = open.next();
    match newest_open {
        Some(statement) if facts.attestor && !statement.signed_by_us => {
            return Step::Attest(statement.through_epoch);
        }
        // Others sign the same statement only if we do not move on too fast.
        Some(statement) if !facts.patience_over => return wait_for_signatures(facts, statement),
        _ => {}
    }
    let stated = facts.statements.last().map(|statement| statement.through_epoch);
    match facts.complete_through {
        Some(epoch) if Some(epoch) > stated => Step::Publish(epoch),
        _ => match (newest_open, stated) {
            (Some(statement), _) => wait_for_signatures(facts, statement),
            (None, Some(after)) => Step::Wait(Waiting::NextEpoch { after }),
            (None, None) => Step::Wait(Waiting::Manifest),
        },
    }
}

fn wait_for_signatures(facts: &Facts, statement: &StatementFacts) -> Step {
    let missing = facts.threshold.saturating_sub(statement.signatures);
    Step::Wait(Waiting::Signatures { through_epoch: statement.through_epoch, missing })
}

#[cfg(test)]
mod tests;

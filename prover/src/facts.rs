//! What a decision rests on, read anew from the store and the chain before each step.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes};
use fieldproof_proto::{
    ids::NetworkId,
    manifest::{RootStatement, object_name},
};
use fieldproof_runtime::store::Store;

use crate::{
    chain::{Chain, ChainRoot, DistributorTerms},
    commit::{RootMark, StatementFacts},
    objects::{self, EpochManifest, ObjectError},
    prover::ProverError,
    publish::EpochMark,
    statement::{self, LatestRoot},
};

/// The most epochs that one root goes over: bounds what a decision holds in memory. Epochs that pay
/// nobody do not count.
pub(crate) const EPOCHS_PER_ROOT_MAX: usize = 4096;

/// The store and the chain, and which network they are of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct World<'a> {
    pub store: &'a Store,
    pub chain: &'a Chain,
    pub network: &'a NetworkId,
}

/// A statement that is in the store, with the attestors' valid signatures, rising by signer.
#[derive(Debug, Clone)]
pub(crate) struct Stated {
    pub statement: RootStatement,
    pub signatures: BTreeMap<Address, Bytes>,
}

/// Everything about the roots of one contract.
#[derive(Debug, Clone)]
pub(crate) struct Roots {
    pub live: Option<ChainRoot>,
    pub final_live: Option<ChainRoot>,
    pub latest: Option<LatestRoot>,
    /// The epoch that the manifests continue: the final live root's, or a later one up to which
    /// nobody earned anything.
    pub after: Option<EpochMark>,
    /// The manifests after it, without a gap.
    pub epochs: Vec<EpochManifest>,
    /// Why there are no more of them although there are later manifests.
    pub halt: Option<Halt>,
    /// Statements for these epochs, in their order.
    pub stated: Vec<Stated>,
}

/// Nobody earned anything after a live root, up to an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unpaid {
    pub base: Option<B256>,
    pub through: EpochMark,
}

/// Why an epoch that has a manifest is in no root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Halt {
    pub epoch: u64,
    pub reason: &'static str,
}

impl World<'_> {
    /// The contract that pays, by the newest manifest. None while there is none.
    pub(crate) async fn distributor(&self) -> Result<Option<Address>, ProverError> {
        let Some(epoch) = objects::listed_epochs(self.store).await?.last().copied() else { return Ok(None) };
        let Some(revision) = objects::listed_revisions(self.store, epoch).await?.last().copied() else {
            return Ok(None);
        };
        let manifest = objects::read_manifest(self.store, self.network, epoch, revision).await?;
        Ok(manifest.and_then(|found| found.manifest.control.distributor))
    }

    /// Reads everything about the roots of a contract.
    pub(crate) async fn roots(
        &self,
        distributor: Address,
        terms: &DistributorTerms,
        unpaid: Option<Unpaid>,
    ) -> Result<Roots, ProverError> {
        let live = self.chain.live_root(distributor).await?;
        let final_live = self.chain.final_live_root(distributor).await?;
        let base = final_live.map(|live| live.root);
        let unpaid = unpaid.filter(|unpaid| unpaid.base == base).map(|unpaid| unpaid.through);
        let after = unpaid.or(final_live.as_ref().map(EpochMark::from));
        let (epochs, halt) = self.epochs_after(distributor, after).await?;
        let mut stated = Vec::new();
        for EpochManifest { manifest, .. } in &epochs {
            let (epoch, revision) = (manifest.epoch, manifest.revision);
            let Some(statement) = objects::read_statement(self.store, epoch, revision).await? else {
                continue;
            };
            let signatures = statement::signatures(self.store, &statement, &terms.attestors).await?;
            let signatures =
                signatures.into_iter().map(|(signer, bytes)| (signer, Bytes::from(bytes))).collect();
            stated.push(Stated { statement, signatures });
        }
        Ok(Roots { live, final_live, latest: self.latest().await?, after, epochs, halt, stated })
    }

    /// The pointer to the latest root; none if it is not there, or not one of ours: it holds no
    /// truth of its own and is written anew.
    pub(crate) async fn latest(&self) -> Result<Option<LatestRoot>, ObjectError> {
        let Some(bytes) = self.store.get(object_name::LATEST).await? else { return Ok(None) };
        match objects::parse(object_name::LATEST, &bytes) {
            Ok(latest) => Ok(Some(latest)),
            Err(error) => {
                tracing::warn!(%error, "the pointer to the latest root is written anew");
                Ok(None)
            }
        }
    }

    /// The manifests that continue an epoch without a gap, each in the revision that the contract
    /// takes; and what keeps out the next one that is listed. An epoch whose root the guardian
    /// disabled ends them, until it is computed again.
    async fn epochs_after(
        &self,
        distributor: Address,
        after: Option<EpochMark>,
    ) -> Result<(Vec<EpochManifest>, Option<Halt>), ProverError> {
        let listed = objects::listed_epochs(self.store).await?;
        let Some(newest) = listed.last().copied() else { return Ok((Vec::new(), None)) };
        let mut previous = after.map(|after| after.manifest);
        let mut epochs: Vec<EpochManifest> = Vec::new();
        let mut halt = None;
        for epoch in (after.map_or(0, |after| after.epoch + 1)..=newest).take(EPOCHS_PER_ROOT_MAX) {
            let reason = match self.chain.open_revision(distributor, epoch).await? {
                None => "its root is disabled, and the guardian has not raised its revision",
                Some(revision) => {
                    match objects::read_manifest(self.store, self.network, epoch, revision).await? {
                        Some(found) if found.manifest.previous == previous => {
                            previous = Some(found.digest);
                            epochs.push(found);
                            continue;
                        }
                        Some(_) => "it continues another revision of the epoch before",
                        None => "the revision that the contract takes is not in the store",
                    }
                }
            };
            halt = Some(Halt { epoch, reason });
            break;
        }
        // A root goes through an epoch that knows its contract.
        let payable = epochs.iter().rposition(|epoch| epoch.manifest.control.distributor.is_some());
        epochs.truncate(payable.map_or(0, |last| last + 1));
        Ok((epochs, halt))
    }
}

impl Roots {
    /// What a decision needs to know of the statements.
    pub(crate) fn statement_facts(&self, us: Address) -> Vec<StatementFacts> {
        let live = self.final_live.map_or(B256::ZERO, |live| live.root);
        let facts = |stated: &Stated| StatementFacts {
            through_epoch: stated.statement.through_epoch,
            on_live_root: stated.statement.previous_root == live,
            signatures: u64::try_from(stated.signatures.len()).unwrap_or(u64::MAX),
            signed_by_us: stated.signatures.contains_key(&us),
        };
        self.stated.iter().map(facts).collect()
    }

    /// The manifests up to an epoch.
    pub(crate) fn epochs_through(&self, epoch: u64) -> &[EpochManifest] {
        let end = self.epochs.partition_point(|found| found.manifest.epoch <= epoch);
        &self.epochs[..end]
    }

    /// The statement through an epoch.
    pub(crate) fn stated(&self, epoch: u64) -> Option<&Stated> {
        self.stated.iter().find(|stated| stated.statement.through_epoch == epoch)
    }
}

impl From<&ChainRoot> for RootMark {
    fn from(root: &ChainRoot) -> Self {
        Self { index: root.index, root: root.root, through_epoch: root.through_epoch }
    }
}

impl From<&LatestRoot> for RootMark {
    fn from(latest: &LatestRoot) -> Self {
        let statement = &latest.statement;
        Self { index: latest.index, root: statement.root, through_epoch: statement.through_epoch }
    }
}

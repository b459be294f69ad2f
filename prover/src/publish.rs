//! Publishing a root: tree, claims and statement as files that anyone can check, then a signature.
//!
//! Everything is created once, read back and compared before it is signed. A publication is a
//! function of the manifests and of the live root: a crash between any two lines and a run after
//! it give the same bytes. What is there already with other bytes is never signed.

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::{Address, B256, U256};
use bytes::Bytes;
use fieldproof_proto::{
    canonical_json::{self, CanonicalError},
    evm::EvmSecret,
    ids::Digest,
    manifest::{ClaimProof, RootFormat, RootStatement, object_name},
    reward_tree::{LeafContext, RewardTree, TreeDump, TreeError, domain_word, leaf_hash, verify_proof},
};
use fieldproof_runtime::store::{Created, Store, StoreError};
use futures::{StreamExt as _, stream};

use crate::{
    chain::ChainRoot,
    objects::{self, EpochManifest, ObjectError, on_cpu},
    rewards::{self, RewardError},
    statement::{Attestation, AttestationError},
};

/// How many claims are made at a time, and so held in memory.
const CLAIMS_PER_CHUNK: usize = 1024;
/// How many files are written or read at the same time.
const FILES_AT_ONCE: usize = 16;

/// Where a root is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootTarget {
    /// The chain.
    pub chain_id: u64,
    /// The contract.
    pub distributor: Address,
    /// The token it pays.
    pub token: Address,
}

/// What a root is made of.
#[derive(Debug, Clone, Copy)]
pub struct Publication<'a> {
    /// Where it is for.
    pub target: RootTarget,
    /// The live root it builds on.
    pub base: Option<&'a ChainRoot>,
    /// The epoch that the manifests continue: the base's, or a later one when the epochs between pay
    /// nobody.
    pub after: Option<EpochMark>,
    /// The manifests after it, up to the root's own, in their order.
    pub epochs: &'a [EpochManifest],
}

/// An epoch and the digest of its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochMark {
    /// The epoch.
    pub epoch: u64,
    /// The digest of its manifest.
    pub manifest: Digest,
}

/// What came of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// A root, published and read back.
    Root(RootStatement),
    /// The epochs pay nobody anything: there is nothing to post.
    Nothing,
}

/// Why a root is not published or not signed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// An object that the root is made of.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// Rewards that do not add up.
    #[error(transparent)]
    Rewards(#[from] RewardError),
    /// Leaves that make no tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A value without canonical form.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    /// The manifests are not one chain that starts at the live root.
    #[error("the manifest of epoch `{epoch}` does not continue what is before it: {reason}")]
    Chain {
        /// The epoch.
        epoch: u64,
        /// What does not fit.
        reason: &'static str,
    },
    /// A network whose contract changed needs somebody to say what becomes of the old one's debts.
    #[error("epoch `{epoch}` is paid by `{found}`, this root by `{expected}`")]
    Distributor {
        /// The epoch.
        epoch: u64,
        /// The contract of the epoch.
        found: Address,
        /// The contract of the root.
        expected: Address,
    },
    /// The published tree of the live root is not what the contract says of it.
    #[error("the live root `{root}` has `{found}`, the contract says `{expected}`")]
    Base {
        /// The live root.
        root: B256,
        /// Leaves and total of its tree.
        found: String,
        /// Leaves and total in the contract.
        expected: String,
    },
    /// A proof that does not verify: our fault.
    #[error("the proof of `{0}` does not verify")]
    Proof(Address),
    /// The statement there builds on another live root, so it can never be posted after this one.
    #[error("the statement of epoch `{epoch}` builds on root `{found}`, the live one is `{expected}`")]
    OtherBase {
        /// The epoch.
        epoch: u64,
        /// What the statement builds on.
        found: B256,
        /// The live root.
        expected: B256,
    },
    /// Alarm: somebody computed something else from the same inputs.
    #[error("`{0}` is there already, and is not what we computed from the same inputs")]
    Conflict(String),
    /// Alarm: our own key signed another statement for this epoch and revision (X1).
    #[error("`{name}` is not our signature of this statement: {reason}")]
    Signed {
        /// The attestation.
        name: String,
        /// What is wrong.
        reason: AttestationError,
    },
}

/// The store, as a publication writes to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Desk<'a> {
    store: &'a Store,
    /// How many more objects may be created, for tests that cut a publication off.
    #[cfg(test)]
    left: Option<&'a std::sync::atomic::AtomicI64>,
}

impl PublishError {
    /// Whether a later try may succeed without anybody changing what is in the store.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Object(error) => error.is_retryable(),
            Self::OtherBase { .. } => true,
            _ => false,
        }
    }
}

impl From<&ChainRoot> for EpochMark {
    fn from(root: &ChainRoot) -> Self {
        Self { epoch: root.through_epoch, manifest: root.manifest }
    }
}

impl From<&EpochManifest> for EpochMark {
    fn from(epoch: &EpochManifest) -> Self {
        Self { epoch: epoch.manifest.epoch, manifest: epoch.digest }
    }
}

impl From<StoreError> for PublishError {
    fn from(error: StoreError) -> Self {
        Self::Object(error.into())
    }
}

/// Publishes the root through the last of the epochs. Durable when it returns: tree, claims and
/// statement, as read back.
pub async fn publish(store: &Store, publication: &Publication<'_>) -> Result<Published, PublishError> {
    publish_on(Desk::new(store), publication).await
}

/// Signs a published statement. Durable when it returns: the attestation, as read back.
pub async fn attest(
    store: &Store,
    statement: &RootStatement,
    secret: &EvmSecret,
) -> Result<Attestation, PublishError> {
    attest_on(Desk::new(store), statement, secret).await
}

pub(crate) async fn publish_on(
    desk: Desk<'_>,
    publication: &Publication<'_>,
) -> Result<Published, PublishError> {
    let Publication { target, base, epochs, .. } = *publication;
    check_links(publication)?;
    let Some(last) = epochs.last() else { return Ok(Published::Nothing) };
    let context =
        LeafContext { domain: domain_word(target.chain_id, target.distributor), token: target.token };
    let before = base_leaves(desk.store, context, base).await?;
    let mut cumulative = before.clone();
    for epoch in epochs {
        let contributions = objects::read_contributions(desk.store, &epoch.manifest).await?;
        let manifest = epoch.manifest.clone();
        cumulative =
            on_cpu(move || rewards::next_cumulative(&cumulative, &[(manifest, contributions)])).await??;
    }
    let epoch = last.manifest.epoch;
    let previous_root = base.map_or(B256::ZERO, |base| base.root);
    if cumulative == before {
        let revision = last.manifest.revision;
        return match objects::read_statement(desk.store, epoch, revision).await? {
            Some(there) if there.previous_root == previous_root => {
                Err(PublishError::Conflict(object_name::root_statement(epoch, revision)))
            }
            _ => Ok(Published::Nothing),
        };
    }
    let total = rewards::total(&cumulative).ok_or(RewardError::Overflow { epoch })?;
    let (tree, dump) = on_cpu(move || build(context, &cumulative)).await??;
    let statement = RootStatement {
        format: RootFormat::V1,
        chain_id: target.chain_id,
        distributor: target.distributor,
        token: target.token,
        through_epoch: epoch,
        revision: last.manifest.revision,
        manifest: last.digest,
        root: tree.root(),
        previous_root,
        leaf_count: u64::try_from(tree.leaves().len()).unwrap_or(u64::MAX),
        total,
    };
    desk.create_same(&object_name::tree(&statement.root), dump).await?;
    create_claims(desk, &Arc::new(tree), statement.through_epoch).await?;
    create_statement(desk, &statement).await?;
    Ok(Published::Root(statement))
}

pub(crate) async fn attest_on(
    desk: Desk<'_>,
    statement: &RootStatement,
    secret: &EvmSecret,
) -> Result<Attestation, PublishError> {
    let (epoch, revision) = (statement.through_epoch, statement.revision);
    // X1: the name of the statement is where all provers agree, and it was created only once.
    if objects::read_statement(desk.store, epoch, revision).await?.as_ref() != Some(statement) {
        return Err(PublishError::Conflict(object_name::root_statement(epoch, revision)));
    }
    let attestation = Attestation::sign(statement, secret)?;
    let name = object_name::attestation(epoch, revision, &attestation.signer);
    if let Created::Taken(there) = desk.create(&name, canonical_json::to_bytes(&attestation)?).await? {
        let signed: Attestation = objects::parse(&name, &there)?;
        signed.verify(statement).map_err(|reason| PublishError::Signed { name: name.clone(), reason })?;
    }
    let read_back: Attestation = objects::parse(&name, &objects::get(desk.store, &name).await?)?;
    match read_back == attestation {
        true => Ok(attestation),
        false => Err(PublishError::Conflict(name)),
    }
}

/// The manifests are one chain: each names the one before, the first one the live root's.
fn check_links(publication: &Publication<'_>) -> Result<(), PublishError> {
    let Publication { target, base, after, epochs } = publication;
    if let Some(base) = base.map(EpochMark::from)
        && !after.is_some_and(|after| after == base || after.epoch > base.epoch)
    {
        return Err(PublishError::Chain { epoch: base.epoch, reason: "the live root has it already" });
    }
    let mut before = *after;
    for next in *epochs {
        let EpochManifest { manifest, .. } = next;
        let epoch = manifest.epoch;
        if manifest.previous != before.map(|before| before.manifest) {
            return Err(PublishError::Chain { epoch, reason: "it names another manifest" });
        }
        if epoch != before.map_or(0, |before| before.epoch + 1) {
            return Err(PublishError::Chain { epoch, reason: "there are epochs between" });
        }
        if !manifest.counts.add_up() {
            return Err(PublishError::Chain { epoch, reason: "its counts do not add up (C1)" });
        }
        match manifest.control.distributor {
            Some(found) if found != target.distributor => {
                return Err(PublishError::Distributor { epoch, found, expected: target.distributor });
            }
            _ => before = Some(next.into()),
        }
    }
    match epochs.last().map(|last| (last.manifest.epoch, last.manifest.control.distributor)) {
        Some((epoch, None)) => Err(PublishError::Chain { epoch, reason: "it names no contract that pays" }),
        _ => Ok(()),
    }
}

async fn base_leaves(
    store: &Store,
    context: LeafContext,
    base: Option<&ChainRoot>,
) -> Result<BTreeMap<Address, u128>, PublishError> {
    let Some(base) = base else { return Ok(BTreeMap::new()) };
    let leaves: BTreeMap<_, _> = objects::read_tree(store, context, base.root).await?.leaves().collect();
    let found = (leaves.len().to_string(), rewards::total(&leaves).map(U256::from));
    let expected = (base.leaf_count.to_string(), Some(base.total));
    if found == expected {
        return Ok(leaves);
    }
    let text = |(count, total): (String, Option<U256>)| {
        format!("{count} leaves, total {}", total.unwrap_or(U256::MAX))
    };
    Err(PublishError::Base { root: base.root, found: text(found), expected: text(expected) })
}

/// The tree and the bytes of its dump, which give the same tree when they are read.
fn build(
    context: LeafContext,
    leaves: &BTreeMap<Address, u128>,
) -> Result<(RewardTree, Vec<u8>), PublishError> {
    let tree = RewardTree::new(context, leaves)?;
    let bytes = canonical_json::to_bytes(&tree.dump())?;
    let dump: TreeDump = canonical_json::from_bytes(&bytes)?;
    if RewardTree::from_dump(context, &dump)? != tree {
        return Err(TreeError::Dump("tree").into());
    }
    Ok((tree, bytes))
}

async fn create_claims(
    desk: Desk<'_>,
    tree: &Arc<RewardTree>,
    through_epoch: u64,
) -> Result<(), PublishError> {
    let accounts: Arc<[Address]> = tree.leaves().map(|(account, _)| account).collect();
    for start in (0..accounts.len()).step_by(CLAIMS_PER_CHUNK) {
        let (tree, accounts) = (tree.clone(), accounts.clone());
        let chunk = on_cpu(move || {
            let end = accounts.len().min(start + CLAIMS_PER_CHUNK);
            let claims = accounts[start..end].iter().map(|account| claim(&tree, *account, through_epoch));
            claims.collect::<Result<Vec<ClaimProof>, PublishError>>()
        });
        let claims = chunk.await??;
        let created = claims.into_iter().map(|claim| create_claim(desk, claim));
        // To the end also after a failure: nothing writes on when this returns.
        let created: Vec<Result<(), PublishError>> =
            stream::iter(created).buffer_unordered(FILES_AT_ONCE).collect().await;
        created.into_iter().collect::<Result<(), PublishError>>()?;
    }
    Ok(())
}

/// The claim of an account, with a proof that verifies.
fn claim(tree: &RewardTree, account: Address, through_epoch: u64) -> Result<ClaimProof, PublishError> {
    let (root, context) = (tree.root(), tree.context());
    let (cumulative, proof) = tree.proof(account).ok_or(PublishError::Proof(account))?;
    let leaf = leaf_hash(context, account, cumulative);
    if !verify_proof(&root, &leaf, &proof) {
        return Err(PublishError::Proof(account));
    }
    let LeafContext { domain, token } = *context;
    Ok(ClaimProof { through_epoch, root, domain, account, token, cumulative, leaf, proof })
}

/// A claim file names the epoch, and its folder only the root. Two epochs have the same root where
/// the second pays nothing and the first was never posted: then the first one's files stand.
async fn create_claim(desk: Desk<'_>, claim: ClaimProof) -> Result<(), PublishError> {
    let name = object_name::claim(&claim.root, &claim.account);
    desk.create(&name, canonical_json::to_bytes(&claim)?).await?;
    let there: ClaimProof = objects::parse(&name, &objects::get(desk.store, &name).await?)?;
    let same = ClaimProof { through_epoch: claim.through_epoch, ..there } == claim;
    if same { Ok(()) } else { Err(PublishError::Conflict(name)) }
}

async fn create_statement(desk: Desk<'_>, statement: &RootStatement) -> Result<(), PublishError> {
    let (epoch, revision) = (statement.through_epoch, statement.revision);
    let name = object_name::root_statement(epoch, revision);
    desk.create(&name, canonical_json::to_bytes(statement)?).await?;
    match objects::read_statement(desk.store, epoch, revision).await? {
        Some(there) if there == *statement => Ok(()),
        Some(RootStatement { previous_root: found, .. }) if found != statement.previous_root => {
            Err(PublishError::OtherBase { epoch, found, expected: statement.previous_root })
        }
        _ => Err(PublishError::Conflict(name)),
    }
}

impl<'a> Desk<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        Self {
            store,
            #[cfg(test)]
            left: None,
        }
    }

    async fn create(&self, name: &str, bytes: Vec<u8>) -> Result<Created, StoreError> {
        #[cfg(test)]
        if let Some(left) = self.left
            && left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) <= 0
        {
            return Err(StoreError::Ending);
        }
        self.store.create(name, bytes).await
    }

    /// Creates an object, reads it back and compares.
    async fn create_same(&self, name: &str, bytes: Vec<u8>) -> Result<(), PublishError> {
        let bytes = Bytes::from(bytes);
        self.create(name, bytes.to_vec()).await?;
        match objects::get(self.store, name).await? == bytes {
            true => Ok(()),
            false => Err(PublishError::Conflict(name.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests;

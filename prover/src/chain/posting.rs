//! Roots and claims as transactions, and what their events say.

use alloy::{
    eips::BlockNumberOrTag,
    primitives::{Address, B256, Bytes, U256},
    providers::Provider as _,
    rpc::types::{Filter, Log, TransactionReceipt},
    sol_types::SolEvent,
};
use fieldproof_proto::manifest::RootStatement;

use super::{Chain, ChainError, ChainRoot, abi::RewardDistributor as Distributor, error};

/// The most gas that one transaction of claims may take: the cap of EIP-7825.
const CLAIM_GAS_MAX: u64 = 1 << 24;
/// What a transaction of claims takes before its first item.
const CLAIM_GAS_BASE: u64 = 100_000;
/// What an item takes besides its proof. Measured: 75,000 with a token that writes two slots; what
/// is too much is returned.
const CLAIM_GAS_ITEM: u64 = 180_000;
/// What each step of a proof takes, as calldata and as work.
const CLAIM_GAS_STEP: u64 = 3_000;

/// A root that was posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostedRoot {
    /// Its place among all roots.
    pub index: u64,
    /// The transaction.
    pub transaction: B256,
    /// The block that it is in.
    pub block: u64,
}

/// What an account earned, and the proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The root to claim against.
    pub root_index: u64,
    /// Who is paid.
    pub account: Address,
    /// Over all epochs.
    pub cumulative: u128,
    /// The siblings from the leaf to the root.
    pub proof: Vec<B256>,
}

/// What became of one claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The account received this much.
    Paid(U256),
    /// It received nothing, for this reason.
    Skipped(String),
}

/// What became of claims that went in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedMany {
    /// The transaction.
    pub transaction: B256,
    /// One for each claim, in their order.
    pub outcomes: Vec<ClaimOutcome>,
}

impl Chain {
    /// Posts a root with signatures that rise by signer. Durable when it returns: as much as the
    /// block it is in. The contract takes no second root for the epoch (X1).
    pub async fn post_root(
        &self,
        distributor: Address,
        statement: &RootStatement,
        signatures: &[Bytes],
    ) -> Result<PostedRoot, ChainError> {
        let call = Distributor::postRootCall {
            a: Distributor::RootAttestation {
                throughEpoch: statement.through_epoch,
                revision: statement.revision,
                root: statement.root,
                prevRoot: statement.previous_root,
                manifest: statement.manifest.0.into(),
                leafCount: statement.leaf_count,
                token: statement.token,
                total: U256::from(statement.total),
            },
            signatures: signatures.to_vec(),
        };
        let receipt = self.write(distributor, &call, None).await?;
        let mut posted = events::<Distributor::RootPosted>(&receipt, distributor);
        let posted = posted.next().ok_or_else(|| self.impossible("postRoot", "no event `RootPosted`"))?;
        Ok(PostedRoot {
            index: self.u64_of::<Distributor::postRootCall>(posted.index)?,
            transaction: receipt.transaction_hash,
            block: receipt.block_number.unwrap_or_default(),
        })
    }

    /// The transaction that posted a root, whoever sent it.
    pub async fn posting_of(&self, distributor: Address, root: &ChainRoot) -> Result<PostedRoot, ChainError> {
        let delay = self.read(distributor, &Distributor::activationDelayCall {}).await?;
        let posted_at = root.active_at.saturating_sub(delay);
        // Nodes bound the range of one question for logs, and the contract knows the time.
        let first = self.first_block_from(posted_at).await?;
        let after = self.first_block_from(posted_at.saturating_add(1)).await?;
        let filter = Filter::new()
            .address(distributor)
            .event_signature(Distributor::RootPosted::SIGNATURE_HASH)
            .topic1(U256::from(root.index))
            .from_block(first)
            .to_block(after.saturating_sub(1).max(first));
        let logs = self.inner.provider.get_logs(&filter).await;
        let logs = logs.map_err(|failed| self.rpc_error("eth_getLogs", &failed))?;
        let found = logs.iter().find(|log| {
            Distributor::RootPosted::decode_log(&log.inner).is_ok_and(|event| event.root == root.root)
        });
        match found {
            Some(Log { transaction_hash: Some(transaction), block_number: Some(block), .. }) => {
                Ok(PostedRoot { index: root.index, transaction: *transaction, block: *block })
            }
            // A node that is behind the one that we asked for the root.
            _ => Err(ChainError::Rpc {
                endpoint: self.endpoint(),
                method: "eth_getLogs".to_owned(),
                reason: format!("no event of root `{}` in blocks `{first}` to `{after}`", root.index),
                retryable: true,
            }),
        }
    }

    /// The most claims with proofs of this length that fit one transaction.
    pub fn claims_per_transaction(proof_steps: usize) -> usize {
        usize::try_from((CLAIM_GAS_MAX - CLAIM_GAS_BASE) / item_gas(proof_steps)).unwrap_or(1).max(1)
    }

    /// Claims for many accounts at once; anyone may. Durable when it returns: as much as the block
    /// it is in. A claim that cannot be paid, or was paid before, does not hold up the others.
    pub async fn claim_many(
        &self,
        distributor: Address,
        claims: &[Claim],
    ) -> Result<ClaimedMany, ChainError> {
        // An estimate finds the least gas with which the transaction succeeds, and that is with
        // every item out of gas and skipped. So the limit is reckoned.
        let items = claims.iter().map(|claim| item_gas(claim.proof.len())).sum::<u64>();
        let item = |claim: &Claim| Distributor::Claim {
            rootIndex: U256::from(claim.root_index),
            account: claim.account,
            cumulative: U256::from(claim.cumulative),
            proof: claim.proof.clone(),
        };
        let call = Distributor::claimManyCall { claims: claims.iter().map(item).collect() };
        let receipt = self.write(distributor, &call, Some(CLAIM_GAS_BASE + items)).await?;
        let outcomes = self.claim_outcomes(distributor, claims, &receipt)?;
        Ok(ClaimedMany { transaction: receipt.transaction_hash, outcomes })
    }

    /// Whether the contract finds the claim's leaf in its root.
    pub async fn verify_claim(&self, distributor: Address, claim: &Claim) -> Result<bool, ChainError> {
        let call = Distributor::verifyCall {
            rootIndex: U256::from(claim.root_index),
            account: claim.account,
            cumulative: U256::from(claim.cumulative),
            proof: claim.proof.clone(),
        };
        self.read(distributor, &call).await
    }

    fn claim_outcomes(
        &self,
        distributor: Address,
        claims: &[Claim],
        receipt: &TransactionReceipt,
    ) -> Result<Vec<ClaimOutcome>, ChainError> {
        let impossible = || self.impossible("claimMany", "events that do not fit the claims");
        let mut outcomes = vec![None; claims.len()];
        for skipped in events::<Distributor::ClaimSkipped>(receipt, distributor) {
            let item = usize::try_from(skipped.item).ok().and_then(|item| outcomes.get_mut(item));
            *item.ok_or_else(impossible)? =
                Some(ClaimOutcome::Skipped(error::revert_reason(&skipped.reason)));
        }
        let mut paid = events::<Distributor::RewardsClaimed>(receipt, distributor);
        for (claim, outcome) in claims.iter().zip(&mut outcomes) {
            if outcome.is_none() {
                let event = paid.next().filter(|event| event.account == claim.account);
                *outcome = Some(ClaimOutcome::Paid(event.ok_or_else(impossible)?.paid));
            }
        }
        outcomes.into_iter().collect::<Option<Vec<_>>>().ok_or_else(impossible)
    }

    /// The first block whose time is not before `seconds`; the one after the newest if none is.
    async fn first_block_from(&self, seconds: u64) -> Result<u64, ChainError> {
        let (mut low, mut high) = (0, self.block_number().await? + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            // A block that this node has not got yet is newer than all that it has.
            match self.block_head(BlockNumberOrTag::Number(middle)).await? {
                Some((_, time)) if time < seconds => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }
}

/// The events of one kind that a contract gave in a transaction, in their order.
fn events<E: SolEvent>(receipt: &TransactionReceipt, contract: Address) -> impl Iterator<Item = E> {
    receipt
        .logs()
        .iter()
        .filter(move |log| log.address() == contract)
        .filter_map(|log| E::decode_log(&log.inner).ok().map(|log| log.data))
}

fn item_gas(proof_steps: usize) -> u64 {
    CLAIM_GAS_ITEM + CLAIM_GAS_STEP * u64::try_from(proof_steps).unwrap_or(u64::MAX / CLAIM_GAS_STEP / 2)
}

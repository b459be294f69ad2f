//! Claiming for everybody, and checking that everybody was paid to the last unit.

use alloy_primitives::{Address, B256, U256};
use fieldproof_proto::reward_tree::{LeafContext, RewardTree, domain_word};
use fieldproof_runtime::store::Store;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    chain::{Chain, ChainError, Claim, ClaimOutcome},
    objects::{self, ObjectError},
};

/// How many questions are asked of a node at the same time.
const QUESTIONS_AT_ONCE: usize = 8;

/// What claiming for everybody came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClaimSummary {
    /// How much was paid.
    pub paid: U256,
    /// To how many accounts.
    pub paid_accounts: u64,
    /// How many accounts had it all before.
    pub already_paid: u64,
    /// Accounts that were not paid, and why.
    pub skipped: Vec<(Address, String)>,
    /// The transactions.
    pub transactions: Vec<B256>,
}

/// Why not everybody could be claimed for or checked.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The published tree is not there or not right.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// An account was paid something else than it earned.
    #[error("`{account}` earned `{earned}`, was paid `{claimed}` and holds `{balance}`")]
    Mismatch {
        /// The account.
        account: Address,
        /// Its leaf.
        earned: U256,
        /// What the contract paid it.
        claimed: U256,
        /// What it holds of the token.
        balance: U256,
    },
    /// The contract paid somebody who has no leaf.
    #[error("the contract paid `{claimed}`, all leaves are `{total}`")]
    Total {
        /// What the contract paid.
        claimed: U256,
        /// The sum of all leaves.
        total: U256,
    },
}

/// The published tree of a root of this contract.
pub async fn published_tree(
    chain: &Chain,
    store: &Store,
    distributor: Address,
    root: B256,
) -> Result<RewardTree, ClaimError> {
    let token = chain.distributor_terms(distributor).await?.token;
    let context = LeafContext { domain: domain_word(chain.chain_id(), distributor), token };
    Ok(objects::read_tree(store, context, root).await?)
}

/// Claims for every account of a root what it has not been paid yet. Durable when it returns: as
/// much as the chain's newest block. To repeat it is safe: nobody is paid twice (X2).
pub async fn claim_all(
    chain: &Chain,
    store: &Store,
    distributor: Address,
    root_index: u64,
    root: B256,
) -> Result<ClaimSummary, ClaimError> {
    let tree = published_tree(chain, store, distributor, root).await?;
    let mut summary = ClaimSummary::default();
    let mut due = Vec::new();
    let leaves: Vec<(Address, u128)> = tree.leaves().collect();
    let asked = leaves.iter().map(|(account, cumulative)| async move {
        let claimed = chain.claimed(distributor, *account).await?;
        Ok::<_, ChainError>((*account, claimed < U256::from(*cumulative)))
    });
    let mut answers = stream::iter(asked).buffered(QUESTIONS_AT_ONCE);
    while let Some((account, is_due)) = answers.try_next().await? {
        match tree.proof(account) {
            Some((cumulative, proof)) if is_due => due.push(Claim { root_index, account, cumulative, proof }),
            _ => summary.already_paid += 1,
        }
    }
    drop(answers);
    let steps = due.iter().map(|claim| claim.proof.len()).max().unwrap_or_default();
    for claims in due.chunks(Chain::claims_per_transaction(steps)) {
        let claimed = chain.claim_many(distributor, claims).await?;
        summary.transactions.push(claimed.transaction);
        for (claim, outcome) in claims.iter().zip(claimed.outcomes) {
            match outcome {
                ClaimOutcome::Paid(amount) => {
                    summary.paid += amount;
                    summary.paid_accounts += 1;
                }
                // Somebody else claimed for it in the meantime.
                ClaimOutcome::Skipped(reason) if reason.starts_with("NothingToClaim") => {
                    summary.already_paid += 1;
                }
                ClaimOutcome::Skipped(reason) => summary.skipped.push((claim.account, reason)),
            }
        }
    }
    Ok(summary)
}

/// Checks that the contract paid every account of the tree its leaf and nobody anything else, and
/// that every account holds exactly that much. Only for networks whose providers hold nothing else
/// and spend nothing: the development network and tests.
pub async fn check_balances(
    chain: &Chain,
    distributor: Address,
    tree: &RewardTree,
) -> Result<(), ClaimError> {
    let token = tree.context().token;
    let mut total = U256::ZERO;
    for (account, cumulative) in tree.leaves() {
        let earned = U256::from(cumulative);
        total += earned;
        let claimed = chain.claimed(distributor, account).await?;
        let balance = chain.token_balance(token, account).await?;
        if claimed != earned || balance != earned {
            return Err(ClaimError::Mismatch { account, earned, claimed, balance });
        }
    }
    let claimed = chain.total_claimed(distributor).await?;
    if claimed == total { Ok(()) } else { Err(ClaimError::Total { claimed, total }) }
}

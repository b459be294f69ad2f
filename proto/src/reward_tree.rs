//! The tree of rewards: OpenZeppelin's standard tree over (domain, account, token, cumulative).

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::SolValue as _;
use serde::{Deserialize, Serialize};

/// What the leaves of a tree share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafContext {
    /// Binds chain and contract, see [`domain_word`].
    pub domain: B256,
    /// The token that is paid.
    pub token: Address,
}

/// A tree over the cumulative rewards of all providers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RewardTree {
    context: LeafContext,
    /// Leaves in the order of their accounts: the account, its cumulative reward, its tree index.
    leaves: Vec<(Address, u128, usize)>,
    /// All nodes, the root first, the children of i at 2i + 1 and 2i + 2.
    nodes: Vec<B256>,
}

/// The JSON that OpenZeppelin's JavaScript library dumps and loads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TreeDump {
    /// `standard-v1`.
    pub format: String,
    /// The ABI types of a leaf.
    pub leaf_encoding: [String; 4],
    /// All nodes.
    pub tree: Vec<B256>,
    /// The leaves.
    pub values: Vec<DumpedLeaf>,
}

/// A leaf of a dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DumpedLeaf {
    /// Domain, account, token, cumulative.
    pub value: [String; 4],
    /// Where its hash stands in the tree.
    pub tree_index: usize,
}

/// Why leaves make no tree, or a dump is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A tree needs a leaf.
    #[error("a tree of rewards needs at least one provider")]
    Empty,
    /// The dump differs from the tree that its own leaves make.
    #[error("the dump's {0} is not the one its leaves give")]
    Dump(&'static str),
}

/// The word that binds a leaf to a chain and a contract.
pub fn domain_word(chain_id: u64, distributor: Address) -> B256 {
    let type_hash = keccak256("FieldproofRewards(uint256 chainId,address distributor)");
    keccak256((type_hash, U256::from(chain_id), distributor).abi_encode())
}

/// The hash of a leaf: keccak of keccak, so that no leaf can be read as a node.
pub fn leaf_hash(context: &LeafContext, account: Address, cumulative: u128) -> B256 {
    let domain = U256::from_be_bytes(context.domain.0);
    keccak256(keccak256((domain, account, context.token, U256::from(cumulative)).abi_encode()))
}

/// Whether `leaf` is under `root` by this path of siblings.
pub fn verify_proof(root: &B256, leaf: &B256, path: &[B256]) -> bool {
    path.iter().fold(*leaf, |node, sibling| pair_hash(&node, sibling)) == *root
}

impl RewardTree {
    /// The tree over these cumulative rewards.
    pub fn new(context: LeafContext, cumulative: &BTreeMap<Address, u128>) -> Result<Self, TreeError> {
        if cumulative.is_empty() {
            return Err(TreeError::Empty);
        }
        let mut leaves: Vec<(Address, u128, usize)> =
            cumulative.iter().map(|(account, amount)| (*account, *amount, 0)).collect();
        let mut hashes: Vec<(B256, usize)> = leaves
            .iter()
            .enumerate()
            .map(|(index, leaf)| (leaf_hash(&context, leaf.0, leaf.1), index))
            .collect();
        hashes.sort_unstable();
        let mut nodes = vec![B256::ZERO; 2 * leaves.len() - 1];
        let last = nodes.len() - 1;
        for (rank, (hash, index)) in hashes.into_iter().enumerate() {
            nodes[last - rank] = hash;
            leaves[index].2 = last - rank;
        }
        for index in (0..leaves.len() - 1).rev() {
            nodes[index] = pair_hash(&nodes[2 * index + 1], &nodes[2 * index + 2]);
        }
        Ok(Self { context, leaves, nodes })
    }

    /// The root.
    pub fn root(&self) -> B256 {
        self.nodes[0]
    }

    /// What the leaves share.
    pub fn context(&self) -> &LeafContext {
        &self.context
    }

    /// Accounts and their cumulative rewards, in rising order of account.
    pub fn leaves(&self) -> impl ExactSizeIterator<Item = (Address, u128)> + '_ {
        self.leaves.iter().map(|(account, cumulative, _)| (*account, *cumulative))
    }

    /// The cumulative reward of an account and the path of siblings from its leaf to the root.
    pub fn proof(&self, account: Address) -> Option<(u128, Vec<B256>)> {
        let found = self.leaves.binary_search_by_key(&account, |leaf| leaf.0).ok()?;
        let (_, cumulative, mut index) = self.leaves[found];
        let mut path = Vec::new();
        while index > 0 {
            let sibling = if index % 2 == 1 { index + 1 } else { index - 1 };
            path.push(self.nodes[sibling]);
            index = (index - 1) / 2;
        }
        Some((cumulative, path))
    }

    /// The dump for OpenZeppelin's library.
    pub fn dump(&self) -> TreeDump {
        let text = |leaf: &(Address, u128, usize)| DumpedLeaf {
            value: [
                U256::from_be_bytes(self.context.domain.0).to_string(),
                format!("{:#x}", leaf.0),
                format!("{:#x}", self.context.token),
                leaf.1.to_string(),
            ],
            tree_index: leaf.2,
        };
        TreeDump {
            format: "standard-v1".to_owned(),
            leaf_encoding: ["uint256", "address", "address", "uint256"].map(str::to_owned),
            tree: self.nodes.clone(),
            values: self.leaves.iter().map(text).collect(),
        }
    }

    /// Rebuilds the tree from the leaves of a dump, and refuses a dump that differs from it.
    pub fn from_dump(context: LeafContext, dump: &TreeDump) -> Result<Self, TreeError> {
        let mut cumulative = BTreeMap::new();
        for leaf in &dump.values {
            let account = leaf.value[1].parse().map_err(|_| TreeError::Dump("account"))?;
            let amount = leaf.value[3].parse().map_err(|_| TreeError::Dump("cumulative amount"))?;
            if cumulative.insert(account, amount).is_some() {
                return Err(TreeError::Dump("list of accounts"));
            }
        }
        let tree = Self::new(context, &cumulative)?;
        if tree.dump() == *dump { Ok(tree) } else { Err(TreeError::Dump("tree")) }
    }
}

/// A node over two children, the lower first.
fn pair_hash(one: &B256, other: &B256) -> B256 {
    let (low, high) = if one <= other { (one, other) } else { (other, one) };
    keccak256([low.0, high.0].concat())
}

#[cfg(test)]
mod tests;

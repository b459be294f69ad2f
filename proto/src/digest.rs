//! Digests: BLAKE3 with a context for every use, and the keyed tree in the shape of RFC 6962.
//!
//! A context belongs to one kind of bytes, so bytes made for one purpose never verify for another.
//! Tree leaves and nodes are separated by key instead of by a prefix byte: a node is then exactly
//! one BLAKE3 block.

use std::sync::LazyLock;

use crate::ids::Digest;

/// The contexts of `blake3::derive_key`, one for every use. SPEC.md section 2 lists them.
pub mod context {
    /// Genesis to network id.
    pub const NETWORK: &str = "fieldproof 2026-11 network id v1";
    /// Algorithm and public key to device id.
    pub const DEVICE: &str = "fieldproof 2026-11 device id v1";
    /// A batch: its identity, and what the device signs.
    pub const BATCH: &str = "fieldproof 2026-11 batch v1";
    /// A registration body: its identity.
    pub const REGISTRATION: &str = "fieldproof 2026-11 registration v1";
    /// What the device signs of a registration.
    pub const REGISTRATION_DEVICE: &str = "fieldproof 2026-11 registration device signature v1";
    /// What the admitter signs of a registration.
    pub const REGISTRATION_ADMITTER: &str = "fieldproof 2026-11 registration admitter signature v1";
    /// What an ingester signs of a receipt.
    pub const RECEIPT: &str = "fieldproof 2026-11 receipt v1";
    /// What an ingester signs of a rejection.
    pub const REJECTION: &str = "fieldproof 2026-11 rejection v1";
    /// What the operator signs of a control record.
    pub const CONTROL: &str = "fieldproof 2026-11 control record v1";
    /// Control state in force.
    pub const CONTROL_STATE: &str = "fieldproof 2026-11 control state v1";
    /// Key of tree leaves.
    pub const TREE_LEAF: &str = "fieldproof 2026-11 tree leaf v1";
    /// Key of tree nodes.
    pub const TREE_NODE: &str = "fieldproof 2026-11 tree node v1";
    /// An evidence segment.
    pub const SEGMENT: &str = "fieldproof 2026-11 segment v1";
    /// The segments an epoch reads.
    pub const EVIDENCE_ROOT: &str = "fieldproof 2026-11 evidence root v1";
    /// The states of all devices of a partition.
    pub const DEVICE_STATE: &str = "fieldproof 2026-11 device state v1";
    /// A policy bundle.
    pub const POLICY: &str = "fieldproof 2026-11 policy v1";
    /// An epoch manifest.
    pub const MANIFEST: &str = "fieldproof 2026-11 epoch manifest v1";
    /// A content-addressed artefact.
    pub const OBJECT: &str = "fieldproof 2026-11 object v1";
}

/// The digest of `parts`, one after the other, under a context.
pub fn digest(context: &str, parts: &[&[u8]]) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(part);
    }
    Digest(*hasher.finalize().as_bytes())
}

static LEAF_KEY: LazyLock<[u8; 32]> = LazyLock::new(|| blake3::derive_key(context::TREE_LEAF, b""));
static NODE_KEY: LazyLock<[u8; 32]> = LazyLock::new(|| blake3::derive_key(context::TREE_NODE, b""));

/// The leaf of `bytes` in an evidence tree.
pub fn tree_leaf(bytes: &[u8]) -> Digest {
    Digest(*blake3::keyed_hash(&LEAF_KEY, bytes).as_bytes())
}

fn tree_node(left: &Digest, right: &Digest) -> Digest {
    let mut block = [0; 64];
    block[..32].copy_from_slice(&left.0);
    block[32..].copy_from_slice(&right.0);
    Digest(*blake3::keyed_hash(&NODE_KEY, &block).as_bytes())
}

/// The root over leaves in the shape of RFC 6962 section 2.1: the left subtree holds the largest
/// power of two smaller than the number of leaves. No leaves: all zero, which no hash gives.
pub fn tree_root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => Digest::ZERO,
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            tree_node(&tree_root(left), &tree_root(right))
        }
    }
}

/// The audit path of the leaf at `index`, from the leaf up.
pub fn tree_proof(leaves: &[Digest], index: usize) -> Option<Vec<Digest>> {
    if index >= leaves.len() {
        return None;
    }
    if leaves.len() == 1 {
        return Some(Vec::new());
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    let (mut path, sibling) = if index < left.len() {
        (tree_proof(left, index)?, tree_root(right))
    } else {
        (tree_proof(right, index - left.len())?, tree_root(left))
    };
    path.push(sibling);
    Some(path)
}

/// Whether `leaf` is at `index` of the `count` leaves under `root`.
pub fn tree_verify(root: &Digest, leaf: &Digest, index: usize, count: usize, path: &[Digest]) -> bool {
    fn climb(leaf: &Digest, index: usize, count: usize, path: &[Digest]) -> Option<Digest> {
        if count == 1 {
            return path.is_empty().then_some(*leaf);
        }
        let (sibling, below) = path.split_last()?;
        let left_count = split(count);
        if index < left_count {
            Some(tree_node(&climb(leaf, index, left_count, below)?, sibling))
        } else {
            Some(tree_node(sibling, &climb(leaf, index - left_count, count - left_count, below)?))
        }
    }
    index < count && climb(leaf, index, count, path).as_ref() == Some(root)
}

/// The size of the left subtree over `count` ≥ 2 leaves.
fn split(count: usize) -> usize {
    1 << (count - 1).ilog2()
}

#[cfg(test)]
mod tests;

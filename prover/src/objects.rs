//! Reading what others put into the store: nothing is used before its digest is checked.

use std::collections::BTreeSet;

use alloy_primitives::B256;
use bytes::Bytes;
use fieldproof_proto::{
    canonical_json,
    ids::{Digest, NetworkId},
    manifest::{Contributions, Manifest, RootStatement, manifest_digest, object_digest, object_name},
    reward_tree::{LeafContext, RewardTree, TreeDump},
};
use fieldproof_runtime::store::{Store, StoreError};
use serde::{Serialize, de::DeserializeOwned};

/// The folder of all manifests.
const EPOCHS: &str = "epochs";

/// Why an object of the store is not used.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something names it, and it is not there. A mirror may not have it yet.
    #[error("`{0}` is not in the store")]
    Missing(String),
    /// It is there and not what its name says.
    #[error("`{name}` is not valid: {reason}")]
    Invalid {
        /// The object.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// A manifest and its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochManifest {
    /// The manifest.
    pub manifest: Manifest,
    /// The digest of its bytes.
    pub digest: Digest,
}

impl ObjectError {
    /// Whether the object may be right later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store(StoreError::Io { cause, .. }) => cause.kind() != std::io::ErrorKind::AlreadyExists,
            Self::Missing(_) => true,
            Self::Store(_) | Self::Invalid { .. } => false,
        }
    }

    pub(crate) fn invalid(name: &str, reason: impl ToString) -> Self {
        Self::Invalid { name: name.to_owned(), reason: reason.to_string() }
    }
}

/// The epochs that have a manifest.
pub async fn listed_epochs(store: &Store) -> Result<BTreeSet<u64>, ObjectError> {
    Ok(store.list(EPOCHS).await?.iter().filter_map(|name| last_number(name, "")).collect())
}

/// The revisions of an epoch that have a manifest.
pub async fn listed_revisions(store: &Store, epoch: u64) -> Result<BTreeSet<u32>, ObjectError> {
    let names = store.list(&format!("{EPOCHS}/{epoch:020}")).await?;
    let number = |name: &String| last_number(name, ".json").and_then(|number| number.try_into().ok());
    Ok(names.iter().filter_map(number).collect())
}

/// A manifest, if it is there. It must be of this network and stand where it says.
pub async fn read_manifest(
    store: &Store,
    network: &NetworkId,
    epoch: u64,
    revision: u32,
) -> Result<Option<EpochManifest>, ObjectError> {
    let name = object_name::manifest(epoch, revision);
    let Some(bytes) = store.get(&name).await? else { return Ok(None) };
    let manifest: Manifest = parse(&name, &bytes)?;
    if manifest.network != *network {
        let reason = format!("it is of network `{}`, not of `{network}`", manifest.network);
        return Err(ObjectError::invalid(&name, reason));
    }
    if (manifest.epoch, manifest.revision) != (epoch, revision) {
        let reason = format!("it is of epoch `{}`, revision `{}`", manifest.epoch, manifest.revision);
        return Err(ObjectError::invalid(&name, reason));
    }
    Ok(Some(EpochManifest { digest: manifest_digest(&bytes), manifest }))
}

/// What each program of a manifest paid to whom, in the manifest's order.
pub async fn read_contributions(
    store: &Store,
    manifest: &Manifest,
) -> Result<Vec<Contributions>, ObjectError> {
    let mut all = Vec::with_capacity(manifest.programs.len());
    for section in &manifest.programs {
        let name = object_name::object(&section.contributions);
        let bytes = get(store, &name).await?;
        let found = object_digest(&bytes);
        if found != section.contributions {
            return Err(ObjectError::invalid(&name, format!("its digest is `{found}`")));
        }
        all.push(parse(&name, &bytes)?);
    }
    Ok(all)
}

/// The published tree of a root, rebuilt from its leaves.
pub async fn read_tree(store: &Store, context: LeafContext, root: B256) -> Result<RewardTree, ObjectError> {
    let name = object_name::tree(&root);
    let bytes = get(store, &name).await?;
    on_cpu(move || {
        let dump: TreeDump = parse(&name, &bytes)?;
        let tree =
            RewardTree::from_dump(context, &dump).map_err(|error| ObjectError::invalid(&name, error))?;
        if tree.root() == root {
            Ok(tree)
        } else {
            Err(ObjectError::invalid(&name, format!("its root is `{}`", tree.root())))
        }
    })
    .await?
}

/// The statement of the root through an epoch, if there is one. Where it stands is checked, what it
/// states is not.
pub async fn read_statement(
    store: &Store,
    through_epoch: u64,
    revision: u32,
) -> Result<Option<RootStatement>, ObjectError> {
    let name = object_name::root_statement(through_epoch, revision);
    let Some(bytes) = store.get(&name).await? else { return Ok(None) };
    let statement: RootStatement = parse(&name, &bytes)?;
    if (statement.through_epoch, statement.revision) != (through_epoch, revision) {
        return Err(ObjectError::invalid(&name, "it is of another epoch or revision"));
    }
    Ok(Some(statement))
}

/// Reads canonical JSON.
pub(crate) fn parse<T: Serialize + DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, ObjectError> {
    canonical_json::from_bytes(bytes).map_err(|error| ObjectError::invalid(name, error))
}

/// An object that must be there.
pub(crate) async fn get(store: &Store, name: &str) -> Result<Bytes, ObjectError> {
    store.get(name).await?.ok_or_else(|| ObjectError::Missing(name.to_owned()))
}

/// Runs what takes long off the threads that answer. A panic in it continues here.
pub(crate) async fn on_cpu<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result),
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        Err(_) => Err(StoreError::Ending),
    }
}

fn last_number(name: &str, suffix: &str) -> Option<u64> {
    name.rsplit('/').next()?.strip_suffix(suffix)?.parse().ok()
}

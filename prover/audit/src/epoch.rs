//! The audit of an epoch.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256};
use fieldproof_aggregator::{
    epoch::{ComputedEpoch, EpochInputs},
    policy::EngineSettings,
};
use fieldproof_proto::{
    canonical_json,
    genesis::Genesis,
    ids::{Digest, NetworkId},
    manifest::{
        ClaimProof, Contributions, Manifest, RootFormat, RootStatement, manifest_digest, object_digest,
        object_name,
    },
    reward_tree::{LeafContext, RewardTree, domain_word, leaf_hash},
};
use fieldproof_prover::{
    chain::Chain,
    objects::{listed_epochs, read_statement},
    rewards,
    statement::Attestation,
};
use fieldproof_runtime::store::Store;
use serde_json::{Value, json};

use crate::{AuditError, Report, replay::replay};

/// Audits an epoch: recomputes it from the evidence, and the tree from the manifests up to it, and
/// compares both with what was committed; with a chain, also with what was posted there.
pub async fn audit_epoch(store: &Store, epoch: u64, rpc_url: Option<&str>) -> Result<Report, AuditError> {
    let mut report = Report::new("epoch", epoch.to_string());
    let Some((genesis_bytes, network)) = report.record("genesis", read_genesis(store).await)? else {
        return Ok(report);
    };
    let genesis = Genesis::from_bytes(&genesis_bytes)?;
    report.result.insert("network".to_owned(), json!(network));
    let chain = report.record("manifests", read_chain_of_manifests(store, &network, epoch).await)?;
    let Some(manifests) = chain else { return Ok(report) };

    let previous = manifests.len().checked_sub(2).map(|index| manifests[index].digest);
    let computed = recompute(store, &genesis_bytes, epoch, previous, &mut report).await?;
    if let Some(computed) = computed {
        let committed = manifests.last().expect("the epoch's own manifest is the last");
        report.record("manifest", compare_manifest(&computed, committed))?;
        report.record("objects", compare_objects(store, &computed).await)?;
        report.result.insert("manifest".to_owned(), json!(computed.digest));
        report.result.insert("counts".to_owned(), json!(computed.manifest.counts));
        report.result.insert("evidence_root".to_owned(), json!(computed.manifest.evidence_root));
        report.result.insert("programs".to_owned(), json!(computed.manifest.programs));
    }
    let Some(statement) = report.record("root", audit_root(store, &genesis, &manifests, epoch).await)? else {
        return Ok(report);
    };
    let root = statement.as_ref().map(|statement| statement.root);
    report.result.insert("root".to_owned(), root.map_or(Value::Null, |root| json!(root)));
    match (rpc_url, &statement) {
        (Some(rpc_url), Some(statement)) => {
            let outcome = audit_posting(rpc_url, statement).await;
            report.record("chain", outcome)?;
        }
        _ => {
            report.result.insert("chain".to_owned(), json!("not checked"));
        }
    }
    Ok(report)
}

/// A committed manifest, its bytes and its digest.
pub(crate) struct Committed {
    pub(crate) manifest: Manifest,
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
}

/// The genesis and the network it founds.
pub(crate) async fn read_genesis(store: &Store) -> Result<((Vec<u8>, NetworkId), String), AuditError> {
    let bytes =
        store.get(object_name::GENESIS).await?.ok_or_else(|| AuditError::missing(object_name::GENESIS))?;
    let genesis = Genesis::from_bytes(&bytes)?;
    let network = Genesis::network_id(&bytes);
    Ok(((bytes.to_vec(), network), format!("network `{network}`, named `{}`", genesis.name)))
}

/// The manifests of epochs 0 to `epoch`, each linked to the one before by its digest.
pub(crate) async fn read_chain_of_manifests(
    store: &Store,
    network: &NetworkId,
    epoch: u64,
) -> Result<(Vec<Committed>, String), AuditError> {
    let mut manifests: Vec<Committed> = Vec::new();
    for number in 0..=epoch {
        let name = object_name::manifest(number, 0);
        let bytes = store.get(&name).await?.ok_or_else(|| AuditError::missing(&name))?;
        let manifest: Manifest = canonical_json::from_bytes(&bytes)
            .map_err(|error| AuditError::invalid(format!("`{name}`: {error}")))?;
        let previous = manifests.last().map(|committed| committed.digest);
        if manifest.network != *network || manifest.epoch != number || manifest.previous != previous {
            return Err(AuditError::invalid(format!(
                "`{name}` is of another network or epoch, or not linked to the one before"
            )));
        }
        manifests.push(Committed { digest: manifest_digest(&bytes), bytes: bytes.to_vec(), manifest });
    }
    let detail = format!("{} manifests, each linked to the one before", manifests.len());
    Ok((manifests, detail))
}

async fn recompute(
    store: &Store,
    genesis: &[u8],
    epoch: u64,
    previous: Option<Digest>,
    report: &mut Report,
) -> Result<Option<ComputedEpoch>, AuditError> {
    let replayed = replay(store, genesis, Some(epoch)).await.map(|replayed| {
        let detail =
            format!("{} records in {} segments, tiled and verified", replayed.records, replayed.segments);
        (replayed, detail)
    });
    let Some(replayed) = report.record("evidence", replayed)? else { return Ok(None) };
    let outcome = async {
        let inputs = EpochInputs::collect(&replayed.history, epoch)?;
        let computed = inputs.compute(previous, EngineSettings::default()).await?;
        if !computed.manifest.counts.add_up() {
            return Err(AuditError::invalid("the counts do not add up"));
        }
        let detail = format!("manifest `{}` by {}", computed.digest, computed.manifest.engine);
        Ok((computed, detail))
    };
    report.record("recomputation", outcome.await)
}

fn compare_manifest(computed: &ComputedEpoch, committed: &Committed) -> Result<((), String), AuditError> {
    if computed.bytes == committed.bytes {
        return Ok(((), format!("byte for byte the committed one, `{}`", committed.digest)));
    }
    let (Ok(mine), Ok(theirs)) =
        (serde_json::to_value(&computed.manifest), serde_json::to_value(&committed.manifest))
    else {
        return Err(AuditError::invalid("the committed manifest differs from the computed one"));
    };
    let place = first_difference("", &mine, &theirs).unwrap_or_default();
    Err(AuditError::invalid(format!(
        "the committed manifest differs from the computed one at `{place}`: committed `{}`, computed `{}`",
        theirs.pointer(&place).unwrap_or(&Value::Null),
        mine.pointer(&place).unwrap_or(&Value::Null)
    )))
}

/// The JSON pointer of the first place where two values differ.
fn first_difference(place: &str, one: &Value, other: &Value) -> Option<String> {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let keys: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
            keys.into_iter().find_map(|key| {
                let place = format!("{place}/{key}");
                first_difference(
                    &place,
                    one.get(key).unwrap_or(&Value::Null),
                    other.get(key).unwrap_or(&Value::Null),
                )
            })
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => one
            .iter()
            .zip(other)
            .enumerate()
            .find_map(|(index, (one, other))| first_difference(&format!("{place}/{index}"), one, other)),
        _ => (one != other).then(|| place.to_owned()),
    }
}

async fn compare_objects(store: &Store, computed: &ComputedEpoch) -> Result<((), String), AuditError> {
    for (digest, mine) in &computed.objects {
        let name = object_name::object(digest);
        let theirs = store.get(&name).await?.ok_or_else(|| AuditError::missing(&name))?;
        if theirs != *mine {
            return Err(AuditError::invalid(format!("`{name}` is not the object of its name")));
        }
    }
    Ok(((), format!("{} objects, byte for byte", computed.objects.len())))
}

/// The contributions of a manifest, by the digests that it names.
pub(crate) async fn read_contributions(
    store: &Store,
    manifest: &Manifest,
) -> Result<Vec<Contributions>, AuditError> {
    let mut all = Vec::new();
    for program in &manifest.programs {
        let name = object_name::object(&program.contributions);
        let bytes = store.get(&name).await?.ok_or_else(|| AuditError::missing(&name))?;
        if object_digest(&bytes) != program.contributions {
            return Err(AuditError::invalid(format!("`{name}` is not the object of its name")));
        }
        all.push(canonical_json::from_bytes(&bytes)?);
    }
    Ok(all)
}

/// Recomputes the tree through `epoch` and compares everything published with it. Where the prover
/// went over several epochs with one root, that root is the one to audit.
async fn audit_root(
    store: &Store,
    genesis: &Genesis,
    manifests: &[Committed],
    epoch: u64,
) -> Result<(Option<RootStatement>, String), AuditError> {
    let mut through = None;
    for later in listed_epochs(store).await?.range(epoch..) {
        if let Some(statement) = read_statement(store, *later, 0).await? {
            through = Some(statement);
            break;
        }
    }
    let mut cumulative = BTreeMap::new();
    for committed in manifests {
        let contributions = read_contributions(store, &committed.manifest).await?;
        let one = [(committed.manifest.clone(), contributions)];
        cumulative = rewards::next_cumulative(&cumulative, &one).map_err(AuditError::invalid)?;
    }
    let Some(statement) = through else {
        return unpaid_tail(store, genesis, manifests, &cumulative).await;
    };
    if statement.through_epoch != epoch {
        return covered_later(store, statement, epoch).await;
    }
    let committed = manifests.last().expect("the epoch's own manifest is the last");
    let distributor = committed
        .manifest
        .control
        .distributor
        .ok_or_else(|| AuditError::invalid("a root is stated, but no contract is in force"))?;
    let context = LeafContext { domain: domain_word(genesis.chain_id, distributor), token: genesis.token };
    let tree = RewardTree::new(context, &cumulative).map_err(AuditError::invalid)?;
    let expected = RootStatement {
        format: RootFormat::V1,
        chain_id: genesis.chain_id,
        distributor,
        token: genesis.token,
        through_epoch: epoch,
        revision: 0,
        manifest: committed.digest,
        root: tree.root(),
        previous_root: statement.previous_root,
        leaf_count: cumulative.len() as u64,
        total: rewards::total(&cumulative)
            .ok_or_else(|| AuditError::invalid("the total is out of bounds"))?,
    };
    if expected != statement {
        return Err(AuditError::invalid(format!(
            "the root through epoch `{epoch}` is stated as `{}` over `{}`, computed is `{}` over `{}`",
            statement.root, statement.total, expected.root, expected.total
        )));
    }
    compare_published(store, &tree, &statement, epoch).await?;
    let signers = read_attestations(store, &statement).await?;
    Ok((
        Some(statement),
        format!(
            "`{}` over {} leaves, every proof verified, attested by {signers}",
            tree.root(),
            cumulative.len()
        ),
    ))
}

/// The root of an epoch that has none of its own: the next one, which must build on the one before.
async fn covered_later(
    store: &Store,
    statement: RootStatement,
    epoch: u64,
) -> Result<(Option<RootStatement>, String), AuditError> {
    let mut before = B256::ZERO;
    for earlier in listed_epochs(store).await?.range(..epoch).rev() {
        if let Some(earlier) = read_statement(store, *earlier, 0).await? {
            before = earlier.root;
            break;
        }
    }
    if statement.previous_root != before {
        return Err(AuditError::Unavailable(format!(
            "the root `{}` is missing: the one through epoch `{}` builds on it",
            statement.previous_root, statement.through_epoch
        )));
    }
    let detail = format!(
        "the epoch is in the root through epoch `{}`; audit that one for the tree",
        statement.through_epoch
    );
    Ok((Some(statement), detail))
}

/// The root of epochs that paid nothing since: the last one stated still stands, if there is any.
async fn unpaid_tail(
    store: &Store,
    genesis: &Genesis,
    manifests: &[Committed],
    cumulative: &BTreeMap<Address, u128>,
) -> Result<(Option<RootStatement>, String), AuditError> {
    if cumulative.is_empty() {
        return Ok((None, "nobody ever earned anything, so there is no root".to_owned()));
    }
    for committed in manifests.iter().rev() {
        let Some(statement) = read_statement(store, committed.manifest.epoch, 0).await? else { continue };
        let context = LeafContext {
            domain: domain_word(genesis.chain_id, statement.distributor),
            token: genesis.token,
        };
        let tree = RewardTree::new(context, cumulative).map_err(AuditError::invalid)?;
        if tree.root() == statement.root {
            let detail =
                format!("nothing was paid since epoch `{}`, whose root stands", statement.through_epoch);
            return Ok((Some(statement), detail));
        }
        break;
    }
    let epoch = manifests.last().map_or(0, |committed| committed.manifest.epoch);
    Err(AuditError::missing(&object_name::root_statement(epoch, 0)))
}

/// The dump and every claim file, byte for byte; every proof is verified (P1).
async fn compare_published(
    store: &Store,
    tree: &RewardTree,
    statement: &RootStatement,
    epoch: u64,
) -> Result<(), AuditError> {
    let root = tree.root();
    same_bytes(store, &object_name::tree(&root), canonical_json::to_bytes(&tree.dump())?).await?;
    for (account, cumulative) in tree.leaves() {
        let claim = claim_of(tree, account, epoch).ok_or_else(|| {
            AuditError::invalid(format!("`{account}` has no valid proof of `{cumulative}`"))
        })?;
        same_bytes(store, &object_name::claim(&root, &account), canonical_json::to_bytes(&claim)?).await?;
    }
    let name = object_name::root_statement(statement.through_epoch, statement.revision);
    same_bytes(store, &name, canonical_json::to_bytes(statement)?).await
}

/// The claim of an account, if its proof verifies.
pub(crate) fn claim_of(tree: &RewardTree, account: Address, through_epoch: u64) -> Option<ClaimProof> {
    let (cumulative, proof) = tree.proof(account)?;
    let leaf = leaf_hash(tree.context(), account, cumulative);
    let root: B256 = tree.root();
    let verified = fieldproof_proto::reward_tree::verify_proof(&root, &leaf, &proof);
    verified.then(|| ClaimProof {
        through_epoch,
        root,
        domain: tree.context().domain,
        account,
        token: tree.context().token,
        cumulative,
        leaf,
        proof,
    })
}

async fn same_bytes(store: &Store, name: &str, expected: Vec<u8>) -> Result<(), AuditError> {
    let there = store.get(name).await?.ok_or_else(|| AuditError::missing(name))?;
    if there == expected {
        Ok(())
    } else {
        Err(AuditError::invalid(format!("`{name}` is not what the evidence gives")))
    }
}

/// The signers of the attestations in the store; each must be valid, and there must be one.
async fn read_attestations(store: &Store, statement: &RootStatement) -> Result<String, AuditError> {
    let folder = format!("statements/{:020}/{}/attestations", statement.through_epoch, statement.revision);
    let names = store.list(&folder).await?;
    let mut signers = Vec::new();
    for name in &names {
        let bytes = store.get(name).await?.ok_or_else(|| AuditError::missing(name))?;
        let attestation: Attestation = canonical_json::from_bytes(&bytes)
            .map_err(|error| AuditError::invalid(format!("`{name}`: {error}")))?;
        attestation.verify(statement).map_err(|error| AuditError::invalid(format!("`{name}`: {error}")))?;
        signers.push(format!("`{}`", attestation.signer));
    }
    if signers.is_empty() {
        return Err(AuditError::missing(&folder));
    }
    Ok(signers.join(", "))
}

/// What the contract has for the statement's epoch.
async fn audit_posting(rpc_url: &str, statement: &RootStatement) -> Result<((), String), AuditError> {
    let chain = Chain::connect(rpc_url, None).await?.expecting(statement.chain_id)?;
    let posted =
        chain.root_through(statement.distributor, statement.through_epoch).await?.ok_or_else(|| {
            AuditError::Unavailable(format!("no root through epoch `{}` is posted", statement.through_epoch))
        })?;
    let same = posted.root == statement.root
        && posted.manifest == statement.manifest
        && posted.leaf_count == statement.leaf_count
        && posted.total == alloy_primitives::U256::from(statement.total)
        && posted.revision == statement.revision;
    if !same {
        return Err(AuditError::invalid(format!(
            "root `{}` of the contract is `{}`, not the stated one",
            posted.index, posted.root
        )));
    }
    if posted.disabled {
        return Err(AuditError::invalid(format!("root `{}` of the contract is disabled", posted.index)));
    }
    Ok(((), format!("root `{}` of the contract, live", posted.index)))
}

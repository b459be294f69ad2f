//! The audit of a provider's claim.

use alloy_primitives::{Address, U256};
use fieldproof_proto::{
    canonical_json,
    genesis::Genesis,
    manifest::{ClaimProof, RootStatement, object_name},
    reward_tree::{LeafContext, domain_word},
};
use fieldproof_prover::{
    chain::Chain,
    objects::{read_statement, read_tree},
    statement::LatestRoot,
};
use fieldproof_runtime::store::Store;
use serde_json::json;

use crate::{
    AuditError, Report,
    epoch::{claim_of, read_chain_of_manifests, read_contributions, read_genesis},
};

/// Audits what a provider may claim under the latest root: its leaf, its proof, and the epochs that
/// it comes from; with a chain, also what was posted and what was paid.
pub async fn audit_claim(
    store: &Store,
    provider: Address,
    rpc_url: Option<&str>,
) -> Result<Report, AuditError> {
    let mut report = Report::new("claim", format!("{provider:#x}"));
    let Some((genesis_bytes, network)) = report.record("genesis", read_genesis(store).await)? else {
        return Ok(report);
    };
    let genesis = Genesis::from_bytes(&genesis_bytes)?;
    let Some(latest) = report.record("latest root", read_latest(store, &genesis).await)? else {
        return Ok(report);
    };
    let Some(claim) = report.record("proof", check_proof(store, &latest.statement, provider).await)? else {
        return Ok(report);
    };
    let through = latest.statement.through_epoch;
    let manifests = read_chain_of_manifests(store, &network, through).await;
    let Some(manifests) = report.record("manifests", manifests)? else { return Ok(report) };
    let earned = async {
        let mut epochs = Vec::new();
        let mut total = 0_u128;
        for committed in &manifests {
            for program in read_contributions(store, &committed.manifest).await? {
                for row in program.providers.iter().filter(|row| row.provider == provider && row.reward > 0) {
                    total = total
                        .checked_add(row.reward)
                        .ok_or_else(|| AuditError::invalid("the rewards exceed 128 bits"))?;
                    epochs.push(json!({
                        "epoch": program.epoch,
                        "program": program.program,
                        "weight": row.weight.to_string(),
                        "reward": row.reward.to_string(),
                        "explanation": row.explanation,
                    }));
                }
            }
        }
        let committed = manifests.last().map(|committed| committed.digest);
        if committed != Some(latest.statement.manifest) {
            return Err(AuditError::invalid(
                "the root names another manifest than the one that is committed",
            ));
        }
        let cumulative = claim.as_ref().map_or(0, |claim| claim.cumulative);
        if total != cumulative {
            return Err(AuditError::invalid(format!(
                "its epochs give `{total}`, its leaf has `{cumulative}`"
            )));
        }
        let detail = format!("`{total}` over {} epochs, as in the tree", epochs.len());
        Ok((epochs, detail))
    };
    let epochs = report.record("rewards", earned.await)?;
    report.result.insert("epochs".to_owned(), json!(epochs));
    report.result.insert("claim".to_owned(), json!(claim));
    match (rpc_url, &claim) {
        (Some(rpc_url), Some(claim)) => {
            let outcome = check_chain(rpc_url, &latest, claim).await;
            if let Some(claimed) = report.record("chain", outcome)? {
                report.result.insert("claimed".to_owned(), json!(claimed.to_string()));
            }
        }
        _ => {
            report.result.insert("chain".to_owned(), json!("not checked"));
        }
    }
    Ok(report)
}

async fn read_latest(store: &Store, genesis: &Genesis) -> Result<(LatestRoot, String), AuditError> {
    let bytes =
        store.get(object_name::LATEST).await?.ok_or_else(|| AuditError::missing(object_name::LATEST))?;
    let latest: LatestRoot = canonical_json::from_bytes(&bytes)
        .map_err(|error| AuditError::invalid(format!("`{}`: {error}", object_name::LATEST)))?;
    let statement = &latest.statement;
    if statement.chain_id != genesis.chain_id || statement.token != genesis.token {
        return Err(AuditError::invalid("the latest root is of another chain or token"));
    }
    let name = object_name::root_statement(statement.through_epoch, statement.revision);
    let stated = read_statement(store, statement.through_epoch, statement.revision)
        .await?
        .ok_or_else(|| AuditError::missing(&name))?;
    if stated != *statement {
        return Err(AuditError::invalid(format!("the latest root is not the one of `{name}`")));
    }
    let detail = format!("`{}` through epoch `{}`", statement.root, statement.through_epoch);
    Ok((latest, detail))
}

async fn check_proof(
    store: &Store,
    statement: &RootStatement,
    provider: Address,
) -> Result<(Option<ClaimProof>, String), AuditError> {
    let context = LeafContext {
        domain: domain_word(statement.chain_id, statement.distributor),
        token: statement.token,
    };
    let tree = read_tree(store, context, statement.root).await?;
    let Some(expected) = claim_of(&tree, provider, statement.through_epoch) else {
        return Ok((None, "it has no leaf: it never earned anything".to_owned()));
    };
    let name = object_name::claim(&statement.root, &provider);
    let bytes = store.get(&name).await?.ok_or_else(|| AuditError::missing(&name))?;
    if canonical_json::to_bytes(&expected)? != bytes {
        return Err(AuditError::invalid(format!("`{name}` is not the claim that the tree gives")));
    }
    let detail = format!("leaf `{}` is under the root by {} siblings", expected.leaf, expected.proof.len());
    Ok((Some(expected), detail))
}

/// What the contract says of the claim. Returns what was claimed so far.
async fn check_chain(
    rpc_url: &str,
    latest: &LatestRoot,
    claim: &ClaimProof,
) -> Result<(U256, String), AuditError> {
    let statement = &latest.statement;
    let chain = Chain::connect(rpc_url, None).await?.expecting(statement.chain_id)?;
    let posted = chain.root_at(statement.distributor, latest.index).await?;
    if posted.root != statement.root || posted.disabled {
        return Err(AuditError::invalid(format!(
            "root `{}` of the contract is `{}`, or disabled",
            latest.index, posted.root
        )));
    }
    let on_chain = fieldproof_prover::chain::Claim {
        root_index: latest.index,
        account: claim.account,
        cumulative: claim.cumulative,
        proof: claim.proof.clone(),
    };
    if !chain.verify_claim(statement.distributor, &on_chain).await? {
        return Err(AuditError::invalid("the contract does not accept the proof"));
    }
    let claimed = chain.claimed(statement.distributor, claim.account).await?;
    Ok((
        claimed,
        format!("the contract accepts the proof; `{claimed}` was claimed of `{}`", claim.cumulative),
    ))
}

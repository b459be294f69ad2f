//! The checks at the end of a run: everything that the invariants promise and this machine can see.
//!
//! They start from nothing but the object store and the chain, as an auditor does, and compare with
//! what the devices know they sent.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use fieldproof_aggregator::{admission::Verdict, evidence::Segment};
use fieldproof_audit::{Report, audit_epoch, replay};
use fieldproof_proto::{
    batch::{BatchHeader, Place, batch_digest},
    evidence::{KIND_BATCH, Record},
    ids::{DeviceId, Digest, NetworkId},
    manifest::Counts,
    v1::SignedBatch,
};
use fieldproof_prover::{
    chain::Chain,
    claims::{check_balances, claim_all, published_tree},
    statement::LatestRoot,
};
use fieldproof_runtime::store::Store;
use prost::Message as _;

use super::{fleet::Ledger, network::Network, report::Line};

/// What the checks look at.
pub struct Facts<'a> {
    /// The network.
    pub network: &'a Network,
    /// The object store.
    pub store: &'a Store,
    /// The chain.
    pub chain: &'a Chain,
    /// What was sent and promised in this run.
    pub ledger: &'a Ledger,
    /// Whether this run is the network's first, so that the ledger knows everything that was sent.
    pub first_run: bool,
    /// Epochs that are final.
    pub epochs: u64,
    /// The last root that is final.
    pub latest: Option<&'a LatestRoot>,
}

/// One batch of the log with its verdict.
struct Logged {
    partition: u32,
    offset: u64,
    device: DeviceId,
    place: Place,
    previous: Digest,
    digest: Digest,
    first_time_ms: u64,
    last_time_ms: u64,
    accepted: bool,
}

/// The log as a fresh replay sees it.
struct Log {
    batches: Vec<Logged>,
    totals: Counts,
    segments: u64,
    records: u64,
}

/// Makes all checks. Each is a line, held or not.
pub async fn check_all(facts: &Facts<'_>) -> anyhow::Result<Vec<Line>> {
    let log = read_log(facts.store, facts.network).await.context("the evidence cannot be replayed")?;
    let mut lines = vec![
        Line::Check {
            invariant: "C2",
            what: "segments tile every partition",
            held: true,
            detail: format!("{} segments, {} records, each digest verified", log.segments, log.records),
        },
        Line::Check {
            invariant: "C1",
            what: "records are accepted or have another verdict, readings are on time or late",
            held: log.totals.add_up() && log.totals.records == log.records,
            detail: format!(
                "{} records, {} readings, {} late",
                log.totals.records, log.totals.readings, log.totals.late
            ),
        },
        acknowledged(facts.ledger, &log),
        counted_once(&log),
        nothing_lost(facts.ledger, &log),
        as_sent(facts, &log),
    ];
    lines.extend(money(facts).await?);
    if let Some(epoch) = facts.epochs.checked_sub(1) {
        lines.push(recomputed(&audit_epoch(facts.store, epoch, None).await?));
    }
    Ok(lines)
}

async fn read_log(store: &Store, network: &Network) -> anyhow::Result<Log> {
    let replayed = replay(store, &network.genesis_bytes, None).await?;
    let mut totals = Counts::default();
    let mut accepted = BTreeSet::new();
    for partition in 0..replayed.history.partition_count() {
        for (_, content) in replayed.history.slots(partition) {
            totals.add(&content.counts);
            accepted.extend(content.accepted.iter().map(|batch| (partition, batch.record.offset)));
        }
    }
    let mut batches = Vec::new();
    for partition in 0..replayed.history.partition_count() {
        let mut offset = 0;
        while offset < replayed.history.position(partition).next_offset {
            let segment = Segment::read(store, network.topics.generation, partition, offset).await?;
            offset = segment.name.next_offset;
            for record in segment.records.iter().filter(|record| record.kind() == Some(KIND_BATCH)) {
                let is_accepted = accepted.contains(&(partition, record.offset));
                batches.push(logged(&network.id, partition, record, is_accepted)?);
            }
        }
    }
    let records = (0..replayed.history.partition_count())
        .map(|partition| replayed.history.position(partition).next_offset)
        .sum();
    Ok(Log { batches, totals, segments: replayed.segments, records })
}

fn logged(network: &NetworkId, partition: u32, record: &Record, accepted: bool) -> anyhow::Result<Logged> {
    let batch = SignedBatch::decode(record.value.as_deref().unwrap_or_default())?;
    let header = BatchHeader::parse(&batch.header)?;
    Ok(Logged {
        partition,
        offset: record.offset,
        device: header.device_id(),
        place: header.place,
        previous: header.previous,
        digest: batch_digest(network, &batch.header, &batch.payload),
        first_time_ms: header.first_time_ms,
        last_time_ms: header.last_time_ms,
        accepted,
    })
}

/// D1: what a receipt names is in evidence, with the digest that it names.
fn acknowledged(ledger: &Ledger, log: &Log) -> Line {
    let there: BTreeMap<(u32, u64), Digest> =
        log.batches.iter().map(|batch| ((batch.partition, batch.offset), batch.digest)).collect();
    let missing = ledger
        .receipts
        .iter()
        .filter(|receipt| there.get(&(receipt.partition, receipt.offset)) != Some(&receipt.digest))
        .count();
    Line::Check {
        invariant: "D1",
        what: "what a receipt names is in evidence",
        held: missing == 0,
        detail: format!("{} receipts, {missing} without their batch", ledger.receipts.len()),
    }
}

/// D2: no place and no time of a device counts twice.
fn counted_once(log: &Log) -> Line {
    let mut by_device: BTreeMap<DeviceId, Vec<&Logged>> = BTreeMap::new();
    for batch in log.batches.iter().filter(|batch| batch.accepted) {
        by_device.entry(batch.device).or_default().push(batch);
    }
    let mut doubled = 0;
    for batches in by_device.values_mut() {
        batches.sort_by_key(|batch| batch.place);
        doubled += batches
            .windows(2)
            .filter(|pair| pair[0].place == pair[1].place || pair[0].last_time_ms >= pair[1].first_time_ms)
            .count();
    }
    Line::Check {
        invariant: "D2",
        what: "no place and no time of a device counts twice",
        held: doubled == 0,
        detail: format!("{} devices, {doubled} batches counted twice", by_device.len()),
    }
}

/// D1: the accepted batches of an honest device are an unbroken chain from its first one.
fn nothing_lost(ledger: &Ledger, log: &Log) -> Line {
    let honest: BTreeSet<DeviceId> = ledger.honest.iter().copied().collect();
    let mut last: BTreeMap<DeviceId, Vec<&Logged>> = BTreeMap::new();
    for batch in log.batches.iter().filter(|batch| batch.accepted && honest.contains(&batch.device)) {
        last.entry(batch.device).or_default().push(batch);
    }
    let mut breaks = 0;
    let mut batches = 0;
    for chain in last.values_mut() {
        chain.sort_by_key(|batch| batch.place);
        let mut previous = Digest::ZERO;
        for batch in chain.iter() {
            breaks += u64::from(batch.previous != previous);
            previous = batch.digest;
            batches += 1;
        }
    }
    Line::Check {
        invariant: "D1",
        what: "the batches of every honest device are one unbroken chain",
        held: breaks == 0 && last.len() == honest.len(),
        detail: format!("{batches} batches of {} devices, {breaks} missing", last.len()),
    }
}

/// The verdicts are what was sent, and nothing else.
fn as_sent(facts: &Facts<'_>, log: &Log) -> Line {
    let ledger = facts.ledger;
    let found = |verdict: Verdict| log.totals.verdicts.get(verdict.name()).copied().unwrap_or_default();
    let expected = [
        (Verdict::Duplicate, ledger.cheats.replayed + ledger.resent),
        (Verdict::Equivocation, ledger.cheats.contradicted),
        (Verdict::Overlap, ledger.cheats.renamed),
        (Verdict::Unregistered, ledger.unregistered),
    ];
    // What a batch of another run left in flight when it was killed may be sent twice, and a device
    // whose marker was lost registers twice; the earlier runs' cheats are not in this ledger.
    let may_be = |verdict: Verdict| expected.iter().any(|(other, _)| *other == verdict);
    let after_a_kill = [Verdict::RegistrationRefused];
    let harmless = [Verdict::Accepted, Verdict::Registered, Verdict::Tick];
    let mut unexpected: Vec<String> = Vec::new();
    for verdict in Verdict::ALL.into_iter().filter(|verdict| !harmless.contains(verdict)) {
        let wanted = expected.iter().find(|(other, _)| *other == verdict).map_or(0, |(_, count)| *count);
        let fits = match facts.first_run {
            true => found(verdict) == wanted,
            false => {
                found(verdict) >= wanted
                    && (may_be(verdict) || after_a_kill.contains(&verdict) || found(verdict) == 0)
            }
        };
        if !fits {
            unexpected.push(format!("{} {} instead of {wanted}", verdict.name(), found(verdict)));
        }
    }
    let sent: Vec<String> =
        expected.iter().map(|(verdict, count)| format!("{} {count}", verdict.name())).collect();
    Line::Check {
        invariant: "D2",
        what: "the verdicts are what was sent",
        held: unexpected.is_empty(),
        detail: if unexpected.is_empty() { sent.join(", ") } else { unexpected.join(", ") },
    }
}

/// C3, P1, X2: balances are the rewards, every leaf proves, a second claim pays nothing.
async fn money(facts: &Facts<'_>) -> anyhow::Result<Vec<Line>> {
    let Some(latest) = facts.latest else {
        return Ok(vec![Line::Check {
            invariant: "C3",
            what: "balances are the rewards",
            held: true,
            detail: "nobody earned anything yet".to_owned(),
        }]);
    };
    let (distributor, root) = (facts.network.distributor, latest.statement.root);
    let tree = published_tree(facts.chain, facts.store, distributor, root).await?;
    let balances = check_balances(facts.chain, distributor, &tree).await;
    let again = claim_all(facts.chain, facts.store, distributor, latest.index, root).await?;
    let tree_total: u128 = tree.leaves().map(|(_, cumulative)| cumulative).sum();
    Ok(vec![
        Line::Check {
            invariant: "C3",
            what: "token balances are the rewards to the last unit",
            held: balances.is_ok() && tree_total == latest.statement.total,
            detail: match balances {
                Ok(()) => format!("{} providers hold {tree_total}", latest.statement.leaf_count),
                Err(error) => error.to_string(),
            },
        },
        Line::Check {
            invariant: "X2",
            what: "claiming again pays nothing",
            held: again.paid.is_zero() && again.skipped.is_empty(),
            detail: format!("{} accounts had it all, {} paid", again.already_paid, again.paid),
        },
    ])
}

/// R1, P1: the last epoch recomputed from the evidence.
fn recomputed(report: &Report) -> Line {
    let wrong: Vec<String> = report
        .checks
        .iter()
        .filter(|check| check.verdict != fieldproof_audit::Verdict::Valid)
        .map(|check| format!("{}: {}", check.name, check.detail))
        .collect();
    Line::Check {
        invariant: "R1, P1",
        what: "the last epoch recomputed gives the same manifest and tree",
        held: wrong.is_empty(),
        detail: if wrong.is_empty() {
            format!("{} checks of epoch {}", report.checks.len(), report.subject)
        } else {
            wrong.join("; ")
        },
    }
}

/// The offset after the last record in evidence, by partition, as far as the segments are named.
pub async fn evidence_end(store: &Store, generation: u32, partition: u32) -> anyhow::Result<u64> {
    let offsets = fieldproof_aggregator::evidence::segment_offsets(store, generation, partition).await?;
    match offsets.last() {
        None => Ok(0),
        Some(last) => Ok(Segment::read(store, generation, partition, *last).await?.name.next_offset),
    }
}

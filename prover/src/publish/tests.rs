#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::AtomicI64,
};

use fieldproof_proto::manifest::object_digest;
use tempfile::TempDir;

use super::*;
use crate::{
    statement,
    testing::{TestNetwork, provider},
};

const TARGET: RootTarget = RootTarget {
    chain_id: 31337,
    distributor: Address::repeat_byte(0xdd),
    token: Address::repeat_byte(0xee),
};

/// A store with a network whose epochs pay through the target.
struct Bench {
    folder: TempDir,
    network: TestNetwork,
    secret: EvmSecret,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let mut network = TestNetwork::new(store, TARGET.chain_id, TARGET.token);
        network.distributor = Some(TARGET.distributor);
        Self { folder, network, secret: EvmSecret::from_bytes(&[5; 32]).unwrap() }
    }

    /// Two epochs that pay three providers.
    async fn with_rewards() -> Self {
        let mut bench = Self::new().await;
        bench.epoch(100, &[(provider(1), 1), (provider(2), 2)]).await;
        bench.epoch(100, &[(provider(2), 2), (provider(3), 3)]).await;
        bench
    }

    async fn epoch(&mut self, pool: u128, weights: &[(Address, u128)]) {
        self.network.epoch(&[("energy", pool, weights)]).await;
    }

    fn epochs(&self) -> Vec<EpochManifest> {
        let epoch =
            |(manifest, digest): &(_, _)| EpochManifest { manifest: Clone::clone(manifest), digest: *digest };
        self.network.manifests.iter().map(epoch).collect()
    }

    async fn publish_after(&self, base: Option<&ChainRoot>) -> Result<Published, PublishError> {
        let first = base.map_or(0, |base| usize::try_from(base.through_epoch).unwrap() + 1);
        let epochs = &self.epochs()[first..];
        let after = base.map(EpochMark::from);
        publish(&self.network.store, &Publication { target: TARGET, base, after, epochs }).await
    }

    async fn root_after(&self, base: Option<&ChainRoot>) -> RootStatement {
        match self.publish_after(base).await.unwrap() {
            Published::Root(statement) => statement,
            Published::Nothing => panic!("a root was expected"),
        }
    }

    /// Publishes and signs, with so many creations left before the process dies.
    async fn until_cut_off(&self, creations: i64) -> Result<(), PublishError> {
        let left = AtomicI64::new(creations);
        let desk = Desk { left: Some(&left), ..Desk::new(&self.network.store) };
        let epochs = &self.epochs();
        let publication = Publication { target: TARGET, base: None, after: None, epochs };
        if let Published::Root(statement) = publish_on(desk, &publication).await? {
            attest_on(desk, &statement, &self.secret).await?;
        }
        Ok(())
    }

    async fn overwrite(&self, name: &str, bytes: Vec<u8>) {
        self.network.store.replace(name, bytes).await.unwrap();
    }

    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(self.folder.path(), self.folder.path(), &mut files);
        files
    }
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            files.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
        }
    }
}

fn on_chain(statement: &RootStatement, index: u64) -> ChainRoot {
    ChainRoot {
        index,
        root: statement.root,
        manifest: statement.manifest,
        through_epoch: statement.through_epoch,
        revision: statement.revision,
        active_at: 0,
        leaf_count: statement.leaf_count,
        total: U256::from(statement.total),
        disabled: false,
    }
}

#[tokio::test]
async fn a_root_has_a_tree_a_claim_for_everybody_and_a_statement() {
    let bench = Bench::with_rewards().await;
    let statement = bench.root_after(None).await;
    assert_eq!((statement.through_epoch, statement.leaf_count, statement.total), (1, 3, 200));
    assert_eq!(statement.previous_root, B256::ZERO);
    assert_eq!(statement.manifest, bench.network.manifests[1].1);
    let store = &bench.network.store;
    for (account, earned) in &bench.network.earned {
        let name = object_name::claim(&statement.root, account);
        let claim: ClaimProof = objects::parse(&name, &objects::get(store, &name).await.unwrap()).unwrap();
        assert_eq!((claim.cumulative, claim.through_epoch), (*earned, 1));
        let context = LeafContext { domain: claim.domain, token: claim.token };
        assert_eq!(claim.leaf, leaf_hash(&context, *account, *earned));
        assert!(verify_proof(&statement.root, &claim.leaf, &claim.proof));
    }
    let tree = store.get(&object_name::tree(&statement.root)).await.unwrap().unwrap();
    assert!(std::str::from_utf8(&tree).unwrap().contains("\"leafEncoding\":[\"uint256\",\"address\""));
    assert_eq!(bench.root_after(None).await, statement, "the same again");
}

#[tokio::test]
async fn the_next_root_builds_on_the_published_tree_of_the_live_one() {
    let mut bench = Bench::with_rewards().await;
    let first = bench.root_after(None).await;
    bench.epoch(10, &[(provider(4), 1)]).await;
    bench.epoch(20, &[(provider(1), 1)]).await;
    let live = on_chain(&first, 0);
    let next = bench.root_after(Some(&live)).await;
    assert_eq!((next.through_epoch, next.leaf_count, next.total), (3, 4, 230));
    assert_eq!(next.previous_root, first.root);
    let context =
        LeafContext { domain: domain_word(TARGET.chain_id, TARGET.distributor), token: TARGET.token };
    let tree = objects::read_tree(&bench.network.store, context, next.root).await.unwrap();
    assert_eq!(tree.leaves().collect::<BTreeMap<_, _>>(), bench.network.earned);

    let other_total = ChainRoot { total: U256::from(1), ..live };
    assert!(matches!(bench.publish_after(Some(&other_total)).await, Err(PublishError::Base { .. })));
    let unknown = ChainRoot { root: B256::repeat_byte(1), ..live };
    let missing = bench.publish_after(Some(&unknown)).await.unwrap_err();
    assert!(missing.is_retryable(), "{missing}");
}

#[tokio::test]
async fn a_crash_at_any_step_and_a_second_run_give_the_same_bytes() {
    let reference = Bench::with_rewards().await;
    let before = reference.files().len();
    reference.until_cut_off(i64::MAX).await.unwrap();
    let expected = reference.files();
    let steps = i64::try_from(expected.len() - before).unwrap();
    assert_eq!(steps, 1 + 3 + 1 + 1, "a tree, three claims, a statement, an attestation");
    for creations in 0..steps {
        let bench = Bench::with_rewards().await;
        let cut_off = bench.until_cut_off(creations).await.unwrap_err();
        assert!(matches!(cut_off, PublishError::Object(ObjectError::Store(StoreError::Ending))), "{cut_off}");
        let partial = bench.files();
        assert_eq!(partial.len(), before + usize::try_from(creations).unwrap());
        let attested = partial.keys().any(|path| path.to_string_lossy().contains("attestations"));
        assert!(!attested, "nothing is signed before all is there: {creations}");
        bench.until_cut_off(i64::MAX).await.unwrap();
        assert_eq!(bench.files(), expected, "after {creations} creations");
    }
}

#[tokio::test]
async fn epochs_that_pay_nobody_make_no_root() {
    let mut bench = Bench::new().await;
    bench.epoch(100, &[(provider(1), 0)]).await;
    assert_eq!(bench.publish_after(None).await.unwrap(), Published::Nothing);
    bench.epoch(100, &[(provider(1), 1)]).await;
    let first = bench.root_after(None).await;
    bench.epoch(100, &[(provider(1), 0)]).await;
    let live = on_chain(&first, 0);
    assert_eq!(bench.publish_after(Some(&live)).await.unwrap(), Published::Nothing);

    // Epochs that are known to pay nobody need not be read again.
    bench.epoch(7, &[(provider(1), 1)]).await;
    let all = bench.root_after(Some(&live)).await;
    let epochs = bench.epochs();
    let store = &bench.network.store;
    let last = |after: &EpochManifest| Publication {
        target: TARGET,
        base: Some(&live),
        after: Some(after.into()),
        epochs: &epochs[3..],
    };
    assert_eq!(publish(store, &last(&epochs[2])).await.unwrap(), Published::Root(all));
    let before_the_base = publish(store, &last(&epochs[0])).await.unwrap_err();
    assert!(before_the_base.to_string().contains("the live root has it already"), "{before_the_base}");

    // Somebody states a root for an epoch that pays nobody.
    let idle = Publication { epochs: &epochs[2..3], after: Some((&live).into()), ..last(&epochs[2]) };
    let stated = RootStatement { through_epoch: 2, previous_root: first.root, ..first };
    bench.overwrite(&object_name::root_statement(2, 0), canonical_json::to_bytes(&stated).unwrap()).await;
    let conflict = publish(store, &idle).await.unwrap_err();
    assert!(matches!(conflict, PublishError::Conflict(_)), "{conflict}");
}

#[tokio::test]
async fn another_statement_for_the_epoch_is_never_signed() {
    let bench = Bench::with_rewards().await;
    let statement = bench.root_after(None).await;
    let name = object_name::root_statement(1, 0);
    let store = &bench.network.store;

    let other = RootStatement { total: statement.total + 1, ..statement.clone() };
    bench.overwrite(&name, canonical_json::to_bytes(&other).unwrap()).await;
    let conflict = bench.publish_after(None).await.unwrap_err();
    assert!(matches!(&conflict, PublishError::Conflict(there) if *there == name), "{conflict}");
    assert!(!conflict.is_retryable());
    assert!(matches!(attest(store, &statement, &bench.secret).await, Err(PublishError::Conflict(_))));

    let elsewhere = RootStatement { previous_root: B256::repeat_byte(9), ..statement.clone() };
    bench.overwrite(&name, canonical_json::to_bytes(&elsewhere).unwrap()).await;
    let superseded = bench.publish_after(None).await.unwrap_err();
    assert!(matches!(superseded, PublishError::OtherBase { epoch: 1, .. }), "{superseded}");
}

#[tokio::test]
async fn a_prover_signs_one_root_per_epoch_and_revision() {
    let bench = Bench::with_rewards().await;
    let statement = bench.root_after(None).await;
    let store = &bench.network.store;
    let ours = bench.secret.address();
    let signed = attest(store, &statement, &bench.secret).await.unwrap();
    assert_eq!(attest(store, &statement, &bench.secret).await.unwrap(), signed, "the same again");
    let others = EvmSecret::from_bytes(&[6; 32]).unwrap();
    attest(store, &statement, &others).await.unwrap();
    let mut attestors = vec![ours, others.address(), provider(1)];
    let found = statement::signatures(store, &statement, &attestors).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[&ours], bench.secret.sign(&statement::signing_digest(&statement)));

    // Our key signed something else for this epoch and revision.
    let other = RootStatement { total: 1, ..statement.clone() };
    let other = Attestation::sign(&other, &bench.secret).unwrap();
    bench.overwrite(&object_name::attestation(1, 0, &ours), canonical_json::to_bytes(&other).unwrap()).await;
    let error = attest(store, &statement, &bench.secret).await.unwrap_err();
    assert!(matches!(error, PublishError::Signed { .. }) && !error.is_retryable(), "{error}");
    attestors.truncate(1);
    assert!(statement::signatures(store, &statement, &attestors).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_what_its_digest_says_is_not_used() {
    let bench = Bench::with_rewards().await;
    let digest = bench.network.manifests[1].0.programs[0].contributions;
    let name = object_name::object(&digest);
    let bytes = bench.network.store.get(&name).await.unwrap().unwrap();
    assert_eq!(object_digest(&bytes), digest);
    let mut flipped = bytes.to_vec();
    flipped[20] ^= 1;
    bench.overwrite(&name, flipped).await;
    let error = bench.publish_after(None).await.unwrap_err();
    assert!(matches!(error, PublishError::Object(ObjectError::Invalid { .. })), "{error}");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn manifests_that_are_no_chain_from_the_live_root_are_refused() {
    let mut bench = Bench::with_rewards().await;
    bench.epoch(1, &[(provider(1), 1)]).await;
    let epochs = bench.epochs();
    let store = &bench.network.store;
    let check = async |base: Option<&ChainRoot>, epochs: &[EpochManifest], expected: &str| {
        let publication = Publication { target: TARGET, base, after: base.map(EpochMark::from), epochs };
        let error = publish(store, &publication).await.unwrap_err();
        assert!(error.to_string().contains(expected), "`{error}` should say `{expected}`");
        assert!(!error.is_retryable());
    };
    check(None, &epochs[1..], "names another manifest").await;
    check(None, &[epochs[0].clone(), epochs[2].clone()], "names another manifest").await;
    let changed = |change: fn(&mut EpochManifest)| {
        let mut epochs = epochs.clone();
        change(&mut epochs[2]);
        epochs
    };
    check(None, &changed(|last| last.manifest.epoch = 7), "there are epochs between").await;
    check(None, &changed(|last| last.manifest.counts.records = 1), "(C1)").await;
    check(None, &changed(|last| last.manifest.control.distributor = None), "names no contract").await;
    let moved = changed(|last| last.manifest.control.distributor = Some(provider(9)));
    check(None, &moved, "is paid by").await;
    let live = on_chain(&bench.root_after(None).await, 0);
    let forked = ChainRoot { manifest: Digest([3; 32]), through_epoch: 1, ..live };
    check(Some(&forked), &epochs[2..], "names another manifest").await;
}

#[tokio::test]
async fn the_same_root_for_a_later_epoch_keeps_the_claims_of_the_earlier() {
    let mut bench = Bench::with_rewards().await;
    let abandoned = bench.root_after(None).await;
    bench.epoch(100, &[(provider(1), 0)]).await;
    let statement = bench.root_after(None).await;
    assert_eq!(statement.root, abandoned.root);
    assert_eq!((abandoned.through_epoch, statement.through_epoch), (1, 2));
}

//! Rewards from manifests to balances, on the embedded chain and on anvil: the same code, the same
//! story, two provers that race each other.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{process::Command, time::Duration};

use alloy_primitives::{Address, B256, Bytes, U256};
use fieldproof_components::{Anvil, node_script, require_or_skip};
use fieldproof_proto::{
    evm::EvmSecret,
    manifest::{RootStatement, object_name, to_object},
    reward_tree::domain_word,
};
use fieldproof_prover::{
    Prover, ProverConfig, ProverError, ProverEvent,
    chain::{Chain, ChainError, Claim, ClaimOutcome, DistributorTerms, Finality},
    claims::{check_balances, claim_all, published_tree},
    embedded_chain::{EmbeddedChain, EmbeddedChainSettings},
    objects::EpochManifest,
    publish::{Publication, PublishError, Published, RootTarget, attest, publish},
    statement::LatestRoot,
};
use fieldproof_runtime::store::Store;
use tempfile::TempDir;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use self::testing::{TestNetwork, provider};

#[path = "../src/testing.rs"]
mod testing;

const CHAIN_ID: u64 = Anvil::CHAIN_ID;
/// The well-known keys of anvil's first accounts: operator and guardian, prover, prover.
const KEYS: [&str; 3] = [
    "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
];
const DEADLINE: Duration = Duration::from_secs(60);

fn key(index: usize) -> EvmSecret {
    let mut scalar = [0; 32];
    hex::decode_to_slice(KEYS[index], &mut scalar).unwrap();
    EvmSecret::from_bytes(&scalar).unwrap()
}

/// A node, and how it is made to go on by a block.
enum Node {
    Embedded(EmbeddedChain, TempDir),
    Anvil(Anvil),
}

impl Node {
    async fn embedded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = EmbeddedChainSettings {
            directory: folder.path().to_owned(),
            address: "127.0.0.1:0".parse().unwrap(),
            chain_id: CHAIN_ID,
            funded: (0..3).map(|index| key(index).address()).collect(),
        };
        Self::Embedded(EmbeddedChain::start(settings).await.unwrap(), folder)
    }

    fn url(&self) -> String {
        match self {
            Self::Embedded(chain, _) => chain.url(),
            Self::Anvil(anvil) => anvil.url().to_owned(),
        }
    }

    /// Real chains go on by themselves; anvil has a block for each transaction only.
    fn mine(&self) {
        if let Self::Anvil(anvil) = self {
            anvil.rpc("evm_mine", &serde_json::json!([])).unwrap();
        }
    }

    async fn stop(self) {
        if let Self::Embedded(chain, _folder) = self {
            chain.stop().await.unwrap();
        }
    }
}

/// A network on a chain: contracts, a store, the operator's connection.
struct World {
    node: Node,
    chain: Chain,
    network: TestNetwork,
    token: Address,
    distributor: Address,
    attestors: Vec<Address>,
    folder: TempDir,
}

struct RunningProver {
    task: JoinHandle<Result<(), ProverError>>,
    cancel: CancellationToken,
    events: mpsc::Receiver<ProverEvent>,
}

impl World {
    /// Contracts whose attestors are these keys; more than half of them must sign.
    async fn new(node: Node, attestors: &[usize]) -> Self {
        let chain = Chain::connect(&node.url(), Some(&key(0))).await.unwrap().expecting(CHAIN_ID).unwrap();
        let token = chain.deploy_test_token().await.unwrap();
        let mut attestors: Vec<Address> = attestors.iter().map(|index| key(*index).address()).collect();
        attestors.sort_unstable();
        let threshold = u64::try_from(attestors.len() / 2 + 1).unwrap();
        let terms = DistributorTerms {
            token,
            attestors: attestors.clone(),
            threshold,
            activation_delay_seconds: 0,
            guardian: key(0).address(),
        };
        let distributor = chain.deploy_distributor(&terms).await.unwrap();
        assert_eq!(chain.distributor_terms(distributor).await.unwrap(), terms);
        assert_eq!(chain.domain(distributor).await.unwrap(), domain_word(CHAIN_ID, distributor));
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let network = TestNetwork::new(store, CHAIN_ID, token);
        Self { node, chain, network, token, distributor, attestors, folder }
    }

    async fn fund(&self, amount: u128) {
        self.chain.mint(self.token, self.distributor, U256::from(amount)).await.unwrap();
    }

    fn prover(&self, index: usize, finality: Finality) -> RunningProver {
        let config = ProverConfig {
            store: self.network.store.clone(),
            genesis: self.network.genesis.clone().into(),
            rpc_url: self.node.url(),
            secret: key(index),
            finality,
            poll_interval: Duration::from_millis(20),
        };
        let (sender, events) = mpsc::channel(1000);
        let cancel = CancellationToken::new();
        let task = tokio::spawn(Prover::run(config, cancel.clone(), sender));
        RunningProver { task, cancel, events }
    }

    /// Waits until a prover says that the root through an epoch is final; gives its place and root.
    async fn final_through(&self, prover: &mut RunningProver, epoch: u64) -> (u64, B256) {
        let waited = timeout(DEADLINE, async {
            loop {
                match timeout(Duration::from_millis(100), prover.events.recv()).await {
                    Err(_) => self.node.mine(),
                    Ok(Some(ProverEvent::Final { through_epoch, index, root, .. }))
                        if through_epoch == epoch =>
                    {
                        return (index, root);
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("the prover ended"),
                }
            }
        });
        waited.await.unwrap_or_else(|_| panic!("epoch {epoch} is not final"))
    }

    /// Publishes the root through all epochs so far, and signs it with both keys.
    async fn stated(&self) -> (RootStatement, Vec<Bytes>) {
        let target = RootTarget { chain_id: CHAIN_ID, distributor: self.distributor, token: self.token };
        let epoch =
            |(manifest, digest): &(_, _)| EpochManifest { manifest: Clone::clone(manifest), digest: *digest };
        let epochs: Vec<EpochManifest> = self.network.manifests.iter().map(epoch).collect();
        let store = &self.network.store;
        let published =
            publish(store, &Publication { target, base: None, after: None, epochs: &epochs }).await.unwrap();
        let Published::Root(statement) = published else { panic!("a root was expected") };
        let mut secrets = [key(1), key(2)];
        secrets.sort_by_key(EvmSecret::address);
        let mut signatures = Vec::new();
        for secret in &secrets {
            let attestation = attest(store, &statement, secret).await.unwrap();
            signatures.push(attestation.verify(&statement).unwrap().into());
        }
        (statement, signatures)
    }

    async fn roots_count(&self) -> u64 {
        self.chain.roots_count(self.distributor).await.unwrap()
    }
}

impl RunningProver {
    async fn stop(self) {
        self.cancel.cancel();
        timeout(DEADLINE, self.task).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rewards_reach_balances_on_the_embedded_chain() {
    story(Node::embedded().await, Finality::Finalized).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rewards_reach_balances_on_anvil() {
    if require_or_skip("anvil", Anvil::availability()).is_some() {
        story(Node::Anvil(Anvil::start().unwrap()), Finality::Finalized).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rewards_reach_balances_on_anvil_by_the_newest_block() {
    if require_or_skip("anvil", Anvil::availability()).is_some() {
        story(Node::Anvil(Anvil::start().unwrap()), Finality::Latest).await;
    }
}

async fn story(node: Node, finality: Finality) {
    let mut world = World::new(node, &[1, 2]).await;
    world.fund(10_u128.pow(30)).await;
    let (mut one, mut two) = (world.prover(1, finality), world.prover(2, finality));
    three_epochs(&mut world, &mut one, &mut two).await;
    claims_pay_once(&world).await;
    one.stop().await;
    two.stop().await;
    a_restart_posts_nothing_twice(&mut world, finality).await;
    world.node.stop().await;
}

/// C3, X1: three epochs, the second of which is computed with the third and pays one program.
async fn three_epochs(world: &mut World, one: &mut RunningProver, two: &mut RunningProver) {
    let everybody: Vec<(Address, u128)> =
        (1..=150).map(|number| (provider(number), u128::from(number))).collect();
    // An epoch before anybody named the contract: it waits.
    world.network.epoch(&[("energy", 10_u128.pow(24) + 7, &everybody)]).await;
    world.network.distributor = Some(world.distributor);
    world.network.epoch(&[("energy", 100, &[(provider(1), 0)]), ("telecom", 11, &everybody[..3])]).await;
    world.final_through(one, 1).await;
    world.network.epoch(&[("energy", 10_u128.pow(24), &everybody[3..])]).await;
    let (index, root) = world.final_through(one, 2).await;
    assert_eq!(world.final_through(two, 2).await, (index, root), "both provers say the same");
    assert_eq!((index, world.roots_count().await), (1, 2), "one live root per epoch (X1)");

    let posted = world.chain.root_through(world.distributor, 2).await.unwrap().unwrap();
    assert_eq!(posted, world.chain.roots(world.distributor).await.unwrap()[1]);
    assert_eq!(Some(posted), world.chain.live_root(world.distributor).await.unwrap());
    assert_eq!(posted.total, world.network.earned.values().copied().map(U256::from).sum::<U256>());
    let latest = world.network.store.get(object_name::LATEST).await.unwrap().unwrap();
    let latest: LatestRoot = serde_json::from_slice(&latest).unwrap();
    let posting = world.chain.posting_of(world.distributor, &posted).await.unwrap();
    assert_eq!((latest.index, latest.transaction), (1, posting.transaction));
    assert_eq!((latest.statement.root, latest.statement.leaf_count), (root, 150));
}

/// X2: everybody gets what it earned to the last unit, and a second claim pays nothing.
async fn claims_pay_once(world: &World) {
    let World { chain, distributor, .. } = world;
    let distributor = *distributor;
    let root = chain.live_root(distributor).await.unwrap().unwrap();
    let store = &world.network.store;
    let tree = published_tree(chain, store, distributor, root.root).await.unwrap();
    assert!(check_balances(chain, distributor, &tree).await.is_err(), "nobody was paid yet");
    let paid = claim_all(chain, store, distributor, root.index, root.root).await.unwrap();
    assert_eq!((paid.paid, paid.paid_accounts, paid.skipped.len()), (root.total, 150, 0));
    assert!(paid.transactions.len() > 1, "in several transactions");
    check_balances(chain, distributor, &tree).await.unwrap();
    for (account, earned) in &world.network.earned {
        assert_eq!(chain.token_balance(world.token, *account).await.unwrap(), U256::from(*earned));
    }
    let again = claim_all(chain, store, distributor, root.index, root.root).await.unwrap();
    assert_eq!((again.paid, again.already_paid, again.transactions.len()), (U256::ZERO, 150, 0));

    open_zeppelin_agrees(world, &root.root);

    let (cumulative, proof) = tree.proof(provider(1)).unwrap();
    let claim = Claim { root_index: root.index, account: provider(1), cumulative, proof };
    assert!(chain.verify_claim(distributor, &claim).await.unwrap());
    let more = Claim { cumulative: cumulative + 1, ..claim.clone() };
    assert!(!chain.verify_claim(distributor, &more).await.unwrap());
    let skipped = chain.claim_many(distributor, &[claim, more]).await.unwrap().outcomes;
    let reason = |outcome: &ClaimOutcome| match outcome {
        ClaimOutcome::Skipped(reason) => reason.split(' ').next().unwrap().to_owned(),
        ClaimOutcome::Paid(amount) => panic!("`{amount}` was paid twice"),
    };
    assert_eq!(skipped.iter().map(reason).collect::<Vec<_>>(), ["NothingToClaim", "InvalidProof"]);
    assert_eq!(chain.total_claimed(distributor).await.unwrap(), root.total);
    check_balances(chain, distributor, &tree).await.unwrap();
}

/// OpenZeppelin's own library loads the published tree and proves a claim in it.
fn open_zeppelin_agrees(world: &World, root: &B256) {
    let Some(script) = require_or_skip("oz-check.mjs", node_script("oz-check.mjs")) else { return };
    let (account, earned) = world.network.earned.first_key_value().unwrap();
    let checked = Command::new("node")
        .arg(script)
        .arg(world.folder.path().join(object_name::tree(root)))
        .args([account.to_string(), earned.to_string()])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert!(printed.contains(&format!("\"root\":\"{root}\"")), "{printed}");
}

/// X1, and what a disabled root does: the pointer goes back, and it pays nothing more (X2).
async fn a_restart_posts_nothing_twice(world: &mut World, finality: Finality) {
    let (mut one, mut two) = (world.prover(1, finality), world.prover(2, finality));
    let (index, root) = world.final_through(&mut one, 2).await;
    assert_eq!((index, world.roots_count().await), (1, 2));
    world.network.epoch(&[("energy", 1000, &[(provider(200), 1)])]).await;
    let (index, disabled) = world.final_through(&mut one, 3).await;
    assert_eq!((index, world.roots_count().await), (2, 3));
    assert_eq!(world.final_through(&mut two, 3).await, (index, disabled));

    world.chain.disable_root(world.distributor, 2).await.unwrap();
    assert_eq!(world.final_through(&mut one, 2).await, (1, root), "the pointer goes back");
    let (chain, store) = (&world.chain, &world.network.store);
    let refused = claim_all(chain, store, world.distributor, 2, disabled).await.unwrap();
    assert_eq!((refused.paid, refused.skipped.len()), (U256::ZERO, 1));
    assert!(refused.skipped[0].1.starts_with("RootIsDisabled"), "{:?}", refused.skipped);
    assert_eq!(world.roots_count().await, 3);
    assert_eq!(chain.open_revision(world.distributor, 3).await.unwrap(), None);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_takes_a_root_once_and_its_refusals_are_told() {
    let mut world = World::new(Node::embedded().await, &[1, 2]).await;
    world.network.distributor = Some(world.distributor);
    world.network.epoch(&[("energy", 100, &[(provider(1), 1), (provider(2), 2)])]).await;
    let (statement, signatures) = world.stated().await;
    let (chain, distributor) = (&world.chain, world.distributor);
    let refused = async |statement: &RootStatement, signatures: &[Bytes]| match chain
        .post_root(distributor, statement, signatures)
        .await
        .unwrap_err()
    {
        ChainError::Reverted { reason, .. } => reason,
        other => panic!("{other}"),
    };
    assert_eq!(refused(&statement, &signatures).await, "NotFunded { needed: 100, available: 0 }");
    world.fund(99).await;
    assert_eq!(refused(&statement, &signatures).await, "NotFunded { needed: 100, available: 99 }");
    world.fund(1).await;
    assert_eq!(refused(&statement, &signatures[..1]).await, "TooFewSignatures { given: 1, needed: 2 }");
    let twice = [signatures[0].clone(), signatures[0].clone()];
    let signer = world.attestors[0];
    let expected = format!("NotAscending {{ previous: {signer}, next: {signer} }}");
    assert_eq!(refused(&statement, &twice).await.to_lowercase(), expected.to_lowercase());
    assert_eq!(chain.live_root(distributor).await.unwrap(), None);

    let posted = chain.post_root(distributor, &statement, &signatures).await.unwrap();
    assert_eq!(posted.index, 0);
    let root = chain.root_at(distributor, 0).await.unwrap();
    assert_eq!(chain.posting_of(distributor, &root).await.unwrap(), posted);
    assert_eq!(refused(&statement, &signatures).await, "EpochNotAfter { given: 0, last: 0 }");
    assert_eq!(world.roots_count().await, 1);
    world.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prover_waits_for_funds_and_then_posts() {
    let mut world = World::new(Node::embedded().await, &[1, 2]).await;
    world.network.distributor = Some(world.distributor);
    world.network.epoch(&[("energy", 100, &[(provider(1), 1)])]).await;
    let (mut one, two) = (world.prover(1, Finality::Latest), world.prover(2, Finality::Latest));
    loop {
        match timeout(DEADLINE, one.events.recv()).await.unwrap() {
            Some(ProverEvent::Attested(_)) => break,
            Some(_) => {}
            None => panic!("the prover ended"),
        }
    }
    world.fund(100).await;
    assert_eq!(world.final_through(&mut one, 0).await.0, 0);
    assert_eq!(world.roots_count().await, 1);
    one.stop().await;
    two.stop().await;
    world.node.stop().await;
}

/// X1: a prover that dies at any of its steps is followed by one that goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_prover_that_dies_after_any_step_posts_nothing_twice() {
    let mut world = World::new(Node::embedded().await, &[1]).await;
    world.network.distributor = Some(world.distributor);
    world.fund(1000).await;
    for (epoch, steps) in (1..=4).enumerate() {
        world.network.epoch(&[("energy", 100, &[(provider(1), 1), (provider(2), 1)])]).await;
        // Published, attested, posted, final: it dies as it tells of the last of these.
        let mut dying = world.prover(1, Finality::Finalized);
        for _ in 0..steps {
            timeout(DEADLINE, dying.events.recv()).await.unwrap().unwrap();
        }
        dying.task.abort();
        assert!(dying.task.await.is_err_and(|ended| ended.is_cancelled()));
        let mut next = world.prover(1, Finality::Finalized);
        let epoch = u64::try_from(epoch).unwrap();
        assert_eq!(world.final_through(&mut next, epoch).await.0, epoch);
        assert_eq!(world.roots_count().await, epoch + 1);
        next.stop().await;
    }
    world.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn epochs_that_pay_nobody_are_left_out_until_one_pays() {
    let mut world = World::new(Node::embedded().await, &[1]).await;
    world.network.distributor = Some(world.distributor);
    world.fund(1000).await;
    let mut prover = world.prover(1, Finality::Finalized);
    for round in 0..2 {
        for idle in 0..2 {
            world.network.epoch(&[("energy", 100, &[(provider(1), 0)])]).await;
            let told = timeout(DEADLINE, prover.events.recv()).await.unwrap();
            assert_eq!(told, Some(ProverEvent::Unpaid { through_epoch: round * 3 + idle }));
        }
        world.network.epoch(&[("energy", 100, &[(provider(1), 1)])]).await;
        assert_eq!(world.final_through(&mut prover, round * 3 + 2).await.0, round);
    }
    prover.stop().await;
    assert_eq!(world.roots_count().await, 2);
    world.node.stop().await;
}

/// X1: a statement that is not ours, from the same inputs, stops the prover before it signs.
#[tokio::test(flavor = "multi_thread")]
async fn another_root_for_an_epoch_stops_the_prover() {
    let mut world = World::new(Node::embedded().await, &[1]).await;
    world.network.distributor = Some(world.distributor);
    world.network.epoch(&[("energy", 100, &[(provider(1), 1)])]).await;
    let (statement, _) = world.stated().await;
    let name = object_name::root_statement(0, 0);
    let forged = RootStatement { total: 101, ..statement };
    world.network.store.replace(&name, to_object(&forged).unwrap().0).await.unwrap();
    let prover = world.prover(1, Finality::Finalized);
    let ended = timeout(DEADLINE, prover.task).await.unwrap().unwrap().unwrap_err();
    assert!(
        matches!(&ended, ProverError::Publish(PublishError::Conflict(there)) if *there == name),
        "{ended}"
    );
    assert_eq!(world.roots_count().await, 0);
    world.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_sends_from_many_places_at_once() {
    let world = World::new(Node::embedded().await, &[1, 2]).await;
    let mut sending = Vec::new();
    for amount in 1..=4_u64 {
        let chain = Chain::connect(&world.node.url(), Some(&key(0))).await.unwrap();
        let token = world.token;
        sending.push(tokio::spawn(async move { chain.mint(token, provider(1), U256::from(amount)).await }));
    }
    for sent in sending {
        sent.await.unwrap().unwrap();
    }
    assert_eq!(world.chain.token_balance(world.token, provider(1)).await.unwrap(), U256::from(10));
    let reader = Chain::connect(&world.node.url(), None).await.unwrap();
    let error = reader.mint(world.token, provider(1), U256::from(1)).await.unwrap_err();
    assert_eq!(error, ChainError::ReadOnly { method: "mint".to_owned() });
    let error = reader.expecting(1).unwrap_err();
    assert!(
        matches!(error, ChainError::ChainId { expected: 1, found: CHAIN_ID, .. }) && !error.is_retryable()
    );
    world.node.stop().await;
}

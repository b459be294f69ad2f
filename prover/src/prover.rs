//! The prover's loop: read the facts, decide, take one step, again.
//!
//! Every step may be cut off anywhere and repeated: files are created once with the same bytes, and
//! the contract takes one root per epoch. So ending needs no ceremony, and a second prover with the
//! same key does no harm (X1).

use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes};
use fieldproof_proto::{
    canonical_json::{self, CanonicalError},
    evm::EvmSecret,
    genesis::{Genesis, GenesisError},
    ids::NetworkId,
    manifest::{RootStatement, object_name},
};
use fieldproof_runtime::store::{Store, StoreError};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    chain::{Chain, ChainError, ChainRoot, DistributorTerms, Finality, PostedRoot},
    commit::{Facts, RootMark, Step, Waiting, next_step},
    facts::{Halt, Roots, Unpaid, World},
    objects::{self, ObjectError},
    publish::{self, Publication, PublishError, Published, RootTarget},
    statement::LatestRoot,
};

/// How long other provers may take to sign a root before we go on with a later one.
const QUORUM_PATIENCE: Duration = Duration::from_secs(60);
/// The pauses after failures.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// What a prover needs.
#[derive(Clone)]
pub struct ProverConfig {
    /// Where manifests are read and roots published.
    pub store: Store,
    /// The canonical bytes of the network's genesis.
    pub genesis: Bytes,
    /// A node of the chain.
    pub rpc_url: String,
    /// Signs roots and sends transactions.
    pub secret: EvmSecret,
    /// Which block counts as one that stays.
    pub finality: Finality,
    /// How often the store and the chain are looked at.
    pub poll_interval: Duration,
}

/// Carries rewards onto the chain.
#[derive(Debug)]
pub struct Prover;

/// Something that a prover did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProverEvent {
    /// A root is published, with proofs for everybody. It may have been before.
    Published(RootStatement),
    /// We signed it.
    Attested(RootStatement),
    /// We posted it.
    Posted {
        /// The root.
        statement: RootStatement,
        /// Where it is.
        posted: PostedRoot,
    },
    /// Nobody earned anything after the live root: there is no root through this epoch.
    Unpaid {
        /// The epoch.
        through_epoch: u64,
    },
    /// A root is final and `roots/latest.json` names it, whichever prover posted it. Told at the start
    /// for the one that is the latest then, and each time that it becomes another one: also an older
    /// one, when the guardian disables the latest.
    Final {
        /// The last epoch in it.
        through_epoch: u64,
        /// The root.
        root: B256,
        /// The transaction that posted it.
        transaction: B256,
        /// Its place in the contract.
        index: u64,
        /// The sum of all leaves.
        total: u128,
        /// How many leaves it has.
        leaf_count: u64,
    },
}

/// Why a prover stopped, or what it tries again.
#[derive(Debug, thiserror::Error)]
pub enum ProverError {
    /// Not a genesis.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// The chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// An object of the store.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A root that cannot be published or signed.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// A value without canonical form.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    /// The contract pays another token than the network's.
    #[error("the contract `{distributor}` pays token `{found}`, the network's is `{expected}`")]
    Token {
        /// The contract.
        distributor: Address,
        /// What it pays.
        found: Address,
        /// What the genesis says.
        expected: Address,
    },
    /// Alarm: the contract has another root than the one that we know for its epoch and revision.
    #[error("the final root `{on_chain}` through epoch `{through_epoch}` is not the published `{published}`")]
    OtherRoot {
        /// The epoch.
        through_epoch: u64,
        /// The root in the contract.
        on_chain: B256,
        /// The root of the published statement.
        published: B256,
    },
}

/// A prover that knows its chain.
struct Running<'a> {
    config: &'a ProverConfig,
    events: &'a mpsc::Sender<ProverEvent>,
    chain: Chain,
    genesis: Genesis,
    network: NetworkId,
    terms: Option<(Address, DistributorTerms)>,
    /// Epochs that need not be looked at again: they pay nobody.
    unpaid: Option<Unpaid>,
    /// What keeps later epochs out, as it was told.
    halt: Option<Halt>,
    /// The statement whose other signatures we wait for, and since when.
    waiting: Option<(u64, Instant)>,
    announced: Option<RootMark>,
}

impl Prover {
    /// Runs until it is cancelled, or until something is wrong that only people can put right: then
    /// it ends with the error. What fails for a while is tried again. Durable when it returns: what
    /// the events told.
    pub async fn run(
        config: ProverConfig,
        cancelled: CancellationToken,
        events: mpsc::Sender<ProverEvent>,
    ) -> Result<(), ProverError> {
        // Cut off at any await: see the module.
        tokio::select! {
            () = cancelled.cancelled() => Ok(()),
            ended = run(&config, &events) => ended,
        }
    }
}

async fn run(config: &ProverConfig, events: &mpsc::Sender<ProverEvent>) -> Result<(), ProverError> {
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
    let mut told: Option<String> = None;
    let mut running = None;
    loop {
        let stepped = match &mut running {
            None => Running::start(config, events).await.map(|started| {
                running = Some(started);
                true
            }),
            Some(running) => running.step().await,
        };
        match stepped {
            Ok(moved) => {
                backoff.reset();
                if told.take().is_some() {
                    tracing::info!("the prover goes on");
                }
                if !moved {
                    sleep(config.poll_interval).await;
                }
            }
            Err(error) if error.is_retryable() => {
                let text = error.to_string();
                if told.as_ref() != Some(&text) {
                    tracing::warn!(%error, "the prover cannot go on, and tries again");
                    told = Some(text);
                }
                sleep(backoff.pause().max(config.poll_interval.min(PAUSES.1))).await;
            }
            Err(error) => {
                tracing::error!(%error, "the prover stops");
                return Err(error);
            }
        }
    }
}

impl<'a> Running<'a> {
    async fn start(
        config: &'a ProverConfig,
        events: &'a mpsc::Sender<ProverEvent>,
    ) -> Result<Self, ProverError> {
        let genesis = Genesis::from_bytes(&config.genesis)?;
        let network = Genesis::network_id(&config.genesis);
        let chain = Chain::connect(&config.rpc_url, Some(&config.secret)).await?;
        let chain = chain.expecting(genesis.chain_id)?.with_finality(config.finality);
        tracing::info!(%network, ?chain, "prover started");
        Ok(Self {
            config,
            events,
            chain,
            genesis,
            network,
            terms: None,
            unpaid: None,
            halt: None,
            waiting: None,
            announced: None,
        })
    }

    /// Takes one step. Whether anything moved: if not, there is nothing to do for now.
    async fn step(&mut self) -> Result<bool, ProverError> {
        let world = World { store: &self.config.store, chain: &self.chain, network: &self.network };
        let Some(distributor) = world.distributor().await? else { return Ok(false) };
        let terms = self.terms_of(distributor).await?;
        let world = World { store: &self.config.store, chain: &self.chain, network: &self.network };
        let roots = world.roots(distributor, &terms, self.unpaid).await?;
        self.note_halt(roots.halt);
        self.announce_latest(&roots).await;
        let facts = self.facts(&roots, &terms);
        let step = next_step(&facts);
        self.note_waiting(&step);
        tracing::debug!(?step, complete_through = facts.complete_through, "next step");
        match step {
            Step::Wait(_) => return Ok(false),
            Step::AdvanceLatest(_) => {
                if let Some(root) = &roots.final_live {
                    self.advance_latest(distributor, root).await?;
                }
            }
            Step::Publish(epoch) | Step::Attest(epoch) => {
                return self.publish(distributor, &roots, epoch, facts.attestor).await;
            }
            Step::Post(epoch) => self.post(distributor, &roots, &terms, epoch).await?,
        }
        Ok(true)
    }

    async fn terms_of(&mut self, distributor: Address) -> Result<DistributorTerms, ProverError> {
        if let Some((known, terms)) = &self.terms
            && *known == distributor
        {
            return Ok(terms.clone());
        }
        let terms = self.chain.distributor_terms(distributor).await?;
        if terms.token != self.genesis.token {
            return Err(ProverError::Token { distributor, found: terms.token, expected: self.genesis.token });
        }
        self.terms = Some((distributor, terms.clone()));
        Ok(terms)
    }

    fn facts(&self, roots: &Roots, terms: &DistributorTerms) -> Facts {
        let us = self.config.secret.address();
        let patience_over = |since: Instant| since.elapsed() >= QUORUM_PATIENCE;
        Facts {
            live: roots.live.as_ref().map(RootMark::from),
            final_live: roots.final_live.as_ref().map(RootMark::from),
            latest: roots.latest.as_ref().map(RootMark::from),
            complete_through: roots.epochs.last().map(|last| last.manifest.epoch),
            statements: roots.statement_facts(us),
            threshold: terms.threshold,
            attestor: terms.attestors.contains(&us),
            patience_over: self.waiting.is_some_and(|(_, since)| patience_over(since)),
        }
    }

    fn note_waiting(&mut self, step: &Step) {
        self.waiting = match *step {
            Step::Wait(Waiting::Signatures { through_epoch, missing }) => match self.waiting {
                Some((epoch, since)) if epoch == through_epoch => Some((epoch, since)),
                _ => {
                    tracing::info!(through_epoch, missing, "waiting for other provers' signatures");
                    Some((through_epoch, Instant::now()))
                }
            },
            _ => None,
        };
    }

    /// Tells once what keeps later epochs out, and looks at all epochs again: the guardian may have
    /// raised the revision of one that paid nobody before.
    fn note_halt(&mut self, halt: Option<Halt>) {
        if self.halt == halt {
            return;
        }
        self.halt = halt;
        if let Some(Halt { epoch, reason }) = halt {
            tracing::warn!(epoch, reason, "no root can go through this epoch for now");
            self.unpaid = None;
        }
    }

    /// Publishes the root through an epoch and signs it, if the contract takes our signature.
    async fn publish(
        &mut self,
        distributor: Address,
        roots: &Roots,
        epoch: u64,
        attestor: bool,
    ) -> Result<bool, ProverError> {
        let target = RootTarget { chain_id: self.genesis.chain_id, distributor, token: self.genesis.token };
        let epochs = roots.epochs_through(epoch);
        let publication = Publication { target, base: roots.final_live.as_ref(), after: roots.after, epochs };
        let statement = match publish::publish(&self.config.store, &publication).await {
            Ok(Published::Root(statement)) => statement,
            Ok(Published::Nothing) => {
                tracing::info!(through_epoch = epoch, "nobody earned anything: no root");
                let base = roots.final_live.map(|live| live.root);
                self.unpaid = epochs.last().map(|last| Unpaid { base, through: last.into() });
                self.tell(ProverEvent::Unpaid { through_epoch: epoch }).await;
                return Ok(true);
            }
            // Somebody stated it since we read the facts; they tell the next time.
            Err(PublishError::OtherBase { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        tracing::info!(through_epoch = epoch, root = %statement.root, "root published");
        self.tell(ProverEvent::Published(statement.clone())).await;
        if attestor {
            publish::attest(&self.config.store, &statement, &self.config.secret).await?;
            tracing::info!(through_epoch = epoch, root = %statement.root, "root attested");
            self.tell(ProverEvent::Attested(statement)).await;
        }
        Ok(true)
    }

    async fn post(
        &self,
        distributor: Address,
        roots: &Roots,
        terms: &DistributorTerms,
        epoch: u64,
    ) -> Result<(), ProverError> {
        let Some(stated) = roots.stated(epoch) else { return Ok(()) };
        let statement = stated.statement.clone();
        let enough = usize::try_from(terms.threshold).unwrap_or(usize::MAX);
        let signatures: Vec<Bytes> = stated.signatures.values().take(enough).cloned().collect();
        match self.chain.post_root(distributor, &statement, &signatures).await {
            Ok(posted) => {
                tracing::info!(through_epoch = epoch, index = posted.index, transaction = %posted.transaction, "root posted");
                self.tell(ProverEvent::Posted { statement, posted }).await;
                Ok(())
            }
            Err(error) if error.is_revert() => {
                // X1: somebody else was first. The chain knows, and the next step goes on from it.
                let live = self.chain.live_root(distributor).await?;
                match live.map(|live| live.index) != roots.live.map(|live| live.index) {
                    true => Ok(()),
                    false => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Moves the pointer to a final root. Durable when it returns: the pointer.
    async fn advance_latest(&mut self, distributor: Address, root: &ChainRoot) -> Result<(), ProverError> {
        let (store, through_epoch) = (&self.config.store, root.through_epoch);
        let name = object_name::root_statement(through_epoch, root.revision);
        let statement = objects::read_statement(store, through_epoch, root.revision).await?;
        let statement = statement.ok_or(ObjectError::Missing(name))?;
        if (statement.root, statement.manifest) != (root.root, root.manifest) {
            let (on_chain, published) = (root.root, statement.root);
            return Err(ProverError::OtherRoot { through_epoch, on_chain, published });
        }
        let posted = self.chain.posting_of(distributor, root).await?;
        let latest = LatestRoot { statement, index: root.index, transaction: posted.transaction };
        let bytes = canonical_json::to_bytes(&latest)?;
        store.replace(object_name::LATEST, bytes).await.map_err(ObjectError::from)?;
        tracing::info!(through_epoch, root = %root.root, index = root.index, "root final");
        self.announce(&latest).await;
        Ok(())
    }

    /// Tells of the latest root, if we have not yet: at the start, and when another prover moved the
    /// pointer.
    async fn announce_latest(&mut self, roots: &Roots) {
        let final_live = roots.final_live.as_ref().map(RootMark::from);
        match &roots.latest {
            Some(latest) if final_live == Some(latest.into()) && self.announced != final_live => {
                self.announce(latest).await;
            }
            _ => {}
        }
    }

    async fn announce(&mut self, latest: &LatestRoot) {
        self.announced = Some(RootMark::from(latest));
        let statement = &latest.statement;
        self.tell(ProverEvent::Final {
            through_epoch: statement.through_epoch,
            root: statement.root,
            transaction: latest.transaction,
            index: latest.index,
            total: statement.total,
            leaf_count: statement.leaf_count,
        })
        .await;
    }

    async fn tell(&self, event: ProverEvent) {
        // Nobody listens any more: the store and the chain have it all.
        if self.events.send(event).await.is_err() {
            tracing::debug!("nobody listens to the prover's events");
        }
    }
}

impl ProverError {
    /// Whether the prover tries again by itself.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Chain(error) => error.is_retryable(),
            Self::Object(error) => error.is_retryable(),
            Self::Publish(error) => error.is_retryable(),
            Self::Genesis(_) | Self::Canonical(_) | Self::Token { .. } | Self::OtherRoot { .. } => false,
        }
    }
}

impl From<StoreError> for ProverError {
    fn from(error: StoreError) -> Self {
        Self::Object(error.into())
    }
}

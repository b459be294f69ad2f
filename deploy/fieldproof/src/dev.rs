//! `fieldproof dev`: a whole network in one process, on real solar data.
//!
//! Broker and chain are embedded unless others are named; everything else is what runs in production.
//! The process may be killed at any moment: the same command goes on where it stopped.

mod cheat;
mod checks;
mod fleet;
mod keys;
mod network;
mod report;
mod settings;
mod solar;

use std::{collections::BTreeMap, net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Context as _;
use fieldproof_aggregator::{
    Aggregator, AggregatorConfig, AggregatorEvent, SegmentLimits, epoch::ComputedEpoch, last_epoch,
    read_manifest,
};
use fieldproof_ingest::{Ingest, IngestConfig, IngestLimits, KafkaSettings};
use fieldproof_proto::{
    canonical_json,
    evm::EvmSecret,
    manifest::{Manifest, object_name},
};
use fieldproof_prover::{
    Prover, ProverConfig, ProverEvent,
    chain::{Chain, Finality},
    claims::{check_balances, claim_all, published_tree},
    embedded_chain::{EmbeddedChain, EmbeddedChainSettings},
    statement::LatestRoot,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{cli::DevArguments, embedded_kafka::EmbeddedKafka};
use checks::{Facts, check_all, evidence_end};
use fleet::{Fleet, Ledger};
use keys::{CHAIN_KEY, Keys};
use network::{DataDir, Network, found};
use report::{End, EpochLine, Line, Listening, Reporter};
use settings::DevConfig;

/// The chain id of every development chain, anvil's too.
const CHAIN_ID: u64 = 31_337;
/// Events that may wait for the printer.
const EVENTS_MAX: usize = 64;
/// How long the evidence may take to hold everything that was acknowledged.
const EVIDENCE_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the network. 0 if it ended as asked and every check held.
pub async fn run(arguments: DevArguments) -> anyhow::Result<ExitCode> {
    let config = DevConfig::new(arguments)?;
    let reporter = Reporter::new(config.output);
    reporter.progress("starting the log and the chain")?;
    let data = DataDir::open(&config).await?;
    let mut running = Running::start(&config, &data, &reporter).await?;
    let outcome = running.follow(&config, &reporter).await;
    // What went wrong is the error to tell; that ending would not go well either is its consequence.
    outcome?;
    let held = tokio::select! {
        held = running.finish(&config, &data, &reporter) => held?,
        again = interrupted() => {
            again?;
            anyhow::bail!("ended at once, without the checks; the same command goes on where it stopped");
        }
    };
    Ok(if held { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The processes of the network, all in this one.
struct Running {
    kafka: Option<EmbeddedKafka>,
    embedded_chain: Option<EmbeddedChain>,
    chain: Chain,
    rpc_url: String,
    network: Network,
    ingest: Option<Ingest>,
    aggregator: Option<Aggregator>,
    prover: JoinHandle<Result<(), fieldproof_prover::ProverError>>,
    prover_shutdown: CancellationToken,
    fleet: Option<Fleet>,
    epochs: mpsc::Receiver<AggregatorEvent>,
    roots: mpsc::Receiver<ProverEvent>,
    progress: Progress,
    store: fieldproof_runtime::store::Store,
}

/// Which epochs are computed and which are final.
#[derive(Default)]
struct Progress {
    /// Computed and not final yet.
    pending: BTreeMap<u64, Manifest>,
    digests: BTreeMap<u64, String>,
    /// Epochs 0 to this one, without it, are final.
    final_before: u64,
    latest: Option<LatestRoot>,
    first_run: bool,
    /// What ingest refused up to the last line.
    refused: BTreeMap<&'static str, u64>,
}

impl Running {
    async fn start(config: &DevConfig, data: &DataDir, reporter: &Reporter) -> anyhow::Result<Self> {
        let kafka = match &config.kafka {
            Some(_) => None,
            None => Some(EmbeddedKafka::start(&config.data_dir.join("kafka"), 0).await?),
        };
        let bootstrap_servers = match (&config.kafka, &kafka) {
            (Some(servers), _) => servers.clone(),
            (None, Some(kafka)) => kafka.bootstrap_servers(),
            (None, None) => unreachable!("one of them was just chosen"),
        };
        let secret = EvmSecret::from_bytes(&CHAIN_KEY)?;
        let (embedded_chain, rpc_url) = start_chain(config, &secret).await?;
        let chain = Chain::connect(&rpc_url, Some(&secret)).await?;
        reporter.progress("founding the network")?;
        let network = found(config, data, &chain, &bootstrap_servers).await?;
        let ingest = Ingest::start(IngestConfig {
            listen: config.listen,
            genesis: network.genesis_bytes.clone(),
            signing_key: Keys { seed: config.network.seed }.ingester(),
            kafka: KafkaSettings { bootstrap_servers: bootstrap_servers.clone() },
            topics: fieldproof_ingest::Topics {
                telemetry: network.topics.telemetry.clone(),
                control: network.topics.control.clone(),
                registry: network.topics.registry.clone(),
                generation: network.topics.generation,
            },
            limits: IngestLimits::default(),
        })
        .await?;
        let progress = Progress::read(data).await?;
        let (events, epochs) = mpsc::channel(EVENTS_MAX);
        let aggregator = Aggregator::start(
            AggregatorConfig {
                genesis: network.genesis_bytes.clone(),
                bootstrap_servers: bootstrap_servers.clone(),
                topics: network.topics.clone(),
                store: data.store.clone(),
                limits: SegmentLimits::default(),
            },
            events,
        )
        .await?;
        let (events, roots) = mpsc::channel(EVENTS_MAX);
        let prover_shutdown = CancellationToken::new();
        let prover = ProverConfig {
            store: data.store.clone(),
            genesis: network.genesis_bytes.clone().into(),
            rpc_url: rpc_url.clone(),
            secret,
            finality: if embedded_chain.is_some() { Finality::Finalized } else { Finality::Latest },
            poll_interval: Duration::from_millis(200),
        };
        let prover = tokio::spawn(Prover::run(prover, prover_shutdown.clone(), events));
        let address = ingest.address();
        let running = Self {
            kafka,
            embedded_chain,
            chain,
            rpc_url,
            ingest: Some(ingest),
            aggregator: Some(aggregator),
            prover,
            prover_shutdown,
            fleet: None,
            epochs,
            roots,
            progress,
            store: data.store.clone(),
            network,
        };
        reporter.line(&Line::Listening(running.listening(config, address, &bootstrap_servers)))?;
        Ok(running)
    }

    fn listening(&self, config: &DevConfig, address: SocketAddr, bootstrap_servers: &str) -> Listening {
        Listening {
            network: self.network.id,
            grpc: format!("http://{address}"),
            kafka: bootstrap_servers.to_owned(),
            rpc_url: self.rpc_url.clone(),
            store: config.data_dir.join("store").display().to_string(),
            distributor: self.network.distributor,
            token: self.network.genesis.token,
            devices: config.network.devices,
            providers: config.network.providers,
            first_epoch_ms: self.network.genesis.epochs.start_ms,
            epochs_final: self.progress.final_before,
        }
    }

    /// Runs the devices and prints epochs until enough are final, or until somebody interrupts.
    async fn follow(&mut self, config: &DevConfig, reporter: &Reporter) -> anyhow::Result<()> {
        // A run that was ended between a root and its claims left them to this one.
        self.claim().await?;
        reporter.progress("registering the devices")?;
        let endpoint = format!("http://{}", self.ingest.as_ref().context("ingest is running")?.address());
        self.fleet = Some(Fleet::start(config, &self.network, &endpoint).await?);
        let mut clock = tokio::time::interval(Duration::from_millis(250));
        let interrupted = interrupted();
        tokio::pin!(interrupted);
        loop {
            self.settle(config.epochs, reporter).await?;
            if config.epochs.is_some_and(|epochs| self.progress.final_before >= epochs) {
                return Ok(());
            }
            let (Some(fleet), Some(aggregator), Some(ingest)) =
                (&mut self.fleet, &mut self.aggregator, &self.ingest)
            else {
                anyhow::bail!("the network is ending");
            };
            tokio::select! {
                signal = &mut interrupted => return signal,
                Some(AggregatorEvent::Epoch(computed)) = self.epochs.recv() => self.progress.computed(*computed),
                Some(event) = self.roots.recv() => self.root(event).await?,
                error = aggregator.failed() => return Err(anyhow::Error::new(error).context("the aggregator failed")),
                ended = &mut self.prover => {
                    ended.context("the prover panicked")?.context("the prover failed")?;
                    anyhow::bail!("the prover ended by itself");
                }
                error = fleet.failed() => return Err(error),
                error = ingest.failed() => return Err(anyhow::Error::new(error).context("ingest failed")),
                _ = clock.tick() => {
                    let text = self.progress_text();
                    reporter.progress(&text)?;
                }
            }
        }
    }

    fn progress_text(&self) -> String {
        let (acknowledged, unanswered) =
            self.fleet.as_ref().map_or((0, 0), |fleet| (fleet.acknowledged(), fleet.unanswered()));
        let waiting = self.progress.pending.len();
        format!(
            "{acknowledged} batches acknowledged, {unanswered} under way; epoch {} is next, {waiting} wait for the chain",
            self.progress.final_before
        )
    }

    /// A root is final: claims for everybody and checks that all balances are the rewards.
    async fn root(&mut self, event: ProverEvent) -> anyhow::Result<()> {
        let ProverEvent::Final { .. } = event else { return Ok(()) };
        let latest = read_latest(&self.store).await?;
        self.progress.latest = Some(latest.context("the prover told of a root that is not the latest")?);
        Ok(())
    }

    /// Prints the epochs that are final now, `epochs` in all at most: those that the latest root
    /// covers, and those that paid nothing.
    async fn settle(&mut self, epochs: Option<u64>, reporter: &Reporter) -> anyhow::Result<()> {
        let covered = self.progress.latest.as_ref().map(|latest| latest.statement.through_epoch);
        while let Some(manifest) = self.progress.pending.get(&self.progress.final_before) {
            if epochs.is_some_and(|epochs| self.progress.final_before >= epochs) {
                return Ok(());
            }
            let paid: u128 = manifest.programs.iter().map(|program| program.paid).sum();
            if paid > 0 && covered.is_none_or(|covered| covered < manifest.epoch) {
                return Ok(());
            }
            let claims = if paid > 0 { self.claim().await? } else { 0 };
            let manifest =
                self.progress.pending.remove(&self.progress.final_before).context("it is there")?;
            let refused_at_ingest = self.refused_since();
            let latest = self.progress.latest.as_ref().filter(|_| paid > 0);
            reporter.line(&Line::Epoch(EpochLine {
                epoch: manifest.epoch,
                verdicts: manifest.counts.verdicts.clone(),
                records: manifest.counts.records,
                on_time: manifest.counts.on_time,
                late: manifest.counts.late,
                refused_at_ingest,
                contribution: contribution(&manifest),
                paid: paid.to_string(),
                manifest: self.progress.digests.remove(&manifest.epoch).unwrap_or_default(),
                root: latest.map(|latest| latest.statement.root),
                transaction: latest.map(|latest| latest.transaction),
                claims,
            }))?;
            self.progress.final_before += 1;
        }
        Ok(())
    }

    /// What ingest refused since this was asked last.
    fn refused_since(&mut self) -> BTreeMap<String, u64> {
        let mut refused = self.ingest.as_ref().map(|ingest| ingest.counts().refused).unwrap_or_default();
        // These are told, but logged all the same: they are among the verdicts.
        refused.remove("unregistered");
        let mut since = BTreeMap::new();
        for (reason, count) in refused {
            let before = self.progress.refused.insert(reason, count).unwrap_or_default();
            if count > before {
                since.insert(reason.to_owned(), count - before);
            }
        }
        since
    }

    /// Claims for every provider under the latest root, and checks every balance.
    async fn claim(&self) -> anyhow::Result<u64> {
        let Some(latest) = &self.progress.latest else { return Ok(0) };
        let (distributor, root) = (self.network.distributor, latest.statement.root);
        let summary = claim_all(&self.chain, &self.store, distributor, latest.index, root).await?;
        if let Some((account, reason)) = summary.skipped.first() {
            anyhow::bail!("the claim of `{account}` was not paid: {reason}");
        }
        let tree = published_tree(&self.chain, &self.store, distributor, root).await?;
        check_balances(&self.chain, distributor, &tree).await?;
        Ok(summary.paid_accounts)
    }

    /// Ends everything in order, makes all checks, and says how to look further.
    async fn finish(
        mut self,
        config: &DevConfig,
        data: &DataDir,
        reporter: &Reporter,
    ) -> anyhow::Result<bool> {
        reporter.progress("ending: the devices send what they have")?;
        let ledger = self.fleet.take().context("the devices are running")?.stop().await?;
        self.ingest.take().context("ingest is running")?.stop().await?;
        self.wait_for_evidence(&ledger).await?;
        self.aggregator.take().context("the aggregator is running")?.stop().await?;
        self.prover_shutdown.cancel();
        (&mut self.prover).await.context("the prover panicked")?.context("the prover failed")?;
        reporter.progress("checking everything from the evidence")?;
        self.claim().await?;
        let facts = Facts {
            network: &self.network,
            store: &data.store,
            chain: &self.chain,
            ledger: &ledger,
            first_run: self.progress.first_run,
            epochs: self.progress.final_before,
            latest: self.progress.latest.as_ref(),
        };
        let lines = check_all(&facts).await?;
        let held = lines.iter().all(|line| !matches!(line, Line::Check { held: false, .. }));
        lines.iter().try_for_each(|line| reporter.line(line))?;
        if let Some(kafka) = self.kafka.take() {
            kafka.stop().await?;
        }
        if let Some(chain) = self.embedded_chain.take() {
            chain.stop().await?;
        }
        let next = next_commands(config, self.progress.final_before, self.progress.latest.as_ref());
        reporter.line(&Line::End(End { held, epochs_final: self.progress.final_before, next }))?;
        Ok(held)
    }

    /// Waits until the evidence holds everything that a receipt was given for.
    async fn wait_for_evidence(&mut self, ledger: &Ledger) -> anyhow::Result<()> {
        let mut ends: BTreeMap<u32, u64> = BTreeMap::new();
        for receipt in &ledger.receipts {
            let end = ends.entry(receipt.partition).or_default();
            *end = (*end).max(receipt.offset + 1);
        }
        let deadline = tokio::time::Instant::now() + EVIDENCE_TIMEOUT;
        let mut clock = tokio::time::interval(Duration::from_millis(100));
        while let Some((partition, end)) = ends.first_key_value() {
            let found = evidence_end(&self.store, self.network.topics.generation, *partition).await?;
            if found >= *end {
                ends.pop_first();
                continue;
            }
            if tokio::time::Instant::now() >= deadline {
                anyhow::bail!(
                    "partition `{partition}` has a receipt for offset `{}`, the evidence ends at `{found}`",
                    end - 1
                );
            }
            let aggregator = self.aggregator.as_mut().context("the aggregator is running")?;
            tokio::select! {
                error = aggregator.failed() => return Err(anyhow::Error::new(error).context("the aggregator failed")),
                Some(_) = self.epochs.recv() => {}
                Some(_) = self.roots.recv() => {}
                _ = clock.tick() => {}
            }
        }
        // Whatever is told from here on is of epochs beyond those that were asked for.
        self.epochs.close();
        self.roots.close();
        Ok(())
    }
}

impl Progress {
    /// What earlier runs came to: an epoch that is computed and covered by the latest root, or paid
    /// nothing, is final.
    async fn read(data: &DataDir) -> anyhow::Result<Self> {
        let mut progress =
            Self { latest: read_latest(&data.store).await?, first_run: true, ..Self::default() };
        let Some(last) = last_epoch(&data.store).await? else {
            progress.first_run = data.store.list("evidence/1").await?.is_empty();
            return Ok(progress);
        };
        progress.first_run = false;
        let covered =
            progress.latest.as_ref().map(|latest| latest.statement.through_epoch + 1).unwrap_or_default();
        progress.final_before = covered.min(last + 1);
        for epoch in progress.final_before..=last {
            let (manifest, digest) = read_manifest(&data.store, &object_name::manifest(epoch, 0)).await?;
            progress.pending.insert(epoch, manifest);
            progress.digests.insert(epoch, digest.to_string());
        }
        Ok(progress)
    }

    fn computed(&mut self, computed: ComputedEpoch) {
        self.digests.insert(computed.manifest.epoch, computed.digest.to_string());
        self.pending.insert(computed.manifest.epoch, computed.manifest);
    }
}

async fn start_chain(
    config: &DevConfig,
    secret: &EvmSecret,
) -> anyhow::Result<(Option<EmbeddedChain>, String)> {
    if let Some(url) = &config.rpc_url {
        return Ok((None, url.clone()));
    }
    let chain = EmbeddedChain::start(EmbeddedChainSettings {
        directory: config.data_dir.join("chain"),
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        chain_id: CHAIN_ID,
        funded: vec![secret.address()],
    })
    .await?;
    let url = chain.url();
    Ok((Some(chain), url))
}

async fn read_latest(store: &fieldproof_runtime::store::Store) -> anyhow::Result<Option<LatestRoot>> {
    let Some(bytes) = store.get(object_name::LATEST).await? else { return Ok(None) };
    Ok(Some(
        canonical_json::from_bytes(&bytes)
            .with_context(|| format!("`{}` is damaged", object_name::LATEST))?,
    ))
}

/// The weights of all programs, added up.
fn contribution(manifest: &Manifest) -> String {
    match manifest.programs.as_slice() {
        [] => "0".to_owned(),
        [program] => program.weight.clone(),
        programs => {
            programs.iter().map(|p| format!("{} {}", p.program, p.weight)).collect::<Vec<_>>().join(", ")
        }
    }
}

/// Waits for an interrupt or a request to end.
async fn interrupted() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => Ok(interrupt?),
        _ = terminate.recv() => Ok(()),
    }
}

/// The commands that look further into what this run made.
fn next_commands(config: &DevConfig, epochs_final: u64, latest: Option<&LatestRoot>) -> Vec<String> {
    let program = std::env::args().next().unwrap_or_else(|| "fieldproof".to_owned());
    let store = config.data_dir.join("store").display().to_string();
    let provider = Keys { seed: config.network.seed }.provider(1).address();
    let mut commands = Vec::new();
    if let Some(last) = epochs_final.checked_sub(1) {
        commands.push(format!("{program} audit epoch {last} --store {store}"));
    }
    if latest.is_some() {
        commands.push(format!("{program} audit claim --provider {provider:#x} --store {store}"));
    }
    commands.push(go_on_command(&program, config));
    commands
}

/// The command that goes on: the same flags, without an end.
fn go_on_command(program: &str, config: &DevConfig) -> String {
    let mut command = program.to_owned();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--epochs" | "--output" | "--data-dir" => drop(arguments.next()),
            _ if ["--epochs=", "--output=", "--data-dir="].iter().any(|flag| argument.starts_with(flag)) => {}
            _ => command = format!("{command} {argument}"),
        }
    }
    format!("{command} --data-dir {}", config.data_dir.display())
}

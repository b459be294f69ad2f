//! Founding the development network: contracts, genesis, topics, control records.
//!
//! Every step is kept before the next one starts, so a run that was cut off anywhere goes on there.

use std::{
    fs::{File, TryLockError},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use alloy_primitives::{Address, U256};
use anyhow::{Context as _, bail, ensure};
use fieldproof_aggregator::kafka::{Appender, NewRecord, Topics, check_reachable, create_topics};
use fieldproof_proto::{
    canonical_json,
    control::{ControlBody, ControlRecord, Metric, MetricKind, PolicyBundle, Program},
    evidence::KIND_CONTROL,
    genesis::{EpochGrid, Genesis, GenesisFormat},
    ids::NetworkId,
    manifest::object_name,
};
use fieldproof_prover::chain::{Chain, DistributorTerms};
use fieldproof_runtime::store::{Created, Store};
use serde::{Deserialize, Serialize};

use super::{
    keys::{Keys, public},
    settings::{DevConfig, NetworkSettings},
};

/// The program that all devices are in.
pub const PROGRAM: &str = "energy";
/// The metric of the energy register.
pub const ENERGY_METRIC: u32 = 1;
/// The largest register: a hundred years of a gigawatt, in milliwatt-hours.
const ENERGY_MWH_MAX: i64 = 1_000_000_000_000_000_000;
/// How long before the first window the genesis is written: the control records must be in the log
/// by then to be in force from epoch 0 on.
const LEAD_MS: u64 = 4_000;
/// How many epochs the distributor is funded for.
const EPOCHS_FUNDED: u128 = 1_000_000;

/// A founded network.
#[derive(Debug, Clone)]
pub struct Network {
    /// The canonical genesis.
    pub genesis_bytes: Vec<u8>,
    /// The genesis.
    pub genesis: Genesis,
    /// The network.
    pub id: NetworkId,
    /// The topics of its log.
    pub topics: Topics,
    /// The contract that pays.
    pub distributor: Address,
}

/// The contracts of a network, kept before anything names them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deployment {
    chain_id: u64,
    token: Address,
    distributor: Address,
}

/// The settings that a data directory was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptSettings {
    network: NetworkSettings,
    /// The quota of a device follows from it.
    rate: u32,
    kafka: Option<String>,
    rpc_url: Option<String>,
}

/// The data directory of a run, held by one process at a time.
#[derive(Debug)]
pub struct DataDir {
    /// Small files of the development network itself.
    state: Store,
    /// Evidence, epochs, roots.
    pub store: Store,
    _lock: File,
}

impl DataDir {
    /// Opens or makes the directory, and checks that it was made with the same settings.
    pub async fn open(config: &DevConfig) -> anyhow::Result<Self> {
        let path = &config.data_dir;
        let state = Store::open(path).await.context("the data directory cannot be used")?;
        let lock = lock(path)?;
        let kept = KeptSettings {
            network: config.network.clone(),
            rate: config.fleet.rate,
            kafka: config.kafka.clone(),
            rpc_url: config.rpc_url.clone(),
        };
        let bytes = canonical_json::to_bytes(&kept)?;
        if let Created::Taken(there) = state.create("settings.json", bytes.clone()).await?
            && there != bytes
        {
            let there: KeptSettings = canonical_json::from_bytes(&there)
                .with_context(|| format!("`{}` is damaged", path.join("settings.json").display()))?;
            bail!(
                "the data directory `{}` was made with other settings; use the same ones, or another directory\n  \
                 then: {}\n  now:  {}",
                path.display(),
                String::from_utf8_lossy(&canonical_json::to_bytes(&there)?),
                String::from_utf8_lossy(&bytes),
            );
        }
        let store = Store::open(path.join("store")).await?;
        Ok(Self { state, store, _lock: lock })
    }

    async fn read<T: Serialize + serde::de::DeserializeOwned>(
        &self,
        name: &str,
    ) -> anyhow::Result<Option<T>> {
        let Some(bytes) = self.state.get(name).await? else { return Ok(None) };
        Ok(Some(canonical_json::from_bytes(&bytes).with_context(|| format!("`{name}` is damaged"))?))
    }
}

/// One process at a time: two on one directory would each be right and together confusing.
fn lock(path: &Path) -> anyhow::Result<File> {
    let path = path.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot open `{}`", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("another process holds `{}`", path.display()),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock `{}`", path.display()))
        }
    }
}

/// Founds the network, or finds it as it was founded.
pub async fn found(
    config: &DevConfig,
    data: &DataDir,
    chain: &Chain,
    bootstrap_servers: &str,
) -> anyhow::Result<Network> {
    let keys = Keys { seed: config.network.seed };
    let deployment = deploy(config, data, chain, &keys).await?;
    let genesis_bytes = match data.store.get(object_name::GENESIS).await? {
        Some(bytes) => bytes,
        None => {
            let bytes = genesis(config, &deployment, &keys)?.to_bytes()?;
            match data.store.create(object_name::GENESIS, bytes.clone()).await? {
                Created::New => bytes.into(),
                Created::Taken(there) => there,
            }
        }
    }
    .to_vec();
    let genesis = Genesis::from_bytes(&genesis_bytes)?;
    let id = Genesis::network_id(&genesis_bytes);
    let topics = match &config.kafka {
        None => Topics::default(),
        // A real Kafka may serve many networks.
        Some(_) => {
            let name = |topic: &str| format!("fieldproof-{}-{topic}", hex::encode(id.tag()));
            let topics = Topics::default();
            Topics {
                telemetry: name(&topics.telemetry),
                control: name(&topics.control),
                registry: name(&topics.registry),
                ..topics
            }
        }
    };
    let servers = bootstrap_servers.to_owned();
    tokio::task::spawn_blocking(move || check_reachable(&servers)).await??;
    create_topics(bootstrap_servers, &topics, genesis.partitions.get(), 1).await?;
    if data.state.get("control.json").await?.is_none() {
        let appender = Appender::connect(bootstrap_servers)?;
        for body in control_bodies(config, &deployment, &keys)? {
            let value = ControlRecord::sign(&id, body, &keys.operator())?.to_bytes()?;
            let record =
                NewRecord { topic: &topics.control, partition: 0, kind: KIND_CONTROL, value: &value };
            appender.append(&record).await?;
        }
        data.state.create("control.json", "{}").await?;
    }
    Ok(Network { genesis_bytes, genesis, id, topics, distributor: deployment.distributor })
}

/// The contracts: those that were deployed before, or new ones, funded.
async fn deploy(
    config: &DevConfig,
    data: &DataDir,
    chain: &Chain,
    keys: &Keys,
) -> anyhow::Result<Deployment> {
    if let Some(deployment) = data.read::<Deployment>("deployment.json").await? {
        ensure!(
            deployment.chain_id == chain.chain_id(),
            "the network is on chain `{}`, `{}` is chain `{}`",
            deployment.chain_id,
            chain.endpoint(),
            chain.chain_id()
        );
        let known = chain.distributor_terms(deployment.distributor).await;
        known.with_context(|| {
            format!(
                "the chain at `{}` does not know the contract `{}`; was it reset?",
                chain.endpoint(),
                deployment.distributor
            )
        })?;
        return Ok(deployment);
    }
    let prover = chain.sender().context("the chain client has no key")?;
    let token = chain.deploy_test_token().await?;
    let terms = DistributorTerms {
        token,
        attestors: vec![prover],
        threshold: 1,
        activation_delay_seconds: 0,
        guardian: keys.guardian().address(),
    };
    let distributor = chain.deploy_distributor(&terms).await?;
    let funds = U256::from(config.network.pool) * U256::from(EPOCHS_FUNDED);
    chain.mint(token, distributor, funds).await?;
    let deployment = Deployment { chain_id: chain.chain_id(), token, distributor };
    data.state.create("deployment.json", canonical_json::to_bytes(&deployment)?).await?;
    Ok(deployment)
}

fn genesis(config: &DevConfig, deployment: &Deployment, keys: &Keys) -> anyhow::Result<Genesis> {
    let network = &config.network;
    let start_ms = (clock_ms()? + LEAD_MS).next_multiple_of(1000);
    Ok(Genesis {
        format: GenesisFormat::V1,
        name: format!("dev-{}", network.seed),
        chain_id: deployment.chain_id,
        token: deployment.token,
        epochs: EpochGrid {
            start_ms,
            length_ms: network.epoch_ms,
            grace_ms: network.grace_ms,
            future_ms: network.future_ms,
        },
        partitions: network.partitions,
        operator: public(&keys.operator()),
    })
}

fn control_bodies(
    config: &DevConfig,
    deployment: &Deployment,
    keys: &Keys,
) -> anyhow::Result<Vec<ControlBody>> {
    // A slot holds the readings of an epoch; a device that was cut off may bring several at once.
    const SLOTS_AT_ONCE: u64 = 100;
    let readings = u64::from(config.fleet.rate) * config.network.epoch_ms.div_ceil(1000) * SLOTS_AT_ONCE;
    Ok(vec![
        ControlBody::Metric(Metric {
            id: ENERGY_METRIC,
            name: "energy_generated".to_owned(),
            unit: "mWh".to_owned(),
            scale: 0,
            metric_kind: MetricKind::Counter,
            minimum: 0,
            maximum: ENERGY_MWH_MAX,
        }),
        ControlBody::Program(Program {
            name: PROGRAM.to_owned(),
            admitter: public(&keys.admitter()),
            pool: config.network.pool,
            readings_per_device_max: u32::try_from(readings).context("`rate` times `epoch` is too large")?,
            devices_max: 1_000_000,
            policy: PolicyBundle {
                policy_toml: include_str!("../../../../aggregator/policies/energy/policy.toml").to_owned(),
                contribution_sql: include_str!("../../../../aggregator/policies/energy/contribution.sql")
                    .to_owned(),
            },
        }),
        ControlBody::Ingester { key: public(&keys.ingester()) },
        ControlBody::Distributor { address: deployment.distributor },
    ])
}

/// Milliseconds since 1970.
pub fn clock_ms() -> anyhow::Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    u64::try_from(since.as_millis()).context("the clock is beyond all years")
}

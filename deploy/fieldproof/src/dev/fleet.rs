//! The simulated devices: each replays a real solar day through the device SDK and the real gRPC.
//!
//! One cheats, one has a flaky link, one is never registered. Everything they do is counted, so that
//! the verdicts can be compared with what was sent.

use std::{
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use fieldproof_device::{Device, DeviceConfig, DeviceLimits, LinkFaults};
use fieldproof_proto::{
    ids::DeviceId,
    payload::{Column, Payload},
    receipt::Receipt,
    registration::{Registration, RegistrationSigners, sign_registration},
    signature::DeviceSecret,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    cheat::{CheatCounts, Cheater},
    keys::Keys,
    network::{ENERGY_METRIC, Network, PROGRAM, clock_ms},
    settings::DevConfig,
    solar::{SolarDay, SolarDays},
};

/// The device that cheats; its provider is the first.
const CHEATER: u32 = 0;
/// The device whose link loses every n-th receipt.
const FLAKY: u32 = 1;
const FLAKY_LOSES_EVERY: NonZeroU64 = NonZeroU64::new(3).expect("three is not zero");
/// How many devices start at the same time.
const STARTING_AT_ONCE: usize = 32;
/// How long the devices may take to have everything answered at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(30);

/// The devices, running.
pub struct Fleet {
    devices: Vec<(u32, Device)>,
    cheater: Arc<Cheater>,
    faults: LinkFaults,
    tasks: JoinSet<anyhow::Result<()>>,
    producing: CancellationToken,
    sending: CancellationToken,
    unregistered: u32,
}

/// What the fleet sent and what it was promised.
#[derive(Debug)]
pub struct Ledger {
    /// Receipts that the devices keep.
    pub receipts: Vec<Receipt>,
    /// Devices that never did anything wrong: theirs must all count, the flaky one's too.
    pub honest: Vec<DeviceId>,
    /// What the cheater did.
    pub cheats: CheatCounts,
    /// Batches sent twice by the flaky link.
    pub resent: u64,
    /// Batches sent by the device that is never registered.
    pub unregistered: u64,
}

/// How a device turns time into readings.
#[derive(Debug, Clone)]
pub struct Meter {
    day: SolarDay,
    start_ms: u64,
    solar_ms_per_epoch: u64,
    epoch_ms: u64,
    step_ms: u64,
}

impl Meter {
    /// The readings after `after_ms`, up to and with `until_ms`; none if no time of the grid is
    /// between them.
    pub fn readings(&self, after_ms: u64, until_ms: u64) -> Option<Payload> {
        let times_ms: Vec<u64> = (after_ms / self.step_ms + 1..=until_ms / self.step_ms)
            .map(|step| step * self.step_ms)
            .filter(|time_ms| *time_ms >= self.start_ms)
            .collect();
        let values = times_ms.iter().map(|time_ms| i64::try_from(self.register_mwh(*time_ms)).ok()).collect();
        (!times_ms.is_empty())
            .then(|| Payload { times_ms, columns: vec![Column { metric: ENERGY_METRIC, values }] })
    }

    /// The register at a time: the solar day runs faster than the clock, and starts at six.
    fn register_mwh(&self, time_ms: u64) -> u64 {
        const SUNRISE_MS: u64 = 6 * 3600 * 1000;
        let solar_ms = (time_ms - self.start_ms) * self.solar_ms_per_epoch / self.epoch_ms;
        self.day.register_mwh(SUNRISE_MS + solar_ms)
    }
}

impl Fleet {
    /// Registers the devices that are not registered yet, and starts all of them.
    pub async fn start(config: &DevConfig, network: &Network, endpoint: &str) -> anyhow::Result<Self> {
        let keys = Keys { seed: config.network.seed };
        let solar = SolarDays::load()?;
        let faults = LinkFaults::lose_every(FLAKY_LOSES_EVERY);
        let unregistered = config.network.devices - 1;
        let folder = |number: u32| config.data_dir.join("devices").join(number.to_string());
        let settings = |number: u32| DeviceConfig {
            endpoint: endpoint.to_owned(),
            network: network.id,
            secret: keys.device(number),
            spool: folder(number),
            registration: 1,
            ingester_key: Some(super::keys::public(&keys.ingester())),
            limits: DeviceLimits { backoff_max: Duration::from_secs(2), ..DeviceLimits::default() },
            link_faults: (number == FLAKY).then(|| faults.clone()),
        };
        let devices: Vec<(u32, Device)> = stream::iter(0..config.network.devices)
            .map(|number| start_device(number, settings(number), network, &keys, config, folder(number)))
            .buffered(STARTING_AT_ONCE)
            .try_collect()
            .await?;
        let meter = |number: u32| Meter {
            day: solar.day(u64::from(number) * 37 + config.network.seed).clone(),
            start_ms: network.genesis.epochs.start_ms,
            solar_ms_per_epoch: u64::from(config.fleet.solar_hours_per_epoch) * 3600 * 1000,
            epoch_ms: config.network.epoch_ms,
            step_ms: 1000 / u64::from(config.fleet.rate),
        };
        let producing = CancellationToken::new();
        let sending = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let pace = Pace::new(config);
        let cheater =
            Arc::new(Cheater::new(endpoint.to_owned(), network.id, keys.device(CHEATER), clock_ms()? / 1000));
        for (number, device) in devices.iter().filter(|(number, _)| *number != CHEATER) {
            tasks.spawn(run_device(device.clone(), sending.clone()));
            let phase = pace.phase(*number, config.network.devices);
            tasks.spawn(produce(device.clone(), meter(*number), pace, phase, producing.clone()));
        }
        tasks.spawn(cheat(cheater.clone(), meter(CHEATER), pace, producing.clone()));
        Ok(Self { devices, cheater, faults, tasks, producing, sending, unregistered })
    }

    /// Batches that have no answer yet.
    pub fn unanswered(&self) -> u64 {
        self.devices.iter().map(|(_, device)| device.unanswered()).sum()
    }

    /// Batches that have a receipt, in this run.
    pub fn acknowledged(&self) -> u64 {
        self.devices.iter().map(|(_, device)| device.counts().acknowledged).sum()
    }

    /// Waits until a device fails. Cancel-safe.
    pub async fn failed(&mut self) -> anyhow::Error {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => return error.context("a device failed"),
                Some(Err(error)) => return anyhow::Error::new(error).context("a device panicked"),
                None => std::future::pending().await,
            }
        }
    }

    /// Stops producing, waits until everything is answered, and says what was sent.
    pub async fn stop(mut self) -> anyhow::Result<Ledger> {
        self.producing.cancel();
        let flushed = async {
            for (_, device) in &self.devices {
                device.flush().await;
            }
        };
        if tokio::time::timeout(FLUSH_TIMEOUT, flushed).await.is_err() {
            bail!("{} batches have no answer after {} s", self.unanswered(), FLUSH_TIMEOUT.as_secs());
        }
        self.sending.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a device panicked")?.context("a device failed")?;
        }
        let mut receipts = self.cheater.receipts();
        let mut honest = Vec::new();
        let mut unregistered = 0;
        for (number, device) in &self.devices {
            let kept = device.receipts()?;
            receipts.extend(kept.into_iter().map(|stored| stored.receipt));
            match *number {
                CHEATER => {}
                number if number == self.unregistered => unregistered = device.counts().acknowledged,
                _ => honest.push(device.id()),
            }
        }
        Ok(Ledger {
            receipts,
            honest,
            cheats: self.cheater.counts(),
            resent: self.faults.batches_lost(),
            unregistered,
        })
    }
}

/// When batches are made.
#[derive(Debug, Clone, Copy)]
struct Pace {
    batch: Duration,
    epoch: Duration,
}

impl Pace {
    /// Five batches an epoch, so that the last one arrives well within the grace.
    fn new(config: &DevConfig) -> Self {
        let batch_ms = (config.network.epoch_ms / 5).clamp(200, 10_000);
        Self { batch: Duration::from_millis(batch_ms), epoch: Duration::from_millis(config.network.epoch_ms) }
    }

    /// Spreads the devices over the time between two batches.
    fn phase(&self, number: u32, devices: u32) -> Duration {
        self.batch * number / devices
    }
}

async fn start_device(
    number: u32,
    settings: DeviceConfig,
    network: &Network,
    keys: &Keys,
    config: &DevConfig,
    folder: PathBuf,
) -> anyhow::Result<(u32, Device)> {
    let secret = settings.secret.clone();
    let now_seconds = clock_ms()? / 1000;
    let device = tokio::task::spawn_blocking(move || Device::open(settings, now_seconds))
        .await?
        .with_context(|| format!("device `{number}` cannot start"))?;
    let marker = folder.join("registered");
    if number != config.network.devices - 1 && !marker.exists() {
        register(number, &device, &secret, network, keys, config.network.providers)
            .await
            .with_context(|| format!("device `{number}` cannot be registered"))?;
        keep_marker(&marker)?;
    }
    Ok((number, device))
}

async fn register(
    number: u32,
    device: &Device,
    secret: &DeviceSecret,
    network: &Network,
    keys: &Keys,
    providers: u32,
) -> anyhow::Result<()> {
    let provider = keys.provider(number % providers);
    let registration = Registration {
        public_key: secret.public_key(),
        counter: 1,
        provider: provider.address(),
        replaces: DeviceId::ZERO,
        program: PROGRAM.to_owned(),
        attributes: "{}".to_owned(),
    };
    let signers = RegistrationSigners { device: secret, provider: &provider, admitter: &keys.admitter() };
    let signed = sign_registration(&network.id, network.genesis.chain_id, &registration, &signers)?;
    device.register(signed).await?;
    Ok(())
}

/// Remembers that a device is registered. If this is lost, it registers again, which the log answers
/// with a refusal and nothing else.
fn keep_marker(path: &Path) -> anyhow::Result<()> {
    std::fs::write(path, b"").with_context(|| format!("cannot write `{}`", path.display()))
}

async fn run_device(device: Device, sending: CancellationToken) -> anyhow::Result<()> {
    Ok(device.run(sending).await?)
}

/// Makes a batch of readings every so often.
async fn produce(
    device: Device,
    meter: Meter,
    pace: Pace,
    phase: Duration,
    producing: CancellationToken,
) -> anyhow::Result<()> {
    let mut last_ms = clock_ms()?;
    let mut clock = tokio::time::interval_at(Instant::now() + phase, pace.batch);
    loop {
        tokio::select! {
            () = producing.cancelled() => return Ok(()),
            _ = clock.tick() => {}
        }
        let now_ms = clock_ms()?;
        let Some(payload) = meter.readings(last_ms, now_ms) else { continue };
        last_ms = now_ms;
        let device = device.clone();
        tokio::task::spawn_blocking(move || device.push(payload)).await??;
    }
}

/// The cheater sends as the others do, and once an epoch it cheats.
async fn cheat(
    cheater: Arc<Cheater>,
    meter: Meter,
    pace: Pace,
    producing: CancellationToken,
) -> anyhow::Result<()> {
    let mut last_ms = clock_ms()?;
    let mut next_cheat = Instant::now() + pace.epoch / 2;
    let mut clock = tokio::time::interval(pace.batch);
    loop {
        tokio::select! {
            () = producing.cancelled() => return Ok(()),
            _ = clock.tick() => {}
        }
        let now_ms = clock_ms()?;
        let Some(payload) = meter.readings(last_ms, now_ms) else { continue };
        last_ms = now_ms;
        cheater.send(&payload).await?;
        if Instant::now() >= next_cheat {
            cheater.cheat(&payload).await?;
            next_cheat += pace.epoch;
        }
    }
}

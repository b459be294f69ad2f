//! The settings of the development network: parsed, put together, and checked.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::cli::{DevArguments, Output};

/// The defaults: every setting, with what it means.
const DEFAULTS: &str = include_str!("../../dev.toml");

/// Settings that cannot be wrong.
#[derive(Debug, Clone)]
pub struct DevConfig {
    /// What the network is, kept in the data directory.
    pub network: NetworkSettings,
    /// What the devices do.
    pub fleet: FleetSettings,
    /// Where the state is kept.
    pub data_dir: PathBuf,
    /// Where ingest serves gRPC.
    pub listen: SocketAddr,
    /// End when this many epochs are final.
    pub epochs: Option<u64>,
    /// A real Kafka instead of the embedded one.
    pub kafka: Option<String>,
    /// A real chain instead of the embedded one.
    pub rpc_url: Option<String>,
    /// How to print.
    pub output: Output,
}

/// What must stay the same when a data directory is used again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSettings {
    /// How many providers are paid.
    pub providers: u32,
    /// How many devices there are, the one that is never registered included.
    pub devices: u32,
    /// Every key is derived from it.
    pub seed: u64,
    /// The window of an epoch.
    pub epoch_ms: u64,
    /// How long after the window readings may arrive.
    pub grace_ms: u64,
    /// How far a device's clock may be ahead.
    pub future_ms: u64,
    /// Partitions of the topic `telemetry`.
    pub partitions: NonZeroU32,
    /// What an epoch pays.
    #[serde(with = "fieldproof_proto::control::decimal")]
    pub pool: u128,
}

/// What the devices do; may differ from run to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetSettings {
    /// Readings a second of one device.
    pub rate: u32,
    /// Hours of the solar day in one epoch.
    pub solar_hours_per_epoch: u32,
}

/// A settings file: everything in it is optional.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    network: NetworkSettings,
    fleet: FleetSettings,
}

impl DevConfig {
    /// Puts defaults, file and flags together, and checks the result.
    pub fn new(arguments: DevArguments) -> anyhow::Result<Self> {
        let mut settings: toml::Table = DEFAULTS.parse().expect("the built-in settings are TOML");
        if let Some(path) = &arguments.config {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the settings `{}`", path.display()))?;
            let file: toml::Table =
                text.parse().with_context(|| format!("the settings `{}` are not TOML", path.display()))?;
            merge(&mut settings, file);
        }
        let origin =
            arguments.config.as_ref().map_or("the flags".to_owned(), |path| format!("`{}`", path.display()));
        let File { mut network, mut fleet } =
            settings.try_into().with_context(|| format!("the settings of {origin} are not valid"))?;
        if let Some(epoch) = arguments.epoch {
            network.epoch_ms = epoch.0;
            network.grace_ms = epoch.0 / 10 * 3;
            network.future_ms = epoch.0 / 2;
        }
        network.providers = arguments.providers.unwrap_or(network.providers);
        network.devices = arguments.devices.unwrap_or(network.devices);
        network.seed = arguments.seed.unwrap_or(network.seed);
        fleet.rate = arguments.rate.unwrap_or(fleet.rate);
        check(&network, &fleet)?;
        Ok(Self {
            network,
            fleet,
            data_dir: arguments.data_dir.map_or_else(fresh_data_dir, Ok)?,
            listen: SocketAddr::from(([127, 0, 0, 1], arguments.port)),
            epochs: arguments.epochs,
            kafka: arguments.kafka,
            rpc_url: arguments.rpc_url,
            output: arguments.output,
        })
    }
}

/// Values of `over` take the place of those of `base`, table by table; types are checked later.
fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => merge(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn check(network: &NetworkSettings, fleet: &FleetSettings) -> anyhow::Result<()> {
    const DEVICES_MAX: u32 = 100_000;
    const READINGS_PER_SECOND_MAX: u64 = 200_000;
    ensure!(
        (3..=DEVICES_MAX).contains(&network.devices),
        "`devices` is `{}`: it takes 3 to {DEVICES_MAX}, for one cheats, one has a flaky link and one is never registered",
        network.devices
    );
    ensure!(
        (2..network.devices).contains(&network.providers),
        "`providers` is `{}`: it takes 2 at least, and fewer than `devices`, which is `{}`",
        network.providers,
        network.devices
    );
    ensure!(
        (2_000..=86_400_000).contains(&network.epoch_ms),
        "`epoch` is `{}` ms: it takes 2 seconds to a day",
        network.epoch_ms
    );
    ensure!(
        network.grace_ms <= network.epoch_ms,
        "`grace_ms` is `{}`, longer than the epoch",
        network.grace_ms
    );
    ensure!(
        network.future_ms <= network.epoch_ms,
        "`future_ms` is `{}`, longer than the epoch",
        network.future_ms
    );
    ensure!(network.partitions.get() <= 256, "`partitions` is `{}`, more than 256", network.partitions);
    ensure!(
        (1..=1000).contains(&fleet.rate),
        "`rate` is `{}`: it takes 1 to 1000 readings a second a device",
        fleet.rate
    );
    ensure!(
        (1..=24).contains(&fleet.solar_hours_per_epoch),
        "`solar_hours_per_epoch` is `{}`: it takes 1 to 24",
        fleet.solar_hours_per_epoch
    );
    let readings = u64::from(fleet.rate) * u64::from(network.devices);
    if readings > READINGS_PER_SECOND_MAX {
        bail!(
            "`rate` times `devices` is `{readings}` readings a second, more than {READINGS_PER_SECOND_MAX}"
        );
    }
    Ok(())
}

/// A folder of its own for a run without `--data-dir`; it is kept, for the commands that look further.
fn fresh_data_dir() -> anyhow::Result<PathBuf> {
    let base = std::env::temp_dir();
    for number in 0..10_000_u32 {
        let path = base.join(format!("fieldproof-dev-{}-{number}", std::process::id()));
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot make the folder `{}`", path.display()));
            }
        }
    }
    bail!("`{}` is full of data directories of earlier runs", base.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> anyhow::Result<DevConfig> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), text)?;
        DevConfig::new(DevArguments {
            config: Some(file.path().to_owned()),
            data_dir: Some("unused".into()),
            ..DevArguments::default()
        })
    }

    #[test]
    fn the_shipped_settings_are_valid() {
        let config = config(DEFAULTS).unwrap();
        assert_eq!((config.network.providers, config.network.devices), (20, 200));
    }

    #[test]
    fn a_file_sets_what_it_names_and_nothing_else() {
        let config = config("[network]\ndevices = 50\n").unwrap();
        assert_eq!((config.network.providers, config.network.devices), (20, 50));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("[network]\ndevises = 5\n", "devises"),
            ("[network]\ndevices = \"many\"\n", "devices"),
            ("[fleet]\nrate = 0\n", "`rate` is `0`"),
            ("[network]\nproviders = 1\n", "`providers` is `1`"),
            ("[network]\npool = \"1e3\"\n", "1e3"),
            ("[nett]\n", "nett"),
            ("devices", "not TOML"),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", config(text).unwrap_err());
            assert!(error.contains(expected), "{text:?} gives: {error}");
        }
    }
}

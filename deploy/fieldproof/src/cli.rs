//! The command line.

use std::path::PathBuf;

use alloy_primitives::Address;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Device telemetry into reward claims that anyone can verify.
#[derive(Debug, Parser)]
#[command(name = "fieldproof", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole network on this machine: broker, ingest, aggregator, prover, chain and devices.
    Dev(DevArguments),
    /// Recompute what was committed, from the object store and the chain alone.
    ///
    /// Exit codes: 0 valid, 1 failure, 2 usage, 3 invalid, 4 data unavailable.
    #[command(subcommand)]
    Audit(AuditCommand),
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// `fieldproof dev`.
#[derive(Debug, Args, Default)]
pub struct DevArguments {
    /// End when N epochs are final, with 0 if every invariant held. Epochs that are final in the data
    /// directory already are among the N.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub epochs: Option<u64>,
    /// Keep the state here; the same command on it again goes on where it stopped. Default: a new
    /// folder among the system's temporary ones.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Length of an epoch, as `10s` or `500ms` or `2m`. Default: 10s.
    #[arg(long, value_name = "DURATION")]
    pub epoch: Option<Milliseconds>,
    /// Every key of the network is derived from this number. Default: 1.
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// Devices. Default: 200.
    #[arg(long, value_name = "N")]
    pub devices: Option<u32>,
    /// Providers. Default: 20.
    #[arg(long, value_name = "N")]
    pub providers: Option<u32>,
    /// Readings a second of one device. Default: 1.
    #[arg(long, value_name = "N")]
    pub rate: Option<u32>,
    /// Port of the gRPC service; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 7420)]
    pub port: u16,
    /// Use this Kafka instead of the embedded one.
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
    /// Use the chain behind this JSON-RPC endpoint, such as anvil's, instead of the embedded one.
    #[arg(long, value_name = "URL")]
    pub rpc_url: Option<String>,
    /// Settings in TOML; `deploy/fieldproof/dev.toml` has them all.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// `fieldproof audit`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Recompute an epoch: evidence digests, signatures, verdicts, policy, allocation, tree.
    Epoch {
        /// The epoch.
        epoch: u64,
        /// What to audit against.
        #[command(flatten)]
        source: AuditSource,
    },
    /// Check what a provider may claim, and from which epochs it comes.
    Claim {
        /// The provider's address.
        #[arg(long, value_name = "0x…")]
        provider: Address,
        /// What to audit against.
        #[command(flatten)]
        source: AuditSource,
    },
}

/// Where an audit reads.
#[derive(Debug, Args)]
pub struct AuditSource {
    /// The object store.
    #[arg(long, value_name = "DIR")]
    pub store: PathBuf,
    /// The chain. Without it the audit says that the chain was not checked.
    #[arg(long, value_name = "URL")]
    pub rpc_url: Option<String>,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// A duration in whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Milliseconds(pub u64);

impl std::str::FromStr for Milliseconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
        units
            .iter()
            .find_map(|(unit, factor)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(*factor))
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a duration such as `10s`, `500ms` or `2m`"))
    }
}

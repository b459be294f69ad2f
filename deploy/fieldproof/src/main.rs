//! Fieldproof, one binary: the development network and the auditor's tools.

mod audit_command;
mod cli;
mod dev;
mod embedded_kafka;

use std::process::ExitCode;

use clap::Parser as _;
use fieldproof_runtime::telemetry::Telemetry;

use cli::{Cli, Command};

/// What is logged unless `FIELDPROOF_LOG` says otherwise. The embedded broker logs every integer that
/// it reads, librdkafka calls the end of a partition an error, and the devices are simulated: what
/// ingest tells them is theirs.
const LOG_FILTER: &str = "warn,tansu=off,rdkafka::client=off,librdkafka=error,fieldproof_device=error";

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("fieldproof: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // Two providers of cryptography are linked, so rustls has no default of its own.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("rustls has its provider already");
    }
    let telemetry = Telemetry::start(LOG_FILTER)?;
    let code = match cli.command {
        Command::Dev(arguments) => dev::run(arguments).await,
        Command::Audit(command) => audit_command::run(command).await,
    };
    telemetry.shutdown()?;
    code
}

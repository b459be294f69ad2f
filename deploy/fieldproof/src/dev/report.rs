//! What the development network prints: lines for people, or one JSON object a line.

use std::{collections::BTreeMap, io::IsTerminal as _, io::Write as _};

use alloy_primitives::{Address, B256};
use fieldproof_proto::ids::NetworkId;
use serde::Serialize;

use crate::cli::Output;

/// One line.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Line {
    /// Everything is up.
    Listening(Listening),
    /// An epoch is final.
    Epoch(EpochLine),
    /// One of the checks at the end.
    Check {
        /// The invariants, as design and tests name them.
        invariant: &'static str,
        /// What was checked.
        what: &'static str,
        /// Whether it held.
        held: bool,
        /// The figures.
        detail: String,
    },
    /// The run is over.
    End(End),
}

/// Where everything listens.
#[derive(Debug, Serialize)]
pub struct Listening {
    /// The network.
    pub network: NetworkId,
    /// gRPC for devices.
    pub grpc: String,
    /// The Kafka protocol.
    pub kafka: String,
    /// JSON-RPC of the chain.
    pub rpc_url: String,
    /// The object store.
    pub store: String,
    /// The contract that pays.
    pub distributor: Address,
    /// The token it pays in.
    pub token: Address,
    /// Devices, the one that is never registered included.
    pub devices: u32,
    /// Providers.
    pub providers: u32,
    /// When epoch 0 begins, in milliseconds since 1970.
    pub first_epoch_ms: u64,
    /// Epochs that were final before this run.
    pub epochs_final: u64,
}

/// An epoch that is final.
#[derive(Debug, Serialize)]
pub struct EpochLine {
    /// The epoch.
    pub epoch: u64,
    /// Records of its slot, by verdict; C1: they add up to `records`.
    pub verdicts: BTreeMap<String, u64>,
    /// Records of its slot.
    pub records: u64,
    /// Readings in accepted records whose epoch was open.
    pub on_time: u64,
    /// Readings in accepted records whose epoch was cut.
    pub late: u64,
    /// What ingest refused since the line before, by reason; none of it is in the log.
    pub refused_at_ingest: BTreeMap<String, u64>,
    /// The sum of all weights.
    pub contribution: String,
    /// What the epoch paid, in the token's smallest unit.
    pub paid: String,
    /// The digest of its manifest.
    pub manifest: String,
    /// The root that pays it; none if nobody ever earned anything.
    pub root: Option<B256>,
    /// The transaction that posted the root.
    pub transaction: Option<B256>,
    /// Providers whose claim was paid now.
    pub claims: u64,
}

/// The end of a run.
#[derive(Debug, Serialize)]
pub struct End {
    /// Whether every check held.
    pub held: bool,
    /// Epochs that are final.
    pub epochs_final: u64,
    /// Commands to look further.
    pub next: Vec<String>,
}

/// Prints lines.
#[derive(Debug)]
pub struct Reporter {
    output: Output,
    progress: bool,
}

impl Reporter {
    /// Progress is for terminals only.
    pub fn new(output: Output) -> Self {
        Self { output, progress: output == Output::Text && std::io::stderr().is_terminal() }
    }

    /// Prints a line.
    pub fn line(&self, line: &Line) -> anyhow::Result<()> {
        self.clear_progress()?;
        let mut out = std::io::stdout().lock();
        match self.output {
            Output::Json => writeln!(out, "{}", serde_json::to_string(line)?)?,
            Output::Text => write!(out, "{}", text(line))?,
        }
        out.flush()?;
        Ok(())
    }

    /// Shows what is going on, on a terminal, in place.
    pub fn progress(&self, text: &str) -> anyhow::Result<()> {
        if self.progress {
            let mut out = std::io::stderr().lock();
            write!(out, "\r\x1b[2K{text}")?;
            out.flush()?;
        }
        Ok(())
    }

    fn clear_progress(&self) -> anyhow::Result<()> {
        self.progress("")
    }
}

fn text(line: &Line) -> String {
    match line {
        Line::Listening(listening) => listening_text(listening),
        Line::Epoch(epoch) => epoch_text(epoch),
        Line::Check { invariant, what, held, detail } => {
            let mark = if *held { "held" } else { "BROKEN" };
            format!("check  {mark:<6}  {invariant:<8} {what}: {detail}\n")
        }
        Line::End(end) => {
            let mut text = format!(
                "epochs final: {}; {}\n",
                end.epochs_final,
                if end.held { "every check held" } else { "NOT EVERY CHECK HELD" }
            );
            if !end.next.is_empty() {
                text.push_str("\nTo look further:\n");
                end.next.iter().for_each(|command| text.push_str(&format!("  {command}\n")));
            }
            text
        }
    }
}

fn listening_text(listening: &Listening) -> String {
    let rows = [
        ("network", listening.network.to_string()),
        ("devices (gRPC)", listening.grpc.clone()),
        ("kafka", listening.kafka.clone()),
        ("chain (JSON-RPC)", listening.rpc_url.clone()),
        ("distributor", listening.distributor.to_string()),
        ("token", listening.token.to_string()),
        ("object store", listening.store.clone()),
    ];
    let mut text = String::new();
    for (name, value) in rows {
        text.push_str(&format!("{name:<18}{value}\n"));
    }
    text.push_str(&format!(
        "{} devices of {} providers: one cheats, one has a flaky link, one is never registered\n\n",
        listening.devices, listening.providers
    ));
    text
}

fn epoch_text(epoch: &EpochLine) -> String {
    let accepted = epoch.verdicts.get("accepted").copied().unwrap_or_default();
    let mut parts = vec![format!("epoch {:>4}  accepted {accepted}", epoch.epoch)];
    let others = epoch.verdicts.iter().filter(|(verdict, _)| *verdict != "accepted");
    parts.extend(others.map(|(verdict, count)| format!("{} {count}", verdict.replace('_', " "))));
    let refused = epoch.refused_at_ingest.iter();
    parts.extend(
        refused.map(|(reason, count)| format!("refused at ingest, {} {count}", reason.replace('_', " "))),
    );
    parts.push(format!("readings {}", epoch.on_time + epoch.late));
    parts.push(format!("late {}", epoch.late));
    parts.push(format!("contribution {}", epoch.contribution));
    match (epoch.root, epoch.transaction) {
        (Some(root), Some(transaction)) => {
            parts.push(format!("root {}", short(&root)));
            parts.push(format!("tx {}", short(&transaction)));
            parts.push(format!("claims {}", epoch.claims));
        }
        _ => parts.push("nobody earned anything".to_owned()),
    }
    parts.join(" · ") + "\n"
}

fn short(hash: &B256) -> String {
    format!("{}…", &hash.to_string()[..10])
}

//! `fieldproof audit`: runs an audit and prints its report.

use std::process::ExitCode;

use fieldproof_audit::{Report, Verdict, audit_claim, audit_epoch};
use fieldproof_proto::canonical_json;
use fieldproof_runtime::store::Store;

use crate::cli::{AuditCommand, AuditSource, Output};

/// Runs the audit. The exit code is the verdict's.
pub async fn run(command: AuditCommand) -> anyhow::Result<ExitCode> {
    let source = match &command {
        AuditCommand::Epoch { source, .. } | AuditCommand::Claim { source, .. } => source,
    };
    let store = Store::open_existing(&source.store)?;
    let rpc_url = source.rpc_url.as_deref();
    let report = match &command {
        AuditCommand::Epoch { epoch, .. } => audit_epoch(&store, *epoch, rpc_url).await?,
        AuditCommand::Claim { provider, .. } => audit_claim(&store, *provider, rpc_url).await?,
    };
    print(&report, source)?;
    Ok(ExitCode::from(report.verdict.exit_code()))
}

fn print(report: &Report, source: &AuditSource) -> anyhow::Result<()> {
    if source.output == Output::Json {
        println!("{}", String::from_utf8(canonical_json::to_bytes(report)?)?);
        return Ok(());
    }
    println!("audit of {} {}", report.audit, report.subject);
    for check in &report.checks {
        println!("  {:<12} {:<14} {}", word(check.verdict), check.name, check.detail);
    }
    if source.rpc_url.is_none() {
        println!("  {:<12} {:<14} give --rpc-url to check what was posted", "not checked", "chain");
    }
    println!("{}", word(report.verdict));
    Ok(())
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "valid",
        Verdict::Unavailable => "unavailable",
        Verdict::Invalid => "INVALID",
    }
}

//! Starts the real components that tests talk to: Apache Kafka, anvil, and the tools around them.
//!
//! A fake agrees with the code that was written beside it; these do not know us. Every server
//! listens on 127.0.0.1 only, has a directory of its own, is waited for by a request that it
//! answers, and is gone when its handle is dropped or the test process ends, even by SIGKILL.
//!
//! Nothing here downloads anything: `bash .ci/install` brings what is needed, and a test whose
//! component is missing says so and is left out, unless [`REQUIRE`] is set.

mod anvil;
mod kafka;
mod supervised;
#[cfg(test)]
mod tests;

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

pub use anvil::Anvil;
pub use kafka::{Kafka, Topic};

/// The environment variable that, set to `1`, turns a missing component into a failure. CI sets it.
pub const REQUIRE: &str = "FIELDPROOF_REQUIRE_COMPONENTS";

/// Whether a component can be used on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// The program, script or directory that the component is.
    Present(PathBuf),
    /// Why it cannot be used, and what would change that.
    Missing(String),
}

/// The path of a component, or `None` after a line on standard error that names what is left out.
///
/// ```no_run
/// use fieldproof_components::{Kafka, require_or_skip};
///
/// fn a_test() -> anyhow::Result<()> {
///     let Some(_) = require_or_skip("kafka", Kafka::availability()) else {
///         return Ok(());
///     };
///     let kafka = Kafka::start()?;
///     println!("{}", kafka.bootstrap_servers());
///     Ok(())
/// }
/// ```
///
/// # Panics
///
/// If the component is missing and [`REQUIRE`] is `1`.
#[must_use]
pub fn require_or_skip(name: &str, availability: Availability) -> Option<PathBuf> {
    let required = env::var_os(REQUIRE).is_some_and(|value| value == "1");
    resolve(name, availability, required)
}

fn resolve(name: &str, availability: Availability, required: bool) -> Option<PathBuf> {
    match availability {
        Availability::Present(path) => Some(path),
        Availability::Missing(reason) if required => {
            panic!("{name} is required by {REQUIRE}=1: {reason}")
        }
        Availability::Missing(reason) => {
            // Not `eprintln!`: the test harness would hide what a passing test prints.
            writeln!(io::stderr(), "left out: {name}: {reason}").ok();
            None
        }
    }
}

/// Foundry's `cast`: the independent view of ABI encoding, hashes and the chain.
#[must_use]
pub fn cast() -> Availability {
    foundry("cast")
}

/// Foundry's `forge`.
#[must_use]
pub fn forge() -> Availability {
    foundry("forge")
}

/// Node.js.
#[must_use]
pub fn node() -> Availability {
    on_path("node", "install Node.js 20 or later")
}

/// A script of `prover/contracts`, by its path there, to be run with [`node`]: present only if
/// Node.js and the packages that scripts there import are.
#[must_use]
pub fn node_script(name: &str) -> Availability {
    if let missing @ Availability::Missing(_) = node() {
        return missing;
    }
    let contracts = contracts();
    if !contracts.join("node_modules").is_dir() {
        return Availability::Missing(format!(
            "`{}` has no packages: run `bash .ci/install`",
            contracts.display()
        ));
    }
    existing(contracts.join(name), "check the name of the script")
}

/// The Python of `.ci/requirements.txt`, with DuckDB and independent hashes and signatures.
#[must_use]
pub fn python() -> Availability {
    existing(cache().join("python/bin/python"), "run `bash .ci/install`")
}

/// The directory of the Solidity contracts, whose Node packages hold Foundry's programs.
#[must_use]
pub fn contracts() -> PathBuf {
    repository().join("prover/contracts")
}

/// The root of the clone whose tests are running.
///
/// Asked when it runs and not when it was compiled: clones that share a target directory may
/// run what another one has built.
#[must_use]
pub fn repository() -> PathBuf {
    let compiled_in = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let start = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| compiled_in.clone(), PathBuf::from);
    let is_root = |directory: &&Path| directory.join("benches/components/kafka/pom.xml").is_file();
    start
        .ancestors()
        .find(is_root)
        .or_else(|| compiled_in.ancestors().find(is_root))
        .map_or(compiled_in.clone(), Path::to_path_buf)
}

/// Where `.ci/install` puts what is too large for the clone.
fn cache() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cache")));
    base.unwrap_or_else(env::temp_dir).join("fieldproof")
}

/// A program of a package `@foundry-rs/NAME-SYSTEM-MACHINE`. The executable itself: the script
/// that the plain package offers starts a Node.js process in front of it, which would get our
/// signals.
fn foundry(name: &str) -> Availability {
    let system = match env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let machine = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let package = format!("node_modules/@foundry-rs/{name}-{system}-{machine}/bin/{name}");
    existing(contracts().join(package), "run `bash .ci/install`")
}

fn existing(path: PathBuf, remedy: &str) -> Availability {
    if path.is_file() {
        Availability::Present(path)
    } else {
        Availability::Missing(format!("no `{}`: {remedy}", path.display()))
    }
}

fn on_path(program: &str, remedy: &str) -> Availability {
    let answers = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if answers {
        Availability::Present(PathBuf::from(program))
    } else {
        Availability::Missing(format!("no `{program}` on PATH: {remedy}"))
    }
}

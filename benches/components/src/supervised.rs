//! A server process that cannot outlive the test process.
//!
//! The parent-death signal of Linux will not do: it fires when the *thread* that started the
//! child ends, and every test has its own. So a small shell (`supervise.sh`) stands between,
//! and reads a pipe that closes when we are gone.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const SUPERVISE: &str = include_str!("supervise.sh");
/// Between two looks at a server that is starting or ending.
const POLL: Duration = Duration::from_millis(20);
/// How long a server may take to end after SIGTERM before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// A killed process ends at once, unless the machine is in trouble.
const KILL_DEADLINE: Duration = Duration::from_secs(30);
/// How much of the end of a log goes into an error.
const LOG_BYTES_SHOWN: usize = 4096;

/// A running server. Stopped when dropped: asked first, then killed.
#[derive(Debug)]
pub(crate) struct Supervised {
    name: &'static str,
    shell: Child,
    control: ChildStdin,
    log: PathBuf,
}

/// How a server is to be started.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    pub name: &'static str,
    pub program: &'a OsStr,
    pub arguments: &'a [String],
    /// Its working directory and home. If the test process dies, it is removed.
    pub directory: &'a Path,
}

impl Supervised {
    /// Starts the server; it need not be ready when this returns. Both its outputs are
    /// appended to `NAME.log` in its directory.
    pub(crate) fn start(start: &Start<'_>) -> Result<Self> {
        let log = start.directory.join(format!("{}.log", start.name));
        let output = File::options().create(true).append(true).open(&log)?;
        let mut shell = Command::new("sh")
            .args(["-c", SUPERVISE, "supervise"])
            .arg(start.directory)
            .arg(start.program)
            .args(start.arguments)
            .current_dir(start.directory)
            .env("HOME", start.directory)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C is for the test process; the pipe tells the shell.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", start.name))?;
        let control = shell.stdin.take().context("the pipe was asked for")?;
        Ok(Self { name: start.name, shell, control, log })
    }

    /// Asks until there is an answer, at most until the deadline, and only while the server runs.
    pub(crate) fn wait_for<T>(
        &mut self,
        deadline: Duration,
        mut ask: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.shell.try_wait()? {
                bail!("{} ended while it started ({status}):\n{}", self.name, self.log_end());
            }
            match ask() {
                Ok(answer) => return Ok(answer),
                Err(error) if Instant::now() >= end => {
                    return Err(error.context(format!(
                        "{} was not ready within {deadline:?}:\n{}",
                        self.name,
                        self.log_end()
                    )));
                }
                Err(_) => thread::sleep(POLL),
            }
        }
    }

    /// SIGTERM, then SIGKILL if that does not end it in time. Returns when it has ended.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.signal("TERM");
        if self.ended_within(STOP_DEADLINE)? { Ok(()) } else { self.kill() }
    }

    /// SIGKILL: no farewell, as in a crash. Returns when it has ended.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.signal("KILL");
        if self.ended_within(KILL_DEADLINE)? {
            return Ok(());
        }
        bail!("{} does not end, not even by SIGKILL", self.name)
    }

    /// What the server has printed, from its start.
    pub(crate) fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Sends a signal. To a server that has ended this does nothing.
    pub(crate) fn signal(&mut self, signal: &str) {
        // A broken pipe says that it has ended, which the caller finds out by waiting.
        writeln!(self.control, "{signal}").ok();
    }

    fn ended_within(&mut self, deadline: Duration) -> Result<bool> {
        let end = Instant::now() + deadline;
        while self.shell.try_wait()?.is_none() {
            if Instant::now() >= end {
                return Ok(false);
            }
            thread::sleep(POLL);
        }
        Ok(true)
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let mut from = log.len().saturating_sub(LOG_BYTES_SHOWN);
        while !log.is_char_boundary(from) {
            from += 1;
        }
        log[from..].to_owned()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("{error:#}");
        }
    }
}

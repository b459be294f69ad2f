//! Running `fieldproof` and reading its lines.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long any single step may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The binary under test.
pub fn fieldproof(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fieldproof"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub fn run(arguments: &[&str]) -> Output {
    fieldproof(arguments).output().expect("the binary starts")
}

/// The exit code and what was printed, for messages.
pub fn told(output: &Output) -> String {
    format!(
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The JSON lines of a run.
pub fn lines(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("`{line}`: {error}")))
        .collect()
}

/// Lines of one kind.
pub fn of_kind<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

/// Insists that everybody was paid under every root. On a busy machine one root may pay two epochs;
/// then the first one's line has the claims.
pub fn assert_all_claimed(epochs: &[&Value], providers: u64) {
    for (number, epoch) in epochs.iter().enumerate() {
        let shared = number > 0 && epochs[number - 1]["root"] == epoch["root"];
        assert_eq!(epoch["claims"], if shared { 0 } else { providers }, "{epoch}");
    }
}

/// Runs a small network for `epochs` and insists that it ends well.
pub fn small_network(data_dir: &Path, epochs: &str, more: &[&str]) -> Vec<Value> {
    let data_dir = data_dir.to_str().unwrap();
    let mut arguments =
        vec!["dev", "--epochs", epochs, "--data-dir", data_dir, "--port", "0", "--output", "json"];
    arguments.extend(more);
    let output = run(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    lines(&output)
}

/// A run in the background; killed when dropped.
pub struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    /// Starts it with `--output json` among its arguments.
    pub fn start(arguments: &[&str]) -> Self {
        let mut child = fieldproof(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line of a kind.
    pub fn wait_for(&mut self, event: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else { panic!("no `{event}`: {}", self.stderr()) };
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["event"] == event {
                return line;
            }
        }
    }

    /// Kills it like a power cut, after `moment`.
    pub fn kill_after(mut self, moment: Duration) {
        let deadline = Instant::now() + moment;
        // What it prints is of no interest; its end before the moment is.
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            match self.lines.recv_timeout(left) {
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => break,
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// Asks it to end and gives its exit code.
    pub fn terminate(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        while self.lines.recv_timeout(PATIENCE).is_ok() {}
        self.child.wait().unwrap().code()
    }

    fn stderr(&mut self) -> String {
        self.child.kill().ok();
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut text).ok();
        }
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

//! A chain of its own per test: anvil, with an epoch of one slot, so that a block is final two
//! blocks later.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::supervised::{Start, Supervised};
use crate::{Availability, foundry};

const START_DEADLINE: Duration = Duration::from_secs(30);
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// A running anvil. Its accounts are those of the well-known test mnemonic.
#[derive(Debug)]
pub struct Anvil {
    url: String,
    address: String,
    // Before the directory: fields are dropped in order, and the server must be gone first.
    _server: Supervised,
    _directory: TempDir,
}

impl Anvil {
    /// The chain id that every one of them has.
    pub const CHAIN_ID: u64 = 31_337;

    /// Whether anvil is installed.
    #[must_use]
    pub fn availability() -> Availability {
        foundry("anvil")
    }

    /// Starts a chain that mines a block for each transaction; it answers when this returns.
    ///
    /// # Errors
    ///
    /// If anvil is missing, ends by itself or does not answer in time.
    pub fn start() -> Result<Self> {
        let program = match Self::availability() {
            Availability::Present(path) => path,
            Availability::Missing(reason) => bail!("{reason}"),
        };
        let directory = TempDir::with_prefix("fieldproof-anvil-")?;
        let chain_id = Self::CHAIN_ID.to_string();
        // Port 0 lets the system choose, so two of them can never meet; the log says which.
        let arguments = ["--host", "127.0.0.1", "--port", "0", "--chain-id", &chain_id]
            .into_iter()
            .chain(["--slots-in-an-epoch", "1"])
            .map(String::from)
            .collect::<Vec<_>>();
        let mut server = Supervised::start(&Start {
            name: "anvil",
            program: program.as_os_str(),
            arguments: &arguments,
            directory: directory.path(),
        })?;
        let log = directory.path().join("anvil.log");
        let address = server.wait_for(START_DEADLINE, || {
            let printed = fs::read_to_string(&log)?;
            let address = listening_address(&printed).context("anvil has not named its port")?;
            let answer = call(&address, "eth_chainId", &json!([]))?;
            if answer != json!(format!("{:#x}", Self::CHAIN_ID)) {
                bail!("the chain id is `{answer}`");
            }
            Ok(address)
        })?;
        Ok(Self { url: format!("http://{address}"), address, _server: server, _directory: directory })
    }

    /// The address of its JSON-RPC interface.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes one JSON-RPC call, such as `evm_mine`, and returns its result.
    ///
    /// # Errors
    ///
    /// If anvil does not answer or answers with an error.
    pub fn rpc(&self, method: &str, parameters: &Value) -> Result<Value> {
        call(&self.address, method, parameters)
    }
}

fn listening_address(printed: &str) -> Option<String> {
    let line = printed.lines().find_map(|line| line.strip_prefix("Listening on "))?;
    Some(line.trim().to_owned())
}

/// HTTP 1.0, so that the body ends where the connection does.
fn call(address: &str, method: &str, parameters: &Value) -> Result<Value> {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": parameters }).to_string();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    write!(
        stream,
        "POST / HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let (_, body) = response.split_once("\r\n\r\n").context("no end of the HTTP header")?;
    let mut answer: Value = serde_json::from_str(body).with_context(|| format!("no JSON in `{body}`"))?;
    if let Some(error) = answer.get("error") {
        bail!("`{method}` was refused: {error}");
    }
    Ok(answer["result"].take())
}

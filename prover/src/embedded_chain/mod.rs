//! An EVM chain inside this process, for the one-command development network and for tests.
//!
//! It speaks enough Ethereum JSON-RPC that alloy and foundry's `cast` work with it unchanged, and
//! the code that does so runs against anvil or a real node as it is. Every transaction it accepts
//! makes one block at once. It stores the transactions and nothing else, and replays them when it
//! starts: what it acknowledged survives a crash at any moment, what it refused leaves no trace.
//!
//! It is no production chain, and never pretends to be more than it is: one node, so there is no
//! consensus and nothing can be reorganised (`safe` and `finalized` are the latest block); no
//! mempool, so a nonce that is ahead is refused, not kept; no state but the latest; no
//! authentication, so it belongs on the loopback address.

mod chain;
mod evm;
mod log;
mod node;
mod queries;
mod rpc;
mod server;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use alloy_primitives::Address;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::log::Genesis;
pub use self::log::TransactionLogError;
use self::node::Node;
use self::server::Inbox;

/// How long open requests, and then the node's last one, may take once the chain is told to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// How an embedded chain is set up. Chain id and funded accounts are part of its genesis: a chain
/// that exists refuses to start with others.
#[derive(Debug, Clone)]
pub struct EmbeddedChainSettings {
    /// Where the chain is stored. Created if it does not exist.
    pub directory: PathBuf,
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// The EIP-155 chain id; development networks use 31337.
    pub chain_id: u64,
    /// The accounts that start with 10^6 ether each.
    pub funded: Vec<Address>,
}

/// Why an embedded chain cannot run.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedChainError {
    /// The stored transactions cannot be used.
    #[error(transparent)]
    Log(#[from] TransactionLogError),
    /// A stored transaction does not give the block it was acknowledged with: the log was written
    /// under other rules, that is by another version. Start with that version, or a new chain.
    #[error("the transaction at offset `{offset}` of the log cannot be replayed: {reason}")]
    Replay {
        /// Where in the log it is.
        offset: u64,
        /// What is different.
        reason: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// The address of the settings.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Serving ended by itself.
    #[error("cannot serve requests")]
    Serve(#[source] io::Error),
    /// A transaction or call runs longer than the deadline. What was acknowledged is durable.
    #[error("the chain did not stop within `{}` seconds", STOP_DEADLINE.as_secs())]
    StopDeadline,
}

/// A running chain. If it is dropped without [`EmbeddedChain::stop`], it ends on its own once the
/// open requests are answered; nothing acknowledged is lost either way.
#[derive(Debug)]
pub struct EmbeddedChain {
    address: SocketAddr,
    shutdown: DropGuard,
    server: JoinHandle<io::Result<()>>,
    node: JoinHandle<()>,
    inbox: mpsc::Sender<Inbox>,
}

impl EmbeddedChain {
    /// Replays the stored transactions, then listens.
    ///
    /// When this returns, the genesis is durable, and the chain has exactly the transactions that
    /// were durable before: every acknowledged one, and at most one that was being stored when the
    /// process died. A torn end of the log has been cut off.
    pub async fn start(settings: EmbeddedChainSettings) -> Result<Self, EmbeddedChainError> {
        let EmbeddedChainSettings { directory, address, chain_id, funded } = settings;
        let genesis = Genesis::new(chain_id, server::unix_seconds(), funded);
        let opened = tokio::task::spawn_blocking(move || Node::open(&directory, &genesis)).await;
        let node = opened.unwrap_or_else(|error| propagate(error))?;
        let listen = |source| EmbeddedChainError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let bound = listener.local_addr().map_err(listen)?;
        let (inbox, messages) = mpsc::channel(server::INBOX_MESSAGES_MAX);
        let shutdown = CancellationToken::new();
        let serve = server::serve(listener, inbox.clone(), shutdown.clone());
        tracing::info!(address = %bound, chain_id, "embedded chain listening");
        Ok(Self {
            address: bound,
            shutdown: shutdown.drop_guard(),
            server: tokio::spawn(serve),
            // For the life of the chain: executing transactions is work for a thread, and one
            // owner on one thread needs no lock around the state.
            node: tokio::task::spawn_blocking(move || server::run(node, messages)),
            inbox,
        })
    }

    /// The URL for clients on this machine, like `http://127.0.0.1:8545`.
    pub fn url(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        format!("http://{address}")
    }

    /// Stops accepting, answers the open requests and ends, within twice `STOP_DEADLINE`; requests
    /// still open after the first are cut off.
    ///
    /// When this returns `Ok`, the directory is free for the next start. Stopping makes nothing
    /// durable: everything acknowledged already is.
    pub async fn stop(self) -> Result<(), EmbeddedChainError> {
        let Self { shutdown, mut server, node, inbox, .. } = self;
        drop(shutdown);
        let served = match timeout(STOP_DEADLINE, &mut server).await {
            Ok(served) => served.unwrap_or_else(|error| propagate(error)),
            Err(_) => {
                tracing::warn!("requests to the embedded chain were still open and are cut off");
                server.abort();
                Ok(())
            }
        };
        let ended = timeout(STOP_DEADLINE, async {
            // An error means that the node has ended already, and joining it tells why.
            inbox.send(Inbox::Stop).await.ok();
            node.await.unwrap_or_else(|error| propagate(error));
        });
        ended.await.map_err(|_| EmbeddedChainError::StopDeadline)?;
        served.map_err(EmbeddedChainError::Serve)
    }
}

/// Continues a task's panic here. The tasks of a chain are only cancelled with the whole runtime.
fn propagate(error: JoinError) -> ! {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => panic!("a task of the embedded chain was cancelled: {error}"),
    }
}

//! The Kafka of the dev network: tansu, a broker in Rust, inside our own process.
//!
//! It exists so that `fieldproof` runs on a laptop with nothing installed; `--kafka` replaces it. Its log is
//! one SQLite file, in write-ahead mode with `synchronous = normal`: what it acknowledged outlives the death
//! of the process (`kill -9` included), but the last moments may not outlive a power cut. It is
//! one broker without replication, so it never stands behind anything but a dev network, and it is
//! no oracle for tests of Kafka's behaviour.
//!
//! We accept connections ourselves and route them with tansu's own services, in place of
//! `tansu_broker::broker::Broker`, because `Broker`
//! - installs signal handlers in `main`, and cannot be cancelled in any other way: its builder does not
//!   take a token, and `Broker::new` cannot be silent;
//! - binds its listener late, so that a busy port is found only after we reported that we run, and
//!   "any free port" would be a race;
//! - runs its retention at start and every ten minutes, and takes `retention.ms=-1` with
//!   `cleanup.policy=delete`, which is what a topic of evidence has, for "delete every record";
//! - writes to standard output unless told not to.
//!
//! tansu runs SQLite's calls on the thread that polls the future, and one fetch of 5 MiB took more than a
//! second (dev build, busy machine). So the broker has a thread and a runtime of its own and never blocks ours.
//!
//! Three answers of tansu differ from Kafka's in ways our roles would notice; [`semantics`] corrects
//! them. Never used: transactions, consumer groups, `ListOffsets` by time, compaction.

use std::{
    fs::{self, File, TryLockError},
    net::{Ipv4Addr, TcpListener as StdTcpListener},
    path::{Component, Path, PathBuf},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rama::{Layer as _, Service as _};
use tansu_broker::coordinator::group::administrator::Controller;
use tansu_service::{BytesFrameLayer, FrameRouteService, TcpBytesLayer, TcpContext, TcpContextLayer};
use tansu_storage::{BrokerRegistrationRequest, Storage as _, StorageContainer};
use tokio::{net::TcpListener, runtime, sync::oneshot, task::JoinSet, time::sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info, warn};
use url::Url;

use self::semantics::KafkaSemantics;

mod semantics;
#[cfg(test)]
mod tests;

/// The file of the log, inside the directory.
const LOG_FILE: &str = "kafka.sqlite";
/// Locked for as long as a broker runs: SQLite would let a second one in, and the two would race.
const LOCK_FILE: &str = "kafka.lock";
const CLUSTER_ID: &str = "fieldproof-dev";
const NODE_ID: i32 = 1;
/// A role keeps two or three connections; a process that opens more than this is broken.
const CONNECTIONS_MAX: usize = 256;
/// Two threads: SQLite's calls keep one busy, the other reads and writes sockets.
const WORKER_THREADS: usize = 2;
/// After a failed accept, which is what running out of file descriptors looks like.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the runtime waits for a call to SQLite that is under way.
const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(3);
/// How long [`EmbeddedKafka::stop`] waits for the thread.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// One embedded Kafka-compatible broker, its log in one SQLite file under `directory`.
///
/// Dropping it stops it as [`stop`](Self::stop) does, but does not wait.
#[derive(Debug)]
pub struct EmbeddedKafka {
    port: u16,
    stop: DropGuard,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl EmbeddedKafka {
    /// Starts it on 127.0.0.1:`port` (0: a free port) and returns once it answers.
    ///
    /// Creates the directory. Continues the log it finds there: every record that an earlier broker
    /// acknowledged is at its offset.
    pub async fn start(directory: &Path, port: u16) -> anyhow::Result<EmbeddedKafka> {
        fs::create_dir_all(directory).with_context(|| {
            format!("cannot create the directory `{}` of the embedded kafka", directory.display())
        })?;
        let directory = directory.canonicalize().with_context(|| {
            format!("cannot resolve the directory `{}` of the embedded kafka", directory.display())
        })?;
        let lock = lock(&directory)?;

        // Bound before anything else is started: a busy port is the most likely failure, and from here on a client
        // waits in the backlog in place of being refused.
        let listener = StdTcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| {
            format!("the embedded kafka cannot listen on 127.0.0.1:{port}; choose another port, or name a running kafka with `--kafka`")
        })?;
        listener.set_nonblocking(true).context("cannot make the embedded kafka's listener non-blocking")?;
        let port = listener.local_addr().context("cannot read the embedded kafka's own port")?.port();

        let broker = Broker {
            listener,
            advertised: Url::parse(&format!("tcp://127.0.0.1:{port}"))
                .context("cannot form the embedded kafka's address")?,
            storage: storage_url(&directory)?,
            file: directory.join(LOG_FILE),
            _lock: lock,
        };
        let stop = CancellationToken::new();
        let (ready_tx, ready) = oneshot::channel();
        let thread = {
            let stop = stop.clone();
            thread::Builder::new()
                .name("embedded-kafka".to_owned())
                .spawn(move || broker.run(ready_tx, stop))
                .context("cannot start the embedded kafka's thread")?
        };
        let kafka = EmbeddedKafka { port, stop: stop.drop_guard(), thread };
        if ready.await.is_ok() {
            info!(port, directory = %directory.display(), "embedded kafka started");
            return Ok(kafka);
        }
        // The sender was dropped: the thread has ended, or is about to, and its result says why.
        let reason = kafka.stop().await.err().unwrap_or_else(|| anyhow::anyhow!("it ended without an error"));
        Err(reason.context(format!("the embedded kafka did not start in `{}`", directory.display())))
    }

    /// What a client's `bootstrap.servers` takes.
    pub fn bootstrap_servers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Stops accepting, cuts every connection, closes the log, and waits for that at most five seconds.
    ///
    /// A record whose acknowledgement was cut off may be in the log or not, as with any broker that goes away.
    pub async fn stop(self) -> anyhow::Result<()> {
        let EmbeddedKafka { port: _, stop, thread } = self;
        stop.disarm().cancel();
        let joined = tokio::time::timeout(STOP_DEADLINE, tokio::task::spawn_blocking(move || thread.join()))
            .await
            .with_context(|| format!("the embedded kafka did not stop within {} s", STOP_DEADLINE.as_secs()))?
            .context("cannot wait for the embedded kafka's thread")?;
        match joined {
            Ok(result) => result,
            Err(_panic) => bail!("the embedded kafka's thread panicked"),
        }
    }
}

/// What moves into the broker's thread.
struct Broker {
    listener: StdTcpListener,
    advertised: Url,
    storage: Url,
    file: PathBuf,
    _lock: File,
}

impl Broker {
    fn run(self, ready: oneshot::Sender<()>, stop: CancellationToken) -> anyhow::Result<()> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(WORKER_THREADS)
            .thread_name("embedded-kafka")
            .enable_all()
            .build()
            .context("cannot start the embedded kafka's runtime")?;
        let served = runtime.block_on(self.serve(ready, stop));
        // Drops the storage's task and with it the connections to SQLite, so that the file is closed when we return.
        runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
        if let Err(reason) = &served {
            error!(reason = format!("{reason:#}"), "embedded kafka ended");
        }
        served
    }

    async fn open(&self) -> anyhow::Result<StorageContainer> {
        let storage = StorageContainer::builder()
            .cluster_id(CLUSTER_ID)
            .node_id(NODE_ID)
            .advertised_listener(self.advertised.clone())
            .storage(self.storage.clone())
            .silent(true)
            .build()
            .await
            .with_context(|| format!("cannot open the log `{}`", self.file.display()))?;
        index_headers(&self.file)
            .await
            .with_context(|| format!("cannot write the log `{}`", self.file.display()))?;
        storage
            .register_broker(BrokerRegistrationRequest {
                broker_id: NODE_ID,
                cluster_id: CLUSTER_ID.to_owned(),
                // Nothing reads it: there is one broker.
                incarnation_id: Default::default(),
                rack: None,
            })
            .await
            .with_context(|| format!("cannot write the log `{}`", self.file.display()))?;
        Ok(storage)
    }

    async fn serve(&self, ready: oneshot::Sender<()>, stop: CancellationToken) -> anyhow::Result<()> {
        let storage = self.open().await?;
        let service = (
            TcpContextLayer::new(TcpContext::default().cluster_id(Some(CLUSTER_ID.to_owned()))),
            TcpBytesLayer::<()>::default(),
            BytesFrameLayer::default(),
        )
            .into_layer(KafkaSemantics::new(routes(&storage)?));
        let listener = TcpListener::from_std(self.listener.try_clone().context("cannot share the listener")?)
            .context("cannot listen")?;

        let mut connections = JoinSet::new();
        if ready.send(()).is_err() {
            return Ok(()); // Whoever started us has gone away.
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) if connections.len() >= CONNECTIONS_MAX => {
                        warn!(%peer, connections_max = CONNECTIONS_MAX, "embedded kafka refused a connection");
                        drop(stream);
                    }
                    Ok((stream, _peer)) => {
                        let service = service.clone();
                        connections.spawn(async move {
                            // Without it every small answer waits for a delayed acknowledgement: 40 ms.
                            if let Err(reason) = stream.set_nodelay(true) {
                                warn!(%reason, "embedded kafka cannot set TCP_NODELAY");
                            }
                            // A client that goes away ends in an error too, so tansu's own log is all there is to say.
                            service.serve(rama::Context::default(), stream).await.is_ok()
                        });
                    }
                    Err(reason) => {
                        warn!(%reason, "embedded kafka cannot accept");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = connections.join_next() => {
                    if ended.is_err() {
                        warn!("embedded kafka: a connection panicked");
                    }
                    // One task owns the storage. If that panics, every later request fails, for good.
                    storage.ping().await.context("the storage of the embedded kafka has died")?;
                }
            }
        }
        connections.shutdown().await;
        Ok(())
    }
}

/// Every route tansu has: librdkafka asks for a group coordinator even when partitions are assigned by hand.
fn routes(storage: &StorageContainer) -> anyhow::Result<FrameRouteService<(), tansu_broker::Error>> {
    use tansu_broker::service::{auth, coordinator, storage as log};
    let builder = log::services(FrameRouteService::builder(), storage.clone())?;
    let builder = coordinator::services(builder, Controller::with_storage(storage.clone())?)?;
    Ok(auth::services(builder)?.build()?)
}

/// tansu reads a record's headers with a query of their own, in a table without an index: reading 1,300 records
/// out of 10,000 took 6 s.
async fn index_headers(file: &Path) -> anyhow::Result<()> {
    let log = libsql::Builder::new_local(file).build().await?.connect()?;
    log.execute("create index if not exists header_of_record on header (topition, offset_id)", ()).await?;
    Ok(())
}

fn lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join(LOCK_FILE);
    let file = File::options().create(true).truncate(false).write(true).open(&path).with_context(|| {
        format!("cannot write into the directory `{}` of the embedded kafka", directory.display())
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("another embedded kafka runs in `{}`", directory.display()),
        Err(TryLockError::Error(reason)) => {
            Err(reason).with_context(|| format!("cannot lock `{}`", path.display()))
        }
    }
}

/// The URL with which tansu opens [`LOG_FILE`] in `directory`, which is absolute.
///
/// tansu appends the URL's path to the current directory, without its leading slash and without decoding it. So we
/// climb to the root first, in a URL without a slash after the scheme: such a path keeps its spaces and its dots.
/// What even such a path does not keep (`?`, `#`, anything beyond ASCII) is refused in place of misplaced.
fn storage_url(directory: &Path) -> anyhow::Result<Url> {
    let current = std::env::current_dir().context("cannot read the current directory")?;
    let climb =
        "../".repeat(current.components().filter(|part| matches!(part, Component::Normal(_))).count());
    let file = directory.join(LOG_FILE);
    let wanted = format!("./{climb}{}", file.to_string_lossy().trim_start_matches('/'));
    let url = Url::parse(&format!("sqlite:{wanted}"))
        .with_context(|| format!("cannot form the address of the log `{}`", file.display()))?;
    if url.path() != wanted {
        bail!(
            "the embedded kafka cannot keep its log in `{}`: the path may hold ASCII letters, digits, spaces and most signs, not `?`, `#` or others",
            directory.display()
        );
    }
    Ok(url)
}

//! A real Apache Kafka, in KRaft mode, each node both broker and controller.
//!
//! The broker is ready when it names every node of *its* cluster: another test's broker on the
//! same port has another cluster id, so it is never mistaken for ours.

mod wire;

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::supervised::{Start, Supervised};
use crate::{Availability, cache, on_path, repository};

/// The one place that names the version is the Maven file.
const POM: &str = include_str!("../kafka/pom.xml");
const START_DEADLINE: Duration = Duration::from_secs(90);
/// Another process may take a port between our choice and the broker's start.
const START_ATTEMPTS: usize = 3;
/// Below what systems give to outgoing connections, so that none of those takes the port of a
/// broker that is down for a moment.
const PORTS: std::ops::Range<u16> = 15_000..32_000;
/// A broker of a few partitions that lives for seconds: little memory, the quick compiler only.
const JVM: [&str; 4] = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"];

/// A running cluster; all of it is gone when this is dropped.
#[derive(Debug)]
pub struct Kafka {
    bootstrap_servers: String,
    cluster: String,
    nodes: Vec<Node>,
}

/// What a topic is to be.
#[derive(Debug, Clone, Copy)]
pub struct Topic<'a> {
    /// Its name.
    pub name: &'a str,
    /// How many partitions it has.
    pub partitions: i32,
    /// On how many nodes each is.
    pub replication: i16,
    /// Its settings, such as `("message.timestamp.type", "LogAppendTime")`.
    pub settings: &'a [(&'a str, &'a str)],
}

#[derive(Debug)]
struct Node {
    port: u16,
    // Before the directory: fields are dropped in order, and the server must be gone first.
    server: Option<Supervised>,
    directory: TempDir,
}

impl Kafka {
    /// Whether Java and the broker's jars are installed.
    #[must_use]
    pub fn availability() -> Availability {
        let java = on_path("java", "install a Java 17 runtime");
        if matches!(java, Availability::Missing(_)) {
            return java;
        }
        let jars = jars();
        if jars.join(format!("kafka_2.13-{}.jar", version())).is_file() {
            Availability::Present(jars)
        } else {
            Availability::Missing(format!("no jars in `{}`: run `bash .ci/install`", jars.display()))
        }
    }

    /// Starts one node; it accepts clients when this returns. Topics are never created by use.
    ///
    /// # Errors
    ///
    /// If Kafka is missing, ends by itself or is not ready in time.
    pub fn start() -> Result<Self> {
        Self::start_with(1)
    }

    /// Starts a cluster of so many nodes, numbered from 0; an odd number survives the loss of
    /// fewer than half.
    ///
    /// # Errors
    ///
    /// As [`Kafka::start`].
    pub fn start_with(nodes: usize) -> Result<Self> {
        ensure!(nodes > 0, "a cluster has at least one node");
        if let Availability::Missing(reason) = Self::availability() {
            bail!("{reason}");
        }
        let mut attempt = 1;
        loop {
            let mut kafka = Self::prepare(nodes)?;
            match kafka.launch() {
                Ok(()) => return Ok(kafka),
                Err(error) if attempt < START_ATTEMPTS && format!("{error:#}").contains("BindException") => {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What a client is to be given: the addresses of all nodes. They stay the same over restarts.
    #[must_use]
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// Creates a topic; every partition has a leader when this returns.
    ///
    /// # Errors
    ///
    /// If the broker refuses.
    pub fn create_topic(&self, topic: Topic<'_>) -> Result<()> {
        let port = self.running().next().context("no node is running")?.port;
        wire::create_topic(port, &topic)?;
        let end = Instant::now() + START_DEADLINE;
        loop {
            let leaders = wire::metadata(port, Some(topic.name))?.partitions_with_leader;
            if leaders == usize::try_from(topic.partitions)? {
                return Ok(());
            }
            ensure!(Instant::now() < end, "topic `{}` has no leaders", topic.name);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops every node in good order. The data stays for [`Kafka::restart`].
    ///
    /// # Errors
    ///
    /// If a process does not end.
    pub fn stop(&mut self) -> Result<()> {
        self.ask_all_to_end();
        (0..self.nodes.len()).try_for_each(|node| self.stop_node(node))
    }

    /// Kills every node, as a power cut would but for what the system has cached.
    ///
    /// # Errors
    ///
    /// If a process does not end.
    pub fn kill(&mut self) -> Result<()> {
        (0..self.nodes.len()).try_for_each(|node| self.kill_node(node))
    }

    /// Starts every node that is down, with the data and the port it had.
    ///
    /// # Errors
    ///
    /// As [`Kafka::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.launch()
    }

    /// Stops one node in good order.
    ///
    /// # Errors
    ///
    /// If the process does not end.
    pub fn stop_node(&mut self, node: usize) -> Result<()> {
        self.nodes[node].server.take().map_or(Ok(()), |mut server| server.stop())
    }

    /// Kills one node.
    ///
    /// # Errors
    ///
    /// If the process does not end.
    pub fn kill_node(&mut self, node: usize) -> Result<()> {
        self.nodes[node].server.take().map_or(Ok(()), |mut server| server.kill())
    }

    /// Chooses the ports and formats the directories.
    fn prepare(nodes: usize) -> Result<Self> {
        let cluster = random_cluster_id();
        let ports = free_ports(2 * nodes)?;
        let (clients, controllers) = ports.split_at(nodes);
        let voters = addresses(controllers.iter().enumerate().map(|(id, port)| (Some(id), *port)));
        let bootstrap_servers = addresses(clients.iter().map(|port| (None, *port)));
        let nodes = clients
            .iter()
            .zip(controllers)
            .enumerate()
            .map(|(id, (client, controller))| {
                let directory = TempDir::with_prefix("fieldproof-kafka-")?;
                let text = properties(&Properties {
                    id,
                    client: *client,
                    controller: *controller,
                    voters: &voters,
                    nodes: nodes.min(3),
                    data: &directory.path().join("data"),
                });
                fs::write(directory.path().join("server.properties"), text)?;
                Ok(Node { port: *client, server: None, directory })
            })
            .collect::<Result<Vec<_>>>()?;
        format_directories(nodes.iter().map(|node| node.directory.path()), &cluster)?;
        Ok(Self { bootstrap_servers, cluster, nodes })
    }

    /// Starts what is down and waits until every node knows all the others.
    fn launch(&mut self) -> Result<()> {
        let count = self.nodes.len();
        for node in self.nodes.iter_mut().filter(|node| node.server.is_none()) {
            let directory = node.directory.path();
            let arguments =
                [jvm_arguments(), vec!["kafka.Kafka".into(), "server.properties".into()]].concat();
            node.server = Some(Supervised::start(&Start {
                name: "kafka",
                program: OsStr::new("java"),
                arguments: &arguments,
                directory,
            })?);
        }
        for node in &mut self.nodes {
            let (port, cluster) = (node.port, self.cluster.as_str());
            let Some(server) = node.server.as_mut() else { continue };
            server.wait_for(START_DEADLINE, || {
                let metadata = wire::metadata(port, None)?;
                ensure!(metadata.cluster == cluster, "another cluster answers on port {port}");
                ensure!(metadata.brokers == count, "{} of {count} nodes are up", metadata.brokers);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.server.is_some())
    }

    /// So that the nodes end at the same time and not one after another.
    fn ask_all_to_end(&mut self) {
        self.nodes
            .iter_mut()
            .filter_map(|node| node.server.as_mut())
            .for_each(|server| server.signal("TERM"));
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.ask_all_to_end();
    }
}

struct Properties<'a> {
    id: usize,
    client: u16,
    controller: u16,
    voters: &'a str,
    nodes: usize,
    data: &'a Path,
}

/// What a test needs to differ from Kafka's defaults, and no more.
///
/// The session of a killed broker must run out before the broker is let in again: 9 seconds by
/// default, 3 here.
fn properties(node: &Properties<'_>) -> String {
    let Properties { id, client, controller, voters, nodes, data } = node;
    let majority = nodes / 2 + 1;
    let data = data.display();
    format!(
        "process.roles=broker,controller
node.id={id}
listeners=PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.quorum.voters={voters}
log.dirs={data}
auto.create.topics.enable=false
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=1
offsets.topic.replication.factor={nodes}
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor={nodes}
transaction.state.log.min.isr={majority}
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor={nodes}
share.coordinator.state.topic.min.isr={majority}
"
    )
}

/// All at the same time: most of it is the start of a JVM.
fn format_directories<'a>(directories: impl Iterator<Item = &'a Path>, cluster: &str) -> Result<()> {
    let running = directories
        .map(|directory| {
            Command::new("java")
                .args(jvm_arguments())
                .args(["kafka.tools.StorageTool", "format", "--cluster-id", cluster])
                .args(["--config", "server.properties"])
                .current_dir(directory)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
        })
        .collect::<Vec<_>>();
    for formatter in running {
        let output = formatter?.wait_with_output()?;
        ensure!(
            output.status.success(),
            "cannot format Kafka's directory: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

fn jvm_arguments() -> Vec<String> {
    let logging = repository().join("benches/components/kafka/log4j2.properties");
    let mut arguments = JVM.map(String::from).to_vec();
    arguments.push(format!("-Dlog4j2.configurationFile={}", logging.display()));
    arguments.push("-cp".into());
    arguments.push(format!("{}/*", jars().display()));
    arguments
}

fn jars() -> PathBuf {
    cache().join(format!("kafka-{}", version()))
}

fn version() -> &'static str {
    POM.split_once("<kafka.version>")
        .and_then(|(_, rest)| rest.split_once("</kafka.version>"))
        .map(|(version, _)| version)
        .expect("pom.xml names Kafka's version")
}

fn addresses(nodes: impl Iterator<Item = (Option<usize>, u16)>) -> String {
    nodes
        .map(|(id, port)| match id {
            Some(id) => format!("{id}@127.0.0.1:{port}"),
            None => format!("127.0.0.1:{port}"),
        })
        .collect::<Vec<_>>()
        .join(",")
}

/// Holds all of them open until the last is found, so that they differ.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let mut held = Vec::new();
    for _ in 0..1_000 {
        if held.len() == count {
            break;
        }
        let width = u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(random() % width)?;
        held.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    }
    ensure!(held.len() == count, "no free ports between {} and {}", PORTS.start, PORTS.end);
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// 22 characters, as many as the 16 bytes that Kafka expects take in Base64. Every letter
/// stands for six bits; the last one has four bits to spare, which are zero.
fn random_cluster_id() -> String {
    let mut text = format!("{:016x}{:016x}", random(), random());
    text.truncate(21);
    text + "A"
}

/// The seed of a hash map is the only randomness in the standard library; enough for ports.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

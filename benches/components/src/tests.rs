use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::TempDir;

use crate::supervised::{Start, Supervised};
use crate::{Anvil, Availability, Kafka, Topic, cast, require_or_skip, resolve};

/// Set, it makes the test `holder` hold a server in the directory that it names.
const HOLDER: &str = "FIELDPROOF_COMPONENTS_HOLDER";

#[test]
fn kafka_creates_topics_and_survives_a_crash() -> Result<()> {
    let Some(_) = require_or_skip("kafka", Kafka::availability()) else { return Ok(()) };
    let begin = Instant::now();
    let mut kafka = Kafka::start()?;
    report("kafka, one node", begin);
    let address = kafka.bootstrap_servers().to_owned();
    let telemetry = Topic {
        name: "telemetry",
        partitions: 4,
        replication: 1,
        settings: &[("message.timestamp.type", "LogAppendTime")],
    };
    kafka.create_topic(telemetry)?;

    kafka.kill()?;
    assert!(kafka.create_topic(telemetry).is_err(), "a dead broker answers");
    let begin = Instant::now();
    kafka.restart()?;
    report("kafka, one node after a crash", begin);
    assert_eq!(kafka.bootstrap_servers(), address);
    let again = kafka.create_topic(telemetry).expect_err("the topic should have survived");
    assert!(again.to_string().contains("code 36"), "{again:#}");
    Ok(())
}

#[test]
fn three_nodes_replicate() -> Result<()> {
    let Some(_) = require_or_skip("kafka", Kafka::availability()) else { return Ok(()) };
    let begin = Instant::now();
    let mut kafka = Kafka::start_with(3)?;
    report("kafka, three nodes", begin);
    let topic =
        Topic { name: "telemetry", partitions: 2, replication: 3, settings: &[("min.insync.replicas", "2")] };
    kafka.create_topic(topic)?;
    kafka.kill_node(0)?;
    kafka.create_topic(Topic { name: "control", replication: 2, ..topic })
}

#[test]
fn anvil_answers_and_cast_agrees() -> Result<()> {
    let Some(_) = require_or_skip("anvil", Anvil::availability()) else { return Ok(()) };
    let begin = Instant::now();
    let anvil = Anvil::start()?;
    report("anvil", begin);
    anvil.rpc("anvil_mine", &json!(["0x3"]))?;
    assert_eq!(anvil.rpc("eth_blockNumber", &json!([]))?, json!("0x3"));
    let finalized = anvil.rpc("eth_getBlockByNumber", &json!(["finalized", false]))?;
    assert_eq!(finalized["number"], json!("0x1"));
    assert!(anvil.rpc("eth_nonsense", &json!([])).is_err());

    let Some(cast) = require_or_skip("cast", cast()) else { return Ok(()) };
    let output = Command::new(cast).args(["chain-id", "--rpc-url", anvil.url()]).output()?;
    assert_eq!(String::from_utf8(output.stdout)?.trim(), Anvil::CHAIN_ID.to_string());
    Ok(())
}

#[test]
fn a_server_ends_with_its_handle() -> Result<()> {
    let directory = TempDir::new()?;
    let (server, process) = start_server(directory.path())?;
    drop(server);
    assert!(!is_running(&process));
    Ok(())
}

#[test]
fn a_server_that_ignores_requests_to_end_is_killed() -> Result<()> {
    let directory = TempDir::new()?;
    let (mut server, process) = start_server(directory.path())?;
    server.signal("STOP");
    server.kill()?;
    assert!(!is_running(&process));
    Ok(())
}

/// The test process is killed, so that nothing of it runs: what is left must clean up by itself.
#[test]
fn a_server_ends_with_the_test_process() -> Result<()> {
    let parent = TempDir::new()?;
    let directory = parent.path().join("server");
    fs::create_dir(&directory)?;
    let mut holder = Command::new(env::current_exe()?)
        .args(["--exact", "tests::holder", "--nocapture"])
        .env(HOLDER, &directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let process = eventually(|| process_id(&directory));
    holder.kill()?;
    holder.wait()?;
    let process = process?;
    eventually(|| ensure_that(!is_running(&process), "the server is still running"))?;
    eventually(|| ensure_that(!directory.exists(), "the directory is still there"))
}

/// Not a test of its own: the process that [`a_server_ends_with_the_test_process`] kills.
#[test]
fn holder() -> Result<()> {
    let Some(directory) = env::var_os(HOLDER).map(PathBuf::from) else { return Ok(()) };
    let server = start_server(&directory)?;
    thread::sleep(Duration::from_secs(60));
    drop(server);
    Ok(())
}

#[test]
fn a_server_that_fails_says_why() -> Result<()> {
    let directory = TempDir::new()?;
    let arguments = ["-c".to_owned(), "echo no such luck; exit 3".to_owned()];
    let mut server = Supervised::start(&Start {
        name: "sh",
        program: "sh".as_ref(),
        arguments: &arguments,
        directory: directory.path(),
    })?;
    let error = server
        .wait_for(Duration::from_secs(30), || ensure_that(false, "not ready"))
        .expect_err("it has ended")
        .to_string();
    assert!(error.contains("exit status: 3") && error.contains("no such luck"), "{error}");
    Ok(())
}

#[test]
fn a_missing_component_is_left_out() {
    assert_eq!(resolve("nothing", Availability::Missing("it is not there".into()), false), None);
}

#[test]
#[should_panic(expected = "nothing is required by FIELDPROOF_REQUIRE_COMPONENTS=1: it is not there")]
fn a_missing_component_fails_where_it_is_required() {
    resolve("nothing", Availability::Missing("it is not there".into()), true);
}

fn start_server(directory: &Path) -> Result<(Supervised, String)> {
    let arguments = ["-c".to_owned(), "echo $$ > process.id; exec sleep 600".to_owned()];
    let mut server = Supervised::start(&Start {
        name: "sleep",
        program: "sh".as_ref(),
        arguments: &arguments,
        directory,
    })?;
    let process = server.wait_for(Duration::from_secs(30), || process_id(directory))?;
    Ok((server, process))
}

fn process_id(directory: &Path) -> Result<String> {
    let text = fs::read_to_string(directory.join("process.id"))?;
    Ok(text.strip_suffix('\n').context("half a line")?.to_owned())
}

fn is_running(process: &str) -> bool {
    Command::new("sh")
        .args(["-c", "kill -s 0 \"$1\" 2>/dev/null", "sh", process])
        .status()
        .is_ok_and(|status| status.success())
}

fn ensure_that(holds: bool, otherwise: &'static str) -> Result<()> {
    ensure!(holds, otherwise);
    Ok(())
}

fn eventually<T>(mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= end => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn report(what: &str, begin: Instant) {
    writeln!(io::stderr(), "{what}: ready after {:.1} s", begin.elapsed().as_secs_f64()).ok();
}

//! The same code on Apache Kafka and on anvil.

use fieldproof_components::{Anvil, Kafka, require_or_skip};

use crate::process::{assert_all_claimed, of_kind, run, small_network, told};

#[test]
fn a_network_on_apache_kafka_and_anvil_holds_every_invariant() {
    let kafka = require_or_skip("kafka", Kafka::availability());
    let anvil = require_or_skip("anvil", Anvil::availability());
    if kafka.is_none() || anvil.is_none() {
        return;
    }
    let (kafka, anvil) = (Kafka::start().unwrap(), Anvil::start().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let network = [
        "--epoch",
        "5s",
        "--devices",
        "24",
        "--providers",
        "5",
        "--kafka",
        kafka.bootstrap_servers(),
        "--rpc-url",
        anvil.url(),
    ];
    let lines = small_network(directory.path(), "2", &network);
    let epochs = of_kind(&lines, "epoch");
    assert_eq!(epochs.len(), 2);
    assert_all_claimed(&epochs, 5);
    let store = directory.path().join("store");
    let output = run(&["audit", "epoch", "1", "--store", store.to_str().unwrap(), "--rpc-url", anvil.url()]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));

    // It goes on where it stopped.
    let lines = small_network(directory.path(), "5", &network);
    assert_eq!(of_kind(&lines, "epoch").last().unwrap()["epoch"], 4, "{lines:#?}");
}

//! The main job, whole: readings to paid claims, with the cheat, the flaky link and the stranger.

use serde_json::Value;

use crate::process::{Running, assert_all_claimed, lines, of_kind, run, small_network, told};

/// The run that the documents promise: the defaults, three epochs.
#[test]
fn three_epochs_of_the_default_network_hold_every_invariant() {
    let directory = tempfile::tempdir().unwrap();
    let lines = small_network(directory.path(), "3", &[]);
    let epochs = of_kind(&lines, "epoch");
    assert_eq!(epochs.len(), 3, "{lines:#?}");
    assert_all_claimed(&epochs, 20);
    for (number, epoch) in epochs.iter().enumerate() {
        assert_eq!(epoch["epoch"], number);
        assert_eq!(epoch["paid"], "1000000000000000000000", "C3: {epoch}");
        let verdicts = epoch["verdicts"].as_object().unwrap();
        let sum: u64 = verdicts.values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(epoch["records"], sum, "C1: {epoch}");
        let allowed =
            ["accepted", "duplicate", "equivocation", "overlap", "registered", "tick", "unregistered"];
        assert!(verdicts.keys().all(|verdict| allowed.contains(&verdict.as_str())), "nothing else: {epoch}");
        assert_eq!(epoch["refused_at_ingest"], serde_json::json!({}), "{epoch}");
    }
    for cheat in ["duplicate", "equivocation", "overlap", "unregistered"] {
        assert!(epochs.iter().any(|epoch| epoch["verdicts"].get(cheat).is_some()), "{cheat} in {epochs:#?}");
    }
    let checks = of_kind(&lines, "check");
    assert!(checks.iter().all(|check| check["held"] == true), "{checks:#?}");
    for invariant in ["C1", "C2", "C3", "D1", "D2", "X2"] {
        assert!(checks.iter().any(|check| check["invariant"] == invariant), "{invariant} is checked");
    }
    let end = of_kind(&lines, "end")[0];
    assert_eq!((&end["held"], &end["epochs_final"]), (&Value::Bool(true), &serde_json::json!(3)));
}

/// What the cheating device sent again was not paid: its provider earns what its other devices do,
/// and the flag is in the explanation that the claim's audit prints.
#[test]
fn the_same_command_goes_on_and_a_flagged_device_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let small = ["--epoch", "3s", "--devices", "12", "--providers", "3"];
    let first = small_network(directory.path(), "1", &small);
    // The first run may have been further on than the epoch it was asked for when it ended.
    let second = small_network(directory.path(), "6", &small);
    assert_eq!(of_kind(&first, "epoch")[0]["epoch"], 0);
    let resumed = of_kind(&second, "epoch");
    assert_eq!(resumed.last().unwrap()["epoch"], 5, "{second:#?}");
    assert!(resumed.iter().all(|epoch| epoch["epoch"] != 0), "{second:#?}");
    assert_eq!(of_kind(&first, "listening")[0]["network"], of_kind(&second, "listening")[0]["network"]);

    let store = directory.path().join("store");
    let latest: Value =
        serde_json::from_slice(&std::fs::read(store.join("roots/latest.json")).unwrap()).unwrap();
    let root = latest["statement"]["root"].as_str().unwrap().trim_start_matches("0x");
    let claims = std::fs::read_dir(store.join("roots").join(root).join("claims")).unwrap();
    let mut flagged = 0;
    for claim in claims {
        let name = claim.unwrap().file_name().into_string().unwrap();
        let provider = name.trim_end_matches(".json");
        let store = store.to_str().unwrap();
        let output = run(&["audit", "claim", "--provider", provider, "--store", store, "--output", "json"]);
        assert_eq!(output.status.code(), Some(0), "{}", told(&output));
        let report = lines(&output).remove(0);
        let epochs = report["result"]["epochs"].as_array().unwrap();
        flagged += epochs.iter().filter(|epoch| epoch["explanation"]["flagged_devices"] == "1").count();
    }
    assert!(flagged > 0, "the provider of the device that contradicted itself sees it");
}

/// Without `--epochs` it runs until it is asked to end, and audits work on it while it runs.
#[test]
fn a_running_network_is_audited_against_its_chain_and_ends_when_asked() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().to_str().unwrap();
    let mut network = Running::start(&[
        "dev",
        "--epoch",
        "3s",
        "--devices",
        "12",
        "--providers",
        "3",
        "--data-dir",
        data_dir,
        "--port",
        "0",
        "--output",
        "json",
    ]);
    let listening = network.wait_for("listening");
    network.wait_for("epoch");
    let (store, rpc_url) = (listening["store"].as_str().unwrap(), listening["rpc_url"].as_str().unwrap());
    let output = run(&["audit", "epoch", "0", "--store", store, "--rpc-url", rpc_url, "--output", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let report = lines(&output).remove(0);
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["name"] == "chain" && check["verdict"] == "valid"), "{report:#}");
    assert_eq!(network.terminate(), Some(0));
}

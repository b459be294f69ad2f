//! What is published works without our code: OpenZeppelin's library, `cast`, DuckDB.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use fieldproof_components::{cast, node, node_script, python, require_or_skip};
use serde_json::Value;

use crate::process::small_network;

fn text(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The latest root's tree and one of its claims.
fn published(store: &Path) -> (PathBuf, Value) {
    let latest = json(&store.join("roots/latest.json"));
    let root = latest["statement"]["root"].as_str().unwrap().trim_start_matches("0x").to_owned();
    let folder = store.join("roots").join(root);
    let claim = std::fs::read_dir(folder.join("claims")).unwrap().next().unwrap().unwrap();
    (folder.join("tree.json"), json(&claim.path()))
}

#[test]
fn others_verify_what_we_publish() {
    let directory = tempfile::tempdir().unwrap();
    small_network(directory.path(), "1", &["--epoch", "3s", "--devices", "12", "--providers", "3"]);
    let store = directory.path().join("store");
    let (tree, claim) = published(&store);
    let field = |name: &str| claim[name].as_str().unwrap().to_owned();

    if let (Some(node), Some(script)) =
        (require_or_skip("node", node()), require_or_skip("oz-check", node_script("oz-check.mjs")))
    {
        let mut check = Command::new(node);
        check.arg(script).arg(&tree).args([field("account"), field("cumulative")]);
        let found: Value = serde_json::from_str(&text(&mut check)).unwrap();
        assert_eq!(found["root"], claim["root"]);
        assert_eq!(found["leaf"], claim["leaf"]);
        assert_eq!(found["proof"], claim["proof"]);
    }
    if let Some(cast) = require_or_skip("cast", cast()) {
        let encoded = text(Command::new(&cast).args([
            "abi-encode",
            "f(uint256,address,address,uint256)",
            &field("domain"),
            &field("account"),
            &field("token"),
            &field("cumulative"),
        ]));
        let once = text(Command::new(&cast).args(["keccak", &encoded]));
        assert_eq!(text(Command::new(&cast).args(["keccak", &once])), field("leaf"));
    }
    if let Some(python) = require_or_skip("duckdb", python()) {
        let evidence = store.join("evidence/1/0");
        let query = "import duckdb, sys\n\
            rows = duckdb.sql(f\"select count(*), min(\\\"offset\\\"), max(\\\"offset\\\"), sum(octet_length(value)) \
            from read_parquet('{sys.argv[1]}/*.parquet')\").fetchall()[0]\n\
            assert rows[0] == rows[2] - rows[1] + 1 and rows[1] == 0, rows\n\
            print(rows[0])";
        let rows: u64 = text(Command::new(python).args(["-c", query]).arg(&evidence)).parse().unwrap();
        assert!(rows > 0);
    }
}

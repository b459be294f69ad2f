//! What an operator gets wrong is named, at once.

use std::net::TcpListener;

use crate::process::{run, small_network, told};

/// Exit code and a part of the message.
#[track_caller]
fn refuses(arguments: &[&str], code: i32, expected: &str) {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(code), "{}", told(&output));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains(expected), "expected `{expected}` in: {message}");
}

#[test]
fn a_busy_port_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().to_str().unwrap();
    refuses(&["dev", "--port", &port, "--data-dir", data_dir, "--epochs", "1"], 1, &port);
}

#[test]
fn a_bad_directory_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    refuses(&["dev", "--port", "0", "--data-dir", path, "--epochs", "1"], 1, path);
    refuses(&["audit", "epoch", "0", "--store", "/does/not/exist"], 1, "/does/not/exist");
}

#[test]
fn settings_that_do_not_fit_are_named() {
    let cases = [
        (vec!["dev", "--devices", "2"], 1, "`devices` is `2`"),
        (vec!["dev", "--devices", "10", "--providers", "10"], 1, "`providers` is `10`"),
        (vec!["dev", "--rate", "0"], 1, "`rate` is `0`"),
        (vec!["dev", "--epoch", "fast"], 2, "`fast` is not a duration"),
        (vec!["dev", "--epochs", "0"], 2, "--epochs"),
        (vec!["dev", "--devises", "5"], 2, "--devises"),
        (vec!["dev", "--config", "/does/not/exist.toml"], 1, "/does/not/exist.toml"),
        (vec!["audit", "claim", "--provider", "bob", "--store", "."], 2, "bob"),
    ];
    for (arguments, code, expected) in cases {
        refuses(&arguments, code, expected);
    }
}

#[test]
fn an_unknown_setting_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("settings.toml");
    std::fs::write(&file, "[network]\ndevises = 5\n").unwrap();
    refuses(&["dev", "--config", file.to_str().unwrap()], 1, "devises");
}

#[test]
fn a_data_directory_of_another_network_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().to_str().unwrap();
    small_network(directory.path(), "1", &["--epoch", "2s", "--devices", "6", "--providers", "2"]);
    refuses(
        &[
            "dev",
            "--data-dir",
            data_dir,
            "--port",
            "0",
            "--epochs",
            "1",
            "--epoch",
            "2s",
            "--devices",
            "7",
            "--providers",
            "2",
        ],
        1,
        "made with other settings",
    );
}

#[test]
fn a_chain_or_a_log_that_is_not_there_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().to_str().unwrap();
    let url = "http://127.0.0.1:9";
    refuses(
        &["dev", "--data-dir", data_dir, "--port", "0", "--epochs", "1", "--rpc-url", url],
        1,
        "127.0.0.1:9",
    );
}

//! Audits see every flipped byte and every missing object.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fieldproof_audit::{Report, Verdict, audit_claim, audit_epoch};
use fieldproof_runtime::store::Store;
use serde_json::Value;

use crate::process::{lines, of_kind, run, small_network, told};

struct Audited {
    store: Store,
    provider: alloy_primitives::Address,
    /// The last epoch with a final root.
    last: u64,
}

impl Audited {
    fn open(root: &Path) -> Self {
        let latest: Value =
            serde_json::from_slice(&fs::read(root.join("roots/latest.json")).unwrap()).unwrap();
        let tree = latest["statement"]["root"].as_str().unwrap().trim_start_matches("0x");
        let tree: Value =
            serde_json::from_slice(&fs::read(root.join("roots").join(tree).join("tree.json")).unwrap())
                .unwrap();
        let provider = tree["values"][0]["value"][1].as_str().unwrap().parse().unwrap();
        let last = latest["statement"]["through_epoch"].as_u64().unwrap();
        Self { store: Store::open_existing(root).unwrap(), provider, last }
    }

    /// The worst verdict over all audits there are.
    async fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::Valid;
        for epoch in 0..=self.last {
            verdict = verdict.max(of(audit_epoch(&self.store, epoch, None).await.unwrap()));
        }
        verdict.max(of(audit_claim(&self.store, self.provider, None).await.unwrap()))
    }
}

fn of(report: Report) -> Verdict {
    report.verdict
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

/// Every object that the audits up to epoch `last` read. What the network was at when it ended is
/// left out: evidence behind the last cut, and what belongs to later epochs.
fn audited_files(root: &Path, last: u64) -> Vec<PathBuf> {
    let read = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let manifests: Vec<Value> =
        (0..=last).map(|epoch| read(root.join(format!("epochs/{epoch:020}/0.json")))).collect();
    let roots: Vec<String> = (0..=last)
        .map(|epoch| root.join(format!("statements/{epoch:020}/0/root.json")))
        .filter(|path| path.exists())
        .map(|path| read(path)["root"].as_str().unwrap().trim_start_matches("0x").to_owned())
        .collect();
    let belongs = |path: &Path| {
        let parts: Vec<&str> = path
            .strip_prefix(root)
            .unwrap()
            .components()
            .map(|part| part.as_os_str().to_str().unwrap())
            .collect();
        match parts[..] {
            ["epochs" | "statements", epoch, ..] => epoch.parse::<u64>().unwrap() <= last,
            ["objects", file] => {
                let digest = file.trim_end_matches(".json");
                manifests.iter().any(|manifest| manifest.to_string().contains(digest))
            }
            ["roots", folder, ..] if folder != "latest.json" => roots.iter().any(|root| root == folder),
            ["evidence", _, partition, file] => {
                let manifest = manifests.last().unwrap();
                let sections = manifest["partitions"].as_array().unwrap();
                let end = match sections
                    .iter()
                    .find(|section| section["partition"].as_u64() == partition.parse().ok())
                {
                    Some(section) => {
                        section["segments"].as_array().unwrap().last().unwrap()["next_offset"].as_u64()
                    }
                    None => manifest["control"]["head"]["next_offset"].as_u64(),
                };
                file.trim_end_matches(".parquet").parse::<u64>().unwrap() < end.unwrap()
            }
            _ => true,
        }
    };
    files(root).into_iter().filter(|path| belongs(path)).collect()
}

#[tokio::test]
async fn every_flipped_byte_is_invalid_and_every_missing_object_unavailable() {
    let directory = tempfile::tempdir().unwrap();
    small_network(directory.path(), "2", &["--epoch", "2s", "--devices", "6", "--providers", "2"]);
    let root = directory.path().join("store");
    let audited = Audited::open(&root);
    assert_eq!(audited.verdict().await, Verdict::Valid);
    let files = audited_files(&root, audited.last);
    assert!(files.len() > 20, "{files:#?}");
    for (number, path) in files.iter().enumerate() {
        let whole = fs::read(path).unwrap();
        // Another place in every file: over all files, all parts of the formats are hit.
        let place = (number * 7919) % whole.len();
        let mut damaged = whole.clone();
        damaged[place] ^= 1 << (number % 8);
        fs::write(path, &damaged).unwrap();
        assert_eq!(audited.verdict().await, Verdict::Invalid, "byte {place} of {}", path.display());
        fs::remove_file(path).unwrap();
        assert_eq!(audited.verdict().await, Verdict::Unavailable, "without {}", path.display());
        fs::write(path, &whole).unwrap();
    }
    assert_eq!(audited.verdict().await, Verdict::Valid);
}

/// Exit codes, and two audits of one epoch from two checkouts.
#[test]
fn reports_are_byte_identical_and_exit_codes_mean_something() {
    let directory = tempfile::tempdir().unwrap();
    let printed =
        small_network(directory.path(), "1", &["--epoch", "2s", "--devices", "6", "--providers", "2"]);
    let store = directory.path().join("store");
    let copy = directory.path().join("somewhere").join("else");
    for file in files(&store) {
        let to = copy.join(file.strip_prefix(&store).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&file, to).unwrap();
    }
    let audit =
        |store: &Path| run(&["audit", "epoch", "0", "--store", store.to_str().unwrap(), "--output", "json"]);
    let (one, other) = (audit(&store), audit(&copy));
    assert_eq!(one.status.code(), Some(0), "{}", told(&one));
    assert_eq!(one.stdout, other.stdout);
    let report = lines(&one).remove(0);
    assert_eq!(report["result"]["manifest"], of_kind(&printed, "epoch")[0]["manifest"]);

    let manifest = copy.join(format!("epochs/{:020}/0.json", 0));
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"late\":0", "\"late\":1")).unwrap();
    let output = audit(&copy);
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    fs::remove_file(&manifest).unwrap();
    let output = audit(&copy);
    assert_eq!(output.status.code(), Some(4), "{}", told(&output));
    assert_eq!(run(&["audit", "epoch"]).status.code(), Some(2));
}

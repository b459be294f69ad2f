//! Sections 9 to 15: control, evidence, epochs, allocation, objects, rewards.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, U256};
use fieldproof_proto::{
    allocation::allocate,
    canonical_json,
    control::{ControlBody, ControlRecord, ControlState},
    digest::{context, digest, tree_leaf},
    evidence::{Record, SegmentName, evidence_root, segment_digest},
    evm::{EvmSecret, RootAttestation, attestation_digest, verify_evm},
    genesis::EpochGrid,
    manifest::{manifest_digest, object_digest, object_name},
    reward_tree::{LeafContext, RewardTree, TreeDump, domain_word, leaf_hash, verify_proof},
};
use serde_json::Value;

use crate::{VECTORS, accept, array, bytes, cases, list, parsed, text};

#[test]
fn control_records() {
    let control = &VECTORS["control"];
    let (network, operator) = (parsed(control, "network"), parsed(control, "operator"));
    let secret = ed25519_dalek::SigningKey::from_bytes(&array(control, "secret"));
    for case in cases("/control/cases") {
        let bytes = text(case, "text").as_bytes();
        let record = ControlRecord::verify(&network, &operator, bytes);
        assert_eq!(record.is_ok(), accept(case), "{case}: {record:?}");
        let Ok(record) = record else { continue };
        assert_eq!(record.to_bytes().unwrap(), bytes);
        let body = canonical_json::to_bytes(&record.body).unwrap();
        assert_eq!(digest(context::CONTROL, &[&network.0, &body]), parsed(case, "digest"));
        assert_eq!(ControlRecord::sign(&network, record.body.clone(), &secret).unwrap(), record);
    }
}

#[test]
fn control_states() {
    for case in cases("/control_states") {
        let mut state = ControlState::default();
        for body in case["bodies"].as_array().unwrap() {
            let body: ControlBody = canonical_json::from_bytes(body.as_str().unwrap().as_bytes()).unwrap();
            state.apply(&body);
        }
        assert_eq!(canonical_json::to_bytes(&state).unwrap(), text(case, "text").as_bytes());
        assert_eq!(state.digest().unwrap(), parsed(case, "digest"));
    }
}

#[test]
fn evidence_c2() {
    let optional = |value: &Value| value.as_str().map(|text| hex::decode(text).unwrap());
    let mut leaves = Vec::new();
    for case in cases("/evidence/records") {
        let record = Record {
            offset: parsed(case, "offset"),
            append_ms: parsed(case, "append_ms"),
            key: optional(&case["key"]),
            headers: case["headers"]
                .as_array()
                .unwrap()
                .iter()
                .map(|header| (header[0].as_str().unwrap().to_owned(), optional(&header[1])))
                .collect(),
            value: optional(&case["value"]),
        };
        assert_eq!(hex::encode(record.canonical_bytes()), text(case, "hex"));
        leaves.push(tree_leaf(&record.canonical_bytes()));
        assert_eq!(*leaves.last().unwrap(), parsed(case, "leaf"));
    }
    let mut digests = Vec::new();
    for case in cases("/evidence/segments") {
        let name: SegmentName = canonical_json::from_bytes(text(case, "name").as_bytes()).unwrap();
        let count = usize::try_from(case["records"].as_u64().unwrap()).unwrap();
        assert_eq!(segment_digest(&name, &leaves[..count]), parsed(case, "digest"));
        assert_eq!(
            object_name::segment(name.generation, name.partition, name.first_offset),
            text(case, "object")
        );
        digests.push(parsed(case, "digest"));
    }
    for case in cases("/evidence/roots") {
        let count = usize::try_from(case["segments"].as_u64().unwrap()).unwrap();
        assert_eq!(evidence_root(&digests[..count]), parsed(case, "root"));
    }
}

#[test]
fn epochs_r1() {
    for case in cases("/epochs") {
        let grid: EpochGrid = serde_json::from_value(case["grid"].clone()).unwrap();
        for row in list(&case["slot_after"]) {
            let slot = grid.slot_after(row[0].as_u64().unwrap(), row[1].as_i64().unwrap());
            assert_eq!(Some(slot), row[2].as_u64(), "{grid:?} {row}");
        }
        for row in list(&case["epoch_of"]) {
            assert_eq!(grid.epoch_of(row[0].as_u64().unwrap()), row[1].as_u64(), "{grid:?} {row}");
        }
        for row in list(&case["first_slot_for"]) {
            assert_eq!(
                Some(grid.first_slot_for(row[0].as_u64().unwrap())),
                row[1].as_u64(),
                "{grid:?} {row}"
            );
        }
    }
}

#[test]
fn allocations_c3() {
    let amounts = |value: &Value| -> BTreeMap<Address, u128> {
        let amount = |amount: &Value| amount.as_str().unwrap().parse().unwrap();
        value.as_object().unwrap().iter().map(|(key, value)| (key.parse().unwrap(), amount(value))).collect()
    };
    for case in cases("/allocations") {
        let rewards = allocate(parsed(case, "pool"), &amounts(&case["weights"]));
        match &case["rewards"] {
            Value::Null => assert!(rewards.is_err(), "{case}"),
            expected => assert_eq!(rewards.unwrap(), amounts(expected)),
        }
    }
}

#[test]
fn objects() {
    for case in cases("/objects") {
        let bytes = text(case, "text").as_bytes();
        assert_eq!(object_digest(bytes), parsed(case, "object"));
        assert_eq!(manifest_digest(bytes), parsed(case, "manifest"));
        assert_eq!(
            canonical_json::to_bytes(&canonical_json::from_bytes::<Value>(bytes).unwrap()).unwrap(),
            bytes
        );
    }
}

#[test]
fn reward_trees_p1() {
    for case in cases("/reward_trees") {
        let domain = domain_word(case["chain_id"].as_u64().unwrap(), parsed(case, "distributor"));
        assert_eq!(domain, parsed::<B256>(case, "domain"));
        let context = LeafContext { domain, token: parsed(case, "token") };
        let dump: TreeDump = serde_json::from_value(case["dump"].clone()).unwrap();
        let leaves = list(&case["leaves"]);
        let cumulative =
            leaves.iter().map(|leaf| (parsed(leaf, "account"), parsed(leaf, "cumulative"))).collect();
        let tree = RewardTree::new(context, &cumulative).unwrap();
        assert_eq!(tree.root(), parsed::<B256>(case, "root"));
        assert_eq!(tree.dump(), dump);
        assert_eq!(serde_json::to_value(tree.dump()).unwrap(), case["dump"]);
        assert_eq!(RewardTree::from_dump(context, &dump).unwrap(), tree);
        for leaf in leaves {
            let (amount, path) = tree.proof(parsed(leaf, "account")).unwrap();
            let hash = leaf_hash(&context, parsed(leaf, "account"), amount);
            let expected: Vec<B256> = serde_json::from_value(leaf["proof"].clone()).unwrap();
            assert_eq!((amount, hash, &path), (parsed(leaf, "cumulative"), parsed(leaf, "leaf"), &expected));
            assert!(verify_proof(&tree.root(), &hash, &path));
        }
    }
}

#[test]
fn attestations() {
    for case in cases("/attestations") {
        let attestation = RootAttestation {
            throughEpoch: parsed(case, "through_epoch"),
            revision: parsed(case, "revision"),
            root: parsed(case, "root"),
            prevRoot: parsed(case, "previous_root"),
            manifest: parsed(case, "manifest"),
            leafCount: parsed(case, "leaf_count"),
            token: parsed(case, "token"),
            total: U256::from(parsed::<u128>(case, "total")),
        };
        let digest =
            attestation_digest(case["chain_id"].as_u64().unwrap(), parsed(case, "contract"), &attestation);
        assert_eq!(digest, parsed::<B256>(case, "digest"));
        let secret = EvmSecret::from_bytes(&array(case, "secret")).unwrap();
        assert_eq!(secret.sign(&digest)[..], bytes(case, "signature"));
        verify_evm(parsed(case, "signer"), &digest, &bytes(case, "signature")).unwrap();
    }
}

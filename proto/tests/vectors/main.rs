//! Rust against `testdata/vectors.json`, which `testdata/vectors.py` computes without this crate.
#![allow(clippy::unwrap_used)]

mod ledger;

use std::{fmt::Debug, num::NonZeroU32, str::FromStr, sync::LazyLock};

use alloy_primitives::{Address, B256};
use fieldproof_proto::{
    batch::{BatchHeader, Place, WellFormedBatch, batch_digest},
    canonical_json,
    digest::{self, context, digest},
    evm::{EvmSecret, registration_digest, verify_evm},
    genesis::Genesis,
    ids::{DeviceId, Digest, NetworkId, OperatorKey},
    payload::{Column, Payload},
    receipt::{Receipt, Rejection},
    registration::{
        Registration, RegistrationSigners, sign_registration, verify_admitter, verify_registration,
    },
    signature::{Algorithm, DeviceSecret, PublicKey, verify_operator},
    v1::{SignedBatch, SignedRegistration},
    wire::decode_envelope,
};
use serde_json::Value;

static VECTORS: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../testdata/vectors.json")).unwrap());

/// The cases of a section, of which there is at least one.
fn cases(section: &str) -> &'static [Value] {
    list(VECTORS.pointer(section).unwrap_or_else(|| panic!("no section `{section}`")))
}

fn list(value: &Value) -> &[Value] {
    let items = value.as_array().unwrap();
    assert!(!items.is_empty());
    items
}

fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field].as_str().unwrap_or_else(|| panic!("no text `{field}` in {case}"))
}

fn bytes(case: &Value, field: &str) -> Vec<u8> {
    hex::decode(text(case, field)).unwrap()
}

fn array<const N: usize>(case: &Value, field: &str) -> [u8; N] {
    bytes(case, field).try_into().unwrap()
}

fn parsed<T: FromStr<Err: Debug>>(case: &Value, field: &str) -> T {
    text(case, field).parse().unwrap()
}

fn accept(case: &Value) -> bool {
    case["accept"].as_bool().unwrap()
}

fn network() -> NetworkId {
    parsed(&VECTORS, "network")
}

fn chain_id() -> u64 {
    VECTORS["chain_id"].as_u64().unwrap()
}

fn public_key(case: &Value) -> PublicKey {
    let code = u8::try_from(case["algorithm"].as_u64().unwrap()).unwrap();
    PublicKey { algorithm: Algorithm::from_code(code).unwrap(), bytes: array(case, "public_key") }
}

fn device_secret(algorithm: Algorithm, case: &Value, field: &str) -> DeviceSecret {
    match algorithm {
        Algorithm::Ed25519 => DeviceSecret::ed25519(array(case, field)),
        Algorithm::P256 => DeviceSecret::p256(array(case, field)).unwrap(),
    }
}

fn signing_key(name: &str) -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&array(&VECTORS["secrets"], name))
}

#[test]
fn contexts() {
    let all = [
        ("NETWORK", context::NETWORK),
        ("DEVICE", context::DEVICE),
        ("BATCH", context::BATCH),
        ("REGISTRATION", context::REGISTRATION),
        ("REGISTRATION_DEVICE", context::REGISTRATION_DEVICE),
        ("REGISTRATION_ADMITTER", context::REGISTRATION_ADMITTER),
        ("RECEIPT", context::RECEIPT),
        ("REJECTION", context::REJECTION),
        ("CONTROL", context::CONTROL),
        ("CONTROL_STATE", context::CONTROL_STATE),
        ("TREE_LEAF", context::TREE_LEAF),
        ("TREE_NODE", context::TREE_NODE),
        ("SEGMENT", context::SEGMENT),
        ("EVIDENCE_ROOT", context::EVIDENCE_ROOT),
        ("DEVICE_STATE", context::DEVICE_STATE),
        ("POLICY", context::POLICY),
        ("MANIFEST", context::MANIFEST),
        ("OBJECT", context::OBJECT),
    ];
    let cases = cases("/contexts");
    assert_eq!(cases.len(), all.len());
    for (case, (name, context)) in cases.iter().zip(all) {
        assert_eq!((text(case, "name"), text(case, "context")), (name, context));
        assert_eq!(digest(context, &[]), parsed(case, "empty"));
        assert_eq!(digest(context, &[b"a", b"bc"]), parsed(case, "abc"));
    }
}

#[test]
fn trees_p1() {
    for case in cases("/trees") {
        let digests = |value: &Value| -> Vec<Digest> {
            value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().parse().unwrap()).collect()
        };
        let leaves = digests(&case["leaves"]);
        let root: Digest = parsed(case, "root");
        assert_eq!(digest::tree_root(&leaves), root);
        for (index, leaf) in leaves.iter().enumerate() {
            assert_eq!(*leaf, digest::tree_leaf(&vec![u8::try_from(index).unwrap(); index]));
            let proof = digests(&case["proofs"][index]);
            assert_eq!(digest::tree_proof(&leaves, index).unwrap(), proof);
            assert!(digest::tree_verify(&root, leaf, index, leaves.len(), &proof));
        }
    }
}

#[test]
fn canonical_json_texts() {
    for case in cases("/canonical_json") {
        assert_eq!(canonical_json::from_bytes::<Value>(&bytes(case, "hex")).is_ok(), accept(case), "{case}");
    }
}

#[test]
fn genesis_and_network_id() {
    for case in cases("/genesis") {
        let bytes = text(case, "text").as_bytes();
        let genesis = Genesis::from_bytes(bytes);
        assert_eq!(genesis.is_ok(), accept(case), "{case}");
        assert_eq!(Genesis::network_id(bytes), parsed(case, "network_id"));
        if let Ok(genesis) = genesis {
            assert_eq!(genesis.to_bytes().unwrap(), bytes);
        }
    }
}

#[test]
fn devices_and_partitions() {
    for case in cases("/devices") {
        let key = public_key(case);
        assert_eq!(device_secret(key.algorithm, case, "secret").public_key(), key);
        let device: DeviceId = parsed(case, "device_id");
        assert_eq!(key.device_id(), device);
        for (count, partition) in case["partitions"].as_object().unwrap() {
            let count: NonZeroU32 = count.parse().unwrap();
            assert_eq!(u64::from(device.partition(count)), partition.as_u64().unwrap());
        }
    }
}

#[test]
fn device_signatures() {
    for case in cases("/ed25519").iter().chain(cases("/p256")) {
        let (message, signature) = (parsed(case, "message"), bytes(case, "signature"));
        let key = public_key(case).verifying_key();
        assert_eq!(key.is_ok(), case["key_accept"].as_bool().unwrap(), "{case}");
        assert_eq!(key.and_then(|key| key.verify(&message, &signature)).is_ok(), accept(case), "{case}");
        if let (Algorithm::Ed25519, [key @ .., 0]) =
            (public_key(case).algorithm, array::<33>(case, "public_key"))
        {
            assert_eq!(
                verify_operator(&OperatorKey(key), &message, &signature).is_ok(),
                accept(case),
                "{case}"
            );
        }
    }
}

#[test]
fn evm_signatures() {
    for case in cases("/evm") {
        let secret = EvmSecret::from_bytes(&array(case, "secret")).unwrap();
        let (digest, signature): (B256, _) = (parsed(case, "digest"), bytes(case, "signature"));
        let address: Address = parsed(case, "address");
        assert_eq!(secret.address(), address);
        assert_eq!(verify_evm(address, &digest, &signature).is_ok(), accept(case), "{case}");
        assert!(!accept(case) || secret.sign(&digest)[..] == signature, "{case}");
    }
}

fn payload(case: &Value) -> Payload {
    let value = |value: &Value| value.as_str().map(|digits| digits.parse().unwrap());
    let column = |column: &Value| Column {
        metric: u32::try_from(column["metric"].as_u64().unwrap()).unwrap(),
        values: list(&column["values"]).iter().map(value).collect(),
    };
    Payload {
        times_ms: list(&case["times_ms"])
            .iter()
            .map(|time| time.as_str().unwrap().parse().unwrap())
            .collect(),
        columns: list(&case["columns"]).iter().map(column).collect(),
    }
}

#[test]
fn payloads() {
    for case in cases("/payloads") {
        let payload = payload(case);
        assert_eq!(hex::encode(payload.encode().unwrap()), text(case, "hex"), "{case}");
        assert_eq!(Payload::decode(&bytes(case, "hex"), payload.times_ms[0]).unwrap(), payload);
    }
    for case in cases("/payload_rejects") {
        assert!(Payload::decode(&bytes(case, "hex"), parsed(case, "first_time_ms")).is_err(), "{case}");
    }
}

#[test]
fn headers() {
    for case in cases("/headers") {
        let bytes = bytes(case, "hex");
        let header = BatchHeader::parse(&bytes);
        assert_eq!(header.is_ok(), accept(case), "{case}");
        if case["boot"].is_null() {
            continue;
        }
        let expected = BatchHeader {
            network_tag: array(case, "tag"),
            public_key: public_key(case),
            registration: parsed(case, "registration"),
            place: Place { boot: parsed(case, "boot"), seq: parsed(case, "seq") },
            previous: parsed(case, "previous"),
            reading_count: parsed(case, "reading_count"),
            first_time_ms: parsed(case, "first_time_ms"),
            last_time_ms: parsed(case, "last_time_ms"),
            sealed: parsed(case, "sealed"),
        };
        assert_eq!(expected.encode()[..], bytes);
        assert!(header.is_err() || header == Ok(expected));
    }
}

#[test]
fn batches() {
    for case in cases("/batches") {
        let (header, payload) = (bytes(case, "header"), bytes(case, "payload"));
        let digest: Digest = parsed(case, "digest");
        assert_eq!(batch_digest(&network(), &header, &payload), digest);
        let batch: SignedBatch = decode_envelope("the batch", &bytes(case, "envelope")).unwrap();
        assert_eq!((&batch.header[..], &batch.payload[..]), (&header[..], &payload[..]));
        assert_eq!(batch.signature, bytes(case, "signature"));
        let well_formed = WellFormedBatch::parse(&network(), &batch);
        assert_eq!(well_formed.is_ok(), accept(case), "{case}");
        let Ok(well_formed) = well_formed else { continue };
        assert_eq!(well_formed.digest, digest);
        let key = well_formed.header.public_key;
        key.verifying_key().unwrap().verify(&digest, &batch.signature).unwrap();
        let secret = device_secret(key.algorithm, case, "secret");
        assert_eq!(secret.sign(&digest)[..], batch.signature, "both sign by RFC 8032 or RFC 6979");
    }
}

#[test]
fn envelopes() {
    for case in cases("/envelopes") {
        let batch = decode_envelope::<SignedBatch>("the batch", &bytes(case, "hex"));
        assert_eq!(batch.is_ok(), accept(case), "{case}");
    }
}

#[test]
fn registrations() {
    let signers =
        (EvmSecret::from_bytes(&array(&VECTORS["secrets"], "provider")).unwrap(), signing_key("admitter"));
    for case in cases("/registrations") {
        let body = bytes(case, "body");
        let registration = Registration::parse(&body);
        assert_eq!(registration.is_ok(), accept(case), "{case}");
        let Ok(registration) = registration else { continue };
        assert_eq!(registration.public_key, public_key(case));
        assert_eq!(registration.counter, parsed::<u32>(case, "counter"));
        assert_eq!(registration.provider, parsed::<Address>(case, "provider"));
        assert_eq!(registration.replaces, parsed(case, "replaces"));
        assert_eq!(
            (&*registration.program, &*registration.attributes),
            (text(case, "program"), text(case, "attributes"))
        );
        assert_eq!(registration.encode().unwrap(), body);
        let parts: [&[u8]; 2] = [&network().0, &body];
        assert_eq!(digest(context::REGISTRATION_DEVICE, &parts), parsed(case, "device_digest"));
        assert_eq!(digest(context::REGISTRATION_ADMITTER, &parts), parsed(case, "admitter_digest"));
        let provider_digest =
            registration_digest(chain_id(), &network(), &registration.device_id(), &registration);
        assert_eq!(provider_digest, parsed::<B256>(case, "provider_digest"));
        let device = device_secret(registration.public_key.algorithm, case, "device_secret");
        let signers = RegistrationSigners { device: &device, provider: &signers.0, admitter: &signers.1 };
        let signed = sign_registration(&network(), chain_id(), &registration, &signers).unwrap();
        let expected: SignedRegistration =
            decode_envelope("the registration", &bytes(case, "envelope")).unwrap();
        assert_eq!(signed, expected);
        assert_eq!(verify_registration(&network(), chain_id(), &signed).unwrap(), registration);
        let admitter = OperatorKey(signers.admitter.verifying_key().to_bytes());
        verify_admitter(&network(), &admitter, &signed).unwrap();
    }
}

#[test]
fn receipts() {
    for case in cases("/receipts") {
        let (body, signature) = (bytes(case, "body"), bytes(case, "signature"));
        let receipt = Receipt::verify(&body, &signature);
        assert_eq!(receipt.is_ok(), accept(case), "{case}");
        let Ok(receipt) = receipt else { continue };
        let expected = Receipt {
            network: parsed(case, "network"),
            generation: parsed(case, "generation"),
            partition: parsed(case, "partition"),
            offset: parsed(case, "offset"),
            device: parsed(case, "device"),
            boot: parsed(case, "boot"),
            from_seq: parsed(case, "from_seq"),
            to_seq: parsed(case, "to_seq"),
            digest: parsed(case, "digest"),
            ingester: parsed(case, "ingester"),
        };
        assert_eq!(receipt, expected);
        let signed = receipt.sign(&signing_key("ingester"));
        assert_eq!((signed.body, signed.signature[..].to_vec()), (body, signature));
    }
}

#[test]
fn rejections() {
    for case in cases("/rejections") {
        let (body, signature) = (bytes(case, "body"), bytes(case, "signature"));
        let rejection = Rejection::verify(&body, &signature);
        assert_eq!(rejection.is_ok(), accept(case), "{case}");
        let Ok(rejection) = rejection else { continue };
        assert_eq!(rejection.device, parsed(case, "device"));
        assert_eq!(rejection.place, Place { boot: parsed(case, "boot"), seq: parsed(case, "seq") });
        assert_eq!(rejection.digest, parsed(case, "digest"));
        let signed = rejection.sign(&signing_key("ingester"));
        assert_eq!((signed.body, signed.signature[..].to_vec()), (body, signature));
    }
}

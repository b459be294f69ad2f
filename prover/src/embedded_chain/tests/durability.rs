//! What survives a crash, and what does not: tests of the node and its log, without HTTP.

use std::fs;
use std::path::Path;

use alloy_primitives::{B256, TxKind};

use super::super::chain::Refusal;
use super::super::log::{Genesis, TransactionLog, TransactionLogError};
use super::super::node::{Node, SubmitError};
use super::super::{EmbeddedChainError, EmbeddedChainSettings};
use super::{CHAIN_ID, TestToken, hash_of, mint, settings, sign, signer, transaction};

const NOW: u64 = 1_900_000_000;

fn genesis() -> Genesis {
    let EmbeddedChainSettings { chain_id, funded, .. } = settings(Path::new(""));
    Genesis::new(chain_id, NOW, funded)
}

fn open(directory: &Path) -> Result<Node, EmbeddedChainError> {
    Node::open(directory, &genesis())
}

/// A deployment, a mint, a mint that reverts, a creation that fails, and a plain transfer.
fn workload() -> Vec<Vec<u8>> {
    let (minter, stranger) = (signer(1), signer(2));
    let token = TxKind::Call(minter.address().create(0));
    let code = TestToken::BYTECODE.clone();
    let mut transfer = transaction(1, TxKind::Call(minter.address()), vec![]);
    transfer.value = alloy_primitives::U256::from(77);
    vec![
        sign(&minter, transaction(0, TxKind::Create, code)),
        sign(&minter, transaction(1, token, mint(stranger.address(), 5))),
        sign(&stranger, transaction(0, token, mint(stranger.address(), 5))),
        sign(&minter, transaction(2, TxKind::Create, vec![0xfe])),
        sign(&stranger, transfer),
    ]
}

/// All that can be asked about a chain, in one string.
fn everything(node: &Node) -> String {
    let chain = node.chain();
    let blocks = (0..).map_while(|number| chain.block(number));
    let lines = blocks.map(|block| {
        let mined = block.mined.as_ref().map(|mined| (&mined.transaction, &mined.receipt));
        serde_json::to_string(&(&block.header, mined)).expect("JSON")
    });
    format!("{}\n{}", chain.state_digest(), lines.collect::<Vec<_>>().join("\n"))
}

/// A chain with the workload, what could be asked after each transaction (first: none), and where
/// each transaction's entry starts and the last one ends.
fn filled(directory: &Path) -> (Vec<String>, Vec<u64>) {
    let mut node = open(directory).expect("a new chain");
    let length = || fs::metadata(directory.join("chain.log")).expect("a log").len();
    let (mut states, mut offsets) = (vec![everything(&node)], vec![length()]);
    for (index, raw) in workload().iter().enumerate() {
        let hash = node.submit(raw, NOW + index as u64).expect("accepted");
        assert_eq!(hash, hash_of(raw));
        states.push(everything(&node));
        offsets.push(length());
    }
    (states, offsets)
}

#[test]
fn replay_gives_the_same_state_receipts_and_blocks() {
    let temporary = tempfile::tempdir().expect("a directory");
    let directory = temporary.path().join("is/created");
    let (states, _) = filled(&directory);
    let node = open(&directory).expect("replayed");
    assert_eq!(Some(&everything(&node)), states.last());
    let status = |raw: &Vec<u8>| {
        let mined = node.chain().mined(hash_of(raw)).expect("mined");
        mined.receipt.status()
    };
    let statuses: Vec<bool> = workload().iter().map(status).collect();
    assert_eq!(statuses, [true, true, false, false, true]);
    let token = signer(1).address().create(0);
    assert!(!node.chain().code(token).is_empty());
}

#[test]
fn a_crash_at_any_byte_of_an_append_leaves_the_transactions_before_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let (states, offsets) = filled(directory.path());
    let whole = fs::read(directory.path().join("chain.log")).expect("a log");
    // Every byte of the heads, and some of the payloads: the deployment's is long.
    let heads = offsets[..5].iter().flat_map(|offset| *offset..offset + 40);
    let payloads = (offsets[0]..offsets[1]).step_by(1009).chain((offsets[1]..offsets[5]).step_by(13));
    let cuts = heads.chain(payloads).chain([offsets[5] - 1, offsets[5]]);
    for cut in cuts {
        let crashed = tempfile::tempdir().expect("a directory");
        let log = crashed.path().join("chain.log");
        fs::write(&log, &whole[..cut as usize]).expect("written");
        let durable = offsets.iter().filter(|offset| **offset <= cut).count() - 1;
        let mut node = open(crashed.path()).expect("a torn tail is no error");
        assert_eq!(everything(&node), states[durable], "cut at {cut}");
        assert_eq!(fs::metadata(&log).expect("a log").len(), offsets[durable]);
        // What was lost can be sent again, and then the chain is the same as without the crash.
        if cut % 31 == 0 {
            for (index, raw) in workload().iter().enumerate().skip(durable) {
                node.submit(raw, NOW + index as u64).expect("accepted");
            }
            assert_eq!(Some(&everything(&node)), states.last());
            assert_eq!(fs::read(&log).expect("a log"), whole);
        }
    }
}

#[test]
fn zeros_and_a_damaged_last_entry_are_torn_tails() {
    let directory = tempfile::tempdir().expect("a directory");
    let (states, offsets) = filled(directory.path());
    let log = directory.path().join("chain.log");
    let whole = fs::read(&log).expect("a log");
    for zeros in [1, 39, 40, 41, 10_000] {
        fs::write(&log, [&whole[..], &vec![0; zeros]].concat()).expect("written");
        let node = open(directory.path()).expect("zeros are cut off");
        assert_eq!(Some(&everything(&node)), states.last(), "{zeros} zeros");
        assert_eq!(fs::read(&log).expect("a log"), whole);
    }
    let mut damaged = whole.clone();
    *damaged.last_mut().expect("bytes") ^= 1;
    fs::write(&log, damaged).expect("written");
    assert_eq!(everything(&open(directory.path()).expect("cut off")), states[4]);
    assert_eq!(fs::metadata(&log).expect("a log").len(), offsets[4]);
}

#[test]
fn damage_before_the_last_entry_is_an_error_that_names_the_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let (_, offsets) = filled(directory.path());
    let log = directory.path().join("chain.log");
    let whole = fs::read(&log).expect("a log");
    let check = |place: u64, entry: u64| {
        let mut damaged = whole.clone();
        damaged[place as usize] ^= 0x40;
        fs::write(&log, &damaged).expect("written");
        match open(directory.path()) {
            Err(EmbeddedChainError::Log(TransactionLogError::Corrupted { path, offset, .. })) => {
                assert_eq!((path, offset), (log.clone(), entry), "byte {place}")
            }
            other => panic!("byte {place}: {other:?}"),
        }
        assert_eq!(fs::read(&log).expect("a log"), damaged, "an error changes nothing");
    };
    (0..offsets[0]).for_each(|place| check(place, 0));
    (offsets[2]..offsets[3]).for_each(|place| check(place, offsets[2]));
    // Also the length of the last entry, so that it cannot swallow what was acknowledged.
    (offsets[4]..offsets[4] + 8).for_each(|place| check(place, offsets[4]));
}

#[test]
fn a_chain_keeps_its_genesis() {
    let directory = tempfile::tempdir().expect("a directory");
    let before = everything(&open(directory.path()).expect("a chain"));
    let Genesis { chain_id, timestamp, funded } = genesis();
    let check = |wanted: Genesis, same: bool| match Node::open(directory.path(), &wanted) {
        Ok(node) => assert!(same && everything(&node) == before, "{wanted:?}"),
        Err(EmbeddedChainError::Log(TransactionLogError::OtherGenesis { .. })) => assert!(!same),
        Err(error) => panic!("{error:?}"),
    };
    check(Genesis::new(chain_id, timestamp + 1000, funded.iter().rev().copied().collect()), true);
    check(Genesis::new(chain_id, timestamp, [&funded[..], &funded[..]].concat()), true);
    check(Genesis::new(chain_id + 1, timestamp, funded.clone()), false);
    check(Genesis::new(chain_id, timestamp, funded[1..].to_vec()), false);
}

#[test]
fn a_refused_transaction_leaves_no_trace() {
    let directory = tempfile::tempdir().expect("a directory");
    let (states, offsets) = filled(directory.path());
    let mut node = open(directory.path()).expect("a chain");
    let (sender, to) = (signer(1), TxKind::Call(signer(3).address()));
    let fresh = || transaction(3, to, vec![]);
    let mut check = |raw: &[u8], expected: &str| {
        let Err(SubmitError::Refused(refusal)) = node.submit(raw, NOW + 50) else {
            panic!("accepted: {expected}");
        };
        assert!(refusal.to_string().starts_with(expected), "{refusal}");
        assert_eq!(Some(&everything(&node)), states.last());
        let log = fs::metadata(directory.path().join("chain.log")).expect("a log");
        assert_eq!(log.len(), offsets[5]);
    };
    check(&workload()[1], "already known");
    check(&[], "the transaction cannot be decoded");
    check(&[&sign(&sender, fresh())[..], &[0]].concat(), "the transaction cannot be decoded");
    check(&vec![2; 200_000], "oversized data");
    check(&sign(&sender, transaction(2, to, vec![])), "nonce too low");
    check(&sign(&sender, transaction(4, to, vec![])), "nonce too high");
    check(&sign(&signer(7), transaction(0, to, vec![])), "insufficient funds for gas * price");
    let mut other = fresh();
    other.chain_id = CHAIN_ID + 1;
    check(&sign(&sender, other), "invalid chain ID");
    let mut cheap = fresh();
    (cheap.max_fee_per_gas, cheap.max_priority_fee_per_gas) = (6, 0);
    check(&sign(&sender, cheap), "gas price is less than basefee");
    let mut greedy = fresh();
    greedy.gas_limit = 60_000_001;
    check(&sign(&sender, greedy), "caller gas limit exceeds the block gas limit");
}

#[test]
fn a_transaction_that_cannot_be_stored_is_not_mined() {
    let directory = tempfile::tempdir().expect("a directory");
    let (states, _) = filled(directory.path());
    let mut node = open(directory.path()).expect("a chain");
    node.break_log_for_test();
    let raw = sign(&signer(1), transaction(3, TxKind::Call(signer(3).address()), vec![]));
    let error = node.submit(&raw, NOW + 50).expect_err("not stored");
    assert!(matches!(error, SubmitError::NotStored(TransactionLogError::Io { .. })));
    let error = node.submit(&raw, NOW + 50).expect_err("not stored");
    assert!(matches!(error, SubmitError::NotStored(TransactionLogError::Broken(_))));
    assert_eq!(Some(&everything(&node)), states.last());
    drop(node);
    let mut node = open(directory.path()).expect("a chain");
    node.submit(&raw, NOW + 50).expect("accepted");
}

#[test]
fn time_never_goes_back_and_need_not_go_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut node = open(directory.path()).expect("a chain");
    let raw = |nonce| sign(&signer(1), transaction(nonce, TxKind::Call(signer(3).address()), []));
    let cases = [(-1, 0), (0, 0), (4, 4), (2, 4), (4, 4), (5, 5)];
    for (nonce, (clock, expected)) in cases.into_iter().enumerate() {
        node.submit(&raw(nonce as u64), NOW.strict_add_signed(clock)).expect("accepted");
        assert_eq!(node.chain().latest().header.timestamp, NOW + expected);
    }
}

#[test]
fn a_log_that_other_rules_wrote_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let raw = &workload()[0];
    let (mut log, _, mut reader) = TransactionLog::open(directory.path(), &genesis()).expect("a log");
    assert_eq!(reader.next().expect("readable"), None);
    log.finish_reading(&reader).expect("ready");
    log.append(NOW, B256::repeat_byte(1), raw).expect("appended");
    drop((log, reader));
    let error = open(directory.path()).expect_err("another hash").to_string();
    assert!(error.contains("cannot be replayed: its block is now `0x"), "{error}");
}

#[test]
fn the_same_transaction_is_known_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    filled(directory.path());
    let mut node = open(directory.path()).expect("a chain");
    for (number, raw) in (1..).zip(workload()) {
        match node.submit(&raw, NOW) {
            Err(SubmitError::Refused(Refusal::AlreadyKnown(hash, block))) => {
                assert_eq!((hash, block), (hash_of(&raw), number));
            }
            other => panic!("{other:?}"),
        }
    }
}

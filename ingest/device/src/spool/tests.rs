use std::path::Path;

use ed25519_dalek::SigningKey;
use fieldproof_proto::{
    batch::{BatchFacts, sign_batch},
    ids::OperatorKey,
    payload::{Column, Payload},
    receipt::{Receipt, Rejection, RejectionCode, SignedBody},
    signature::DeviceSecret,
};

use super::*;

const NETWORK: NetworkId = NetworkId([3; 32]);

fn secret() -> DeviceSecret {
    DeviceSecret::ed25519([1; 32])
}

fn rules(directory: &Path) -> SpoolRules {
    SpoolRules {
        directory: directory.to_owned(),
        network: NETWORK,
        device: secret().public_key().device_id(),
        spool_bytes_max: 1 << 20,
        answers_bytes_max: 1 << 20,
    }
}

fn open(directory: &Path) -> Spool {
    Spool::open(rules(directory), 10).unwrap()
}

fn push(spool: &mut Spool, number: u64) -> Digest {
    let payload = Payload {
        times_ms: vec![1_000 + number],
        columns: vec![Column { metric: 1, values: vec![Some(1)] }],
    };
    let place = spool.next_place();
    let facts = BatchFacts { network: NETWORK, registration: 1, place, previous: spool.tail().digest };
    let (batch, digest) = sign_batch(&secret(), &facts, &payload).unwrap();
    assert_eq!(spool.append(&batch, digest, 1_000 + number).unwrap(), place);
    digest
}

fn ingester() -> SigningKey {
    SigningKey::from_bytes(&[8; 32])
}

fn receipt(spool: &Spool, boot: u64, seqs: std::ops::RangeInclusive<u64>) -> Receipt {
    let last = spool.entries.iter().find(|entry| entry.place == Place { boot, seq: *seqs.end() });
    Receipt {
        network: NETWORK,
        generation: 0,
        partition: 0,
        offset: 0,
        device: secret().public_key().device_id(),
        boot,
        from_seq: *seqs.start(),
        to_seq: *seqs.end(),
        digest: last.map_or(Digest::ZERO, |entry| entry.digest),
        ingester: OperatorKey(ingester().verifying_key().to_bytes()),
    }
}

fn bytes(signed: SignedBody, is_receipt: bool) -> AnswerBytes {
    AnswerBytes { is_receipt, body: signed.body, signature: signed.signature.to_vec() }
}

fn acknowledge(spool: &mut Spool, boot: u64, seqs: std::ops::RangeInclusive<u64>) {
    let receipt = receipt(spool, boot, seqs);
    let covered = spool.covers(&Answer::Receipt(receipt), Some(Place { boot: u64::MAX, seq: 0 })).unwrap();
    spool.record(&bytes(receipt.sign(&ingester()), true), covered).unwrap();
}

fn waiting(spool: &Spool) -> Vec<(u64, u64)> {
    let batches = spool.unanswered_after(None, usize::MAX).unwrap();
    batches.iter().map(|batch| (batch.place.boot, batch.place.seq)).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Cuts a file of the spool at every byte and gives each copy to `check`, with the length.
fn cut_everywhere(directory: &Path, file: &str, check: impl Fn(&Path, u64)) {
    let total = fs::metadata(directory.join(file)).unwrap().len();
    for length in 0..=total {
        let crashed = tempfile::tempdir().unwrap();
        copy(directory, crashed.path());
        let cut = File::options().write(true).open(crashed.path().join(file)).unwrap();
        cut.set_len(length).unwrap();
        check(crashed.path(), length);
    }
}

#[test]
fn a_boot_is_above_every_earlier_one_whatever_the_clock_says() {
    let directory = tempfile::tempdir().unwrap();
    for (now, expected) in [(10, 10), (10, 11), (5, 12), (100, 100), (0, 101)] {
        assert_eq!(Spool::open(rules(directory.path()), now).unwrap().boot(), expected);
    }
    fs::remove_file(directory.path().join("state")).unwrap();
    assert_eq!(Spool::open(rules(directory.path()), 0).unwrap().boot(), 1);
}

#[test]
fn one_opening_at_a_time_and_one_device() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path());
    push(&mut spool, 0);
    let again = Spool::open(rules(directory.path()), 10).err().unwrap();
    assert!(matches!(again, SpoolError::InUse(_)), "{again}");
    drop(spool);
    let other = SpoolRules { network: NetworkId([4; 32]), ..rules(directory.path()) };
    let other = Spool::open(other, 10).err().unwrap();
    assert!(matches!(other, SpoolError::Foreign(_)), "{other}");
}

#[test]
fn batches_cut_at_every_byte_leave_the_whole_ones_before() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path());
    let mut ends = vec![0];
    let mut digests = vec![Digest::ZERO];
    for number in 0..3 {
        digests.push(push(&mut spool, number));
        ends.push(spool.batches.bytes());
    }
    drop(spool);
    cut_everywhere(directory.path(), "batches", |crashed, length| {
        let whole = ends.iter().filter(|end| **end <= length).count() - 1;
        let mut spool = open(crashed);
        assert_eq!(spool.boot(), 11);
        assert_eq!(waiting(&spool), (0..whole as u64).map(|seq| (10, seq)).collect::<Vec<_>>());
        assert_eq!(spool.tail().digest, digests[whole]);
        push(&mut spool, 100);
        drop(spool);
        let spool = open(crashed);
        assert_eq!(spool.unanswered(), whole as u64 + 1);
    });
}

#[test]
fn answers_cut_at_every_byte_cost_a_resend_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path());
    for number in 0..4 {
        push(&mut spool, number);
    }
    acknowledge(&mut spool, 10, 0..=1);
    let first = spool.answers.bytes();
    acknowledge(&mut spool, 10, 2..=2);
    let second = spool.answers.bytes();
    let tail = spool.tail();
    drop(spool);
    cut_everywhere(directory.path(), "answers", |crashed, length| {
        let spool = open(crashed);
        let expected: &[_] = match length {
            _ if length < first => &[(10, 0), (10, 1), (10, 2), (10, 3)],
            _ if length < second => &[(10, 2), (10, 3)],
            _ => &[(10, 3)],
        };
        assert_eq!(waiting(&spool), expected, "cut at {length}");
        assert_eq!(spool.tail(), tail);
    });
}

#[test]
fn damage_that_no_torn_write_explains_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    let size = usize::try_from(FRAME_HEADER_BYTES).unwrap() + BATCH_BYTES_MAX;
    fs::write(directory.path().join("batches"), vec![1; size + 1]).unwrap();
    let error = Spool::open(rules(directory.path()), 10).err().unwrap();
    assert!(matches!(error, SpoolError::Damaged { at: 0, .. }), "{error}");
    fs::write(directory.path().join("batches"), vec![0; size]).unwrap();
    open(directory.path());
    fs::write(directory.path().join("state"), [0; 20]).unwrap();
    let error = Spool::open(rules(directory.path()), 10).err().unwrap();
    assert!(matches!(error, SpoolError::Damaged { at: 0, .. }), "{error}");
}

#[test]
fn a_full_spool_says_so_and_answered_batches_make_room() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool =
        Spool::open(SpoolRules { spool_bytes_max: 2_000, ..rules(directory.path()) }, 10).unwrap();
    let mut pushed = 0;
    while spool.full_with(230).unwrap().is_none() {
        push(&mut spool, pushed);
        pushed += 1;
    }
    assert!(pushed > 3);
    acknowledge(&mut spool, 10, 0..=0);
    assert_eq!(spool.full_with(230).unwrap(), None);
    push(&mut spool, pushed);
    let expected: Vec<_> = (1..=pushed).map(|seq| (10, seq)).collect();
    assert_eq!(waiting(&spool), expected);
    acknowledge(&mut spool, 10, 1..=pushed);
    assert_eq!((spool.batches.bytes(), spool.unanswered()), (0, 0), "all answered, all cleared away");
    let tail = spool.tail();
    drop(spool);
    let spool = open(directory.path());
    assert_eq!(spool.tail(), tail, "the next batch still follows the last one");
    assert_eq!(spool.stored_answers().unwrap().len(), 2);
}

#[test]
fn answers_are_believed_only_of_batches_that_wait_and_were_sent() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path());
    for number in 0..4 {
        push(&mut spool, number);
    }
    acknowledge(&mut spool, 10, 0..=0);
    let sent_to = Some(Place { boot: 10, seq: 2 });
    let covers = |receipt| spool.covers(&Answer::Receipt(receipt), sent_to);
    assert_eq!(covers(receipt(&spool, 10, 1..=2)), Ok(0..2));
    for wrong in [
        receipt(&spool, 10, 0..=1),
        receipt(&spool, 10, 1..=3),
        receipt(&spool, 10, 4..=4),
        receipt(&spool, 9, 1..=2),
        receipt(&spool, 11, 0..=1),
        receipt(&spool, 10, 1..=u64::MAX),
        receipt(&spool, 10, 0..=u64::MAX),
    ] {
        let error = covers(wrong).unwrap_err();
        assert!(matches!(error, AnswerError::Range { .. }), "{error}");
    }
    let forged = Receipt { digest: Digest([9; 32]), ..receipt(&spool, 10, 1..=2) };
    assert_eq!(covers(forged), Err(AnswerError::Digest(Digest([9; 32]))));
}

#[test]
fn a_rejection_answers_its_batch_for_good() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(directory.path());
    push(&mut spool, 0);
    let digest = push(&mut spool, 1);
    let rejection = Rejection {
        network: NETWORK,
        device: secret().public_key().device_id(),
        place: Place { boot: 10, seq: 1 },
        digest,
        code: RejectionCode::TooLarge,
        ingester: OperatorKey(ingester().verifying_key().to_bytes()),
    };
    let answer = Answer::Rejection(rejection);
    assert!(spool.covers(&answer, Some(Place { boot: 10, seq: 0 })).is_err(), "not sent yet");
    let covered = spool.covers(&answer, Some(Place { boot: 10, seq: 1 })).unwrap();
    spool.record(&bytes(rejection.sign(&ingester()), false), covered).unwrap();
    assert_eq!(waiting(&spool), [(10, 0)]);
    assert!(spool.covers(&answer, Some(Place { boot: 10, seq: 1 })).is_err(), "answered already");
    drop(spool);
    assert_eq!(waiting(&open(directory.path())), [(10, 0)]);
}

//! Segments: what is written is what is read, and what was damaged is not believed (C2, D1, P1).

use std::collections::BTreeMap;

use fieldproof_proto::evidence::{CONTROL_PARTITION, KIND_HEADER, record_leaves};
use proptest::{collection::vec, option, prelude::*};

use super::*;

/// A runtime for one test, and a store in a folder that goes with it.
struct Bench {
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = runtime.block_on(Store::open(folder.path())).unwrap();
        Self { runtime, folder, store }
    }

    fn read(&self, segment: &Segment) -> Result<Segment, EvidenceError> {
        let name = segment.name;
        self.runtime.block_on(Segment::read(&self.store, name.generation, name.partition, name.first_offset))
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn record(offset: u64, value: &[u8]) -> Record {
    Record {
        offset,
        append_ms: 1_700_000_000_000 + i64::try_from(offset).unwrap(),
        key: Some(vec![1; 32]),
        headers: vec![(KIND_HEADER.to_owned(), Some(b"batch".to_vec()))],
        value: Some(value.to_vec()),
    }
}

fn segment(records: Vec<Record>) -> Segment {
    Segment::new(1, 0, Digest::ZERO, records).unwrap()
}

fn parse(bytes: &[u8]) -> Result<Segment, EvidenceError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(Segment::from_parquet("it".to_owned(), bytes.to_vec().into()))
}

/// Every way in which a field can be there or not.
fn odd_records() -> Vec<Record> {
    let optional = [None, Some(Vec::new()), Some(vec![0]), Some(vec![0xff; 70])];
    let mut records = Vec::new();
    for key in &optional {
        for value in &optional {
            for header in &optional {
                let name = ["", "kind", "kind", "ä\0"][records.len() % 4].to_owned();
                let headers = vec![(name, header.clone()); records.len() % 3];
                let append_ms = [0, -1, i64::MIN, i64::MAX][records.len() % 4];
                let offset = records.len() as u64;
                records.push(Record { offset, append_ms, key: key.clone(), headers, value: value.clone() });
            }
        }
    }
    records
}

#[test]
fn d1_what_is_committed_is_read_back_byte_for_byte() {
    let bench = Bench::new();
    let written = segment(odd_records());
    let committed = bench.runtime.block_on(written.commit(&bench.store)).unwrap();
    assert_eq!(committed, written);
    assert_eq!(bench.read(&written).unwrap(), written);
}

#[test]
fn d1_segments_of_more_than_one_row_group() {
    let records =
        (0..2 * ROW_GROUP_RECORDS as u64 + 1).map(|offset| record(offset, &offset.to_le_bytes())).collect();
    let written = segment(records);
    assert_eq!(parse(&written.to_parquet().unwrap()).unwrap(), written);
}

#[test]
fn r1_the_writer_is_deterministic() {
    let written = segment(odd_records());
    assert_eq!(written.to_parquet().unwrap(), written.to_parquet().unwrap());
}

fn any_record() -> impl Strategy<Value = Record> {
    let bytes = || option::of(vec(any::<u8>(), 0..40));
    (any::<i64>(), bytes(), vec((".{0,5}", bytes()), 0..4), bytes())
        .prop_map(|(append_ms, key, headers, value)| Record { offset: 0, append_ms, key, headers, value })
}

fn any_records(first: std::ops::Range<u64>) -> impl Strategy<Value = Vec<Record>> {
    (vec(any_record(), 1..30), first).prop_map(|(mut records, first)| {
        for (record, offset) in records.iter_mut().zip(first..) {
            record.offset = offset;
        }
        records
    })
}

proptest! {
    #[test]
    fn d1_any_records_are_read_back(records in any_records(0..1 << 52), previous in any::<[u8; 32]>()) {
        let written = Segment::new(3, 9, Digest(previous), records).unwrap();
        prop_assert_eq!(parse(&written.to_parquet().unwrap()).unwrap(), written);
    }

    /// No two segments that differ in anything have the same digest.
    #[test]
    fn c2_the_digest_covers_every_field(records in any_records(0..99), which in any::<prop::sample::Index>(), field in 0..6_usize) {
        let before = segment(records.clone());
        let mut records = records;
        let index = which.index(records.len());
        let changed = &mut records[index];
        let toggle = |bytes: &mut Option<Vec<u8>>| *bytes = if bytes.is_none() { Some(Vec::new()) } else { None };
        match field {
            0 => changed.append_ms ^= 1,
            1 => toggle(&mut changed.key),
            2 => toggle(&mut changed.value),
            3 => changed.headers.push((String::new(), None)),
            4 => changed.value.get_or_insert_default().push(0),
            _ => match changed.headers.first_mut() {
                Some((_, value)) => toggle(value),
                None => changed.append_ms ^= 2,
            },
        }
        prop_assert_ne!(segment(records).digest, before.digest);
    }
}

#[test]
fn c2_the_digest_covers_the_name() {
    let records = || vec![record(5, b"a"), record(6, b"b")];
    let same = Segment::new(1, 2, Digest::ZERO, records()).unwrap();
    let shifted = records().into_iter().map(|one| Record { offset: one.offset + 1, ..one }).collect();
    let others = [
        Segment::new(2, 2, Digest::ZERO, records()),
        Segment::new(1, 3, Digest::ZERO, records()),
        Segment::new(1, 2, Digest([1; 32]), records()),
        Segment::new(1, 2, Digest::ZERO, shifted),
        Segment::new(1, 2, Digest::ZERO, records()[..1].to_vec()),
    ];
    for other in others {
        assert_ne!(other.unwrap().digest, same.digest);
    }
    assert_eq!((same.name.first_offset, same.name.next_offset), (5, 7));
    assert_eq!(segment_digest(&same.name, &record_leaves(&same.records)), same.digest);
}

/// P1: one flipped bit anywhere fails. All bits of a small file are tried one after the other, so
/// that lengths, counts and statistics of Parquet are among them. Nothing may panic either: whoever
/// can damage a file could then stop an auditor.
#[test]
fn p1_no_flipped_bit_of_a_file_is_believed() {
    let written = segment(odd_records().into_iter().take(9).collect());
    let good = written.to_parquet().unwrap();
    assert!(parse(&good).is_ok());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let believed = |worker: usize| -> Vec<(usize, u8, &str)> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut found = Vec::new();
        for index in (worker..good.len()).step_by(workers) {
            for flip in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
                let mut bytes = good.clone();
                bytes[index] ^= flip;
                let read = || runtime.block_on(Segment::from_parquet("it".to_owned(), bytes.into()));
                match catch_unwind(AssertUnwindSafe(read)) {
                    Ok(Err(EvidenceError::Invalid { .. })) => {}
                    Ok(Err(_)) => found.push((index, flip, "another error")),
                    Ok(Ok(_)) => found.push((index, flip, "believed")),
                    Err(_) => found.push((index, flip, "panic")),
                }
            }
        }
        found
    };
    let found: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|worker| scope.spawn(move || believed(worker))).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(found, [], "of a file of {} bytes", good.len());
}

#[test]
fn p1_a_file_cut_short_or_with_bytes_behind_is_not_believed() {
    let good = segment(odd_records().into_iter().take(9).collect()).to_parquet().unwrap();
    for length in 0..good.len() {
        assert!(matches!(parse(&good[..length]), Err(EvidenceError::Invalid { .. })), "{length} bytes");
    }
    let longer = [&good[..], b"PAR1"].concat();
    assert!(matches!(parse(&longer), Err(EvidenceError::Invalid { .. })));
}

#[test]
fn c2_records_follow_one_another() {
    let cases = [
        (&[0_u64, 1, 2][..], None),
        (&[7, 8], None),
        (&[0, 2], Some((1, 2))),
        (&[0, 0], Some((1, 0))),
        (&[1, 0], Some((2, 0))),
        (&[3, 4, 6, 9], Some((5, 6))),
    ];
    for (offsets, expected) in cases {
        let records = offsets.iter().map(|offset| record(*offset, b"")).collect();
        let hole = match Segment::new(1, 0, Digest::ZERO, records) {
            Err(EvidenceError::Hole { expected, found, .. }) => Some((expected, found)),
            other => other.map(|_| None).unwrap(),
        };
        assert_eq!(hole, expected, "{offsets:?}");
    }
}

/// Two writers with other ends for the same name: there is one segment, and both know which.
#[test]
fn c2_the_loser_of_a_commit_gets_the_winner() {
    let bench = Bench::new();
    let short = segment(vec![record(0, b"a")]);
    let long = segment(vec![record(0, b"a"), record(1, b"b")]);
    let commit = |segment: &Segment| bench.runtime.block_on(segment.commit(&bench.store)).unwrap();
    assert_eq!(commit(&short), short);
    assert_eq!(commit(&long), short);
    assert_eq!(commit(&short), short);
    assert_eq!(bench.read(&short).unwrap(), short);
}

#[test]
fn c2_racing_commits_agree() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let store = Store::open(folder.path()).await.unwrap();
        for first in 0..10_u64 {
            let racers = (1..=6_u64).map(|count| {
                let store = store.clone();
                let mine = segment((first..first + count).map(|offset| record(offset, b"x")).collect());
                tokio::spawn(async move { (mine.digest, mine.commit(&store).await.unwrap()) })
            });
            let outcomes = futures::future::join_all(racers).await;
            let digests: BTreeMap<_, _> = outcomes
                .into_iter()
                .map(|outcome| outcome.unwrap())
                .map(|(mine, there)| (mine, there.digest))
                .collect();
            let there: std::collections::BTreeSet<_> = digests.values().collect();
            assert_eq!(there.len(), 1, "all see one winner");
            assert_eq!(
                digests.iter().filter(|(mine, there)| mine == there).count(),
                1,
                "and one of them is it"
            );
        }
    });
}

#[test]
fn c2_a_damaged_winner_is_not_followed() {
    let bench = Bench::new();
    let mine = segment(vec![record(0, b"a")]);
    bench.put(&mine.object_name(), b"not Parquet");
    let outcome = bench.runtime.block_on(mine.commit(&bench.store));
    assert!(matches!(outcome, Err(EvidenceError::Invalid { .. })), "{outcome:?}");
}

#[test]
fn d1_a_missing_segment_has_its_own_error() {
    let bench = Bench::new();
    let absent = segment(vec![record(7, b"a")]);
    let error = bench.read(&absent).unwrap_err();
    assert_eq!(error.to_string(), "the segment `evidence/1/0/00000000000000000007.parquet` is missing");
}

/// A whole and valid segment under the name of another is not the other.
#[test]
fn c2_a_segment_is_read_under_its_own_name_only() {
    let bench = Bench::new();
    let one = segment(vec![record(0, b"a")]);
    let names = [
        ("evidence/1/0/00000000000000000001.parquet", (1, 0, 1)),
        ("evidence/1/1/00000000000000000000.parquet", (1, 1, 0)),
        ("evidence/2/0/00000000000000000000.parquet", (2, 0, 0)),
        ("evidence/1/control/00000000000000000000.parquet", (1, CONTROL_PARTITION, 0)),
    ];
    for (name, (generation, partition, offset)) in names {
        bench.put(name, &one.to_parquet().unwrap());
        let read = bench.runtime.block_on(Segment::read(&bench.store, generation, partition, offset));
        assert!(matches!(read, Err(EvidenceError::Invalid { .. })), "{name}: {read:?}");
    }
}

#[test]
fn c2_a_claim_that_its_records_do_not_give_is_refused() {
    let honest = segment(vec![record(0, b"a"), record(1, b"b")]);
    let lies = [
        Segment { digest: Digest([1; 32]), ..honest.clone() },
        Segment { name: SegmentName { previous: Digest([1; 32]), ..honest.name }, ..honest.clone() },
        Segment { name: SegmentName { next_offset: 3, ..honest.name }, ..honest.clone() },
        Segment { name: SegmentName { first_offset: 1, ..honest.name }, ..honest.clone() },
        Segment { name: SegmentName { partition: 5, ..honest.name }, ..honest.clone() },
        Segment { records: honest.records[..1].into(), ..honest.clone() },
        Segment { records: Arc::new([]), ..honest },
    ];
    for lie in lies {
        let read = parse(&lie.to_parquet().unwrap());
        assert!(matches!(read, Err(EvidenceError::Invalid { .. })), "{read:?}");
    }
}

/// Parquet of another shape is an error and no panic, whoever wrote it.
#[test]
fn p1_files_of_other_columns_are_refused() {
    let column = |name: &str, array: ArrayRef| (name.to_owned(), array);
    let integers: ArrayRef = Arc::new(Int64Array::from(vec![0]));
    let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![Some(&b"x"[..])]));
    let field = |name: &str| Field::new(name, DataType::Int64, true);
    let structs = |names: &[&str]| -> ArrayRef {
        let fields: Fields = names.iter().map(|name| field(name)).collect::<Vec<_>>().into();
        let arrays = names.iter().map(|_| integers.clone()).collect();
        let structs = StructArray::new(fields.clone(), arrays, None);
        let item = Arc::new(Field::new_list_field(DataType::Struct(fields), true));
        Arc::new(ListArray::new(
            item,
            datafusion::arrow::buffer::OffsetBuffer::from_lengths([1]),
            Arc::new(structs),
            None,
        ))
    };
    let rest = |headers: ArrayRef| {
        vec![
            column("offset", integers.clone()),
            column("append_ms", integers.clone()),
            column("key", bytes.clone()),
            column("headers", headers),
            column("value", bytes.clone()),
        ]
    };
    let shapes = [
        vec![column("offset", integers.clone())],
        rest(integers.clone()),
        rest(structs(&["name"])),
        rest(structs(&["name", "value"])),
    ];
    for shape in shapes {
        let batch = RecordBatch::try_from_iter(shape).unwrap();
        let claim = SegmentClaim {
            name: segment(vec![record(0, b"")]).name,
            digest: Digest::ZERO,
            writer: "other".to_owned(),
        };
        let claim = String::from_utf8(canonical_json::to_bytes(&claim).unwrap()).unwrap();
        let properties = WriterProperties::builder()
            .set_created_by("other".to_owned())
            .set_key_value_metadata(Some(vec![KeyValue::new(SEGMENT_METADATA.to_owned(), claim)]))
            .build();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        let read = parse(&writer.into_inner().unwrap());
        assert!(matches!(read, Err(EvidenceError::Invalid { .. })), "{read:?}");
    }
}

#[test]
fn c2_offsets_are_listed_in_their_order() {
    let bench = Bench::new();
    let list = |partition| bench.runtime.block_on(segment_offsets(&bench.store, 1, partition));
    assert!(list(0).unwrap().is_empty());
    for offset in [10, 9, 100, u64::MAX, 0] {
        bench.put(&object_name::segment(1, 0, offset), b"");
    }
    bench.put(&object_name::segment(1, CONTROL_PARTITION, 5), b"");
    bench.put(&object_name::segment(2, 0, 6), b"");
    bench.put("evidence/1/0/.staged-12-3", b"a crash left it");
    assert_eq!(list(0).unwrap(), [0, 9, 10, 100, u64::MAX]);
    assert_eq!(list(CONTROL_PARTITION).unwrap(), [5]);
}

#[test]
fn c2_strange_files_are_named() {
    for strange in [
        "12.parquet",
        "00000000000000000012",
        "00000000000000000012.parquet.part",
        "0000000000000000001x.parquet",
        "000000000000000000012.parquet",
        "+0000000000000000012.parquet",
        "99999999999999999999.parquet",
        "readme",
    ] {
        let bench = Bench::new();
        bench.put(&object_name::segment(1, 0, 0), b"");
        bench.put(&format!("evidence/1/0/{strange}"), b"");
        let error = bench.runtime.block_on(segment_offsets(&bench.store, 1, 0)).unwrap_err();
        assert!(error.to_string().contains(strange), "{error}");
    }
}

use alloy_primitives::hex;
use datafusion::{
    arrow::{array::AsArray, datatypes::Int64Type, util::pretty::pretty_format_batches},
    physical_plan::collect,
    prelude::{SessionConfig, SessionContext, col, lit},
};

use super::*;

const COUNTER: u32 = 1;
const GAUGE: u32 = 2;

type Values = Vec<Option<i64>>;

/// A record with a reading every millisecond from 10.
fn record(number: u8, columns: &[(u32, Values)], baselines: Baselines) -> AdmittedRecord {
    let times_ms = (10..10 + columns[0].1.len() as u64).collect();
    let columns = columns.iter().map(|(metric, values)| Column { metric: *metric, values: values.clone() });
    let payload = Payload { times_ms, columns: columns.collect() };
    AdmittedRecord {
        offset: u64::from(number),
        device: DeviceId([number; 32]),
        provider: Address::repeat_byte(number),
        payload: Bytes::from(payload.encode().unwrap()),
        first_time_ms: 10,
        baselines,
    }
}

fn some(values: &[i64]) -> Values {
    values.iter().copied().map(Some).collect()
}

struct Scan {
    times_ms: Range<u64>,
    filters: Vec<Expr>,
    columns: Vec<&'static str>,
    target_partitions: usize,
    batch_size: usize,
}

impl Scan {
    fn all() -> Self {
        let columns = vec!["metric", "time", "value", "growth", "reset"];
        Self { times_ms: 0..1_000, filters: Vec::new(), columns, target_partitions: 1, batch_size: 100 }
    }

    fn run(self, chunks: &[&[AdmittedRecord]]) -> Result<Vec<RecordBatch>> {
        let config = SessionConfig::new()
            .with_target_partitions(self.target_partitions)
            .with_batch_size(self.batch_size);
        let context = SessionContext::new_with_config(config);
        let chunks = chunks.iter().map(|chunk| Arc::from(*chunk)).collect();
        let table = Readings::new(chunks, self.times_ms, Arc::new(BTreeSet::from([COUNTER])));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut frame = context.read_table(Arc::new(table))?;
            for filter in self.filters {
                frame = frame.filter(filter)?;
            }
            let plan = frame.select_columns(&self.columns)?.create_physical_plan().await?;
            collect(plan, context.task_ctx()).await
        })
    }

    /// The rows as text, sorted.
    fn rows(self, chunks: &[&[AdmittedRecord]]) -> Vec<String> {
        let text = pretty_format_batches(&self.run(chunks).unwrap()).unwrap().to_string();
        let lines = text.lines().filter(|line| line.starts_with('|')).skip(1);
        let mut rows: Vec<_> = lines
            .map(|line| {
                line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>().join(" ")
            })
            .collect();
        rows.sort();
        rows
    }
}

#[test]
fn growth_counts_once() {
    let head = |value| Baselines::Head(vec![(0, 9), (COUNTER, value), (7, 9)]);
    let first = Baselines::Head(vec![(GAUGE, 5)]);
    let check = |name: &str, values: Values, baselines: &Baselines, expected: &[(i64, bool)]| {
        let record =
            record(1, &[(COUNTER, values.clone()), (GAUGE, some(&vec![0; values.len()]))], baselines.clone());
        let scan = Scan { filters: vec![col("metric").eq(lit(1_i64))], ..Scan::all() };
        let batches = scan.run(&[&[record]]).unwrap();
        let growth =
            batches.iter().flat_map(|batch| batch.column(3).as_primitive::<Int64Type>().iter().flatten());
        let reset = batches.iter().flat_map(|batch| batch.column(4).as_boolean().iter().flatten());
        assert_eq!(growth.zip(reset).collect::<Vec<_>>(), expected, "{name}");
    };
    check("rises", some(&[5, 9]), &head(3), &[(2, false), (4, false)]);
    check("stands", some(&[3, 3]), &head(3), &[(0, false), (0, false)]);
    check("first ever", some(&[5, 9]), &first, &[(0, false), (4, false)]);
    check("reset between", some(&[2, 9]), &head(3), &[(0, true), (7, false)]);
    check("reset within", some(&[7, 1, 4]), &head(3), &[(4, false), (0, true), (3, false)]);
    check("gaps", vec![Some(5), None, Some(9)], &head(3), &[(2, false), (4, false)]);
    check("fill", some(&[5, 1]), &Baselines::Fill, &[(0, false), (0, false)]);
    check("widest", some(&[0, i64::MAX]), &head(0), &[(0, false), (i64::MAX, false)]);
    check("below zero", some(&[i64::MIN, i64::MAX]), &head(0), &[(0, true), (i64::MAX, false)]);
}

#[test]
fn gauges_have_no_growth() {
    let rows = Scan::all().rows(&[&[record(1, &[(GAUGE, some(&[-5, 5]))], Baselines::Head(Vec::new()))]]);
    assert_eq!(rows, ["2 10 -5 false", "2 11 5 false"]);
}

/// Readings outside the window are not rows, but growth is over the value before, wherever that is.
#[test]
fn the_window_cuts_rows_and_not_growth() {
    let record = record(1, &[(COUNTER, some(&[1, 3, 6, 10]))], Baselines::Head(Vec::new()));
    let scan = |times_ms| Scan { times_ms, ..Scan::all() }.rows(&[std::slice::from_ref(&record)]);
    assert_eq!(scan(11..13), ["1 11 3 2 false", "1 12 6 3 false"]);
    assert_eq!(scan(0..11), ["1 10 1 0 false"]);
    assert_eq!(scan(0..10), Vec::<String>::new());
    assert_eq!(scan(14..99), Vec::<String>::new());
}

#[test]
fn rows_carry_their_device_and_provider() {
    let records = [1, 2].map(|number| record(number, &[(GAUGE, some(&[7]))], Baselines::Fill));
    let scan = Scan { columns: vec!["provider", "device", "value"], ..Scan::all() };
    let bytes = |number: u8, count| hex::encode(vec![number; count]);
    let expected = [1, 2].map(|number| format!("{} {} 7", bytes(number, 20), bytes(number, 32)));
    assert_eq!(scan.rows(&[&records]), expected);
}

/// R1: the same rows from any number of partitions, batch size and chunks.
#[test]
fn r1_rows_do_not_depend_on_the_cut() {
    let records: Vec<_> = (0..30)
        .map(|number| {
            let values: Values = (0..40).map(|index| (index % 7 > 0).then_some(index * 3)).collect();
            let columns = [(COUNTER, some(&(0..40).collect::<Vec<_>>())), (GAUGE, values)];
            record(number, &columns, Baselines::Head(vec![(COUNTER, 0)]))
        })
        .collect();
    let scan = || Scan { columns: vec!["device", "metric", "time", "value", "growth"], ..Scan::all() };
    let expected = scan().rows(&[&records]);
    assert_eq!(expected.len(), 30 * (40 + 34));
    for target_partitions in [1, 2, 7, 64] {
        for batch_size in [1, 3, 8192] {
            let cuts: [Vec<&[AdmittedRecord]>; 3] =
                [vec![&records], records.chunks(4).collect(), vec![&[], &records[..1], &records[1..], &[]]];
            for chunks in cuts {
                let scan = Scan { target_partitions, batch_size, ..scan() };
                assert_eq!(scan.rows(&chunks), expected, "{target_partitions} {batch_size}");
            }
        }
    }
}

#[test]
fn batches_are_of_the_size_that_is_asked_for() {
    let records: Vec<_> =
        (0..9).map(|number| record(number, &[(GAUGE, some(&[1; 10]))], Baselines::Fill)).collect();
    let scan = Scan { batch_size: 4, columns: vec!["value"], ..Scan::all() };
    let sizes: Vec<_> = scan.run(&[&records]).unwrap().iter().map(RecordBatch::num_rows).collect();
    assert!(sizes.iter().all(|rows| *rows <= 4), "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), 90);
}

#[test]
fn a_metric_is_filtered_while_decoding() {
    for (filter, pushed) in [
        (col("metric").eq(lit(1_i64)), true),
        (lit(1_i64).eq(col("metric")), true),
        (col("metric").not_eq(lit(1_i64)), false),
        (col("value").eq(lit(1_i64)), false),
        (col("metric").eq(col("value")), false),
    ] {
        assert_eq!(metric_equals(&filter).is_some(), pushed, "{filter}");
    }
    let record = record(1, &[(COUNTER, some(&[4])), (GAUGE, some(&[5]))], Baselines::Fill);
    let filters = |numbers: &[i64]| numbers.iter().map(|number| col("metric").eq(lit(*number))).collect();
    for (numbers, expected) in [(&[1_i64][..], 1), (&[2], 1), (&[3], 0), (&[-1], 0), (&[1, 2], 0)] {
        let scan = Scan { filters: filters(numbers), ..Scan::all() };
        assert_eq!(scan.rows(&[std::slice::from_ref(&record)]).len(), expected, "{numbers:?}");
    }
}

#[test]
fn more_parts_than_records_are_not_made() {
    let records: Vec<_> =
        (0..5).map(|number| record(number, &[(GAUGE, some(&[1; 10]))], Baselines::Fill)).collect();
    let table = Readings::new(vec![Arc::from(records.as_slice())], 0..99, Arc::default());
    for (count, most) in [(1, 1), (2, 2), (3, 3), (100, 5)] {
        let parts = table.parts(count);
        assert!(parts.len() <= most, "{} parts for {count}", parts.len());
        let spans = parts.iter().flatten().map(|span| span.records.len());
        assert_eq!(spans.sum::<usize>(), 5);
    }
    assert_eq!(Readings::new(Vec::new(), 0..99, Arc::default()).parts(7).len(), 1);
}

/// Admission decodes a record before it accepts it, so this is damage between the two.
#[test]
fn a_damaged_record_is_named() {
    let damaged = AdmittedRecord {
        payload: Bytes::from_static(&[1, 1, 2]),
        ..record(7, &[(GAUGE, some(&[1]))], Baselines::Fill)
    };
    let error = Scan::all().run(&[&[damaged]]).expect_err("a payload that ends early");
    assert!(error.to_string().contains("offset `7`"), "{error}");
}

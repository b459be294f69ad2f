use proptest::prelude::*;

use super::*;

/// The window of the tests: three minutes.
const WINDOW: Range<u64> = 1_000_000..1_180_000;

fn run(policy: &Policy, inputs: PolicyInputs) -> Result<Vec<ContributionRow>, PolicyError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(policy.run(inputs))
}

/// What a device sent, as admission saw it.
#[derive(Debug, Clone)]
struct Sent {
    device: u8,
    metric: u32,
    first_time_ms: u64,
    values: Vec<i64>,
    /// None: a late fill.
    baseline: Option<Option<i64>>,
    late_slot: bool,
}

impl Sent {
    fn record(&self) -> AdmittedRecord {
        let baselines = match self.baseline {
            None => Baselines::Fill,
            Some(value) => Baselines::Head(value.map(|value| (self.metric, value)).into_iter().collect()),
        };
        let owner = (self.device, self.device % 3 + 1);
        record(owner, self.metric, self.first_time_ms, &self.values, baselines)
    }
}

prop_compose! {
    fn sent()(
        device in 0_u8..6,
        metric in 1_u32..=2,
        start in 0_u64..400,
        values in prop::collection::vec(0_i64..1_000, 1..12),
        baseline in prop::option::of(prop::option::of(0_i64..1_000)),
        late_slot in any::<bool>(),
    ) -> Sent {
        Sent { device, metric, first_time_ms: 900_000 + start * 700, values, baseline, late_slot }
    }
}

/// Devices 0 to 4: device 5 sends without being in the program. Device 3 is flagged. Provider 4 has a
/// device that never sends.
fn devices() -> Vec<DeviceRow> {
    let mut rows: Vec<_> = (0..5).map(|number| device_row(number, number % 3 + 1, number == 3)).collect();
    rows.push(device_row(9, 4, false));
    rows
}

fn inputs(sent: &[Sent], chunk: usize, settings: EngineSettings) -> PolicyInputs {
    let chunks = |records: Vec<AdmittedRecord>| records.chunks(chunk).map(Arc::from).collect();
    let late = sent.iter().filter(|sent| sent.late_slot).map(Sent::record).collect();
    PolicyInputs {
        readings: chunks(sent.iter().map(Sent::record).collect()),
        late_readings: chunks(late),
        devices: devices(),
        window: WINDOW,
        settings,
    }
}

/// The energy policy, a reading at a time.
fn oracle(sent: &[Sent]) -> Vec<ContributionRow> {
    let names = ["devices", "readings", "late_readings", "energy_mwh", "flagged_devices"];
    let mut totals: BTreeMap<Address, (i128, BTreeMap<&str, i128>)> = BTreeMap::new();
    for row in devices() {
        let (_, counts) =
            totals.entry(row.provider).or_insert_with(|| (0, names.iter().map(|name| (*name, 0)).collect()));
        *counts.get_mut("devices").unwrap() += 1;
        *counts.get_mut("flagged_devices").unwrap() += i128::from(row.flagged);
    }
    for sent in sent.iter().filter(|sent| sent.metric == ENERGY && sent.device < 5) {
        let (weight, counts) = totals.get_mut(&provider(sent.device % 3 + 1)).unwrap();
        let mut add = |name: &str, number: i64| {
            let count = counts.get_mut(name).unwrap();
            *count = count.checked_add(i128::from(number)).unwrap();
        };
        let mut previous = sent.baseline.flatten();
        for (index, value) in sent.values.iter().enumerate() {
            let time_ms = sent.first_time_ms + 1_000 * index as u64;
            let growth = match (sent.baseline, previous) {
                (Some(_), Some(previous)) if *value > previous => value - previous,
                _ => 0,
            };
            previous = Some(*value);
            let on_time = WINDOW.contains(&time_ms);
            let late = sent.late_slot && time_ms < WINDOW.start;
            if on_time || late {
                add(if on_time { "readings" } else { "late_readings" }, 1);
                add("energy_mwh", growth);
                if sent.device != 3 {
                    *weight = weight.checked_add(i128::from(growth)).unwrap();
                }
            }
        }
    }
    let row = |(provider, (weight, counts)): (Address, (i128, BTreeMap<&str, i128>))| ContributionRow {
        provider,
        weight: u128::try_from(weight).unwrap(),
        explanation: counts.iter().map(|(name, count)| ((*name).to_owned(), count.to_string())).collect(),
    };
    totals.into_iter().map(row).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// R1 and the second engine: the same rows as a reading at a time gives, however the work is cut
    /// and in whatever order the records come.
    #[test]
    fn r1_the_energy_policy_agrees_with_a_row_at_a_time(
        (sent, shuffled) in prop::collection::vec(sent(), 0..40)
            .prop_flat_map(|sent| (Just(sent.clone()), Just(sent).prop_shuffle())),
        chunk in 1_usize..9,
    ) {
        let policy = Policy::check(&shipped("energy"), &facts()).unwrap();
        let expected = oracle(&sent);
        for (target_partitions, batch_size) in [(1, 8192), (2, 3), (7, 1)] {
            let settings = settings(target_partitions, batch_size);
            prop_assert_eq!(&run(&policy, inputs(&sent, chunk, settings)).unwrap(), &expected);
            prop_assert_eq!(&run(&policy, inputs(&shuffled, chunk + 1, settings)).unwrap(), &expected);
        }
    }
}

/// R1 over every pair of settings, with joins, distinct counts, text and division.
#[test]
fn r1_same_bytes_under_any_settings() {
    let sql = "
        SELECT d.provider AS provider,
          count(DISTINCT r.device) * 1000 + div_floor(coalesce(sum(r.growth), 0), 7) AS weight,
          min(d.attributes) AS first_device,
          CAST(max(r.time) AS TEXT) AS last_time,
          min(r.growth) AS least_growth,
          sum(CASE WHEN r.reset THEN 1 ELSE 0 END) AS resets
        FROM readings AS r
        JOIN devices AS d ON r.device = d.device AND r.provider = d.provider
        WHERE r.value <> 500
        GROUP BY d.provider";
    let policy = Policy::check(&bundle(sql), &facts()).unwrap();
    let sent: Vec<_> = (0..60_u8)
        .map(|index| Sent {
            device: index % 6,
            metric: 1 + u32::from(index % 2),
            first_time_ms: 980_000 + 3_000 * u64::from(index),
            values: (0..20).map(|step| (i64::from(index) * 37 + step * 91) % 1_000).collect(),
            baseline: (index % 5 > 0).then_some((index % 3 > 0).then_some(i64::from(index))),
            late_slot: false,
        })
        .collect();
    let expected = run(&policy, inputs(&sent, 60, settings(1, 8192))).unwrap();
    assert_eq!(expected.len(), 4);
    assert!(expected.iter().take(3).all(|row| row.weight > 1_000 && row.explanation.len() >= 3));
    let mut reversed = sent.clone();
    reversed.reverse();
    for target_partitions in [1, 2, 7] {
        for batch_size in [1, 3, 8192] {
            let settings = settings(target_partitions, batch_size);
            for (sent, chunk) in [(&sent, 1), (&sent, 7), (&reversed, 11)] {
                assert_eq!(run(&policy, inputs(sent, chunk, settings)).unwrap(), expected, "{settings:?}");
            }
        }
    }
}

/// Policies that break no rule do not fail on the greatest and least values that the facts allow.
#[test]
fn proven_policies_run_on_extremes() {
    let join = "JOIN devices AS d ON r.device = d.device AND r.provider = d.provider";
    let queries = [
        format!("SELECT DISTINCT provider, weight FROM (SELECT d.provider, count(*) AS weight FROM readings r {join} GROUP BY d.provider) t"),
        format!("SELECT d.provider, count(*) AS weight FROM readings r {join} WHERE false GROUP BY d.provider"),
        format!("SELECT d.provider, count(*) AS weight FROM readings r {join} GROUP BY d.provider HAVING count(*) > 2"),
        format!("SELECT r.provider, count(*) AS weight FROM late_readings r {join} GROUP BY r.provider"),
        "SELECT provider, count(*) AS weight FROM (SELECT provider FROM devices UNION SELECT provider FROM devices) t \
         GROUP BY provider".to_owned(),
        "SELECT d.provider, coalesce(max(x.total), 0) AS weight, min(x.least) AS least FROM devices AS d LEFT JOIN \
         (SELECT provider, sum(growth) AS total, min(value) AS least FROM readings GROUP BY provider) AS x \
         ON x.provider = d.provider GROUP BY d.provider".to_owned(),
        "SELECT a.provider, count(*) AS weight FROM devices a JOIN devices b ON a.device = b.device \
         GROUP BY a.provider".to_owned(),
        "WITH a AS (SELECT provider, device FROM devices WHERE NOT flagged), \
         b AS (SELECT provider, count(DISTINCT device) AS n, count(*) AS m FROM a GROUP BY provider) \
         SELECT provider, n + m AS weight, 'fixed' AS note FROM b".to_owned(),
    ];
    let expressions = [
        "count(*)",
        "count(DISTINCT r.device) + coalesce(sum(r.growth), 0)",
        "coalesce(sum(r.growth), 0)",
        "greatest(min(r.value), 0)",
        "greatest(coalesce(sum(r.value), 0), 0)",
        "div_floor(coalesce(sum(r.growth), 0) * 3, 2)",
        "0 - div_floor(0 - coalesce(sum(r.growth), 0), 7)",
        "div_floor(coalesce(sum(r.growth), 0), greatest(count(*), 1))",
        "coalesce(div_floor(1000, nullif(greatest(count(*), 1), 1)), 0)",
        "least(coalesce(sum(r.growth), 0), 1000)",
        "sum(CASE WHEN r.metric = 1 AND r.value >= 10 THEN r.value - 10 ELSE 0 END)",
        "coalesce(sum(r.value) FILTER (WHERE r.metric IN (1)), 0)",
        "coalesce(sum(r.value) FILTER (WHERE r.value BETWEEN 0 AND 9 AND r.value >= 0), 0)",
        "CASE WHEN max(d.attributes) = 'a' THEN 1 WHEN min(r.growth) IS NULL THEN 2 ELSE 0 END",
        "CASE count(*) WHEN 1 THEN 5 ELSE 7 END",
        "CAST(count(*) AS DECIMAL(20, 0))",
        "count(*) * 9223372036854775808",
        "count(*) - -1",
    ];
    let sent: Vec<_> = (0..40_u8)
        .map(|index| {
            let metric = 1 + u32::from(index % 2);
            let (low, high) = if metric == ENERGY { (0, 1_000_000_000_000_000) } else { (-100_000, 100_000) };
            let values = (0..10).map(|step| if step % 3 == 0 { low } else { high }).collect();
            let first_time_ms = 990_000 + 1_000 * u64::from(index);
            Sent {
                device: index % 6,
                metric,
                first_time_ms,
                values,
                baseline: Some(Some(0)),
                late_slot: true,
            }
        })
        .collect();
    for sql in queries.into_iter().chain(expressions.map(refusals::weight)) {
        let policy = Policy::check(&bundle(&sql), &facts()).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let one = run(&policy, inputs(&sent, 7, settings(1, 8192)))
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(one, run(&policy, inputs(&sent, 3, settings(3, 2))).unwrap(), "{sql}");
    }
}

/// Sums that wrap in the engine's own `sum` and `+`: here they are right, or the policy is refused.
#[test]
fn sums_do_not_wrap() {
    let mut facts = facts();
    facts.metrics.extend([metric(ENERGY, MetricKind::Counter, 0, i64::MAX)]);
    let sql = "
        SELECT d.provider AS provider, sum(r.value) AS weight, sum(r.value + r.value) AS doubled
        FROM readings AS r
        JOIN devices AS d ON r.device = d.device AND r.provider = d.provider
        WHERE r.metric = 1
        GROUP BY d.provider";
    let policy = Policy::check(&bundle(sql), &facts).unwrap();
    let one = record((1, 2), ENERGY, WINDOW.start, &[i64::MAX; 5], Baselines::Fill);
    let inputs = PolicyInputs { readings: vec![Arc::from([one])], ..inputs(&[], 1, settings(2, 2)) };
    let row = &run(&policy, inputs).unwrap()[1];
    let sum = 5 * u128::try_from(i64::MAX).unwrap();
    assert_eq!((row.provider, row.weight), (provider(2), sum));
    assert_eq!(row.explanation["doubled"], (2 * sum).to_string());
}

#[test]
fn parameters_stand_for_numbers() {
    let policy_toml =
        "name = 'a'\nversion = 1\ndescription = 'b'\n[parameters]\nleast = -9223372036854775808\nprice = 3\n";
    let contribution_sql = "SELECT provider, count(*) * $price AS weight, $least - 1 AS least \
                            FROM devices GROUP BY provider";
    let bundle =
        PolicyBundle { policy_toml: policy_toml.to_owned(), contribution_sql: contribution_sql.to_owned() };
    let rows = run(&Policy::check(&bundle, &facts()).unwrap(), inputs(&[], 1, settings(2, 10))).unwrap();
    let weights: Vec<_> = rows.iter().map(|row| row.weight).collect();
    assert_eq!(weights, [6, 6, 3, 3]);
    assert_eq!(rows[0].explanation["least"], "-9223372036854775809");
}

#[test]
fn providers_without_a_row_get_nothing() {
    let sql = "SELECT provider, count(*) AS weight FROM devices WHERE flagged GROUP BY provider";
    let rows = run(&Policy::check(&bundle(sql), &facts()).unwrap(), inputs(&[], 1, settings(1, 10))).unwrap();
    let weights: Vec<_> = rows.iter().map(|row| (row.provider, row.weight)).collect();
    assert_eq!(weights, [(provider(1), 1), (provider(2), 0), (provider(3), 0), (provider(4), 0)]);
    assert!(rows[1].explanation.is_empty());
}

#[test]
fn inputs_beyond_the_proof_are_refused() {
    let policy = Policy::check(&shipped("energy"), &facts()).unwrap();
    let mut twice = inputs(&[], 1, settings(1, 10));
    twice.devices.push(twice.devices[0].clone());
    assert!(matches!(run(&policy, twice), Err(PolicyError::DuplicateDevice { .. })));
    let facts = PolicyFacts { devices_max: 5, ..facts() };
    let policy = Policy::check(&shipped("energy"), &facts).unwrap();
    let error = run(&policy, inputs(&[], 1, settings(1, 10))).expect_err("six devices");
    assert!(matches!(error, PolicyError::TooManyDevices { count: 6, devices_max: 5 }));
}

/// 200 devices with 1,000 readings each; prints how long it took.
#[test]
#[ignore = "a measurement: run it by name, with --nocapture"]
fn how_long_the_energy_policy_takes() {
    let policy = Policy::check(&shipped("energy"), &facts()).unwrap();
    let values: Vec<_> = (0..100).map(|step| step * 17).collect();
    let records = (0..200_u8).flat_map(|number| {
        let values = &values;
        (0..10_u64).map(move |batch| {
            let owner = (number, number % 50);
            record(owner, ENERGY, WINDOW.start + 10_000 * batch, values, Baselines::Head(vec![(1, 0)]))
        })
    });
    let records: Arc<[AdmittedRecord]> = records.collect();
    for target_partitions in [1, 2] {
        let inputs = PolicyInputs {
            readings: vec![Arc::clone(&records)],
            late_readings: Vec::new(),
            devices: (0..200).map(|number| device_row(number, number % 50, false)).collect(),
            window: WINDOW,
            settings: settings(target_partitions, 8192),
        };
        let started = std::time::Instant::now();
        let rows = run(&policy, inputs).unwrap();
        let elapsed_ms = started.elapsed().as_millis();
        println!("{} providers, {target_partitions} partitions: {elapsed_ms} ms", rows.len());
    }
}

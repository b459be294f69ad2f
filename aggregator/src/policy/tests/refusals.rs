use super::*;

/// Puts an expression where a policy's weight is.
pub(super) fn weight(expr: &str) -> String {
    format!(
        "SELECT d.provider AS provider, {expr} AS weight\nFROM readings AS r\n\
         JOIN devices AS d ON r.device = d.device AND r.provider = d.provider\nGROUP BY d.provider"
    )
}

/// What is wrong with the answer to a query that breaks a rule, if anything is.
fn mismatch(sql: &str, rule: Rule, at: Option<(u64, u64)>) -> Option<String> {
    let Err(error) = Policy::check(&bundle(sql), &facts()) else {
        return Some(format!("accepted, not `{rule}`: {sql}"));
    };
    let PolicyError::Refused { rule: broken, at: place, .. } = &error else {
        return Some(format!("no rule, not `{rule}`: {sql}\n  {error}"));
    };
    let place = place.map(|place| (place.line, place.column));
    let agrees = *broken == rule && (at.is_none() || place == at);
    (!agrees).then(|| format!("not `{rule}` at {at:?}: {sql}\n  {error}"))
}

fn check_none(mismatches: impl Iterator<Item = String>) {
    let mismatches: Vec<_> = mismatches.collect();
    assert!(mismatches.is_empty(), "{}", mismatches.join("\n"));
}

#[test]
fn weights_that_break_a_rule() {
    let cases = [
        ("avg(r.value)", Rule::Functions, Some((1, 32))),
        ("random()", Rule::Functions, Some((1, 32))),
        ("now()", Rule::Functions, Some((1, 32))),
        ("current_date", Rule::Functions, None),
        ("approx_distinct(r.device)", Rule::Functions, None),
        ("sum(DISTINCT r.value)", Rule::Functions, None),
        ("first_value(r.value)", Rule::Functions, None),
        ("sum(r.value ORDER BY r.time)", Rule::Functions, None),
        ("extract(year FROM r.time)", Rule::Functions, None),
        ("count(*) * 1.5", Rule::WholeNumbers, Some((1, 43))),
        ("count(*) * 1e2", Rule::WholeNumbers, Some((1, 43))),
        ("count(*) * .5", Rule::WholeNumbers, None),
        ("CAST(count(*) AS DOUBLE)", Rule::WholeNumbers, None),
        ("CAST(count(*) AS REAL)", Rule::WholeNumbers, None),
        ("CAST(count(*) AS DECIMAL(20, 2))", Rule::WholeNumbers, None),
        ("CAST(count(*) AS DECIMAL)", Rule::WholeNumbers, None),
        ("count(*) / 2", Rule::Arithmetic, Some((1, 32))),
        ("count(*) % 2", Rule::Arithmetic, None),
        ("-count(*)", Rule::Arithmetic, None),
        ("count(*) & 1", Rule::Arithmetic, None),
        ("'a' || 'b'", Rule::Arithmetic, None),
        ("CASE WHEN max(d.attributes) LIKE '%a' THEN 1 ELSE 0 END", Rule::Patterns, Some((1, 42))),
        ("CASE WHEN max(d.attributes) ~ 'a' THEN 1 ELSE 0 END", Rule::Patterns, None),
        ("sum(count(*)) OVER ()", Rule::Windows, Some((1, 32))),
        ("row_number() OVER (ORDER BY d.provider)", Rule::Windows, None),
        ("(SELECT 1)", Rule::Subqueries, None),
        ("CASE WHEN d.provider IN (SELECT provider FROM devices) THEN 1 ELSE 0 END", Rule::Subqueries, None),
        ("CAST(max(d.attributes) AS BIGINT)", Rule::Casts, None),
        ("TRY_CAST(count(*) AS INT)", Rule::Casts, None),
        ("CAST(max(d.provider) AS TEXT)", Rule::Casts, None),
        ("CAST(max(r.time) AS INT)", Rule::Bounds, None),
        ("CAST(max(r.time) AS TIMESTAMP)", Rule::Casts, None),
        ("sum(r.no_such_column)", Rule::Plan, Some((1, 36))),
        ("'text'", Rule::Weight, None),
        ("sum(r.value)", Rule::Weight, None),
        ("sum(r.growth)", Rule::Weight, None),
        ("coalesce(sum(r.growth), 0) - 1", Rule::Weight, None),
        ("min(r.value)", Rule::Weight, None),
        ("sum(CASE WHEN r.metric = 9 THEN r.growth ELSE 0 END)", Rule::Metrics, None),
        ("div_floor(count(*), 0)", Rule::Bounds, None),
        ("div_floor(count(*), coalesce(sum(r.growth), 0))", Rule::Bounds, None),
        ("sum(r.time * r.time) * count(*)", Rule::Bounds, None),
        ("count(*) * 99999999999999999999999999999999999999", Rule::Bounds, None),
        ("100000000000000000000000000000000000000", Rule::Bounds, None),
        ("sum(r.time * r.time)", Rule::Bounds, None),
        (
            "greatest(count(*), 5000000000000000000) * greatest(count(*), 9000000000000000000)",
            Rule::Bounds,
            None,
        ),
        ("10000000000000000000000000000000000000", Rule::Bounds, None),
        ("$price * count(*)", Rule::Parameters, Some((1, 32))),
        ("array_length([1])", Rule::Functions, None),
        ("count(*) ->> 'a'", Rule::Arithmetic, None),
    ];
    check_none(cases.into_iter().filter_map(|(expr, rule, at)| mismatch(&weight(expr), rule, at)));
}

#[test]
fn queries_that_break_a_rule() {
    let good = "SELECT provider, count(*) AS weight FROM devices GROUP BY provider";
    let cases = [
        (format!("{good} LIMIT 1"), Rule::Limit),
        (format!("{good} OFFSET 1"), Rule::Limit),
        (format!("{good} FETCH FIRST 1 ROW ONLY"), Rule::Limit),
        (format!("{good} ORDER BY provider"), Rule::Order),
        (format!("{good}; {good}"), Rule::OneSelect),
        (String::new(), Rule::OneSelect),
        (format!("EXPLAIN {good}"), Rule::OneSelect),
        ("CREATE TABLE t (a INT)".to_owned(), Rule::OneSelect),
        ("DROP VIEW readings".to_owned(), Rule::OneSelect),
        ("INSERT INTO devices SELECT * FROM devices".to_owned(), Rule::OneSelect),
        ("SET a = 1".to_owned(), Rule::OneSelect),
        ("COPY devices TO 'x.parquet'".to_owned(), Rule::OneSelect),
        ("SELECT".to_owned(), Rule::Syntax),
        ("SELEC provider FROM devices".to_owned(), Rule::Syntax),
        (format!("{good} WHERE"), Rule::Syntax),
        (good.replace("devices", "'evidence.parquet'"), Rule::Views),
        (good.replace("devices", "other"), Rule::Views),
        (good.replace("devices", "information_schema.tables"), Rule::Views),
        (good.replace("devices", "(SELECT provider FROM other)"), Rule::Views),
        (good.replace("devices", "generate_series(1, 10)"), Rule::Views),
        (good.replace("devices", "devices TABLESAMPLE (10)"), Rule::Views),
        (format!("WITH devices AS (SELECT 1 AS a) {good}"), Rule::Views),
        (format!("WITH RECURSIVE a AS (SELECT 1 AS b) {good}"), Rule::Syntax),
        (format!("{good} -- {}", "x".repeat(20_000)), Rule::Syntax),
        (good.replace("count(*)", &format!("count(*){}", " + 1".repeat(100))), Rule::Syntax),
        (good.replace("count(*)", &format!("{}1{}", "(".repeat(100), ")".repeat(100))), Rule::Syntax),
        (good.replace("FROM devices", "INTO t FROM devices"), Rule::OneSelect),
        (good.replace("SELECT", "SELECT TOP 1"), Rule::Limit),
        (format!("{good} FOR UPDATE"), Rule::Syntax),
        ("VALUES (1, 2)".to_owned(), Rule::Syntax),
        (format!("{good} EXCEPT {good}"), Rule::Syntax),
    ];
    check_none(cases.into_iter().filter_map(|(sql, rule)| mismatch(&sql, rule, None)));
}

#[test]
fn results_that_break_a_rule() {
    let good = "SELECT provider, count(*) AS weight FROM devices GROUP BY provider";
    let cases = [
        ("SELECT * FROM devices".to_owned(), Rule::Output),
        ("SELECT provider FROM devices GROUP BY provider".to_owned(), Rule::Output),
        ("SELECT provider, count(*) FROM devices GROUP BY provider".to_owned(), Rule::Output),
        ("SELECT provider, count(*) AS weight, max(flagged) AS f FROM devices GROUP BY provider".to_owned(), Rule::Output),
        ("SELECT device AS provider, count(*) AS weight FROM devices GROUP BY device".to_owned(), Rule::Provider),
        ("SELECT provider, count(*) AS weight FROM readings GROUP BY provider".to_owned(), Rule::Provider),
        ("SELECT 'me' AS provider, count(*) AS weight FROM devices".to_owned(), Rule::Provider),
        ("SELECT X'00' AS provider, count(*) AS weight FROM devices".to_owned(), Rule::Syntax),
        ("SELECT max(provider) AS provider, count(*) AS weight FROM devices".to_owned(), Rule::Provider),
        ("SELECT provider, 1 AS weight FROM devices".to_owned(), Rule::OneRowPerProvider),
        ("SELECT provider, count(*) AS weight FROM devices GROUP BY provider, device".to_owned(), Rule::OneRowPerProvider),
        (format!("{good} UNION ALL {good}"), Rule::OneRowPerProvider),
        (
            "SELECT d.provider, count(*) AS weight FROM readings r LEFT JOIN devices d ON r.device = d.device \
             GROUP BY d.provider".to_owned(),
            Rule::Provider,
        ),
        ("SELECT a.provider, count(*) AS weight FROM devices a, devices b GROUP BY a.provider".to_owned(), Rule::Joins),
        ("SELECT a.provider, count(*) AS weight FROM devices a CROSS JOIN devices b GROUP BY a.provider".to_owned(), Rule::Joins),
        ("SELECT a.provider, count(*) AS weight FROM devices a FULL JOIN devices b ON a.device = b.device GROUP BY a.provider".to_owned(), Rule::Joins),
        ("SELECT a.provider, count(*) AS weight FROM devices a JOIN devices b ON a.flagged GROUP BY a.provider".to_owned(), Rule::Joins),
        ("SELECT a.provider, count(*) AS weight FROM devices a JOIN devices b USING (device) GROUP BY a.provider".to_owned(), Rule::Joins),
        ("SELECT DISTINCT ON (provider) provider, 1 AS weight FROM devices".to_owned(), Rule::Order),
    ];
    check_none(cases.into_iter().filter_map(|(sql, rule)| mismatch(&sql, rule, None)));
}

/// More rows than facts allow make the same query break the bounds: they are proven, not guessed.
#[test]
fn bounds_follow_the_facts() {
    let sql = weight("coalesce(sum(r.growth) FILTER (WHERE r.metric = 1), 0)");
    Policy::check(&bundle(&sql), &facts()).unwrap();
    let mut facts = facts();
    facts.metrics.extend([metric(ENERGY, MetricKind::Counter, 0, i64::MAX)]);
    Policy::check(&bundle(&sql), &facts).unwrap();
    let facts = PolicyFacts { readings_per_device_max: u32::MAX, devices_max: u32::MAX, ..facts };
    let error = Policy::check(&bundle(&sql), &facts).expect_err("2^66 readings of 2^63");
    assert_eq!(error.rule(), Some(Rule::Bounds), "{error}");
}

#[test]
fn manifests_that_break_a_rule() {
    let sql = "SELECT provider, count(*) AS weight FROM devices GROUP BY provider";
    let head = "name = 'a'\nversion = 1\ndescription = 'b'\n";
    for (toml, part, line) in [
        (format!("{head}colour = 'red'\n"), "colour", Some(4)),
        ("name = 'a'\nversion = 'one'\ndescription = 'b'\n".to_owned(), "`version`", Some(2)),
        ("name = 'a'\ndescription = 'b'\n".to_owned(), "version", None),
        (format!("{head}[parameters]\nprice = 1.5\n"), "`price`", Some(5)),
        (format!("{head}[parameters]\nprice = '1'\n"), "`price`", Some(5)),
        (format!("{head}[parameters]\nPrice = 1\n"), "`Price`", None),
        (format!("{head}[other]\nprice = 1\n"), "other", Some(4)),
        (format!("{head}name = 'c'\n"), "name", None),
        ("name =".to_owned(), "", Some(1)),
    ] {
        let bundle = PolicyBundle { policy_toml: toml.clone(), contribution_sql: sql.to_owned() };
        let error = Policy::check(&bundle, &facts()).expect_err(&toml);
        assert_eq!(error.rule(), Some(Rule::Manifest), "{toml}\n{error}");
        assert!(error.to_string().contains(part), "{toml}\n{error}");
        let PolicyError::Refused { at, .. } = error else { unreachable!("it has a rule") };
        if line.is_some() {
            assert_eq!(at.map(|place| place.line), line, "{toml}");
        }
    }
    let unused = PolicyBundle {
        policy_toml: format!("{head}[parameters]\nprice = 1\n"),
        contribution_sql: sql.to_owned(),
    };
    assert_eq!(Policy::check(&unused, &facts()).expect_err("unused").rule(), Some(Rule::Parameters));
}

#[test]
fn an_error_reads_as_one_sentence_with_its_place() {
    let error = Policy::check(&bundle(&weight("count(*) / 2")), &facts()).expect_err("a division");
    assert_eq!(
        error.to_string(),
        "contribution.sql:1:32: `/` does not say how it rounds: use div_floor(a, b) (rule `arithmetic`)"
    );
    let error = Policy::check(&bundle(&weight("coalesce(sum(r.growth), 0) - 1")), &facts());
    assert_eq!(
        error.expect_err("below zero").to_string(),
        "the policy: `weight` can be negative, down to -1: use greatest(..., 0) (rule `weight`)"
    );
}

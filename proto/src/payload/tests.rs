#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const TIME: u64 = 1_760_000_000_000;

/// Payloads of up to 20 times and 5 columns: dense, sparse, and with extreme values.
fn payloads() -> impl Strategy<Value = Payload> {
    let value = prop_oneof![-70_i64..70, any::<i64>(), Just(i64::MIN), Just(i64::MAX)];
    let steps = prop::collection::vec(prop_oneof![1_u64..300, 1_u64..1 << 40], 0..20);
    (steps, prop::collection::btree_set(any::<u32>(), 1..5)).prop_flat_map(move |(steps, metrics)| {
        let mut times_ms = vec![TIME];
        times_ms.extend(steps.iter().scan(TIME, |time, step| {
            *time += step;
            Some(*time)
        }));
        let row = prop::collection::vec(prop::option::weighted(0.7, value.clone()), times_ms.len());
        prop::collection::vec(row, metrics.len()).prop_map(move |mut rows| {
            // The first column has every time where others leave one out; none is empty.
            for index in 0..times_ms.len() {
                if rows.iter().all(|row| row[index].is_none()) {
                    rows[0][index] = Some(index as i64);
                }
            }
            for row in &mut rows {
                row[0].get_or_insert(0);
            }
            let column =
                |(metric, values): (&u32, &Vec<_>)| Column { metric: *metric, values: values.clone() };
            Payload { times_ms: times_ms.clone(), columns: metrics.iter().zip(&rows).map(column).collect() }
        })
    })
}

proptest! {
    #[test]
    fn decode_gives_what_was_encoded(payload in payloads()) {
        let bytes = payload.encode().unwrap();
        prop_assert_eq!(Payload::decode(&bytes, TIME).unwrap(), payload);
    }

    #[test]
    fn r1_every_payload_has_exactly_one_encoding(payload in payloads(), other in any::<u8>()) {
        let bytes = payload.encode().unwrap();
        for at in 0..bytes.len() {
            let mut mutated = bytes.clone();
            mutated[at] = other;
            if let Ok(decoded) = Payload::decode(&mutated, TIME) {
                prop_assert_eq!(decoded.encode().unwrap(), mutated);
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), time in any::<u64>()) {
        if let Ok(decoded) = Payload::decode(&bytes, time) {
            prop_assert_eq!(decoded.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn small_bytes_never_panic(bytes in prop::collection::vec(0_u8..4, 0..24)) {
        if let Ok(decoded) = Payload::decode(&bytes, TIME) {
            prop_assert_eq!(decoded.encode().unwrap(), bytes);
        }
    }
}

#[test]
fn what_cannot_be_encoded() {
    let column = |metric, values: &[Option<i64>]| Column { metric, values: values.to_vec() };
    let check = |times_ms: &[u64], columns: &[Column], expected: PayloadError| {
        let payload = Payload { times_ms: times_ms.to_vec(), columns: columns.to_vec() };
        assert_eq!(payload.encode().unwrap_err(), expected);
    };
    let one = [Some(1)];
    check(&[1], &[], PayloadError::ColumnCount(0));
    check(
        &[1],
        &(0..65).map(|metric| column(metric, &one)).collect::<Vec<_>>(),
        PayloadError::ColumnCount(65),
    );
    check(&[], &[column(1, &[])], PayloadError::Presence(1));
    check(&[1], &[column(1, &[None])], PayloadError::Presence(1));
    check(&[1], &[column(1, &[Some(1), None])], PayloadError::Presence(1));
    check(&[1], &[column(2, &one), column(2, &one)], PayloadError::Metric(2));
    check(&[5, 5], &[column(1, &[Some(1); 2])], PayloadError::Time { index: 1 });
    check(&[TIME_MS_MAX + 1], &[column(1, &one)], PayloadError::Time { index: 0 });
    check(&[1, 2], &[column(1, &[Some(1), None])], PayloadError::EmptyTime { index: 1 });
    let many: Vec<u64> = (0..=u64::from(READINGS_MAX)).collect();
    check(&many, &[column(1, &vec![Some(1); many.len()])], PayloadError::ReadingCount(16_385));
}

/// The largest payload that the other limits allow stays below the limit of bytes.
#[test]
fn m1_the_largest_payload_fits() {
    let count = READINGS_MAX as usize;
    let times_ms: Vec<u64> = (0..count as u64).map(|index| index * (TIME_MS_MAX / count as u64)).collect();
    let owner = |index: usize| index % COLUMNS_MAX as usize;
    let value =
        |index: usize| if (index / COLUMNS_MAX as usize).is_multiple_of(2) { i64::MIN } else { i64::MAX / 2 };
    let column = |number: usize| Column {
        metric: u32::MAX - COLUMNS_MAX as u32 + number as u32,
        values: (0..count).map(|index| (owner(index) == number).then(|| value(index))).collect(),
    };
    let payload = Payload { times_ms, columns: (0..COLUMNS_MAX as usize).map(column).collect() };
    let bytes = payload.encode().unwrap();
    assert!((300_000..PAYLOAD_BYTES_MAX).contains(&bytes.len()), "{}", bytes.len());
    assert_eq!(Payload::decode(&bytes, 0).unwrap(), payload);
}

use proptest::prelude::*;

use super::*;
use crate::policy::functions;

fn bounds(low: i64, high: i64, rows: u32) -> Number {
    let bound = |value: i64| I256::try_from(value).expect("256 bits hold 64");
    Number::new(bound(low), bound(high), U256::from(rows))
}

fn holds(number: &Number, value: i128) -> bool {
    let value = I256::try_from(value).expect("256 bits hold 128");
    number.low <= value && value <= number.high
}

fn total(values: impl IntoIterator<Item = i128>) -> U256 {
    values.into_iter().map(|value| U256::from(value.unsigned_abs())).sum()
}

prop_compose! {
    /// A column of numbers and the tightest bounds of it.
    fn column()(values in prop::collection::vec(-50_i64..50, 5)) -> (Vec<i128>, Number) {
        let low = *values.iter().min().unwrap();
        let high = *values.iter().max().unwrap();
        let mut number = bounds(low, high, 5);
        let values: Vec<_> = values.into_iter().map(i128::from).collect();
        number.mass = total(values.iter().copied());
        (values, number)
    }
}

proptest! {
    #[test]
    fn arithmetic_stays_within_its_bounds((a, a_bounds) in column(), (b, b_bounds) in column()) {
        type Op = (fn(i128, i128) -> i128, Option<Number>);
        let ops: [Op; 5] = [
            (|a, b| a + b, Some(a_bounds.plus(b_bounds))),
            (|a, b| a - b, Some(a_bounds.minus(b_bounds))),
            (|a, b| a * b, Some(a_bounds.times(b_bounds))),
            (|a, b| if b == 0 { 0 } else { functions::div_floor(a, b).unwrap() }, a_bounds.div_floor(b_bounds)),
            (|a, b| if a % 2 == 0 { a } else { b }, Some(a_bounds.either(b_bounds))),
        ];
        for (op, number) in ops {
            let Some(number) = number else { continue };
            let results: Vec<_> = a.iter().zip(&b).map(|(a, b)| op(*a, *b)).collect();
            prop_assert!(results.iter().all(|value| holds(&number, *value)));
            prop_assert!(total(results) <= number.mass);
        }
    }

    #[test]
    fn sums_stay_within_their_bounds((values, number) in column(), cut in 1_usize..5) {
        let sum = number.sum(U256::from(values.len()));
        let (left, right) = values.split_at(cut);
        let groups = [left.iter().sum::<i128>(), right.iter().sum::<i128>()];
        for group in groups {
            prop_assert!(holds(&sum, group));
        }
        prop_assert!(total(groups) <= sum.mass);
        prop_assert!(holds(&sum.sum(U256::from(2)), groups[0] + groups[1]));
    }

    #[test]
    fn div_floor_rounds_down(a in -1_000_i128..1_000, b in -20_i128..20) {
        prop_assume!(b != 0);
        let quotient = functions::div_floor(a, b).unwrap();
        let remainder = a - quotient * b;
        prop_assert!(remainder.abs() < b.abs() && (remainder == 0 || (remainder < 0) == (b < 0)));
    }
}

#[test]
fn a_divisor_that_can_be_zero_has_no_quotient() {
    for (low, high, divides) in [(-1, 1, false), (0, 9, false), (-9, 0, false), (1, 9, true), (-9, -1, true)]
    {
        assert_eq!(bounds(-5, 5, 1).div_floor(bounds(low, high, 1)).is_some(), divides, "{low}..={high}");
    }
}

#[test]
fn sums_of_sums_do_not_grow() {
    let number = bounds(0, 1_000, 1_000_000);
    let rows = U256::from(1_000_000);
    assert_eq!(number.sum(rows).sum(rows).high, number.sum(rows).high);
}

//! What a column's numbers can be: bounds of each, and of all together.

use alloy_primitives::{I256, U256};

/// Bounds of a number in every row, and of their sum over all rows.
///
/// The second bound is what keeps sums of sums tight: however rows are grouped, the groups' sums add
/// up to no more than the rows did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) low: I256,
    pub(super) high: I256,
    /// The sum over all rows of the absolute values is at most this; a null counts as 0.
    pub(super) mass: U256,
}

/// Above every bound that is accepted; bounds are cut off here so that no step of the proof overflows.
/// Operands are at most 38 digits, since each result is checked, and so a product has at most 76.
fn cut_off() -> U256 {
    U256::from(10).pow(U256::from(40))
}

/// The largest number of so many digits.
pub(super) fn largest(digits: u8) -> U256 {
    U256::from(10).pow(U256::from(digits)) - U256::from(1)
}

fn signed(bound: U256) -> I256 {
    I256::from_raw(bound.min(cut_off()))
}

impl Number {
    pub(super) fn new(low: I256, high: I256, rows: U256) -> Self {
        Self { low, high, mass: U256::MAX }.capped(rows)
    }

    pub(super) fn of(value: i128, rows: U256) -> Self {
        let value = I256::try_from(value).expect("256 bits hold 128");
        Self::new(value, value, rows)
    }

    /// Of every row.
    pub(super) fn magnitude(&self) -> U256 {
        self.low.unsigned_abs().max(self.high.unsigned_abs())
    }

    /// With the bound on the sum that follows from the number of rows.
    pub(super) fn capped(self, rows: U256) -> Self {
        Self { mass: self.mass.min(rows.saturating_mul(self.magnitude())), ..self }
    }

    /// After every row was repeated at most so many times.
    pub(super) fn repeated(self, times: U256, rows: U256) -> Self {
        Self { mass: self.mass.saturating_mul(times), ..self }.capped(rows)
    }

    /// With tighter bounds; bounds that exclude every number belong to no row.
    pub(super) fn within(self, low: I256, high: I256, rows: U256) -> Self {
        let (low, high) = (self.low.max(low), self.high.min(high));
        let (low, high) = if low > high { (I256::ZERO, I256::ZERO) } else { (low, high) };
        Self { low, high, mass: self.mass }.capped(rows)
    }

    /// One or the other in each row.
    pub(super) fn either(self, other: Self) -> Self {
        Self {
            low: self.low.min(other.low),
            high: self.high.max(other.high),
            mass: self.mass.saturating_add(other.mass),
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            low: self.low + other.low,
            high: self.high + other.high,
            mass: self.mass.saturating_add(other.mass),
        }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        Self {
            low: self.low - other.high,
            high: self.high - other.low,
            mass: self.mass.saturating_add(other.mass),
        }
    }

    pub(super) fn times(self, other: Self) -> Self {
        let mass = self.mass.saturating_mul(other.magnitude());
        let mass = mass.min(other.mass.saturating_mul(self.magnitude()));
        self.corners(other, |a, b| a * b, mass)
    }

    /// None if the divisor can be zero. A quotient by a whole number, rounded down, is no further from
    /// zero than the dividend.
    pub(super) fn div_floor(self, divisor: Self) -> Option<Self> {
        let floor = |a: I256, b: I256| {
            let (quotient, remainder) = (a / b, a % b);
            let below = !remainder.is_zero() && remainder.is_negative() != b.is_negative();
            if below { quotient - I256::ONE } else { quotient }
        };
        let can_be_zero = divisor.low <= I256::ZERO && divisor.high >= I256::ZERO;
        (!can_be_zero).then(|| self.corners(divisor, floor, self.mass))
    }

    /// An operation that is monotone in each argument takes its extremes at the corners.
    fn corners(self, other: Self, op: impl Fn(I256, I256) -> I256, mass: U256) -> Self {
        let first = op(self.low, other.low);
        let rest = [op(self.low, other.high), op(self.high, other.low), op(self.high, other.high)];
        let low = rest.into_iter().fold(first, I256::min);
        let high = rest.into_iter().fold(first, I256::max);
        Self { low, high, mass }
    }

    /// The sum over one row or more of `rows`.
    pub(super) fn sum(self, rows: U256) -> Self {
        let reach = |bound: I256| signed(self.mass.min(rows.saturating_mul(bound.unsigned_abs())));
        let low = if self.low.is_negative() { -reach(self.low) } else { self.low };
        let high = if self.high.is_positive() { reach(self.high) } else { self.high };
        Self { low, high, mass: self.mass }
    }

    /// How many rows of `rows`.
    pub(super) fn count(rows: U256) -> Self {
        Self { low: I256::ZERO, high: signed(rows), mass: rows }
    }
}

#[cfg(test)]
mod tests;

//! The payload of a batch: readings in columns, with exactly one valid encoding.
//!
//! ```text
//! payload  varint number of times T, varint number of columns C,
//!          T - 1 varints: differences of consecutive times in milliseconds, each at least 1,
//!          C columns in rising order of metric
//! column   varint metric, presence, the values of the times that are present
//! presence one byte: 0 = every time; 1 = a bitmap of ceil(T / 8) bytes follows, least
//!          significant bit first, padding zero, not empty and not full
//! value    varint of the zigzag of the wrapping difference to the column's previous value
//!          (the first: to 0)
//! ```
//!
//! The first time stands in the header. Every time is present in at least one column. Integers are
//! LEB128 in their shortest form, so a payload has no second encoding and needs no re-encoding to
//! be checked.

use crate::wire::{LayoutError, Reader, put_varint};

/// The most readings a batch may hold.
pub const READINGS_MAX: u32 = 16_384;
/// The most columns a batch may hold.
pub const COLUMNS_MAX: u64 = 64;
/// The most bytes a payload may have: `READINGS_MAX` readings of at most ten bytes, their times, and
/// the bitmaps stay below it.
pub const PAYLOAD_BYTES_MAX: usize = 512 * 1024;
/// The last millisecond of the year 9999, the largest time anywhere.
pub const TIME_MS_MAX: u64 = 253_402_300_799_999;

/// Readings of one device over some times.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Payload {
    /// Event times in milliseconds since 1970, strictly rising.
    pub times_ms: Vec<u64>,
    /// One column per metric, in rising order of metric.
    pub columns: Vec<Column>,
}

/// The readings of one metric.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Column {
    /// The metric, as the catalogue numbers it.
    pub metric: u32,
    /// For each time its value, if there is one.
    pub values: Vec<Option<i64>>,
}

/// Why readings cannot be encoded, or bytes are not a payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The bytes do not have the layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// More bytes than a payload may have.
    #[error("the payload has {0} bytes, more than {PAYLOAD_BYTES_MAX}")]
    TooLarge(usize),
    /// A number of readings out of bounds.
    #[error("the batch has {0} readings, not 1 to {READINGS_MAX}")]
    ReadingCount(u64),
    /// A number of columns out of bounds.
    #[error("the batch has {0} columns, not 1 to {COLUMNS_MAX}")]
    ColumnCount(u64),
    /// A time that is not after the one before it, or beyond the year 9999.
    #[error("time {index} is not after the one before it, or is beyond the year 9999")]
    Time {
        /// Its place in the batch.
        index: usize,
    },
    /// A metric that is not above the one before it, or above 32 bits.
    #[error("metric `{0}` is not above the one before it, or is above 32 bits")]
    Metric(u64),
    /// A presence byte or bitmap in a form that is not the valid one.
    #[error("the presence of metric `{0}` is not in its only valid form")]
    Presence(u32),
    /// A time at which nothing was read.
    #[error("time {index} has no reading in any column")]
    EmptyTime {
        /// Its place in the batch.
        index: usize,
    },
}

impl Payload {
    /// How many readings there are.
    pub fn reading_count(&self) -> u64 {
        self.columns.iter().map(|column| column.values.iter().flatten().count() as u64).sum()
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Result<Vec<u8>, PayloadError> {
        self.check()?;
        let mut out = Vec::with_capacity(16 + 4 * self.times_ms.len() * (1 + self.columns.len()));
        put_varint(&mut out, self.times_ms.len() as u64);
        put_varint(&mut out, self.columns.len() as u64);
        for pair in self.times_ms.windows(2) {
            put_varint(&mut out, pair[1] - pair[0]);
        }
        for column in &self.columns {
            column.encode(&mut out);
        }
        if out.len() > PAYLOAD_BYTES_MAX {
            return Err(PayloadError::TooLarge(out.len()));
        }
        Ok(out)
    }

    /// Reads canonical bytes whose first time is `first_time_ms`, and refuses all others.
    pub fn decode(bytes: &[u8], first_time_ms: u64) -> Result<Self, PayloadError> {
        if bytes.len() > PAYLOAD_BYTES_MAX {
            return Err(PayloadError::TooLarge(bytes.len()));
        }
        let mut reader = Reader::new("the payload", bytes);
        let time_count = reader.varint()?;
        let column_count = reader.varint()?;
        if time_count == 0 || time_count > u64::from(READINGS_MAX) {
            return Err(PayloadError::ReadingCount(time_count));
        }
        if column_count == 0 || column_count > COLUMNS_MAX {
            return Err(PayloadError::ColumnCount(column_count));
        }
        let mut times_ms = Vec::with_capacity(time_count as usize);
        let mut time_ms = first_time_ms;
        if time_ms > TIME_MS_MAX {
            return Err(PayloadError::Time { index: 0 });
        }
        times_ms.push(time_ms);
        for index in 1..time_count as usize {
            let step = reader.varint()?;
            time_ms = time_ms
                .checked_add(step)
                .filter(|time| step > 0 && *time <= TIME_MS_MAX)
                .ok_or(PayloadError::Time { index })?;
            times_ms.push(time_ms);
        }
        let mut columns: Vec<Column> = Vec::with_capacity(column_count as usize);
        for _ in 0..column_count {
            let column = Column::decode(&mut reader, times_ms.len(), columns.last().map(|last| last.metric))?;
            columns.push(column);
        }
        reader.end()?;
        let payload = Self { times_ms, columns };
        payload.check_counts()?;
        Ok(payload)
    }

    /// What `decode` could not have read: for readings that come from a device's code.
    fn check(&self) -> Result<(), PayloadError> {
        if self.columns.is_empty() || self.columns.len() as u64 > COLUMNS_MAX {
            return Err(PayloadError::ColumnCount(self.columns.len() as u64));
        }
        let rising = |index: usize| index == 0 || self.times_ms[index - 1] < self.times_ms[index];
        if let Some(index) = (0..self.times_ms.len()).find(|i| !rising(*i) || self.times_ms[*i] > TIME_MS_MAX)
        {
            return Err(PayloadError::Time { index });
        }
        for (index, column) in self.columns.iter().enumerate() {
            if index > 0 && self.columns[index - 1].metric >= column.metric {
                return Err(PayloadError::Metric(column.metric.into()));
            }
            if column.values.len() != self.times_ms.len() || column.values.iter().all(Option::is_none) {
                return Err(PayloadError::Presence(column.metric));
            }
        }
        self.check_counts()
    }

    fn check_counts(&self) -> Result<(), PayloadError> {
        let count = self.reading_count();
        if count == 0 || count > u64::from(READINGS_MAX) {
            return Err(PayloadError::ReadingCount(count));
        }
        let empty = |index: &usize| self.columns.iter().all(|column| column.values[*index].is_none());
        match (0..self.times_ms.len()).find(empty) {
            Some(index) => Err(PayloadError::EmptyTime { index }),
            None => Ok(()),
        }
    }
}

impl Column {
    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, u64::from(self.metric));
        if self.values.iter().all(Option::is_some) {
            out.push(0);
        } else {
            out.push(1);
            for eight in self.values.chunks(8) {
                let bits = eight.iter().enumerate().map(|(bit, value)| u8::from(value.is_some()) << bit);
                out.push(bits.fold(0, |byte, bit| byte | bit));
            }
        }
        let mut previous = 0_i64;
        for value in self.values.iter().flatten() {
            put_varint(out, zigzag(value.wrapping_sub(previous)));
            previous = *value;
        }
    }

    fn decode(reader: &mut Reader<'_>, time_count: usize, below: Option<u32>) -> Result<Self, PayloadError> {
        let metric = reader.varint()?;
        let metric = u32::try_from(metric)
            .ok()
            .filter(|metric| below.is_none_or(|below| below < *metric))
            .ok_or(PayloadError::Metric(metric))?;
        let bitmap = match reader.u8()? {
            0 => None,
            1 => Some(presence_bitmap(reader, time_count).ok_or(PayloadError::Presence(metric))?),
            _ => return Err(PayloadError::Presence(metric)),
        };
        let mut values = Vec::with_capacity(time_count);
        let mut previous = 0_i64;
        for index in 0..time_count {
            if bitmap.is_some_and(|bitmap| bitmap[index / 8] >> (index % 8) & 1 == 0) {
                values.push(None);
                continue;
            }
            previous = previous.wrapping_add(unzigzag(reader.varint()?));
            values.push(Some(previous));
        }
        Ok(Self { metric, values })
    }
}

/// The bitmap, unless it is empty, full, padded with ones, or cut short.
fn presence_bitmap<'a>(reader: &mut Reader<'a>, time_count: usize) -> Option<&'a [u8]> {
    let bitmap = reader.take(time_count.div_ceil(8)).ok()?;
    let present: usize = bitmap.iter().map(|byte| byte.count_ones() as usize).sum();
    let padding = (!time_count.is_multiple_of(8)).then(|| bitmap[time_count / 8] >> (time_count % 8));
    (present > 0 && present < time_count && padding.unwrap_or(0) == 0).then_some(bitmap)
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

#[cfg(test)]
mod tests;

//! Reading and writing fixed little-endian fields and canonical variable-length integers.

/// Bytes that do not have the layout they should have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Fewer bytes than the layout needs.
    #[error("{what} ends early: {needed} more bytes needed, {left} left")]
    Short {
        /// What was being read.
        what: &'static str,
        /// How many bytes the next field has.
        needed: usize,
        /// How many bytes there are.
        left: usize,
    },
    /// More bytes than the layout has.
    #[error("{what} has {extra} bytes after its end")]
    Trailing {
        /// What was being read.
        what: &'static str,
        /// How many bytes follow.
        extra: usize,
    },
    /// A field with a value that the layout does not allow.
    #[error("{field} is `{value}`, {rule}")]
    Field {
        /// The field.
        field: &'static str,
        /// The value as read.
        value: String,
        /// What it should have been.
        rule: &'static str,
    },
    /// A protobuf envelope that does not decode, or is not in its only valid form.
    #[error("{what} is not in its only valid protobuf form")]
    Envelope {
        /// What was being read.
        what: &'static str,
    },
    /// A variable-length integer that is not in its only valid form.
    #[error("{what} has an integer that is not in its shortest form, or is above 64 bits, at byte {at}")]
    NotShortest {
        /// What was being read.
        what: &'static str,
        /// Where the integer starts.
        at: usize,
    },
}

impl LayoutError {
    /// A field whose value is not allowed.
    pub fn field(field: &'static str, value: impl ToString, rule: &'static str) -> Self {
        Self::Field { field, value: value.to_string(), rule }
    }
}

/// Reads fields from the front of a byte string.
pub struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader over `bytes`; `what` names them in errors.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes, at: 0 }
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], LayoutError> {
        if self.left() < count {
            return Err(LayoutError::Short { what: self.what, needed: count, left: self.left() });
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], LayoutError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, LayoutError> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian integer.
    pub fn u16(&mut self) -> Result<u16, LayoutError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// A little-endian integer.
    pub fn u32(&mut self) -> Result<u32, LayoutError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A little-endian integer.
    pub fn u64(&mut self) -> Result<u64, LayoutError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A little-endian integer.
    pub fn i64(&mut self) -> Result<i64, LayoutError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// A byte string behind its length as a u32.
    pub fn bytes(&mut self) -> Result<&'a [u8], LayoutError> {
        let length = self.u32()?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// An unsigned LEB128 integer in its shortest form.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, LayoutError> {
        let start = self.at;
        let not_shortest = LayoutError::NotShortest { what: self.what, at: start };
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if (shift == 63 && bits > 1) || (byte == 0 && shift > 0) {
                return Err(not_shortest);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(not_shortest)
    }

    /// Ends the reading: nothing may be left.
    pub fn end(self) -> Result<(), LayoutError> {
        match self.left() {
            0 => Ok(()),
            extra => Err(LayoutError::Trailing { what: self.what, extra }),
        }
    }
}

/// Decodes a protobuf message from the value of a record, and refuses every form but the one that
/// encoding it gives: fields in rising order, each at most once, none that is empty or unknown.
/// Protobuf libraries differ on all others, and a verdict must not depend on the library.
pub fn decode_envelope<M: prost::Message + Default>(
    what: &'static str,
    bytes: &[u8],
) -> Result<M, LayoutError> {
    let message = M::decode(bytes).map_err(|_| LayoutError::Envelope { what })?;
    if message.encode_to_vec() == bytes { Ok(message) } else { Err(LayoutError::Envelope { what }) }
}

/// Appends an unsigned LEB128 integer in its shortest form.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a byte string behind its length as a u32.
///
/// # Panics
/// If the bytes are 4 GiB or more, which every format here refuses long before.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length_prefix(bytes));
    out.extend_from_slice(bytes);
}

/// The length of a byte string as a little-endian u32.
///
/// # Panics
/// If the bytes are 4 GiB or more, which every format here refuses long before.
pub fn length_prefix(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("every format is bounded far below 4 GiB").to_le_bytes()
}

#[cfg(test)]
mod tests;

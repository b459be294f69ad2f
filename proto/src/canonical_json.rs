//! Canonical JSON: one text for one value, so that its digest names it.
//!
//! RFC 8785 restricted to what we need: object keys in the order of their UTF-8 bytes, no spaces,
//! the escapes of RFC 8785 section 3.2.2.2, and integers only, of at most 2^53 - 1 in size. Larger
//! integers are strings of decimal digits. Keys are ASCII, where byte order and RFC 8785's UTF-16
//! order agree, and do not start with `$`. Values nest at most 127 deep.

use serde::Serialize;
use serde_json::Value;

/// The largest integer that is written as a JSON number.
pub const INTEGER_MAX: u64 = (1 << 53) - 1;

/// A value with no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    /// A number that is not an integer, or too large for one.
    #[error("`{0}` is not an integer within ±(2^53 - 1)")]
    Number(String),
    /// An object key with other than ASCII characters, or that starts with a dollar sign.
    #[error("the key `{0}` is not ASCII, or starts with `$`")]
    Key(String),
    /// A type that serde cannot turn into JSON.
    #[error("cannot be written as JSON: {0}")]
    Type(String),
    /// Text that is not JSON, or not the JSON that was expected.
    #[error("not the expected JSON: {0}")]
    Parse(String),
    /// JSON that is right but not written canonically.
    #[error("the JSON is not in canonical form")]
    NotCanonical,
}

/// The canonical bytes of a value.
pub fn to_bytes(value: &impl Serialize) -> Result<Vec<u8>, CanonicalError> {
    let value = serde_json::to_value(value).map_err(|error| CanonicalError::Type(error.to_string()))?;
    let mut out = Vec::new();
    write(&value, &mut out)?;
    Ok(out)
}

/// Reads a value back, and refuses bytes that are not its canonical ones.
pub fn from_bytes<T: Serialize + serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, CanonicalError> {
    let value: T = serde_json::from_slice(bytes).map_err(|error| CanonicalError::Parse(error.to_string()))?;
    if to_bytes(&value)? != bytes {
        return Err(CanonicalError::NotCanonical);
    }
    Ok(value)
}

fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => {
            // Written from the integer: with serde_json's `arbitrary_precision`, which any crate of a
            // build may turn on, the number's own text could be `-0`.
            let integer = number.as_i64().filter(|integer| integer.unsigned_abs() <= INTEGER_MAX);
            let integer = integer.ok_or_else(|| CanonicalError::Number(number.to_string()))?;
            out.extend_from_slice(integer.to_string().as_bytes());
        }
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(key, _)| key.as_bytes());
            out.push(b'{');
            for (index, (key, item)) in members.into_iter().enumerate() {
                // serde_json reads objects with keys like `$serde_json::private::RawValue` as something
                // else, or does not, depending on the features of the build.
                if !key.is_ascii() || key.starts_with('$') {
                    return Err(CanonicalError::Key(key.clone()));
                }
                if index > 0 {
                    out.push(b',');
                }
                write_text(key, out);
                out.push(b':');
                write(item, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for character in text.chars() {
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\u{8}' => out.extend_from_slice(b"\\b"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\u{c}' => out.extend_from_slice(b"\\f"),
            '\r' => out.extend_from_slice(b"\\r"),
            control if control < ' ' => {
                out.extend_from_slice(format!("\\u{:04x}", u32::from(control)).as_bytes());
            }
            other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests;

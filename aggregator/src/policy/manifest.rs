//! `policy.toml`: what a policy is called, and the constants of its query.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::{Place, PolicyError, Rule, TOML_FILE};

/// The content of `policy.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyManifest {
    /// The policy's name.
    pub name: String,
    /// Raised by its author with every change.
    pub version: u32,
    /// What it pays for, in one sentence.
    pub description: String,
    /// Constants, which stand as `$name` in the query.
    #[serde(default)]
    pub parameters: BTreeMap<String, i64>,
}

impl PolicyManifest {
    /// Reads the file; an error names the key.
    pub(super) fn parse(text: &str) -> Result<Self, PolicyError> {
        let manifest: Self = toml::from_str(text).map_err(|error| refused(text, &error))?;
        for name in manifest.parameters.keys() {
            let mut bytes = name.bytes();
            let starts = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase());
            if !starts
                || !bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            {
                let message = format!("parameter `{name}` is not lower-case letters, digits and `_`");
                return Err(PolicyError::refused(Rule::Manifest, None, message));
            }
        }
        Ok(manifest)
    }
}

/// The error with its place, and with the key of that line where the message has none.
fn refused(text: &str, error: &toml::de::Error) -> PolicyError {
    let message = error.message().trim_end().replace('\n', ": ");
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return PolicyError::refused(Rule::Manifest, None, message);
    };
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    let key = line.split_once('=').map(|(key, _)| key.trim());
    let message = match key {
        Some(key) if !message.contains(key) => format!("key `{key}`: {message}"),
        _ => message,
    };
    let place = Place {
        file: TOML_FILE,
        line: before.matches('\n').count() as u64 + 1,
        column: (before.len() - line_start) as u64 + 1,
    };
    PolicyError::refused(Rule::Manifest, Some(place), message)
}

//! Reads fields of JSON answers.

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Returns the text at a JSON pointer of an answer.
pub(crate) fn text(value: &Value, pointer: &str) -> Result<String> {
    let found = value.pointer(pointer).and_then(Value::as_str);
    Ok(found.with_context(|| format!("no text at {pointer} of {value}"))?.to_owned())
}

//! Reads the parts of an input that several targets share, and fixes the time.

use jiff::Timestamp;

/// Returns the present time of all targets: 2026-11-22T12:00:00Z.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_second(1_795_348_800).unwrap_or_default()
}

/// Returns the first line of an input and the rest after it.
pub(crate) fn first_line(data: &[u8]) -> (String, &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (line, rest) = data.split_at(end);
    (String::from_utf8_lossy(line).into_owned(), rest.get(1..).unwrap_or_default())
}

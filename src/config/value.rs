//! Parses the values of flags and environment variables.

use std::time::Duration;

use super::error::{ConfigError, error, error_without_value};
use crate::model::text::parse_bool;

/// The longest duration. Durations are added to the present time, which must not overflow.
const LONGEST: Duration = Duration::from_hours(24 * 365);

/// Parses a duration in Go's form. It must be longer than zero and no longer than a year. `name` is
/// the flag or variable, for the error.
pub fn duration(name: &str, text: &str) -> Result<Duration, ConfigError> {
    let wrong = "not a duration; write 90s, 5m or 1h30m";
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err(error(name, text, "must be longer than zero")),
        Ok(duration) if duration > LONGEST => Err(error(name, text, "must be shorter than a year")),
        Ok(duration) => Ok(duration),
        Err(_) => Err(error(name, text, wrong)),
    }
}

pub(super) fn boolean(name: &str, text: &str) -> Result<bool, ConfigError> {
    parse_bool(text).ok_or_else(|| error(name, text, "write true or false"))
}

/// Checks the path of a file. If the value looks like the content of the file, the error does not
/// repeat it.
pub(super) fn file_path<'a>(name: &str, text: &'a str) -> Result<&'a str, ConfigError> {
    let is_content = text.contains('\n')
        || text.len() > 1024
        || ["eyJ", "hvs.", "hvb.", "s.", "-----BEGIN"].iter().any(|start| text.starts_with(start));
    if is_content {
        return Err(error_without_value(
            name,
            "holds what looks like a secret; give the path of a file",
        ));
    }
    Ok(text)
}

/// Checks the path of a file that holds a secret. The path must have a slash, because a token has
/// none.
pub(super) fn secret_path<'a>(name: &str, text: &'a str) -> Result<&'a str, ConfigError> {
    if !text.contains('/') {
        return Err(error_without_value(name, "not the path of a file; write /PATH, or ./NAME"));
    }
    file_path(name, text)
}

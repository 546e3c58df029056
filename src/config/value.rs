//! Parses the values of flags and environment variables.

use std::time::Duration;

use reqwest::Url;

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

/// Parses a whole number above zero.
pub(super) fn count(name: &str, text: &str) -> Result<u32, ConfigError> {
    match text.parse() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(error(name, text, "not a whole number above zero")),
    }
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The host; `None` means all addresses of the machine.
    pub host: Option<String>,
    /// The port; 0 means any free port.
    pub port: u16,
}

/// Parses `HOST:PORT`. Without a host, all addresses of the machine are meant.
pub(super) fn listen(name: &str, text: &str) -> Result<Listen, ConfigError> {
    let wrong = || error(name, text, "not an address; write HOST:PORT, or :PORT for all");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    Ok(Listen { host: (!host.is_empty()).then(|| host.to_owned()), port })
}

/// Parses an address of HTTP without a path.
pub(super) fn url(name: &str, text: &str) -> Result<Url, ConfigError> {
    if text.contains('@') {
        return Err(error_without_value(name, "holds a user or a password; remove them"));
    }
    let url = Url::parse(text)
        .map_err(|_| error(name, text, "not an address; write https://HOST:PORT"))?;
    if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
        return Err(error(name, text, "not an address of HTTP; write https://HOST:PORT"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(error(
            name,
            text,
            "holds a path, which is not supported; write https://HOST:PORT",
        ));
    }
    Ok(url)
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

//! The error for a setting that cannot be used.

/// A setting that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}{}: {problem}", .value.as_ref().map(|value| format!("={value:?}")).unwrap_or_default())]
pub struct ConfigError {
    /// The flag or variable.
    pub(super) name: String,
    /// The value of the setting, unless the value may be a secret.
    pub(super) value: Option<String>,
    /// The problem and the remedy.
    pub(super) problem: String,
}

/// Returns an error for a setting whose value may be a secret.
pub(super) fn error_without_value(name: &str, problem: &str) -> ConfigError {
    ConfigError { name: name.to_owned(), value: None, problem: problem.to_owned() }
}

pub(super) fn error(name: &str, value: &str, problem: &str) -> ConfigError {
    ConfigError {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        problem: problem.to_owned(),
    }
}

//! The environment variables that describe a connection to Vault.

use super::error::ConfigError;
use super::value::boolean;

/// The variables of the Vault client. The variables of OpenBao's client have another prefix and
/// take precedence.
pub(super) struct Environment<'a>(pub(super) &'a dyn Fn(&str) -> Option<String>);

impl Environment<'_> {
    /// Returns the full name and the value of a variable, by its name without the prefix. An empty
    /// variable counts as not set.
    pub(super) fn get(&self, suffix: &str) -> Option<(String, String)> {
        ["BAO_", "VAULT_"].into_iter().find_map(|prefix| {
            let name = format!("{prefix}{suffix}");
            let value = (self.0)(&name).filter(|value| !value.is_empty())?;
            Some((name, value))
        })
    }

    pub(super) fn text(&self, suffix: &str) -> Option<String> {
        self.get(suffix).map(|(_, value)| value)
    }

    /// Returns the value of a variable that has no prefix. An empty variable counts as not set.
    pub(super) fn other(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    pub(super) fn boolean(&self, suffix: &str) -> Result<bool, ConfigError> {
        self.get(suffix).map_or(Ok(false), |(name, value)| boolean(&name, &value))
    }
}

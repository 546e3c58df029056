//! The environment variables that describe a connection to Vault.

use secrecy::SecretString;

use super::error::{ConfigError, error_without_value};
use super::value::{boolean, file_path};
use crate::credentials::credential::{self, Credential};

/// The variables of the Vault client. The variables of OpenBao's client have another prefix and
/// take precedence.
pub(super) struct Environment<'a> {
    /// Looks up a variable of the server.
    of_server: &'a dyn Fn(&str) -> Option<String>,
    /// Looks up a variable of the process.
    of_process: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Environment<'a> {
    /// Returns the variables of the default server, which are those of the process.
    pub(super) fn of_process(of_process: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { of_server: of_process, of_process }
    }

    /// Returns the variables of another server.
    pub(super) fn of_server(
        of_server: &'a dyn Fn(&str) -> Option<String>,
        of_process: &'a dyn Fn(&str) -> Option<String>,
    ) -> Self {
        Self { of_server, of_process }
    }

    /// Returns the full name and the value of a variable, by its name without the prefix. An empty
    /// variable counts as not set.
    pub(super) fn get(&self, suffix: &str) -> Option<(String, String)> {
        ["BAO_", "VAULT_"].into_iter().find_map(|prefix| {
            let name = format!("{prefix}{suffix}");
            let value = (self.of_server)(&name).filter(|value| !value.is_empty())?;
            Some((name, value))
        })
    }

    pub(super) fn text(&self, suffix: &str) -> Option<String> {
        self.get(suffix).map(|(_, value)| value)
    }

    /// Returns the value of a variable that has no prefix. An empty variable counts as not set.
    pub(super) fn other(&self, name: &str) -> Option<String> {
        (self.of_server)(name).filter(|value| !value.is_empty())
    }

    /// Returns the value of a variable without a prefix that describes the pod: one that a cloud puts
    /// into the pod. The variable of the server takes precedence over that of the process.
    pub(super) fn of_pod(&self, name: &str) -> Option<String> {
        let of_process = || (self.of_process)(name).filter(|value| !value.is_empty());
        self.other(name).or_else(of_process)
    }

    pub(super) fn boolean(&self, suffix: &str) -> Result<bool, ConfigError> {
        self.get(suffix).map_or(Ok(false), |(name, value)| boolean(&name, &value))
    }

    /// Returns a credential from a variable or from a file, if one is set.
    pub(super) fn credential(&self, suffix: &str) -> Result<Option<Credential>, ConfigError> {
        match (self.get(suffix), self.get(&format!("{suffix}_FILE"))) {
            (None, None) => Ok(None),
            (Some((name, text)), None) => {
                let text = text.trim_end_matches(['\r', '\n']);
                if !credential::is_line(text) {
                    return Err(error_without_value(&name, "is not one line of text"));
                }
                Ok(Some(Credential::Text(SecretString::from(text))))
            }
            // A value that is no path may be the credential itself, and log lines show paths.
            (None, Some((name, file))) if !file.starts_with('/') => Err(error_without_value(
                &name,
                "does not begin with a slash; give the whole path of a file",
            )),
            (None, Some((name, file))) => {
                Ok(Some(Credential::File(file_path(&name, &file)?.into())))
            }
            (Some((name, _)), Some((file, _))) => Err(error_without_value(
                &name,
                &format!("{file} is set as well; remove one of them"),
            )),
        }
    }
}

//! The settings that a container's variables give to its injector: the destination of the
//! references, and additional paths.
//!
//! By its annotations, the webhook adds variables after those of the container. Of several
//! variables with one name, the last counts. This module reads the settings that are left to the
//! container.

use crate::model::annotation::{Annotations, Webhook};
use crate::model::scheme::Scheme;

/// The longest name of a Vault namespace, in bytes. The name goes into a header of each request,
/// and into each log line about its secrets. No server of the API accepts a longer name.
pub const LONGEST_NAMESPACE: usize = 1024;

/// A setting of an injector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// The Vault namespace of all paths.
    Namespace,
    /// The address of the server.
    Address,
    /// Paths whose keys all become variables.
    FromPath,
    /// Whether a missing secret is no error.
    IgnoreMissingSecrets,
}

impl Setting {
    const ALL: [Self; 4] =
        [Self::Namespace, Self::Address, Self::FromPath, Self::IgnoreMissingSecrets];

    /// Returns the variables that the injector of a scheme reads. The first that exists counts.
    #[must_use]
    pub fn names(self, scheme: Scheme) -> &'static [&'static str] {
        match (self, scheme) {
            (Self::Namespace, Scheme::Vault) => &["VAULT_NAMESPACE"],
            // The client of OpenBao falls back to the names of Vault's.
            (Self::Namespace, Scheme::Bao) => &["BAO_NAMESPACE", "VAULT_NAMESPACE"],
            (Self::Address, Scheme::Vault) => &["VAULT_ADDR"],
            (Self::Address, Scheme::Bao) => &["BAO_ADDR", "VAULT_ADDR"],
            // The variables of `secret-init`, and of the older `vault-env`.
            (Self::FromPath, Scheme::Vault) => &["VAULT_FROM_PATH", "VAULT_ENV_FROM_PATH"],
            (Self::FromPath, Scheme::Bao) => &["BAO_FROM_PATH"],
            (Self::IgnoreMissingSecrets, Scheme::Vault) => &["VAULT_IGNORE_MISSING_SECRETS"],
            (Self::IgnoreMissingSecrets, Scheme::Bao) => &["BAO_IGNORE_MISSING_SECRETS"],
        }
    }
}

/// Whether a variable of this name is a setting.
#[must_use]
pub fn is_setting(variable: &str) -> bool {
    let has_prefix = variable.starts_with("VAULT_") || variable.starts_with("BAO_");
    has_prefix
        && Setting::ALL.iter().any(|setting| {
            Scheme::ALL.iter().any(|scheme| setting.names(*scheme).contains(&variable))
        })
}

/// The known value of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingValue<'a> {
    /// The text.
    Text(&'a str),
    /// The setting exists, but its text is not in the template.
    Unknown,
}

/// The destination of the references of one scheme in one container, as far as its variables set
/// it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination<'a> {
    /// The container, if only its own variables count, since the webhook adds none.
    pub container: Option<&'a str>,
    /// The address of the server.
    pub address: Option<&'a str>,
    /// The Vault namespace, without slashes at its ends.
    pub namespace: Option<&'a str>,
}

/// The destination of each scheme.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destinations<'a> {
    vault: Destination<'a>,
    bao: Destination<'a>,
}

impl<'a> Destinations<'a> {
    /// Returns the destination of a scheme.
    #[must_use]
    pub fn of(&self, scheme: Scheme) -> Destination<'a> {
        match scheme {
            Scheme::Vault => self.vault,
            Scheme::Bao => self.bao,
        }
    }

    /// Replaces the destination of a scheme.
    pub(super) fn set(&mut self, scheme: Scheme, destination: Destination<'a>) {
        match scheme {
            Scheme::Vault => self.vault = destination,
            Scheme::Bao => self.bao = destination,
        }
    }
}

/// Returns the name of a namespace in the form of requests. Returns `None` for an empty name.
#[must_use]
pub fn namespace(text: &str) -> Option<&str> {
    Some(text.trim_matches('/')).filter(|name| !name.is_empty())
}

/// Returns the Vault namespace that an annotation of the webhook names for a scheme. An empty
/// annotation names none.
pub(super) fn annotated_namespace(annotations: &Annotations, scheme: Scheme) -> Option<&str> {
    namespace(annotations.webhook(Webhook::Namespace(scheme))?)
}

/// Whether a request can name this namespace.
#[must_use]
pub fn is_namespace(name: &str) -> bool {
    name.len() <= LONGEST_NAMESPACE && !name.contains(char::is_control)
}

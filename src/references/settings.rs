//! What variables of a container tell its injector: where its references lead, and which paths it
//! reads beside.
//!
//! The webhook adds variables of its own behind those of the container, by its annotations, and of
//! one name the last counts. What is said here is what is left for the container to say.

use crate::model::annotation::{Annotations, Webhook};
use crate::model::scheme::Scheme;

/// The longest name of a Vault namespace, in bytes. It goes into a header of each request and into
/// each line about one of its secrets; no server of the API takes a longer one.
pub const LONGEST_NAMESPACE: usize = 1024;

/// What an injector is told by variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// The Vault namespace of all paths.
    Namespace,
    /// The address of the server.
    Address,
    /// Paths whose keys all become variables.
    FromPath,
    /// A missing secret is not an error.
    IgnoreMissingSecrets,
}

impl Setting {
    const ALL: [Self; 4] =
        [Self::Namespace, Self::Address, Self::FromPath, Self::IgnoreMissingSecrets];

    /// The variables that the injector of a scheme reads, the one that counts where several are there
    /// first.
    #[must_use]
    pub fn names(self, scheme: Scheme) -> &'static [&'static str] {
        match (self, scheme) {
            (Self::Namespace, Scheme::Vault) => &["VAULT_NAMESPACE"],
            // The client of OpenBao falls back to the names of Vault's.
            (Self::Namespace, Scheme::Bao) => &["BAO_NAMESPACE", "VAULT_NAMESPACE"],
            (Self::Address, Scheme::Vault) => &["VAULT_ADDR"],
            (Self::Address, Scheme::Bao) => &["BAO_ADDR", "VAULT_ADDR"],
            // Of `secret-init`, and of the older `vault-env`.
            (Self::FromPath, Scheme::Vault) => &["VAULT_FROM_PATH", "VAULT_ENV_FROM_PATH"],
            (Self::FromPath, Scheme::Bao) => &["BAO_FROM_PATH"],
            (Self::IgnoreMissingSecrets, Scheme::Vault) => &["VAULT_IGNORE_MISSING_SECRETS"],
            (Self::IgnoreMissingSecrets, Scheme::Bao) => &["BAO_IGNORE_MISSING_SECRETS"],
        }
    }
}

/// Whether a variable of this name tells an injector something that is read here.
#[must_use]
pub fn is_setting(variable: &str) -> bool {
    let has_prefix = variable.starts_with("VAULT_") || variable.starts_with("BAO_");
    has_prefix
        && Setting::ALL.iter().any(|setting| {
            Scheme::ALL.iter().any(|scheme| setting.names(*scheme).contains(&variable))
        })
}

/// What is known of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingValue<'a> {
    /// Its text.
    Text(&'a str),
    /// It is there, and its text is not in the template.
    Unknown,
}

/// Where the references of one scheme in one container lead, as far as its variables say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination<'a> {
    /// The container, where its own variables say it all, since the webhook adds none.
    pub container: Option<&'a str>,
    /// The address of the server.
    pub address: Option<&'a str>,
    /// The Vault namespace, without slashes at its ends.
    pub namespace: Option<&'a str>,
}

/// The same of each scheme.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destinations<'a> {
    vault: Destination<'a>,
    bao: Destination<'a>,
}

impl<'a> Destinations<'a> {
    /// That of a scheme.
    #[must_use]
    pub fn of(&self, scheme: Scheme) -> Destination<'a> {
        match scheme {
            Scheme::Vault => self.vault,
            Scheme::Bao => self.bao,
        }
    }

    /// The same with another one of a scheme.
    pub(super) fn set(&mut self, scheme: Scheme, destination: Destination<'a>) {
        match scheme {
            Scheme::Vault => self.vault = destination,
            Scheme::Bao => self.bao = destination,
        }
    }
}

/// The name of a namespace as requests hold it; `None` if it names none.
#[must_use]
pub fn namespace(text: &str) -> Option<&str> {
    Some(text.trim_matches('/')).filter(|name| !name.is_empty())
}

/// The Vault namespace that an annotation of the webhook names for a scheme; an empty one names none.
pub(super) fn annotated_namespace(annotations: &Annotations, scheme: Scheme) -> Option<&str> {
    namespace(annotations.webhook(Webhook::Namespace(scheme))?)
}

/// Whether a request could name this namespace.
#[must_use]
pub fn is_namespace(name: &str) -> bool {
    name.len() <= LONGEST_NAMESPACE && !name.contains(char::is_control)
}

//! The schemes of references: one per injector.

/// The injector that resolves a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// `vault:`
    Vault,
    /// `bao:`
    Bao,
}

impl Scheme {
    /// Both schemes.
    pub const ALL: [Self; 2] = [Self::Vault, Self::Bao];

    /// Returns the beginning of a reference.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Vault => "vault:",
            Self::Bao => "bao:",
        }
    }

    /// Returns the beginning of the names of the annotations that the injector reads.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vault => "vault",
            Self::Bao => "bao",
        }
    }

    /// Returns the variable in which `login` stands for the pod's own token.
    pub(crate) fn token_variable(self) -> &'static str {
        match self {
            Self::Vault => "VAULT_TOKEN",
            Self::Bao => "BAO_TOKEN",
        }
    }
}

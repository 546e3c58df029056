//! The schemes of references: one for each injector.

/// Which injector resolves a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// `vault:`
    Vault,
    /// `bao:`
    Bao,
}

impl Scheme {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Vault, Self::Bao];

    /// What a reference begins with.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Vault => "vault:",
            Self::Bao => "bao:",
        }
    }

    /// What the names of the annotations that its injector reads begin with.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vault => "vault",
            Self::Bao => "bao",
        }
    }

    /// The variable in which `login` stands for the pod's own token.
    pub(crate) fn token_variable(self) -> &'static str {
        match self {
            Self::Vault => "VAULT_TOKEN",
            Self::Bao => "BAO_TOKEN",
        }
    }
}

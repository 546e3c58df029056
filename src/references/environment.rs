//! The environment of a pod's containers, as the pod template defines it.
//!
//! A variable has its value in the template itself, or from a [source](SourceName): a key of a
//! ConfigMap or Secret (`valueFrom`), or all keys of one (`envFrom`).

use std::fmt;

/// The kinds of sources of variables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKind {
    /// A `v1` ConfigMap.
    ConfigMap,
    /// A `v1` Secret.
    Secret,
}

impl SourceKind {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::ConfigMap, Self::Secret];

    /// Returns the kind as manifests spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }

    /// Returns the resource as API paths and RBAC rules spell it.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::Secret => "secrets",
        }
    }
}

/// A ConfigMap or Secret of the workload's own namespace, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceName {
    /// The kind.
    pub kind: SourceKind,
    /// The name.
    pub name: String,
}

impl SourceName {
    /// The longest name of an object, in bytes.
    const LONGEST: usize = 253;

    /// Whether an object can have the name: Kubernetes accepts only DNS subdomains. Pod templates
    /// may name anything, and an invalid name must not become part of a URL.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_label = |label: &str| {
            let bytes = label.as_bytes();
            bytes.first().is_some_and(is_alphanumeric)
                && bytes.last().is_some_and(is_alphanumeric)
                && bytes.iter().all(|byte| is_alphanumeric(byte) || *byte == b'-')
        };
        self.name.len() <= Self::LONGEST && self.name.split('.').all(is_label)
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.name)
    }
}

/// A container of any of the lists of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// The name of the container.
    pub name: String,
    /// `envFrom`, in order.
    pub from: Vec<EnvFrom>,
    /// `env`, in order.
    pub variables: Vec<EnvVar>,
    /// Whether the command or the arguments name an injector. The injector then resolves references
    /// at each start, whether the webhook has added it or not.
    pub starts_injector: bool,
}

impl Container {
    /// Returns the length of the texts that tenants wrote, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let of_variable = |variable: &EnvVar| {
            let value = match &variable.value {
                EnvValue::Literal(value) | EnvValue::Partly(value) => value.len(),
                EnvValue::Key { source, key, .. } => source.name.len() + key.len(),
                EnvValue::Other => 0,
            };
            variable.name.len() + value
        };
        let of_from = |from: &EnvFrom| from.prefix.len() + from.source.name.len();
        let variables: usize = self.variables.iter().map(of_variable).sum();
        let sources: usize = self.from.iter().map(of_from).sum();
        self.name.len() + variables + sources
    }

    /// Whether a word of a command is the program of an injector, in any directory.
    #[must_use]
    pub fn is_injector(word: &str) -> bool {
        let program = word.rsplit('/').next().unwrap_or_default();
        ["vault-env", "secret-init"].contains(&program)
    }

    /// Returns the variable of `env` that counts for a name: the last one.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&EnvVar> {
        self.variables.iter().rev().find(|variable| variable.name == name)
    }

    /// Returns the sources that the container names.
    pub fn sources(&self) -> impl Iterator<Item = &SourceName> {
        let of_keys = self.variables.iter().filter_map(|variable| match &variable.value {
            EnvValue::Key { source, .. } => Some(source),
            EnvValue::Literal(_) | EnvValue::Partly(_) | EnvValue::Other => None,
        });
        self.from.iter().map(|from| &from.source).chain(of_keys)
    }
}

/// A variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvVar {
    /// The name of the variable.
    pub name: String,
    /// The value of the variable, or its place.
    pub value: EnvValue,
}

impl EnvVar {
    /// Makes a variable with its value in the template, in expanded form.
    #[must_use]
    pub fn literal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: EnvValue::Literal(value.into()) }
    }
}

/// The value of a variable, or its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvValue {
    /// The value in the template itself, expanded.
    Literal(String),
    /// As `Literal`, but with variables from outside the template, which stay as `$(NAME)`.
    Partly(String),
    /// The value is in a source: `valueFrom.configMapKeyRef` or `valueFrom.secretKeyRef`.
    Key {
        /// The source.
        source: SourceName,
        /// The key in the source.
        key: String,
        /// Whether source and key may be missing. The variable then does not exist.
        optional: bool,
    },
    /// The value is elsewhere, where no reference can be, or a text without a reference, which is
    /// not kept.
    Other,
}

/// An element of `envFrom`: a variable for each key of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvFrom {
    /// The text before each key in the name of its variable.
    pub prefix: String,
    /// The source.
    pub source: SourceName,
    /// Whether the source may be missing. The variables then do not exist.
    pub optional: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_objects_can_have_are_valid() {
        let is_valid = |name: &str| {
            SourceName { kind: SourceKind::ConfigMap, name: name.to_owned() }.is_valid()
        };
        for name in ["a", "0", "web-config", "a.b-c.9", &"x".repeat(253)] {
            assert!(is_valid(name), "{name}");
        }
        let wrong = [
            "",
            ".",
            "..",
            "a..b",
            "-a",
            "a-",
            "a.-b",
            "A",
            "a_b",
            "a/b",
            "../../bank/configmaps/refs",
            "a?watch=true",
            "a#b",
            "a%2e",
            "a b",
            "\u{e4}",
            "a\n",
            &"x".repeat(254),
        ];
        for name in wrong {
            assert!(!is_valid(name), "{name}");
        }
    }
}

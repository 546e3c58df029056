//! The environment of a pod's containers, as the pod template says it.
//!
//! A variable has its value in the template itself, or from a [source](SourceName): a key of a
//! ConfigMap or Secret (`valueFrom`), or all keys of one (`envFrom`).

use std::fmt;

/// What variables can come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKind {
    /// `v1` ConfigMap.
    ConfigMap,
    /// `v1` Secret.
    Secret,
}

impl SourceKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::ConfigMap, Self::Secret];

    /// The kind as manifests spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }

    /// The resource as API paths and RBAC rules spell it.
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
    /// Its kind.
    pub kind: SourceKind,
    /// Its name.
    pub name: String,
}

impl SourceName {
    /// The longest name of an object, in bytes.
    const LONGEST: usize = 253;

    /// Whether an object can have the name: Kubernetes takes DNS subdomains only. Pod templates may
    /// name anything, and no other name may become part of a URL.
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
    /// Its name.
    pub name: String,
    /// `envFrom`, in order.
    pub from: Vec<EnvFrom>,
    /// `env`, in order.
    pub variables: Vec<EnvVar>,
    /// Whether its command or arguments name an injector, which then resolves references at each start, whether the
    /// webhook has put it there or not.
    pub starts_injector: bool,
}

impl Container {
    /// How long the texts of tenants in it are, in bytes.
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

    /// Whether a word of a command is the program of an injector, wherever it lies.
    #[must_use]
    pub fn is_injector(word: &str) -> bool {
        let program = word.rsplit('/').next().unwrap_or_default();
        ["vault-env", "secret-init"].contains(&program)
    }

    /// The variable of `env` that counts for a name: the last one.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&EnvVar> {
        self.variables.iter().rev().find(|variable| variable.name == name)
    }

    /// The sources that it names.
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
    /// Its name.
    pub name: String,
    /// Where its value is.
    pub value: EnvValue,
}

impl EnvVar {
    /// A variable whose value stands in the template, as Kubernetes hands it over.
    #[must_use]
    pub fn literal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: EnvValue::Literal(value.into()) }
    }
}

/// Where the value of a variable is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvValue {
    /// In the template itself, expanded.
    Literal(String),
    /// The same, with variables in it that are not in the template, which stand as `$(NAME)`.
    Partly(String),
    /// In a source: `valueFrom.configMapKeyRef` or `valueFrom.secretKeyRef`.
    Key {
        /// The source.
        source: SourceName,
        /// The key in it.
        key: String,
        /// Whether source and key may be missing; then there is no such variable.
        optional: bool,
    },
    /// Elsewhere, where no reference can be; or a text that holds none, which is not kept.
    Other,
}

/// An element of `envFrom`: a variable for each key of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvFrom {
    /// What stands before each key in the name of its variable.
    pub prefix: String,
    /// The source.
    pub source: SourceName,
    /// Whether it may be missing; then there are no such variables.
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

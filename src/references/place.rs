//! Where in a pod template a reference stands, and what is noted of it.

use std::fmt;

use crate::model::scheme::Scheme;
use crate::references::environment::{Container, EnvVar, SourceName};
use crate::references::reason::Reason;

/// Where in a pod template a reference stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// The environment of a container.
    Env {
        /// The container's name.
        container: String,
        /// The variable's name.
        name: String,
    },
    /// A key of a source that a variable comes from.
    Key {
        /// The container's name.
        container: String,
        /// The variable's name.
        name: String,
        /// The source.
        source: SourceName,
        /// The key.
        key: String,
    },
    /// A source that variables come from, as a whole.
    Source {
        /// The container's name.
        container: String,
        /// The source.
        source: SourceName,
    },
    /// The annotation that lists paths of a scheme.
    FromPath(Scheme),
    /// The annotation that names the Vault namespace of a scheme.
    Namespace(Scheme),
    /// The annotation that names the address of the server of a scheme.
    Address(Scheme),
    /// The workload as a whole.
    Workload,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env { container, name } => write!(f, "variable {name} of container {container}"),
            Self::Key { container, name, source, key } => {
                write!(f, "variable {name} of container {container}, key {key} of {source}")
            }
            Self::Source { container, source } => write!(f, "{source} of container {container}"),
            Self::FromPath(scheme) => write!(f, "annotation {}-from-path", scheme.name()),
            Self::Namespace(scheme) => write!(f, "annotation {}-namespace", scheme.name()),
            Self::Address(scheme) => write!(f, "annotation {}-addr", scheme.name()),
            Self::Workload => f.write_str("the references of the workload"),
        }
    }
}

/// One reference that is not watched or looks odd. It never holds the value itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Note {
    /// Where it stands.
    pub origin: Origin,
    /// Why it is noted.
    pub reason: Reason,
}

/// Where one reference stands, and what stands there.
#[derive(Clone, Debug)]
pub enum Place<'a> {
    /// A variable of a container.
    Env(&'a Container, &'a EnvVar),
    /// A key of a source that a variable comes from.
    Key {
        /// The container.
        container: &'a Container,
        /// The variable's name.
        variable: String,
        /// The source.
        source: &'a SourceName,
        /// The key.
        key: String,
    },
    /// A source that variables come from, as a whole.
    Source(&'a Container, &'a SourceName),
    /// A variable that tells an injector something.
    Setting(&'a Container, &'static str),
    /// An item of an annotation that lists paths.
    FromPath(Scheme, &'a str),
}

impl From<Place<'_>> for Origin {
    fn from(place: Place) -> Self {
        match place {
            Place::Env(container, variable) => {
                Self::Env { container: container.name.clone(), name: variable.name.clone() }
            }
            Place::Key { container, variable, source, key } => Self::Key {
                container: container.name.clone(),
                name: variable,
                source: source.clone(),
                key,
            },
            Place::Source(container, source) => {
                Self::Source { container: container.name.clone(), source: source.clone() }
            }
            Place::Setting(container, name) => {
                Self::Env { container: container.name.clone(), name: name.to_owned() }
            }
            Place::FromPath(scheme, _) => Self::FromPath(scheme),
        }
    }
}

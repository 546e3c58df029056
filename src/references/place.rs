//! The place of a reference in a pod template, and the notes on it.

use std::fmt;

use crate::model::scheme::Scheme;
use crate::references::environment::{Container, EnvVar, SourceName};
use crate::references::reason::Reason;

/// The place of a reference in a pod template.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// The environment of a container.
    Env {
        /// The name of the container.
        container: String,
        /// The name of the variable.
        name: String,
    },
    /// A key of a source that a variable comes from.
    Key {
        /// The name of the container.
        container: String,
        /// The name of the variable.
        name: String,
        /// The source.
        source: SourceName,
        /// The key.
        key: String,
    },
    /// A source that variables come from, as a whole.
    Source {
        /// The name of the container.
        container: String,
        /// The source.
        source: SourceName,
    },
    /// The annotation that lists paths of a scheme.
    FromPath(Scheme),
    /// The annotation that names the Vault namespace of a scheme.
    Namespace(Scheme),
    /// The annotation that names the server address of a scheme.
    Address(Scheme),
    /// An annotation of the workload's own metadata.
    Annotation(&'static str),
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
            Self::Annotation(name) => write!(f, "annotation {name}"),
            Self::Workload => f.write_str("the references of the workload"),
        }
    }
}

/// A note on a reference that is not watched or looks odd. It never holds the value itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Note {
    /// The place of the reference.
    pub origin: Origin,
    /// The reason of the note.
    pub reason: Reason,
}

/// The place of one reference, with the element at that place.
#[derive(Clone, Debug)]
pub enum Place<'a> {
    /// A variable of a container.
    Env(&'a Container, &'a EnvVar),
    /// A key of a source that a variable comes from.
    Key {
        /// The container.
        container: &'a Container,
        /// The name of the variable.
        variable: String,
        /// The source.
        source: &'a SourceName,
        /// The key.
        key: String,
    },
    /// A source that variables come from, as a whole.
    Source(&'a Container, &'a SourceName),
    /// A variable that is a setting of an injector.
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

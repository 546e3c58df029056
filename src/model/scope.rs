//! Which namespaces are watched, and what one list of workloads shows.

use std::fmt;
use std::sync::Arc;

use crate::model::kind::Kind;
use crate::model::workload::WorkloadId;

/// The most namespaces of [`WatchScope::Named`]. Each takes up to five watches, and each watch has a
/// connection of its own. A process may often open 1,024 files, and a hundred namespaces take half of
/// them.
pub const MOST_NAMESPACES: usize = 100;

/// The namespaces whose workloads are watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum WatchScope {
    /// All namespaces.
    #[default]
    All,
    /// These namespaces, in order, each once. No request to the API server needs a right outside of
    /// them and of the controller's own namespace.
    Named(Arc<[Arc<str>]>),
    /// The namespaces whose labels match this selector, in the syntax of `kubectl --selector`.
    Selected(Arc<str>),
}

impl WatchScope {
    /// Returns the named namespaces. There are none unless the scope is [`Self::Named`].
    #[must_use]
    pub fn names(&self) -> &[Arc<str>] {
        match self {
            Self::Named(names) => names,
            Self::All | Self::Selected(_) => &[],
        }
    }

    /// Whether only named namespaces are watched.
    #[must_use]
    pub fn is_named(&self) -> bool {
        matches!(self, Self::Named(_))
    }

    /// Returns the selector of namespaces, if there is one.
    #[must_use]
    pub fn selector(&self) -> Option<&Arc<str>> {
        match self {
            Self::Selected(selector) => Some(selector),
            Self::All | Self::Named(_) => None,
        }
    }

    /// Returns where each resource is watched: once in all namespaces, which is `None`, or in each
    /// named namespace.
    #[must_use]
    pub fn places(&self) -> Vec<Option<Arc<str>>> {
        match self {
            Self::Named(names) => names.iter().cloned().map(Some).collect(),
            Self::All | Self::Selected(_) => vec![None],
        }
    }
}

/// The workloads that one list or watch shows. Its display form is `Deployments`, or `Deployments of
/// namespace shop`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListScope {
    /// The kind.
    pub kind: Kind,
    /// The namespace; `None` means all namespaces.
    pub namespace: Option<Arc<str>>,
}

impl ListScope {
    /// Whether a list shows a workload, if the workload exists.
    #[must_use]
    pub fn contains(&self, id: &WorkloadId) -> bool {
        self.kind == id.kind && self.namespace.as_ref().is_none_or(|name| *name == id.namespace)
    }
}

impl From<Kind> for ListScope {
    fn from(kind: Kind) -> Self {
        Self { kind, namespace: None }
    }
}

impl fmt::Display for ListScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.kind)?;
        self.namespace.as_ref().map_or(Ok(()), |name| write!(f, " of namespace {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> WatchScope {
        WatchScope::Named(names.iter().map(|name| Arc::from(*name)).collect())
    }

    #[test]
    fn resources_are_watched_once_or_in_each_named_namespace() {
        let place = |name: &str| Some(Arc::<str>::from(name));
        assert_eq!(WatchScope::All.places(), [None]);
        assert_eq!(WatchScope::Selected("team=a".into()).places(), [None]);
        assert_eq!(names(&["a", "b"]).places(), [place("a"), place("b")]);
    }

    #[test]
    fn a_list_contains_the_workloads_of_its_kind_and_namespace() {
        let id = |kind, namespace: &str| WorkloadId {
            kind,
            namespace: namespace.into(),
            name: "web".into(),
        };
        let all = ListScope::from(Kind::DEPLOYMENT);
        let shop = ListScope { namespace: Some("shop".into()), ..all.clone() };
        for (list, kind, namespace, expected) in [
            (&all, Kind::DEPLOYMENT, "shop", true),
            (&all, Kind::DEPLOYMENT, "bank", true),
            (&all, Kind::DAEMON_SET, "shop", false),
            (&shop, Kind::DEPLOYMENT, "shop", true),
            (&shop, Kind::DEPLOYMENT, "bank", false),
            (&shop, Kind::DAEMON_SET, "shop", false),
        ] {
            assert_eq!(list.contains(&id(kind, namespace)), expected, "{list} {kind} {namespace}");
        }
        assert_eq!(
            (all.to_string(), shop.to_string()),
            ("Deployments".to_owned(), "Deployments of namespace shop".to_owned(),)
        );
    }
}

//! Sources: the ConfigMaps and Secrets that variables come from.
//!
//! The workloads that use a source are kept with it. So only named sources are read, and a change
//! of a source is a change of its workloads.
//!
//! Architecture Invariant: of a source only the names of its keys and the references behind them
//! are kept, never a value.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::annotation::is_for_webhook;
use crate::model::fair_queue::InNamespace;
use crate::references::environment::{SourceKind, SourceName};
use crate::references::reason::Reason;
use crate::references::stored_reference::StoredReference;

/// A source of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId {
    /// The kind.
    pub kind: SourceKind,
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl SourceId {
    /// Returns the source that a workload of a namespace means.
    #[must_use]
    pub fn new(namespace: &Arc<str>, named: &SourceName) -> Self {
        Self {
            kind: named.kind,
            namespace: Arc::clone(namespace),
            name: named.name.as_str().into(),
        }
    }
}

impl InNamespace for SourceId {
    fn namespace(&self) -> &Arc<str> {
        &self.namespace
    }
}

/// The keys of a source, each with the references in its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    keys: Box<[Key]>,
    is_for_webhook: bool,
}

/// A key, and the references in its value.
type Key = (Box<str>, Box<[StoredReference]>);

impl Content {
    /// Reads the values of a source. A value that is not UTF-8 text holds no reference.
    pub fn new<'a>(data: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let keep =
            |value| std::str::from_utf8(value).map(StoredReference::all_of).unwrap_or_default();
        let keys: BTreeMap<Box<str>, Box<[StoredReference]>> =
            data.into_iter().map(|(key, value)| (key.into(), keep(value))).collect();
        Self { keys: keys.into_iter().collect(), is_for_webhook: false }
    }

    /// Returns the same content for an object with annotations of these names.
    #[must_use]
    pub fn annotated<'a>(self, names: impl IntoIterator<Item = &'a str>) -> Self {
        let is_for_webhook = names.into_iter().any(is_for_webhook);
        Self { is_for_webhook, ..self }
    }

    /// Whether the webhook resolved the source when it was applied: the source is annotated for the
    /// webhook, and has no reference left.
    #[must_use]
    pub fn is_resolved(&self) -> bool {
        self.is_for_webhook && !self.refers()
    }

    /// Returns the references behind a key, and the index of the key. Returns `None` if there is no
    /// such key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<(usize, &[StoredReference])> {
        let index = self.keys.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        Some((index, &self.keys[index].1))
    }

    /// Returns all keys with their references, in order, counted from 0.
    #[must_use]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (usize, &str, &[StoredReference])> {
        self.keys.iter().enumerate().map(|(index, (key, kept))| (index, &**key, &**kept))
    }

    /// Returns the number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether any key has a reference.
    #[must_use]
    pub fn refers(&self) -> bool {
        self.keys.iter().any(|(_, kept)| !kept.is_empty())
    }
}

/// The state of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// The source was not read yet.
    Unread,
    /// The source cannot be read, for this reason.
    Unreadable(Reason),
    /// The source does not exist.
    Missing,
    /// The content of the source.
    Read(Arc<Content>),
}

/// The kinds of sources that may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadableSources {
    /// Whether ConfigMaps may be read.
    pub config_maps: bool,
    /// Whether Secrets may be read.
    pub secrets: bool,
}

impl ReadableSources {
    /// Whether sources of a kind may be read.
    #[must_use]
    pub fn includes(self, kind: SourceKind) -> bool {
        match kind {
            SourceKind::ConfigMap => self.config_maps,
            SourceKind::Secret => self.secrets,
        }
    }
}

impl Default for ReadableSources {
    fn default() -> Self {
        Self { config_maps: true, secrets: false }
    }
}

/// The state of every source before the first read.
#[cfg(test)]
pub(crate) fn nothing_known(_: &Arc<str>, _: &SourceName) -> SourceState {
    SourceState::Unread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_kept() {
        let data: [(&str, &[u8]); 4] = [
            ("PLAIN", b"hunter2"),
            ("URL", b"postgres://u:hunter2@${vault:secret/data/a#host}/"),
            ("WRITE", b">>vault:pki/issue/r#c#{\"hunter2\":1}"),
            ("BINARY", b"\xff\xfehunter2"),
        ];
        let content = Content::new(data);
        assert_eq!(content.iter().count(), 4);
        let shown = format!("{content:?}");
        assert!(shown.contains("secret/data/a") && !shown.contains("hunter2"), "{shown}");
    }
}

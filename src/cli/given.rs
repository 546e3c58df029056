//! The ConfigMaps and Secrets among manifests, for workloads that take variables from them.

use std::sync::Arc;

use crate::cli::document::{Document, Location};
use crate::cli::yaml::Node;
use crate::kubernetes::sources::content_of;
use crate::model::annotation::{MUTATE_LABEL, Webhook};
use crate::references::environment::{SourceKind, SourceName};
use crate::references::place::Place;
use crate::references::reason::Reason;
use crate::references::source::{Content, ReadableSources, SourceState};

/// A ConfigMap or Secret among the manifests.
pub(super) struct Given<'a> {
    named: SourceName,
    namespace: &'a str,
    /// The content. `None` if the API server would refuse the data.
    content: Option<Arc<Content>>,
    document: &'a Document,
}

impl<'a> Given<'a> {
    fn of(document: &'a Document) -> Option<Self> {
        let Document { kind, object, .. } = document;
        let kind = SourceKind::ALL.into_iter().find(|known| known.name() == kind)?;
        // SOPS adds this key to encrypted objects.
        if object.get("sops").is_some() {
            return None;
        }
        let text = |key| object.at(&["metadata", key]).and_then(Node::text).unwrap_or_default();
        let data = |key| object.get(key).map_or(serde_json::Value::Null, Node::to_json);
        let mut json = serde_json::json!({ "data": data("data") });
        if kind == SourceKind::Secret {
            json["stringData"] = data("stringData");
        }
        Some(Self {
            named: SourceName { kind, name: text("name").to_owned() },
            namespace: text("namespace"),
            content: content_of(kind, json).map(Arc::new),
            document,
        })
    }

    /// Returns the line of a key's value, or of the object.
    fn line_of(&self, key: &str) -> u64 {
        let object = &self.document.object;
        let value = object.at(&["stringData", key]).or_else(|| object.at(&["data", key]));
        value.unwrap_or(object).line
    }

    /// Whether the webhook resolves the object when it is applied. The webhook does so with
    /// Secrets, unless its chart is configured otherwise.
    pub(super) fn is_resolved_when_applied(&self) -> bool {
        let metadata = self.document.object.get("metadata");
        let is_skip = |list: &str, key| {
            let value = metadata.and_then(|metadata| metadata.at(&[list, key]));
            value.and_then(Node::text) == Some("skip")
        };
        let is_left_alone = is_skip("labels", MUTATE_LABEL)
            || Webhook::Mutate.keys().any(|key| is_skip("annotations", key));
        self.named.kind == SourceKind::Secret && !is_left_alone
    }

    pub(super) fn at(&self, key: &str) -> Location {
        Location { file: self.document.file.clone(), line: self.line_of(key) }
    }
}

/// The ConfigMaps and Secrets among the manifests.
pub(super) struct Sources<'a> {
    given: Vec<Given<'a>>,
    readable: ReadableSources,
}

impl<'a> Sources<'a> {
    /// Collects the sources among some objects. `readable` is the kinds that the controller may
    /// read.
    pub(super) fn of(objects: &'a [Document], readable: ReadableSources) -> Self {
        Self { given: objects.iter().filter_map(Given::of).collect(), readable }
    }

    /// Returns the source that a workload of a namespace means. Manifests may leave the namespace
    /// to the command that applies them.
    pub(super) fn find(&self, namespace: &str, named: &SourceName) -> Option<&Given<'a>> {
        self.given.iter().find(|given| {
            let other = given.namespace;
            given.named == *named
                && (other == namespace || other.is_empty() || namespace.is_empty())
        })
    }

    pub(super) fn look_up(&self, namespace: &str, named: &SourceName) -> SourceState {
        match self.find(namespace, named) {
            _ if !self.readable.includes(named.kind) => {
                SourceState::Unreadable(Reason::SourceNotRead)
            }
            Some(Given { content: Some(content), .. }) => SourceState::Read(Arc::clone(content)),
            Some(Given { content: None, .. }) => SourceState::Unreadable(Reason::SourceMalformed),
            None => SourceState::Unread,
        }
    }

    /// Whether a source that is not read holds a reference, as far as the manifests show.
    pub(super) fn holds_reference(&self, namespace: &str, place: &Place) -> bool {
        let holds = |named, wanted: Option<&str>| {
            self.find(namespace, named).is_some_and(|given| {
                let mut keys = given.content.iter().flat_map(|content| content.iter());
                keys.any(|(_, key, kept)| {
                    wanted.is_none_or(|wanted| wanted == key) && !kept.is_empty()
                })
            })
        };
        match place {
            Place::Source(_, named) => holds(named, None),
            Place::Key { source, key, .. } => holds(source, Some(key)),
            Place::Env(..) | Place::Setting(..) | Place::FromPath(..) => true,
        }
    }
}

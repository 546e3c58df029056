//! The ConfigMaps that workloads take variables from. An edit of a ConfigMap changes no template:
//! running pods keep the content that they started with, and pods that start later read the new
//! content.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use vault_secrets_reloader::index::sources::SourceRead;
use vault_secrets_reloader::references::environment::{SourceKind, SourceName};
use vault_secrets_reloader::references::source::{Content, SourceId};

use super::{Object, Seen, Template, World};
use crate::history::SOURCES;

/// The longest time until a process knows the new content of a ConfigMap: the slowest watch, and a
/// read.
const READ_WITHIN: Duration = Duration::from_secs(25);

/// After this time, a process that has lived as long surely knows a secret of a workload.
const KNOWN_AFTER: Duration = Duration::from_mins(1);

/// A ConfigMap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    /// The secrets that the ConfigMap refers to, as bits.
    bits: u8,
    /// The secrets before the last edit, or before one of several edits that came at once; and the
    /// secrets before each of these edits.
    some_before: u8,
    all_before: u8,
    edited: Option<Instant>,
    version: u64,
}

/// A secret that a ConfigMap named before, under the present template.
#[derive(Clone, Copy, Debug)]
pub(super) struct Former {
    /// The start and the end of the time in which the present template referred to the secret.
    since: Instant,
    until: Instant,
}

/// Returns the name of a ConfigMap.
pub(super) fn source_name(source: usize) -> String {
    format!("source-{source}")
}

impl World {
    /// Returns the secrets that a template refers to at present, by itself and by its ConfigMap.
    pub(super) fn uses(&self, template: &Template) -> BTreeSet<usize> {
        let bits = template.source.map_or(0, |source| self.sources[source].bits);
        self.uses_with(template, bits)
    }

    /// Returns the secrets that a process may believe a template to refer to. The process may not
    /// have read the new content yet.
    pub(super) fn may_seem_to_use(&self, template: &Template) -> BTreeSet<usize> {
        let mut uses = self.uses(template);
        if let Some(source) = template.source.map(|source| self.sources[source])
            && source.is_fresh()
        {
            uses.extend(self.uses_with(template, source.some_before));
        }
        uses
    }

    /// Returns the secrets of a template that each process surely knows.
    pub(super) fn surely_uses(&self, template: &Template) -> BTreeSet<usize> {
        let source = template.source.map(|source| self.sources[source]);
        let bits = source.map_or(0, |source| {
            if source.is_fresh() { source.bits & source.all_before } else { source.bits }
        });
        self.uses_with(template, bits)
    }

    fn uses_with(&self, template: &Template, bits: u8) -> BTreeSet<usize> {
        let of_source = (0..self.setup.secrets).filter(|secret| bits >> secret & 1 == 1);
        let local = template.refs.iter().copied().chain(of_source);
        local.map(|secret| template.server * self.setup.secrets + secret).collect()
    }

    /// Writes a ConfigMap.
    pub(super) fn edit_source(&mut self, source: usize, bits: u8) {
        let source = source % SOURCES;
        let old = self.sources[source];
        let new = old.edited(bits);
        if old.bits == new.bits {
            return;
        }
        self.sources[source] = new;
        self.churned = Some(Instant::now());
        self.say(|| format!("ConfigMap {source}: {:#b} -> {:#b}", old.bits, new.bits));
        for slot in 0..self.objects.len() {
            let Some(object) = &self.objects[slot] else { continue };
            if object.template.source != Some(source) {
                continue;
            }
            let before = self.uses_with(&object.template, old.bits);
            let after = self.uses(&object.template);
            let since = old.edited.map_or(object.deployed_at, |time| time.max(object.deployed_at));
            let Some(object) = &mut self.objects[slot] else { continue };
            // A process forgets a workload without references, unless it knows the former
            // references.
            object.is_stayer &= !after.is_empty();
            let former = Former { since, until: Instant::now() };
            object.former.extend(before.into_iter().map(|secret| (secret, former)));
            object.former.retain(|secret, _| !after.contains(secret));
        }
        self.tell(&Seen::Source(source));
    }

    /// Returns the answer to a read of a ConfigMap.
    pub(crate) fn read_source(&self, id: &SourceId) -> SourceRead {
        let Some(source) = (0..SOURCES).find(|source| source_name(*source) == *id.name) else {
            return SourceRead::Missing;
        };
        let Source { bits, version, .. } = self.sources[source];
        let values: Vec<(String, String)> = (0..self.setup.secrets)
            .filter(|secret| bits >> secret & 1 == 1)
            .map(|secret| (format!("K{secret}"), format!("vault:{}#x", super::names::path(secret))))
            .collect();
        let content =
            Content::new(values.iter().map(|(key, value)| (key.as_str(), value.as_bytes())));
        SourceRead::Read { resource_version: version.to_string(), content }
    }

    /// Whether a life of a process has known a former secret of a workload as a secret of the
    /// present template.
    pub(super) fn knows_former(&self, object: &Object, secret: usize, life: u64) -> bool {
        let (former, synced) = (object.former.get(&secret), self.synced.get(&life));
        former.zip(synced).is_some_and(|(former, synced)| {
            let since = former.since.max(*synced);
            former.until.saturating_duration_since(since) >= KNOWN_AFTER
        })
    }
}

impl Source {
    /// Returns a ConfigMap that existed before the history began.
    pub(super) fn new(bits: u8) -> Self {
        Self { bits, some_before: bits, all_before: bits, edited: None, version: 0 }
    }

    fn edited(self, bits: u8) -> Self {
        let (some, all) =
            if self.is_fresh() { (self.some_before, self.all_before) } else { (0, !0) };
        Self {
            bits,
            some_before: some | self.bits,
            all_before: all & self.bits,
            edited: Some(Instant::now()),
            version: self.version + 1,
        }
    }

    /// Whether a process may not have read the ConfigMap since its last edit.
    fn is_fresh(&self) -> bool {
        self.edited.is_some_and(|edited| edited.elapsed() < READ_WITHIN)
    }
}

/// Returns the id of a ConfigMap in the controller.
pub(crate) fn source_id(namespace: &Arc<str>, source: usize) -> SourceId {
    let name = SourceName { kind: SourceKind::ConfigMap, name: source_name(source) };
    SourceId::new(namespace, &name)
}

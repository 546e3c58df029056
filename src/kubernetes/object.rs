//! Decodes the JSON of a Deployment, `DaemonSet` or `StatefulSet` into a [`Manifest`].
//!
//! The decoder visits an object while the JSON is read. Unneeded fields are skipped without an
//! allocation. The pod template is digested on the way. Only values that may hold a reference are
//! kept. Any JSON is accepted: a field of an unexpected type counts as absent, so that one
//! malformed object never stops a list.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::hash::Hasher;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::DynamicResourceScope;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use siphasher::sip::SipHasher13;

use crate::model::kind::Kind;
use crate::model::progress::RolloutFailure;
use crate::model::scheme::Scheme;
use crate::model::strategy::Rollout;
use crate::model::time_rules::TimeRules;
use crate::references::environment::{
    Container, EnvFrom, EnvValue, EnvVar, SourceKind, SourceName,
};
use crate::references::expansion::Expansion;
use crate::references::grammar::may_hold_reference;
use crate::references::manifest::Manifest;
use crate::references::settings::is_setting;

mod place;

use place::{Field, Place};

/// The decoded fields of one object of any watched kind.
#[derive(Clone, Debug, Default)]
pub struct Object {
    /// The name, namespace and resource version, which `kube` needs.
    metadata: ObjectMeta,
    manifest: Manifest,
}

impl Object {
    /// Returns the decoded fields.
    #[must_use]
    pub fn into_manifest(self) -> Manifest {
        Manifest {
            name: self.metadata.name.unwrap_or_default(),
            namespace: self.metadata.namespace.unwrap_or_default(),
            resource_version: self.metadata.resource_version.unwrap_or_default(),
            ..self.manifest
        }
    }
}

impl Resource for Object {
    type DynamicType = Kind;
    type Scope = DynamicResourceScope;

    fn kind(kind: &Kind) -> Cow<'_, str> {
        kind.name().into()
    }

    fn group(kind: &Kind) -> Cow<'_, str> {
        kind.group().into()
    }

    fn version(_: &Kind) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(kind: &Kind) -> Cow<'_, str> {
        kind.plural().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl<'de> serde::Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut draft = Draft::default();
        Walk { draft: &mut draft, place: Place::Object }.deserialize(deserializer)?;
        let mut object = draft.object;
        object.manifest.template = draft.digest.finish();
        // A StatefulSet tells by its revisions, a Deployment by a condition.
        object.manifest.status.has_ended |= draft.current_revision.is_some()
            && draft.current_revision == object.manifest.update_revision;
        let annotations = &object.manifest.annotations;
        if draft.has_plain_container
            && Scheme::ALL.iter().any(|scheme| annotations.path_list(*scheme).is_some())
        {
            // One empty container stands for all such containers: they get the paths of the list,
            // too.
            object.manifest.containers.push(Container::default());
        }
        Ok(object)
    }
}

#[derive(Default)]
struct Draft {
    object: Object,
    /// The digest of everything below `spec.template`.
    digest: SipHasher13,
    container: Container,
    /// Whether a container was seen that has nothing to keep.
    has_plain_container: bool,
    expansion: Expansion,
    /// The key of the annotation whose value is read next.
    annotation: String,
    variable: Variable,
    from: From,
    reference: Reference,
    owner: Owner,
    condition: Condition,
    /// `status.currentRevision`, of a StatefulSet.
    current_revision: Option<String>,
}

/// The fields of an element of `env` that were read so far.
#[derive(Default)]
struct Variable {
    name: String,
    literal: Option<String>,
    key: Option<(SourceKind, Reference)>,
    is_elsewhere: bool,
}

/// The fields of an element of `envFrom` that were read so far.
#[derive(Default)]
struct From {
    prefix: String,
    source: Option<(SourceKind, Reference)>,
}

/// The name of a source, or of a key of a source, as far as it was read.
#[derive(Default)]
struct Reference {
    name: String,
    key: String,
    optional: bool,
}

/// The fields of an owner of an object that were read so far.
#[derive(Default)]
struct Owner {
    kind: String,
    name: String,
    is_controller: bool,
}

/// The fields of an element of `status.conditions` that were read so far.
#[derive(Default)]
struct Condition {
    kind: String,
    status: String,
    reason: String,
}

struct Walk<'a> {
    draft: &'a mut Draft,
    place: Place,
}

impl Draft {
    /// Adds a token to the digest: its type, its bytes, and an end byte that no text contains.
    fn digest(&mut self, place: Place, kind: u8, bytes: &[u8]) {
        if place.is_in_template() {
            self.digest.write_u8(kind);
            self.digest.write(bytes);
            self.digest.write_u8(0xff);
        }
    }

    fn end_owner(&mut self) {
        let Owner { kind, name, is_controller } = std::mem::take(&mut self.owner);
        if is_controller && !kind.is_empty() && !name.is_empty() {
            self.object.manifest.owner = Some(format!("{kind}/{name}"));
        }
    }

    fn end_condition(&mut self) {
        let Condition { kind, status, reason } = std::mem::take(&mut self.condition);
        let status_of_rollout = &mut self.object.manifest.status;
        status_of_rollout.has_ended |=
            (&*kind, &*status, &*reason) == ("Progressing", "True", "NewReplicaSetAvailable");
        let failure = RolloutFailure::of_condition(&kind, &status, &reason);
        // A pod that cannot be created is the cause of a deadline that passed.
        status_of_rollout.failure = match (status_of_rollout.failure, failure) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }

    fn end_variable(&mut self) {
        let Variable { name, literal, key, is_elsewhere } = std::mem::take(&mut self.variable);
        let value = match (literal.filter(|value| !value.is_empty()), key) {
            (Some(value), _) => EnvValue::Literal(value),
            (None, Some((kind, Reference { name, key, optional }))) => {
                EnvValue::Key { source: SourceName { kind, name }, key, optional }
            }
            (None, None) if is_elsewhere => EnvValue::Other,
            (None, None) => EnvValue::Literal(String::new()),
        };
        self.container.variables.push(EnvVar { name, value });
    }

    fn end_from(&mut self) {
        let From { prefix, source } = std::mem::take(&mut self.from);
        if let Some((kind, Reference { name, optional, .. })) = source {
            self.container.from.push(EnvFrom {
                prefix,
                source: SourceName { kind, name },
                optional,
            });
        }
    }

    fn end_reference(&mut self, kind: SourceKind) -> Option<(SourceKind, Reference)> {
        let reference = std::mem::take(&mut self.reference);
        (!reference.name.is_empty()).then_some((kind, reference))
    }

    /// Ends a container. Keeps the values that may hold a reference, that configure an injector, or
    /// that may override such values.
    fn end_container(&mut self) {
        let mut container = std::mem::take(&mut self.container);
        self.expansion.expand(&mut container.variables);
        for variable in &mut container.variables {
            let is_kept = match &variable.value {
                EnvValue::Literal(text) | EnvValue::Partly(text) => {
                    may_hold_reference(text) || is_setting(&variable.name)
                }
                EnvValue::Key { .. } | EnvValue::Other => true,
            };
            if !is_kept {
                variable.value = EnvValue::Other;
            }
        }
        if container.from.is_empty() {
            let is_needed = |variable: &&EnvVar| {
                variable.value != EnvValue::Other || is_setting(&variable.name)
            };
            let needed = container.variables.iter().filter(is_needed);
            let names: HashSet<String> = needed.map(|variable| variable.name.clone()).collect();
            container.variables.retain(|variable| names.contains(&variable.name));
        }
        if container.from.is_empty() && container.variables.is_empty() {
            self.has_plain_container = true;
        } else {
            self.object.manifest.containers.push(container);
        }
    }
}

impl Walk<'_> {
    fn digest(&mut self, kind: u8, bytes: &[u8]) {
        self.draft.digest(self.place, kind, bytes);
    }

    fn keep_number(&mut self, number: u64) {
        let manifest = &mut self.draft.object.manifest;
        let status = &mut manifest.status;
        let count = u32::try_from(number).unwrap_or(u32::MAX);
        match self.place {
            Place::Field(Field::SpecReplicas) => status.replicas_in_spec = Some(count),
            Place::Field(Field::Replicas) => status.replicas = count,
            Place::Field(Field::Updated) => status.updated = count,
            Place::Field(Field::Ready) => status.ready = count,
            Place::Field(Field::Available) => status.available = count,
            Place::Field(Field::Terminating) => status.terminating = count,
            Place::Field(Field::Generation) => manifest.generation = number,
            Place::Field(Field::ObservedGeneration) => manifest.observed_generation = number,
            Place::Field(Field::Partition) => {
                manifest.rollout = manifest.rollout.or(Rollout::partition(number));
            }
            _ => {}
        }
    }

    fn keep_bool(&mut self, value: bool) {
        let manifest = &mut self.draft.object.manifest;
        match self.place {
            Place::Field(Field::Paused) if value => manifest.rollout = Rollout::Paused,
            Place::Field(Field::OwnerIsController) => self.draft.owner.is_controller = value,
            Place::Field(Field::SourceIsOptional) => self.draft.reference.optional = value,
            _ => {}
        }
    }

    fn keep_text(&mut self, text: &str) {
        let Place::Field(field) = self.place else {
            return;
        };
        let Object { metadata, manifest } = &mut self.draft.object;
        match field {
            Field::Name => metadata.name = Some(text.to_owned()),
            Field::Namespace => metadata.namespace = Some(text.to_owned()),
            Field::ResourceVersion => metadata.resource_version = Some(text.to_owned()),
            Field::Uid => text.clone_into(&mut manifest.uid),
            Field::CreationTimestamp => manifest.created = text.parse().unwrap_or_default(),
            Field::DeletionTimestamp => manifest.deleting = true,
            Field::Record => manifest.record = Some(text.to_owned()),
            Field::DryRun => manifest.dry_run = text == "true",
            Field::ReloadOrder => manifest.reload_order = text.trim().parse().unwrap_or(0),
            Field::ContinueAfterFailure => manifest.continue_after = text.trim().parse().ok(),
            Field::FreezeUntil => {
                let windows = manifest.time_rules.take().and_then(|rules| rules.windows);
                manifest.time_rules = TimeRules::new(Some(text), windows.as_deref()).boxed();
            }
            Field::ReloadWindows => {
                let freeze = manifest.time_rules.take().and_then(|rules| rules.freeze_until);
                manifest.time_rules = TimeRules::new(freeze.as_deref(), Some(text)).boxed();
            }
            Field::OwnerKind => text.clone_into(&mut self.draft.owner.kind),
            Field::OwnerName => text.clone_into(&mut self.draft.owner.name),
            Field::StrategyType if text == "OnDelete" => manifest.rollout = Rollout::OnDelete,
            Field::DeploymentStrategy => manifest.recreates = text == "Recreate",
            Field::ConditionType => text.clone_into(&mut self.draft.condition.kind),
            Field::ConditionStatus => text.clone_into(&mut self.draft.condition.status),
            Field::ConditionReason => text.clone_into(&mut self.draft.condition.reason),
            Field::UpdateRevision => manifest.update_revision = Some(text.to_owned()),
            Field::CurrentRevision => self.draft.current_revision = Some(text.to_owned()),
            Field::ContainerName => text.clone_into(&mut self.draft.container.name),
            Field::CommandPart => {
                let container = &mut self.draft.container;
                // A shell command is a single argument.
                container.starts_injector |= text.split_whitespace().any(Container::is_injector);
            }
            Field::VariableName => text.clone_into(&mut self.draft.variable.name),
            Field::VariableValue => self.draft.variable.literal = Some(text.to_owned()),
            Field::Prefix => text.clone_into(&mut self.draft.from.prefix),
            Field::SourceName => text.clone_into(&mut self.draft.reference.name),
            Field::SourceKey => text.clone_into(&mut self.draft.reference.key),
            Field::TemplateAnnotation => {
                let key = std::mem::take(&mut self.draft.annotation);
                manifest.annotations.push(key, text.to_owned());
            }
            Field::Generation
            | Field::ObservedGeneration
            | Field::OwnerIsController
            | Field::SourceIsOptional
            | Field::Paused
            | Field::StrategyType
            | Field::SpecReplicas
            | Field::Replicas
            | Field::Updated
            | Field::Ready
            | Field::Available
            | Field::Terminating
            | Field::Partition => {}
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.place == Place::Ignored {
            return deserializer.deserialize_ignored_any(IgnoredAny).map(drop);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(mut self, value: bool) -> Result<(), E> {
        self.digest(b'b', &[u8::from(value)]);
        self.keep_bool(value);
        Ok(())
    }

    fn visit_i64<E>(mut self, value: i64) -> Result<(), E> {
        self.digest(b'i', &value.to_le_bytes());
        Ok(())
    }

    fn visit_u64<E>(mut self, value: u64) -> Result<(), E> {
        self.digest(b'u', &value.to_le_bytes());
        self.keep_number(value);
        Ok(())
    }

    fn visit_f64<E>(mut self, value: f64) -> Result<(), E> {
        self.digest(b'f', &value.to_bits().to_le_bytes());
        Ok(())
    }

    fn visit_str<E>(mut self, value: &str) -> Result<(), E> {
        self.digest(b's', value.as_bytes());
        self.keep_text(value);
        Ok(())
    }

    fn visit_unit<E>(mut self) -> Result<(), E> {
        self.digest(b'n', &[]);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        self.digest(b'[', &[]);
        let place = self.place.element();
        while list.next_element_seed(Walk { draft: self.draft, place })?.is_some() {}
        self.digest(b']', &[]);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.digest(b'{', &[]);
        match self.place {
            Place::Owner => self.draft.owner = Owner::default(),
            Place::Condition => self.draft.condition = Condition::default(),
            Place::Container => self.draft.container = Container::default(),
            Place::Variable => self.draft.variable = Variable::default(),
            Place::EnvFromItem => self.draft.from = From::default(),
            Place::ValueFrom => self.draft.variable.is_elsewhere = true,
            Place::SourceRef(_) | Place::KeyRef(_) => {
                self.draft.reference = Reference::default();
            }
            _ => {}
        }
        while let Some(place) = map.next_key_seed(Key { draft: self.draft, map: self.place })? {
            map.next_value_seed(Walk { draft: self.draft, place })?;
        }
        match self.place {
            Place::Owner => self.draft.end_owner(),
            Place::Condition => self.draft.end_condition(),
            Place::Container => self.draft.end_container(),
            Place::Variable => self.draft.end_variable(),
            Place::EnvFromItem => self.draft.end_from(),
            Place::SourceRef(kind) => self.draft.from.source = self.draft.end_reference(kind),
            Place::KeyRef(kind) => self.draft.variable.key = self.draft.end_reference(kind),
            _ => {}
        }
        self.digest(b'}', &[]);
        Ok(())
    }
}

/// Reads a key of the map at a place, and returns the place of its value.
struct Key<'a> {
    draft: &'a mut Draft,
    map: Place,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Place;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Place, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Place;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Place, E> {
        let place = self.map.member(key);
        self.draft.digest(place, b'k', key.as_bytes());
        if place == Place::Field(Field::TemplateAnnotation) {
            key.clone_into(&mut self.draft.annotation);
        }
        Ok(place)
    }
}

#[cfg(test)]
mod tests;

//! The positions in a workload of which the decoder keeps something.

use crate::model::annotation;
use crate::references::environment::SourceKind;

/// The position of the walk in an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Object,
    Metadata,
    Annotations,
    Owners,
    Owner,
    Spec,
    UpdateStrategy,
    /// `spec.strategy`, of a Deployment.
    Strategy,
    RollingUpdate,
    Template,
    TemplateMetadata,
    TemplateAnnotations,
    TemplateLabels,
    PodSpec,
    Containers,
    Container,
    Command,
    Env,
    Variable,
    ValueFrom,
    EnvFrom,
    EnvFromItem,
    /// The name of a source, in an element of `envFrom`.
    SourceRef(SourceKind),
    /// The name of a key of a source, in `valueFrom`.
    KeyRef(SourceKind),
    Status,
    Conditions,
    Condition,
    /// A value that is kept.
    Field(Field),
    /// A value inside the template that only counts for the digest.
    Digested,
    /// A value that is skipped.
    Ignored,
}

/// A field whose value is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Name,
    Namespace,
    Uid,
    ResourceVersion,
    Generation,
    CreationTimestamp,
    DeletionTimestamp,
    Record,
    DryRun,
    ReloadOrder,
    ContinueAfterFailure,
    FreezeUntil,
    ReloadWindows,
    OwnerKind,
    OwnerName,
    OwnerIsController,
    Paused,
    StrategyType,
    DeploymentStrategy,
    Partition,
    ObservedGeneration,
    UpdateRevision,
    CurrentRevision,
    SpecReplicas,
    Replicas,
    Updated,
    Ready,
    Available,
    Terminating,
    ConditionType,
    ConditionStatus,
    ConditionReason,
    TemplateAnnotation,
    ContainerName,
    CommandPart,
    VariableName,
    VariableValue,
    Prefix,
    SourceName,
    SourceKey,
    SourceIsOptional,
}

impl Place {
    /// Returns the place of a member of the map at this place.
    pub(super) fn member(self, key: &str) -> Self {
        let field = match self {
            Self::Metadata | Self::Owner => self.member_of_metadata(key),
            Self::Annotations => Self::annotation(key),
            Self::Spec | Self::Strategy | Self::UpdateStrategy | Self::RollingUpdate => {
                self.member_of_spec(key)
            }
            Self::Status | Self::Condition => self.member_of_status(key),
            Self::Object => match key {
                "metadata" => Some(Self::Metadata),
                "spec" => Some(Self::Spec),
                "status" => Some(Self::Status),
                _ => None,
            },
            _ => self.member_of_template(key),
        };
        let of_others = if self.is_in_template() { Self::Digested } else { Self::Ignored };
        field.unwrap_or(of_others)
    }

    fn member_of_metadata(self, key: &str) -> Option<Self> {
        Some(match (self, key) {
            (Self::Metadata, "annotations") => Self::Annotations,
            (Self::Metadata, "ownerReferences") => Self::Owners,
            (Self::Metadata, "name") => Self::Field(Field::Name),
            (Self::Metadata, "namespace") => Self::Field(Field::Namespace),
            (Self::Metadata, "uid") => Self::Field(Field::Uid),
            (Self::Metadata, "resourceVersion") => Self::Field(Field::ResourceVersion),
            (Self::Metadata, "generation") => Self::Field(Field::Generation),
            (Self::Metadata, "creationTimestamp") => Self::Field(Field::CreationTimestamp),
            (Self::Metadata, "deletionTimestamp") => Self::Field(Field::DeletionTimestamp),
            (Self::Owner, "kind") => Self::Field(Field::OwnerKind),
            (Self::Owner, "name") => Self::Field(Field::OwnerName),
            (Self::Owner, "controller") => Self::Field(Field::OwnerIsController),
            _ => return None,
        })
    }

    fn annotation(key: &str) -> Option<Self> {
        let field = match key {
            annotation::RECORD => Field::Record,
            annotation::DRY_RUN => Field::DryRun,
            annotation::RELOAD_ORDER => Field::ReloadOrder,
            annotation::CONTINUE_AFTER_FAILURE => Field::ContinueAfterFailure,
            annotation::FREEZE_UNTIL => Field::FreezeUntil,
            annotation::RELOAD_WINDOWS => Field::ReloadWindows,
            _ => return None,
        };
        Some(Self::Field(field))
    }

    fn member_of_spec(self, key: &str) -> Option<Self> {
        Some(match (self, key) {
            (Self::Spec, "replicas") => Self::Field(Field::SpecReplicas),
            (Self::Spec, "paused") => Self::Field(Field::Paused),
            (Self::Spec, "template") => Self::Template,
            (Self::Spec, "updateStrategy") => Self::UpdateStrategy,
            (Self::Spec, "strategy") => Self::Strategy,
            (Self::Strategy, "type") => Self::Field(Field::DeploymentStrategy),
            (Self::UpdateStrategy, "type") => Self::Field(Field::StrategyType),
            (Self::UpdateStrategy, "rollingUpdate") => Self::RollingUpdate,
            (Self::RollingUpdate, "partition") => Self::Field(Field::Partition),
            _ => return None,
        })
    }

    fn member_of_status(self, key: &str) -> Option<Self> {
        let field = match (self, key) {
            (Self::Status, "conditions") => return Some(Self::Conditions),
            (Self::Status, "observedGeneration") => Field::ObservedGeneration,
            (Self::Status, "updateRevision") => Field::UpdateRevision,
            (Self::Status, "currentRevision") => Field::CurrentRevision,
            (Self::Status, "replicas" | "desiredNumberScheduled") => Field::Replicas,
            (Self::Status, "updatedReplicas" | "updatedNumberScheduled") => Field::Updated,
            (Self::Status, "readyReplicas" | "numberReady") => Field::Ready,
            (Self::Status, "availableReplicas" | "numberAvailable") => Field::Available,
            (Self::Status, "terminatingReplicas") => Field::Terminating,
            (Self::Condition, "type") => Field::ConditionType,
            (Self::Condition, "status") => Field::ConditionStatus,
            (Self::Condition, "reason") => Field::ConditionReason,
            _ => return None,
        };
        Some(Self::Field(field))
    }

    fn member_of_template(self, key: &str) -> Option<Self> {
        Some(match (self, key) {
            (Self::Template, "metadata") => Self::TemplateMetadata,
            (Self::Template, "spec") => Self::PodSpec,
            (Self::TemplateMetadata, "annotations") => Self::TemplateAnnotations,
            (Self::TemplateMetadata, "labels") => Self::TemplateLabels,
            (Self::TemplateAnnotations, key) if annotation::is_read_on_template(key) => {
                Self::Field(Field::TemplateAnnotation)
            }
            (Self::TemplateLabels, annotation::MUTATE_LABEL) => {
                Self::Field(Field::TemplateAnnotation)
            }
            (Self::PodSpec, "containers" | "initContainers" | "ephemeralContainers") => {
                Self::Containers
            }
            (Self::Container, "name") => Self::Field(Field::ContainerName),
            (Self::Container, "command" | "args") => Self::Command,
            (Self::Container, "env") => Self::Env,
            (Self::Container, "envFrom") => Self::EnvFrom,
            (Self::Variable, "name") => Self::Field(Field::VariableName),
            (Self::Variable, "value") => Self::Field(Field::VariableValue),
            (Self::Variable, "valueFrom") => Self::ValueFrom,
            (Self::ValueFrom, "configMapKeyRef") => Self::KeyRef(SourceKind::ConfigMap),
            (Self::ValueFrom, "secretKeyRef") => Self::KeyRef(SourceKind::Secret),
            (Self::EnvFromItem, "configMapRef") => Self::SourceRef(SourceKind::ConfigMap),
            (Self::EnvFromItem, "secretRef") => Self::SourceRef(SourceKind::Secret),
            (Self::EnvFromItem, "prefix") => Self::Field(Field::Prefix),
            (Self::SourceRef(_) | Self::KeyRef(_), "name") => Self::Field(Field::SourceName),
            (Self::SourceRef(_) | Self::KeyRef(_), "key") => Self::Field(Field::SourceKey),
            (Self::SourceRef(_) | Self::KeyRef(_), "optional") => {
                Self::Field(Field::SourceIsOptional)
            }
            _ => return None,
        })
    }

    /// Returns the place of an element of the list at this place.
    pub(super) fn element(self) -> Self {
        match self {
            Self::Owners => Self::Owner,
            Self::Conditions => Self::Condition,
            Self::Containers => Self::Container,
            Self::Command => Self::Field(Field::CommandPart),
            Self::Env => Self::Variable,
            Self::EnvFrom => Self::EnvFromItem,
            _ if self.is_in_template() => Self::Digested,
            _ => Self::Ignored,
        }
    }

    pub(super) fn is_in_template(self) -> bool {
        match self {
            Self::Template
            | Self::TemplateMetadata
            | Self::TemplateAnnotations
            | Self::TemplateLabels
            | Self::PodSpec
            | Self::Containers
            | Self::Container
            | Self::Command
            | Self::Env
            | Self::Variable
            | Self::ValueFrom
            | Self::EnvFrom
            | Self::EnvFromItem
            | Self::SourceRef(_)
            | Self::KeyRef(_)
            | Self::Digested
            | Self::Field(
                Field::TemplateAnnotation
                | Field::ContainerName
                | Field::CommandPart
                | Field::VariableName
                | Field::VariableValue
                | Field::Prefix
                | Field::SourceName
                | Field::SourceKey
                | Field::SourceIsOptional,
            ) => true,
            Self::Object
            | Self::Metadata
            | Self::Annotations
            | Self::Owners
            | Self::Owner
            | Self::Spec
            | Self::UpdateStrategy
            | Self::Strategy
            | Self::RollingUpdate
            | Self::Status
            | Self::Conditions
            | Self::Condition
            | Self::Field(_)
            | Self::Ignored => false,
        }
    }
}

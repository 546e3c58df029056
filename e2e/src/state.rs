//! A workload from the API server, and the meaning of its fields for tests.

use serde_json::Value;

use crate::workload::{Generation, MARK, RECORD};

/// A workload from the API server.
#[derive(Debug, Clone)]
pub struct State {
    /// The whole object.
    pub object: Value,
}

impl State {
    /// `metadata.generation`: one more for each change of `spec`.
    #[must_use]
    pub fn generation(&self) -> i64 {
        self.integer("/metadata/generation")
    }

    /// `metadata.uid`.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.text("/metadata/uid").unwrap_or_default()
    }

    /// `metadata.resourceVersion`.
    #[must_use]
    pub fn resource_version(&self) -> &str {
        self.text("/metadata/resourceVersion").unwrap_or_default()
    }

    /// The pod template.
    #[must_use]
    pub fn template(&self) -> &Value {
        &self.object["spec"]["template"]
    }

    /// An annotation of the pod template.
    #[must_use]
    pub fn template_annotation(&self, key: &str) -> Option<&str> {
        self.template()["metadata"]["annotations"][key].as_str()
    }

    /// An annotation of the workload itself.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.object["metadata"]["annotations"][key].as_str()
    }

    /// The number of reloads, by the count annotation of either generation. `None` if there is no
    /// annotation, or it is no number.
    #[must_use]
    pub fn count(&self) -> Option<i64> {
        [Generation::Current, Generation::Older]
            .into_iter()
            .find_map(|generation| self.template_annotation(generation.count())?.parse().ok())
    }

    /// The mark that the last reload left on the pod template.
    #[must_use]
    pub fn mark(&self) -> Option<&str> {
        self.template_annotation(MARK)
    }

    /// The record, parsed.
    #[must_use]
    pub fn record(&self) -> Option<Value> {
        serde_json::from_str(self.annotation(RECORD)?).ok()
    }

    /// The number of ready pods.
    #[must_use]
    pub fn ready(&self) -> i64 {
        self.integer("/status/readyReplicas").max(self.integer("/status/numberReady"))
    }

    /// Whether the workload's controller has seen the current template, and so has made its
    /// revision.
    #[must_use]
    pub fn is_observed(&self) -> bool {
        self.integer("/status/observedGeneration") >= self.generation()
    }

    /// Whether every pod has the current template and is available.
    #[must_use]
    pub fn is_rolled_out(&self) -> bool {
        if !self.is_observed() {
            return false;
        }
        let is = |fields: &[&str], wanted: i64| {
            fields.iter().all(|field| self.integer(&format!("/status/{field}")) == wanted)
        };
        let desired = self.integer("/spec/replicas");
        match self.text("/kind") {
            Some("DaemonSet") => is(
                &["updatedNumberScheduled", "numberAvailable", "currentNumberScheduled"],
                self.integer("/status/desiredNumberScheduled"),
            ),
            Some("StatefulSet") => {
                is(&["updatedReplicas", "availableReplicas", "replicas"], desired)
                    && self.text("/status/currentRevision") == self.text("/status/updateRevision")
            }
            _ => is(&["updatedReplicas", "availableReplicas", "replicas"], desired),
        }
    }

    fn integer(&self, pointer: &str) -> i64 {
        self.object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
    }

    fn text(&self, pointer: &str) -> Option<&str> {
        self.object.pointer(pointer)?.as_str()
    }
}

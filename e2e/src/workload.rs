//! The workloads that tests deploy.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// The three kinds that the controller reloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `apps/v1` `Deployment`.
    Deployment,
    /// `apps/v1` `DaemonSet`.
    DaemonSet,
    /// `apps/v1` `StatefulSet`.
    StatefulSet,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Deployment => "Deployment",
            Self::DaemonSet => "DaemonSet",
            Self::StatefulSet => "StatefulSet",
        })
    }
}

impl Kind {
    /// The resource's name in paths, such as `deployments`.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Deployment => "deployments",
            Self::DaemonSet => "daemonsets",
            Self::StatefulSet => "statefulsets",
        }
    }
}

/// The two generations of the opt-in and count annotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// `secrets-reloader.security.bank-vaults.io/...`
    Current,
    /// `alpha.vault.security.banzaicloud.io/...`
    Older,
}

impl Generation {
    /// The annotation that opts a pod template in.
    #[must_use]
    pub fn opt_in(self) -> &'static str {
        match self {
            Self::Current => "secrets-reloader.security.bank-vaults.io/reload-on-secret-change",
            Self::Older => "alpha.vault.security.banzaicloud.io/reload-on-secret-change",
        }
    }

    /// The annotation of the pod template that counts reloads.
    #[must_use]
    pub fn count(self) -> &'static str {
        match self {
            Self::Current => "secrets-reloader.security.bank-vaults.io/secret-reload-count",
            Self::Older => "alpha.vault.security.banzaicloud.io/secret-reload-count",
        }
    }
}

/// The annotation of the pod template that each reload sets to a new value.
pub const MARK: &str = "secrets-reloader.security.bank-vaults.io/reload-mark";
/// The annotation of the workload itself that holds the record, as JSON.
pub const RECORD: &str = "secrets-reloader.security.bank-vaults.io/reload-record";

/// Names a workload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadName {
    /// The kind.
    pub kind: Kind,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl WorkloadName {
    /// Returns the name of a workload.
    #[must_use]
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// Formats the name as in the controller's log lines: `namespace/Kind/name`.
impl fmt::Display for WorkloadName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}/{}", self.namespace, self.kind, self.name)
    }
}

impl AsRef<WorkloadName> for WorkloadName {
    fn as_ref(&self) -> &WorkloadName {
        self
    }
}

/// A workload to apply. By default it has one replica and one container, and is not opted in.
#[derive(Debug, Clone)]
pub struct Workload {
    name: WorkloadName,
    replicas: u32,
    annotations: BTreeMap<String, String>,
    template_annotations: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    selector: Option<BTreeMap<String, String>>,
    env: Vec<Value>,
    env_from: Vec<Value>,
    init_env: Vec<Value>,
    spec: Map<String, Value>,
}

impl AsRef<WorkloadName> for Workload {
    fn as_ref(&self) -> &WorkloadName {
        &self.name
    }
}

impl Workload {
    /// A workload of any kind.
    #[must_use]
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            name: WorkloadName::new(kind, namespace, name),
            replicas: 1,
            annotations: BTreeMap::new(),
            template_annotations: BTreeMap::new(),
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            selector: None,
            env: Vec::new(),
            env_from: Vec::new(),
            init_env: Vec::new(),
            spec: Map::new(),
        }
    }

    /// A Deployment.
    #[must_use]
    pub fn deployment(namespace: &str, name: &str) -> Self {
        Self::new(Kind::Deployment, namespace, name)
    }

    /// A `DaemonSet`.
    #[must_use]
    pub fn daemon_set(namespace: &str, name: &str) -> Self {
        Self::new(Kind::DaemonSet, namespace, name)
    }

    /// A `StatefulSet`.
    #[must_use]
    pub fn stateful_set(namespace: &str, name: &str) -> Self {
        Self::new(Kind::StatefulSet, namespace, name)
    }

    /// The name of the workload.
    #[must_use]
    pub fn name(&self) -> &WorkloadName {
        &self.name
    }

    /// Opts in, with the current annotation.
    #[must_use]
    pub fn opted_in(self) -> Self {
        self.opted_in_by(Generation::Current)
    }

    /// Opts in, with the annotation of either generation.
    #[must_use]
    pub fn opted_in_by(self, generation: Generation) -> Self {
        self.template_annotation(generation.opt_in(), "true")
    }

    /// Removes the opt-in of both generations.
    #[must_use]
    pub fn opted_out(mut self) -> Self {
        for generation in [Generation::Current, Generation::Older] {
            self.template_annotations.remove(generation.opt_in());
        }
        self
    }

    /// Adds a variable of the container, such as `vault:secret/data/mysql#password`.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(json!({"name": name, "value": value}));
        self
    }

    /// Adds a variable of the container with `valueFrom`, such as
    /// `{"configMapKeyRef": {"name": "refs", "key": "A"}}`.
    #[must_use]
    pub fn env_value_from(mut self, name: &str, source: &Value) -> Self {
        self.env.push(json!({"name": name, "valueFrom": source}));
        self
    }

    /// Adds the variables of all keys of a source, such as `{"configMapRef": {"name": "refs"}}`.
    #[must_use]
    pub fn env_from(mut self, source: &Value) -> Self {
        self.env_from.push(source.clone());
        self
    }

    /// Adds a variable of an init container.
    #[must_use]
    pub fn init_env(mut self, name: &str, value: &str) -> Self {
        self.init_env.push(json!({"name": name, "value": value}));
        self
    }

    /// Removes all variables of both containers, and so all references.
    #[must_use]
    pub fn without_env(mut self) -> Self {
        self.env.clear();
        self.env_from.clear();
        self.init_env.clear();
        self
    }

    /// Adds an annotation of the pod template.
    #[must_use]
    pub fn template_annotation(mut self, key: &str, value: &str) -> Self {
        self.template_annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds an annotation of the workload itself.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds a label of the workload and of its pods.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets a selector other than `app=NAME`, for workloads whose selectors overlap.
    #[must_use]
    pub fn selector(mut self, labels: &[(&str, &str)]) -> Self {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        self.selector = Some(labels.collect());
        self
    }

    /// Sets the number of pods. A `DaemonSet` has one pod a node.
    #[must_use]
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// Sets a field of `spec`, such as `paused` or `updateStrategy`.
    #[must_use]
    pub fn spec(mut self, field: &str, value: Value) -> Self {
        self.spec.insert(field.to_owned(), value);
        self
    }

    /// Makes pods that run and never become ready.
    #[must_use]
    pub fn never_ready(self) -> Self {
        self.label("e2e/ready", "never")
    }

    /// Makes pods that become ready after this delay from their scheduling.
    #[must_use]
    pub fn ready_after(self, delay: Duration) -> Self {
        self.template_annotation("e2e/ready-after", &format!("{}ms", delay.as_millis()))
    }

    /// Returns the object that is sent to the API server.
    #[must_use]
    pub fn manifest(&self) -> Value {
        let default_selector = || BTreeMap::from([("app".to_owned(), self.name.name.clone())]);
        let container = |name: &str, env: &[Value]| json!({"name": name, "image": "example.com/app:1", "env": env});
        let mut pod = json!({
            "terminationGracePeriodSeconds": 0,
            "containers": [container("app", &self.env)],
        });
        if !self.env_from.is_empty() {
            pod["containers"][0]["envFrom"] = json!(self.env_from);
        }
        if !self.init_env.is_empty() {
            pod["initContainers"] = json!([container("init", &self.init_env)]);
        }
        let mut spec = json!({
            "selector": {"matchLabels": self.selector.clone().unwrap_or_else(default_selector)},
            "template": {
                "metadata": {"labels": self.labels, "annotations": self.template_annotations},
                "spec": pod,
            },
        });
        match self.name.kind {
            Kind::Deployment => spec["replicas"] = json!(self.replicas),
            Kind::DaemonSet => {}
            Kind::StatefulSet => {
                spec["replicas"] = json!(self.replicas);
                spec["serviceName"] = json!(self.name.name);
                // Starting pods one after the other only makes tests slower.
                spec["podManagementPolicy"] = json!("Parallel");
            }
        }
        for (field, value) in &self.spec {
            spec[field] = value.clone();
        }
        json!({
            "apiVersion": "apps/v1",
            "kind": self.name.kind.to_string(),
            "metadata": {
                "namespace": self.name.namespace,
                "name": self.name.name,
                "labels": self.labels,
                "annotations": self.annotations,
            },
            "spec": spec,
        })
    }
}

//! The bed's Kubernetes cluster for its administrator: workloads, rollouts, tokens, kubeconfigs.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http::{HeaderName, HeaderValue, Request};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::command_lines::{ADMIN_TOKEN, RELOADER_USER};
use crate::kubeconfig::{inline, kubeconfig_text};
use crate::state::State;
use crate::wait::eventually;
use crate::workload::{Kind, Workload, WorkloadName};

/// The longest rollout. A rollout on the bed takes 0.2 s; the rest is for a machine under heavy
/// load.
const ROLLOUT_WITHIN: Duration = Duration::from_mins(1);

/// The lease of the controllers' leader election.
pub const LEASE: &str = "vault-secrets-reloader";

/// From this number on, workloads of a kind and namespace are read by one LIST. The LIST may also
/// hold other workloads.
const LIST_FROM: usize = 8;

/// The field manager of objects that tests apply.
const MANAGER: &str = "e2e";

/// A client that may do everything, and the data that others need to reach the API server.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) client: Client,
    pub(crate) port: u16,
    pub(crate) ca: String,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) folder: PathBuf,
}

impl Cluster {
    /// Writes the administrator's kubeconfig into the folder, and makes a client of it. Sends no
    /// request.
    pub(crate) async fn new(folder: &Path, port: u16, ca: String) -> Result<Self> {
        let kubeconfig = folder.join("kubeconfig");
        std::fs::write(&kubeconfig, kubeconfig_text(port, &ca, "admin", &inline(ADMIN_TOKEN)))?;
        let parsed = Kubeconfig::read_from(&kubeconfig)?;
        let mut config =
            Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await?;
        // Retries would hide a stopped server for minutes. A test repeats a request itself if
        // needed.
        config.default_retry = false;
        config.connect_timeout = Some(Duration::from_secs(5));
        config.read_timeout = Some(Duration::from_secs(20));
        config.reset_reader_on_write = true;
        config.headers =
            vec![(HeaderName::from_static("user-agent"), HeaderValue::from_static(MANAGER))];
        let client = Client::try_from(config)?;
        Ok(Self { client, port, ca, kubeconfig, folder: folder.to_owned() })
    }

    /// The administrator's client, for requests without a helper here. Its requests are not
    /// retried.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The API server's address.
    #[must_use]
    pub fn address(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The API server's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificate authority, as PEM.
    #[must_use]
    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// The administrator's kubeconfig file, as in `KUBECONFIG`.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Creates a namespace, and waits until pods can be created in it.
    pub async fn create_namespace(&self, name: &str) -> Result<()> {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.apply_object(&namespace, "namespaces").await?;
        eventually("the namespace's default ServiceAccount", ROLLOUT_WITHIN, || async {
            let path = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
            self.get_path(&path).await.map(Some)
        })
        .await
        .map(drop)
    }

    /// Creates or changes a workload by server-side apply. Annotations of other writers stay.
    pub async fn apply(&self, workload: &Workload) -> Result<State> {
        let kind = workload.name().kind;
        let object = self.apply_object(&workload.manifest(), kind.plural()).await?;
        Ok(State { object })
    }

    /// Creates an object from its manifest. `plural` is the name of the resource in paths.
    pub async fn create_object(&self, manifest: &Value, plural: &str) -> Result<Value> {
        let object: DynamicObject = serde_json::from_value(manifest.clone())?;
        let made = self.api_of(manifest, plural)?.create(&PostParams::default(), &object).await?;
        Ok(serde_json::to_value(made)?)
    }

    /// Creates or changes any object by server-side apply.
    pub async fn apply_object(&self, manifest: &Value, plural: &str) -> Result<Value> {
        let name = manifest["metadata"]["name"].as_str().context("a manifest without a name")?;
        let how = PatchParams::apply(MANAGER).force();
        let api = self.api_of(manifest, plural)?;
        let made = api.patch(name, &how, &Patch::Apply(manifest)).await;
        let made = made.with_context(|| format!("cannot apply {plural} {name}"))?;
        Ok(serde_json::to_value(made)?)
    }

    /// Reads a workload.
    pub async fn get(&self, workload: impl AsRef<WorkloadName>) -> Result<State> {
        let workload = workload.as_ref();
        let WorkloadName { kind, namespace, name } = workload;
        let path = format!("/apis/apps/v1/namespaces/{namespace}/{}/{name}", kind.plural());
        let object = self.get_path(&path).await;
        Ok(State { object: object.with_context(|| format!("cannot read {workload}"))? })
    }

    /// Reads workloads. Many workloads of one kind and namespace are read by one LIST, a few one by
    /// one.
    ///
    /// # Errors
    /// Also when one of the workloads does not exist.
    pub async fn get_all(&self, workloads: &[&WorkloadName]) -> Result<Vec<State>> {
        let mut groups: BTreeMap<_, usize> = BTreeMap::new();
        for workload in workloads {
            *groups.entry((workload.kind, workload.namespace.as_str())).or_default() += 1;
        }
        let mut listed = HashMap::new();
        for ((kind, namespace), _) in groups.into_iter().filter(|(_, many)| *many >= LIST_FROM) {
            let path = format!("/apis/apps/v1/namespaces/{namespace}/{}", kind.plural());
            let mut list = self.get_path(&path).await?;
            for object in list["items"].as_array_mut().into_iter().flatten() {
                let mut object = object.take();
                object["kind"] = json!(kind.to_string());
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                listed.insert(WorkloadName::new(kind, namespace, name), State { object });
            }
        }
        let mut states = Vec::with_capacity(workloads.len());
        for workload in workloads {
            states.push(match listed.get(*workload) {
                Some(state) => state.clone(),
                None => self.get(*workload).await?,
            });
        }
        Ok(states)
    }

    /// Changes a workload by a JSON merge patch, as another writer would.
    pub async fn patch(&self, workload: impl AsRef<WorkloadName>, patch: &Value) -> Result<State> {
        let workload = workload.as_ref();
        let how = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let object = self.api(workload).patch(&workload.name, &how, &Patch::Merge(patch)).await;
        let object = object.with_context(|| format!("cannot patch {workload}"))?;
        Ok(State { object: serde_json::to_value(object)? })
    }

    /// Deletes a workload.
    pub async fn delete(&self, workload: impl AsRef<WorkloadName>) -> Result<()> {
        let workload = workload.as_ref();
        self.api(workload).delete(&workload.name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Deletes all workloads of a kind, and waits until they are gone.
    pub(crate) async fn delete_all(&self, kind: Kind) -> Result<()> {
        let path = format!("/apis/apps/v1/{}", kind.plural());
        let list = async || -> Result<Vec<WorkloadName>> {
            let list = self.get_path(&path).await?;
            let items = list["items"].as_array().into_iter().flatten();
            let name = |item: &Value| {
                let field = |name: &str| item["metadata"][name].as_str().unwrap_or_default();
                WorkloadName::new(kind, field("namespace"), field("name"))
            };
            Ok(items.map(name).collect())
        };
        for workload in list().await? {
            let deleted =
                self.api(&workload).delete(&workload.name, &DeleteParams::default()).await;
            match deleted {
                // The workload is gone with its namespace, which an earlier scenario deleted.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                deleted => deleted.map(drop)?,
            }
        }
        eventually("the workloads to be gone", ROLLOUT_WITHIN, || async {
            Ok(list().await?.is_empty().then_some(()))
        })
        .await
    }

    /// Waits until every pod has the current template and is available.
    pub async fn wait_rolled_out(&self, workload: impl AsRef<WorkloadName>) -> Result<State> {
        let workload = workload.as_ref();
        self.wait_for(workload, "its rollout", ROLLOUT_WITHIN, State::is_rolled_out).await
    }

    /// Waits until the workload was reloaded `count` times and its controller has made the
    /// revision. If a revision is made after the next rotation, its pods have the new version and
    /// are not reloaded.
    ///
    /// # Errors
    /// When the count is different at the end of the time.
    pub async fn wait_for_count(
        &self,
        workload: impl AsRef<WorkloadName>,
        count: i64,
        within: Duration,
    ) -> Result<State> {
        let what = format!("its reload count to be {count}");
        let is_so = |state: &State| state.count() == Some(count) && state.is_observed();
        self.wait_for(workload, &what, within, is_so).await
    }

    /// Waits until the workload is in the wanted state. `what` describes the state.
    pub async fn wait_for(
        &self,
        workload: impl AsRef<WorkloadName>,
        what: &str,
        within: Duration,
        is_so: impl Fn(&State) -> bool,
    ) -> Result<State> {
        let workload = workload.as_ref();
        let what = format!("{workload}: {what}");
        let outcome = eventually(&what, within, || async {
            let state = self.get(workload).await?;
            Ok(is_so(&state).then_some(state))
        });
        let outcome = outcome.await;
        if outcome.is_err()
            && let Ok(state) = self.get(workload).await
        {
            let seen = format!(
                "it has generation {}, count {:?}, status {}",
                state.generation(),
                state.count(),
                state.object["status"]
            );
            return outcome.context(seen);
        }
        outcome
    }

    /// Returns the `ReplicaSets` of a Deployment, or the `ControllerRevisions` of the other kinds:
    /// one for each change of the template.
    pub async fn revisions(&self, workload: impl AsRef<WorkloadName>) -> Result<Vec<Value>> {
        let workload = workload.as_ref();
        let uid = self.get(workload).await?.uid().to_owned();
        let resource = match workload.kind {
            Kind::Deployment => "replicasets",
            Kind::DaemonSet | Kind::StatefulSet => "controllerrevisions",
        };
        let path = format!("/apis/apps/v1/namespaces/{}/{resource}", workload.namespace);
        let list = self.get_path(&path).await?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let is_its = |item: &Value| {
            let owners = item["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == uid.as_str()))
        };
        Ok(items.into_iter().filter(is_its).collect())
    }

    /// Creates a pod that no workload owns, and waits until it runs.
    pub async fn run_pod(&self, namespace: &str, name: &str) -> Result<()> {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"containers": [{"name": "app", "image": "app"}]},
        });
        self.apply_object(&pod, "pods").await?;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        eventually("the pod to run", ROLLOUT_WITHIN, || async {
            let pod = self.get_path(&path).await?;
            Ok((pod["status"]["phase"] == "Running").then_some(()))
        })
        .await
    }

    /// Creates a pod that no node runs, and that shows this address. A process of this machine that
    /// listens there plays its container.
    pub async fn show_pod_at(&self, namespace: &str, name: &str, address: &str) -> Result<()> {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {
                "schedulerName": "none",
                "containers": [{"name": "app", "image": "app"}],
            },
        });
        self.apply_object(&pod, "pods").await?;
        let status = json!({
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
        });
        let request = Request::patch(format!("/api/v1/namespaces/{namespace}/pods/{name}/status"))
            .header("content-type", "application/merge-patch+json")
            .body(serde_json::to_vec(&status)?)?;
        let _: Value =
            self.client.request(request).await.context("cannot patch the pod's status")?;
        Ok(())
    }

    /// Deletes what has this path, such as `/api/v1/namespaces/NAME`.
    pub async fn delete_path(&self, path: &str) -> Result<()> {
        let request = Request::delete(path).body(Vec::new())?;
        let _: Value =
            self.client.request(request).await.with_context(|| format!("DELETE {path}"))?;
        Ok(())
    }

    /// Sends a GET of any path, such as `/api/v1/nodes`.
    pub async fn get_path(&self, path: &str) -> Result<Value> {
        let request = Request::get(path).body(Vec::new())?;
        self.client.request(request).await.with_context(|| format!("GET {path}"))
    }

    /// Whether the API server reports that it is ready.
    pub(crate) async fn is_ready(&self) -> Result<bool> {
        let request = Request::get("/readyz").body(Vec::new())?;
        Ok(self.client.request_text(request).await? == "ok")
    }

    /// Creates the objects of a new bed: nodes, and the permissions of the user `reloader`. The
    /// kubelet of each node is at `kubelet_port` of this machine.
    pub(crate) async fn prepare(&self, nodes: u32, kubelet_port: u16) -> Result<()> {
        let room = json!({"cpu": "64", "memory": "256Gi", "pods": "10000"});
        for number in 1..=nodes {
            let name = format!("node-{number}");
            let node = json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
                "status": {
                    "allocatable": room,
                    "capacity": room,
                    "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet_port}},
                },
            });
            self.create_object(&node, "nodes").await?;
        }
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": RELOADER_USER},
            "rules": [
                {
                    "apiGroups": ["apps"],
                    "resources": ["deployments", "daemonsets", "statefulsets"],
                    "verbs": ["get", "list", "watch", "patch"],
                },
                {
                    "apiGroups": ["apps"],
                    "resources": ["replicasets", "controllerrevisions"],
                    "verbs": ["list"],
                },
                {
                    "apiGroups": [""],
                    "resources": ["namespaces"],
                    "verbs": ["list", "watch"],
                },
                {
                    "apiGroups": [""],
                    "resources": ["configmaps"],
                    "verbs": ["get", "list", "watch"],
                },
                {
                    "apiGroups": ["events.k8s.io"],
                    "resources": ["events"],
                    "verbs": ["create", "patch"],
                },
                {
                    "apiGroups": ["admissionregistration.k8s.io"],
                    "resources": ["mutatingwebhookconfigurations"],
                    "verbs": ["list", "watch"],
                },
                {
                    "apiGroups": ["discovery.k8s.io"],
                    "resources": ["endpointslices"],
                    "verbs": ["list", "watch"],
                },
                {
                    "apiGroups": [""],
                    "resources": ["namespaces"],
                    "verbs": ["list", "watch"],
                },
                // Leases in any namespace, so that each test can have a lease of its own.
                {
                    "apiGroups": ["coordination.k8s.io"],
                    "resources": ["leases"],
                    "resourceNames": [LEASE],
                    "verbs": ["get", "update", "watch"],
                },
                {
                    "apiGroups": ["coordination.k8s.io"],
                    "resources": ["leases"],
                    "verbs": ["create"],
                },
            ],
        });
        self.apply_object(&role, "clusterroles").await?;
        self.bind(
            RELOADER_USER,
            RELOADER_USER,
            &json!({
                "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": RELOADER_USER,
            }),
        )
        .await
    }

    fn api(&self, workload: &WorkloadName) -> Api<DynamicObject> {
        let resource = resource("apps/v1", &workload.kind.to_string(), workload.kind.plural());
        Api::namespaced_with(self.client.clone(), &workload.namespace, &resource)
    }

    fn api_of(&self, manifest: &Value, plural: &str) -> Result<Api<DynamicObject>> {
        let (Some(version), Some(kind)) =
            (manifest["apiVersion"].as_str(), manifest["kind"].as_str())
        else {
            bail!("a manifest without apiVersion or kind: {manifest}");
        };
        let resource = resource(version, kind, plural);
        let client = self.client.clone();
        Ok(match manifest["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        })
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Cluster").field("port", &self.port).finish_non_exhaustive()
    }
}

fn resource(api_version: &str, kind: &str, plural: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

//! Plays the kubelet for the controller's pod, as the chart installed it.
//!
//! Pods on the bed run nothing. So the bed reads the Deployment that Helm installed from the API
//! server, and starts the controller's binary with exactly the command, arguments and environment
//! of the container. A fresh token of its `ServiceAccount` is where the container would find it: in
//! a mount namespace of its own, so that the machine's `/run` is not touched. If mount namespaces
//! are not allowed, a kubeconfig and a variable name the token's file instead.
//!
//! Differences from a pod: the process has no network of its own, so `LISTEN_ADDRESS` is moved to a
//! free port of 127.0.0.1, and probes of the declared port are sent there. A volume of a ConfigMap
//! is a folder of the bed, and so is one of projected tokens. Arguments and variables with its mount
//! path name that folder instead. Other volumes are refused.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use serde_json::Value;

use crate::bed::Bed;
use crate::binaries;
use crate::controller::{Answer, Controller, Launch, log_file};
use crate::json::text;
use crate::ports::Port;

/// The image's entry point, as in the Dockerfile.
const ENTRY_POINT: &str = "vault-secrets-reloader";

/// Mounts the pod's `/run` over the machine's, in the new namespace only, and runs the container.
const IN_NAMESPACE: &str = r#"
mount -t tmpfs tmpfs /run &&
mkdir -p /run/secrets/kubernetes.io/serviceaccount &&
mount --bind "$1" /run/secrets/kubernetes.io/serviceaccount || exit 125
shift
exec "$@"
"#;

/// How the container finds its `ServiceAccount`'s token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenPlace {
    /// At the path of every pod: `/var/run/secrets/kubernetes.io/serviceaccount/token`.
    AsInAPod,
    /// By `KUBECONFIG` and `KUBERNETES_SERVICE_ACCOUNT_TOKEN`, which the bed added.
    NamedByVariables,
}

/// A probe that the container declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// `livenessProbe`, `readinessProbe` or `startupProbe`.
    pub kind: String,
    /// The path of the request.
    pub path: String,
    /// The port of the container.
    pub port: u16,
}

/// The controller, run as a pod of its Deployment.
#[derive(Debug)]
pub struct Pod {
    /// The process.
    pub controller: Controller,
    /// The probes that the container declares.
    pub probes: Vec<Probe>,
    /// How the container finds its token.
    pub token_place: TokenPlace,
    /// The name of the controller's user for the API server.
    pub user: String,
    listens_on: u16,
    namespace: String,
    account: String,
    secrets: PathBuf,
}

impl Pod {
    /// Sends the request of a probe to the port of the probe.
    ///
    /// # Errors
    /// When nothing listens on the port that the probe names.
    pub async fn ask(&self, probe: &Probe) -> Result<Answer> {
        if probe.port != self.listens_on {
            bail!(
                "{} asks port {}, but the container listens on {}",
                probe.kind,
                probe.port,
                self.listens_on
            );
        }
        self.controller.probe(&probe.path).await
    }

    /// Whether all probes succeed.
    pub async fn all_probes_succeed(&self) -> bool {
        for probe in &self.probes {
            if !self.ask(probe).await.is_ok_and(|answer| (200..400).contains(&answer.status)) {
                return false;
            }
        }
        true
    }

    /// Replaces the token by a new one, as the kubelet does before a token expires.
    pub async fn rotate_token(&self, bed: &Bed) -> Result<()> {
        write_token(bed, &self.namespace, &self.account, &self.secrets).await
    }
}

/// Runs the pod of a Deployment that Helm installed.
///
/// # Errors
/// When the Deployment does not exist, cannot be run here, or the controller does not start.
pub async fn play_kubelet(bed: &Bed, namespace: &str, deployment: &str) -> Result<Pod> {
    play_kubelet_as(bed, namespace, deployment, &format!("{deployment}-played")).await
}

/// As [`play_kubelet`], with a name of the pod, such as one of [`Bed::forwarded_pods`].
///
/// # Errors
/// When the Deployment does not exist, cannot be run here, or the controller does not start.
pub async fn play_kubelet_as(
    bed: &Bed,
    namespace: &str,
    deployment: &str,
    pod_name: &str,
) -> Result<Pod> {
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}");
    let object = bed.cluster.get_path(&path).await?;
    let spec = &object["spec"]["template"]["spec"];
    let container = &spec["containers"][0];
    let account = spec["serviceAccountName"].as_str().unwrap_or("default").to_owned();
    // The API server resolves the pod's account. A missing account fails here, as in a cluster.
    let secrets = bed.folder().join(format!("pod-{namespace}-{deployment}"));
    fs::create_dir_all(&secrets)?;
    fs::write(secrets.join("ca.crt"), bed.cluster.ca())?;
    fs::write(secrets.join("namespace"), namespace)?;
    write_token(bed, namespace, &account, &secrets).await?;

    let fields = PodFields { namespace, pod_name, account: &account };
    let declared = declared_environment(bed, container, &fields).await?;
    let listens_on = listening_port(&declared)?;
    let mounts = mounts(bed, &fields, spec, container).await?;
    let declared = in_folders(&declared, &mounts);
    let (program, args) = command(container, &declared, &mounts)?;
    let token_place = token_place();
    let port = Port::any()?;
    let launch = launch(bed, &declared, &secrets, &port, token_place, program, args)?;
    let mut controller = Controller::launch(launch, bed.group(), port)?;
    controller.wait_until_ready().await?;
    Ok(Pod {
        controller,
        probes: probes(container)?,
        token_place,
        user: format!("system:serviceaccount:{namespace}:{account}"),
        listens_on,
        namespace: namespace.to_owned(),
        account,
        secrets,
    })
}

fn launch(
    bed: &Bed,
    declared: &BTreeMap<String, String>,
    secrets: &Path,
    port: &Port,
    token_place: TokenPlace,
    program: PathBuf,
    args: Vec<OsString>,
) -> Result<Launch> {
    let mut env: BTreeMap<String, OsString> = BTreeMap::from([
        ("KUBERNETES_SERVICE_HOST".to_owned(), "127.0.0.1".into()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), bed.cluster.port().to_string().into()),
        ("HOME".to_owned(), "/".into()),
    ]);
    env.extend(declared.iter().map(|(name, value)| (name.clone(), value.into())));
    env.insert("LISTEN_ADDRESS".to_owned(), format!("127.0.0.1:{}", port.number()).into());
    let log = log_file(bed, port);
    if token_place == TokenPlace::NamedByVariables {
        let token = secrets.join("token");
        let kubeconfig = bed.cluster.kubeconfig_for_file("played-pod", &token)?;
        env.insert("KUBECONFIG".to_owned(), kubeconfig.into());
        let jwt = "KUBERNETES_SERVICE_ACCOUNT_TOKEN".to_owned();
        let others = ["VAULT_JWT_FILE", "VAULT_JWT_SERVICE_ACCOUNT"];
        if !others.iter().any(|other| env.contains_key(*other)) {
            env.entry(jwt).or_insert_with(|| token.into());
        }
        return Ok(Launch { program, args, env, log });
    }
    let mut all: Vec<OsString> = NAMESPACE.map(OsString::from).to_vec();
    all.extend(["/bin/sh", "-c", IN_NAMESPACE, "pod"].map(OsString::from));
    all.extend([secrets.into(), program.into()]);
    all.extend(args);
    Ok(Launch { program: "unshare".into(), args: all, env, log })
}

/// The options of `unshare`. Root of a user namespace may mount in a mount namespace, so no
/// privilege of the machine is needed.
const NAMESPACE: [&str; 2] = ["--mount", "--map-root-user"];

fn token_place() -> TokenPlace {
    let tried = Command::new("unshare")
        .args(NAMESPACE)
        .args(["mount", "-t", "tmpfs", "tmpfs", "/run"])
        .output();
    // Both names of the folder lead to the mount only if one is a link to the other.
    let is_link = fs::canonicalize("/var/run").is_ok_and(|path| path == Path::new("/run"));
    if is_link && tried.is_ok_and(|output| output.status.success()) {
        TokenPlace::AsInAPod
    } else {
        TokenPlace::NamedByVariables
    }
}

async fn write_token(bed: &Bed, namespace: &str, account: &str, secrets: &Path) -> Result<()> {
    let token = bed.cluster.request_token(namespace, account, Duration::from_hours(1)).await?;
    // The file is replaced by a rename, so that no reader sees half a token.
    let fresh = secrets.join(".token");
    fs::write(&fresh, token)?;
    fs::rename(fresh, secrets.join("token"))?;
    Ok(())
}

/// Returns the mount paths of the container, each with the folder that replaces it.
async fn mounts(
    bed: &Bed,
    pod: &PodFields<'_>,
    spec: &Value,
    container: &Value,
) -> Result<BTreeMap<String, PathBuf>> {
    let mut mounts = BTreeMap::new();
    for mount in container["volumeMounts"].as_array().into_iter().flatten() {
        let name = text(mount, "/name")?;
        let mut volumes = spec["volumes"].as_array().into_iter().flatten();
        let volume = volumes.find(|volume| volume["name"] == *name);
        let volume = volume.with_context(|| format!("the pod has no volume {name}"))?;
        let folder = bed.folder().join(format!("volume-{}-{name}", pod.namespace));
        fs::create_dir_all(&folder)?;
        for (file, content) in files_of(bed, pod, volume).await? {
            fs::write(folder.join(file), content)?;
        }
        mounts.insert(text(mount, "/mountPath")?, folder);
    }
    Ok(mounts)
}

/// Returns the files of a volume: the keys of a ConfigMap, or tokens for audiences.
async fn files_of(
    bed: &Bed,
    pod: &PodFields<'_>,
    volume: &Value,
) -> Result<BTreeMap<String, String>> {
    if let Some(config_map) = volume["configMap"]["name"].as_str() {
        return stored(bed, pod.namespace, "configmaps", config_map).await;
    }
    let sources = volume["projected"]["sources"].as_array();
    let sources = sources.with_context(|| format!("a volume that cannot be played: {volume}"))?;
    let mut files = BTreeMap::new();
    for source in sources {
        let wanted = &source["serviceAccountToken"];
        let audience = text(wanted, "/audience")?;
        let seconds = wanted["expirationSeconds"].as_u64().unwrap_or(3600);
        let life = Duration::from_secs(seconds);
        let audiences = [audience.as_str()];
        let token =
            bed.cluster.request_token_for(&audiences, pod.namespace, pod.account, life).await?;
        files.insert(text(wanted, "/path")?, token);
    }
    Ok(files)
}

/// Returns the variables, with the folders that replace mount paths.
fn in_folders(
    env: &BTreeMap<String, String>,
    mounts: &BTreeMap<String, PathBuf>,
) -> BTreeMap<String, String> {
    let moved = |value: &str| {
        let file_in = |path: &str| value.strip_prefix(path)?.strip_prefix('/');
        let found = mounts.iter().find_map(|(path, folder)| Some(folder.join(file_in(path)?)));
        found.map_or_else(|| value.to_owned(), |file| file.display().to_string())
    };
    env.iter().map(|(name, value)| (name.clone(), moved(value))).collect()
}

fn command(
    container: &Value,
    env: &BTreeMap<String, String>,
    mounts: &BTreeMap<String, PathBuf>,
) -> Result<(PathBuf, Vec<OsString>)> {
    let played = |value: &str| {
        mounts.iter().fold(expand(value, env), |value, (path, folder)| {
            value.replace(&format!("{path}/"), &format!("{}/", folder.display()))
        })
    };
    let list = |field: &str| -> Vec<String> {
        let values = container[field].as_array().into_iter().flatten();
        values.filter_map(Value::as_str).map(played).collect()
    };
    let mut words = list("command");
    if words.is_empty() {
        words.push(ENTRY_POINT.to_owned());
    }
    words.extend(list("args"));
    let program = words.remove(0);
    if Path::new(&program).file_name() != Some(ENTRY_POINT.as_ref()) {
        bail!("the container runs {program}, which is not {ENTRY_POINT}");
    }
    Ok((binaries::controller()?, words.into_iter().map(OsString::from).collect()))
}

/// The values of the pod's fields for `fieldRef`.
struct PodFields<'a> {
    namespace: &'a str,
    pod_name: &'a str,
    account: &'a str,
}

impl PodFields<'_> {
    fn get(&self, path: &str) -> Result<&str> {
        Ok(match path {
            "metadata.name" => self.pod_name,
            "metadata.namespace" => self.namespace,
            "spec.serviceAccountName" => self.account,
            "spec.nodeName" => "node-1",
            "status.podIP" | "status.hostIP" => "127.0.0.1",
            _ => bail!("fieldRef {path} cannot be played here"),
        })
    }
}

async fn declared_environment(
    bed: &Bed,
    container: &Value,
    fields: &PodFields<'_>,
) -> Result<BTreeMap<String, String>> {
    let mut env = BTreeMap::new();
    for source in container["envFrom"].as_array().into_iter().flatten() {
        let prefix = source["prefix"].as_str().unwrap_or_default();
        for (resource, field) in [("configmaps", "configMapRef"), ("secrets", "secretRef")] {
            if let Some(name) = source[field]["name"].as_str() {
                for (key, value) in stored(bed, fields.namespace, resource, name).await? {
                    env.insert(format!("{prefix}{key}"), value);
                }
            }
        }
    }
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = text(variable, "/name")?;
        let from = &variable["valueFrom"];
        let value = if let Some(path) = from["fieldRef"]["fieldPath"].as_str() {
            fields.get(path)?.to_owned()
        } else if from["secretKeyRef"].is_object() {
            key_of(bed, fields.namespace, "secrets", &from["secretKeyRef"]).await?
        } else if from["configMapKeyRef"].is_object() {
            key_of(bed, fields.namespace, "configmaps", &from["configMapKeyRef"]).await?
        } else {
            expand(variable["value"].as_str().unwrap_or_default(), &env)
        };
        env.insert(name, value);
    }
    Ok(env)
}

async fn key_of(bed: &Bed, namespace: &str, resource: &str, reference: &Value) -> Result<String> {
    let (name, key) = (text(reference, "/name")?, text(reference, "/key")?);
    let mut values = stored(bed, namespace, resource, &name).await?;
    values.remove(&key).with_context(|| format!("{resource} {namespace}/{name} has no {key}"))
}

async fn stored(
    bed: &Bed,
    namespace: &str,
    resource: &str,
    name: &str,
) -> Result<BTreeMap<String, String>> {
    let object =
        bed.cluster.get_path(&format!("/api/v1/namespaces/{namespace}/{resource}/{name}")).await?;
    let mut values = BTreeMap::new();
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        let value = if resource == "secrets" {
            String::from_utf8(base64::engine::general_purpose::STANDARD.decode(value)?)?
        } else {
            value.to_owned()
        };
        values.insert(key.clone(), value);
    }
    Ok(values)
}

/// Expands `$(NAME)` to the value of a variable that was declared before, and `$$` to a dollar
/// sign.
fn expand(value: &str, env: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = value;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        if let Some(after) = rest.strip_prefix("$$") {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) =
            rest.strip_prefix("$(").and_then(|after| after.split_once(')'))
            && let Some(known) = env.get(name)
        {
            expanded.push_str(known);
            rest = after;
        } else {
            expanded.push('$');
            rest = &rest[1..];
        }
    }
    expanded + rest
}

fn listening_port(env: &BTreeMap<String, String>) -> Result<u16> {
    let address = env.get("LISTEN_ADDRESS").map_or(":8080", String::as_str);
    let port = address.rsplit(':').next().and_then(|port| port.parse().ok());
    port.with_context(|| format!("LISTEN_ADDRESS={address} has no port"))
}

fn probes(container: &Value) -> Result<Vec<Probe>> {
    let mut probes = Vec::new();
    for kind in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let get = &container[kind]["httpGet"];
        if !get.is_object() {
            continue;
        }
        probes.push(Probe {
            kind: kind.to_owned(),
            path: get["path"].as_str().unwrap_or("/").to_owned(),
            port: probe_port(container, &get["port"])
                .with_context(|| format!("{kind} asks a port that the container does not have"))?,
        });
    }
    Ok(probes)
}

fn probe_port(container: &Value, port: &Value) -> Option<u16> {
    let number = if let Some(name) = port.as_str() {
        let ports = container["ports"].as_array()?;
        ports.iter().find(|declared| declared["name"] == name)?["containerPort"].as_u64()?
    } else {
        port.as_u64()?
    };
    u16::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::expand;

    #[test]
    fn variables_expand_as_kubelet_expands_them() {
        let env = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (value, wanted) in [
            ("plain", "plain"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(MISSING)", "$(MISSING)"),
            ("$$(A)", "$(A)"),
            ("$", "$"),
            ("$(A", "$(A"),
        ] {
            assert_eq!(expand(value, &env), wanted, "{value}");
        }
    }
}

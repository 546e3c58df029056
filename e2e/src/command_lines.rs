//! The flags and configuration files of each server.
//!
//! A comment gives the reason of a flag if its name does not.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result};

use crate::binaries::Binaries;
use crate::certificates::Certificates;
use crate::options::{Options, VaultStorage};
use crate::server::CommandLine;
use crate::wait::locked;

/// Users of the bed's API server, each with a token. All but the last are `system:masters`.
pub(crate) const USERS: [(&str, &str); 5] = [
    ("admin", "bed-admin-token"),
    ("kube-controller-manager", "bed-kube-controller-manager-token"),
    ("kube-scheduler", "bed-kube-scheduler-token"),
    ("kwok", "bed-kwok-token"),
    (RELOADER_USER, RELOADER_TOKEN),
];
/// The token of the user `admin`, who may do everything.
pub const ADMIN_TOKEN: &str = USERS[0].1;
/// The user of the controllers in tests. It has the permissions that the chart grants.
pub const RELOADER_USER: &str = "reloader";
pub(crate) const RELOADER_TOKEN: &str = "bed-reloader-token";

/// The port numbers of a Vault server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VaultPorts {
    pub(crate) api: u16,
    pub(crate) cluster: u16,
}

const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
# One line a request, when it has been answered. A watch is logged when it ends.
omitStages: [RequestReceived, ResponseStarted]
rules: [{level: Metadata}]
";

/// The controllers that tests need. The others only watch, write and take CPU time. A bed for
/// people has all of them.
const CONTROLLERS: [&str; 9] = [
    "daemonset-controller",
    "deployment-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "statefulset-controller",
];

const STAGES: &str = include_str!("../servers/stages.yaml");

/// The names of pods whose status port leads to a port of the bed, in any namespace.
pub(crate) const FORWARDED_PODS: [&str; 2] = ["forwarded-1", "forwarded-2"];

/// The port of the status in a pod.
const STATUS_PORT: u16 = 9180;

/// The layout of a bed: folder, ports, and the files that servers share.
#[derive(Debug)]
pub(crate) struct Layout<'a> {
    pub(crate) binaries: &'a Binaries,
    pub(crate) options: &'a Options,
    pub(crate) folder: &'a Path,
    pub(crate) certificates: &'a Certificates,
    pub(crate) ports: &'a Ports,
}

/// The port numbers of a bed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) etcd: u16,
    pub(crate) etcd_peer: u16,
    pub(crate) api: u16,
    pub(crate) controller_manager: u16,
    pub(crate) scheduler: u16,
    pub(crate) kwok: u16,
    /// The ports of this machine that the ports of [`FORWARDED_PODS`] lead to.
    pub(crate) forwarded: [u16; 2],
    pub(crate) vault: u16,
    pub(crate) vault_cluster: u16,
}

pub(crate) fn api_audit_log(folder: &Path) -> PathBuf {
    folder.join("api-audit.log")
}

pub(crate) fn vault_audit_log(folder: &Path) -> PathBuf {
    folder.join("vault-audit.log")
}

impl Layout<'_> {
    pub(crate) fn etcd(&self) -> CommandLine {
        let clients = format!("http://127.0.0.1:{}", self.ports.etcd);
        let peers = format!("http://127.0.0.1:{}", self.ports.etcd_peer);
        self.command("etcd", "etcd", |line| {
            line.flag("data-dir", self.folder.join("etcd"));
            line.flag("listen-client-urls", &clients);
            line.flag("advertise-client-urls", &clients);
            line.flag("listen-peer-urls", &peers);
            line.flag("initial-advertise-peer-urls", &peers);
            line.flag("initial-cluster", format!("default={peers}"));
            line.flag("log-level", "warn");
            // A bed need not survive a crash of the machine, only the end of its servers.
            line.flag("unsafe-no-fsync", "true");
            // Each commit takes CPU time. After a kill, etcd restores missing data from its log.
            line.flag("backend-batch-interval", "1s");
            if self.options.scale {
                line.flag("quota-backend-bytes", "8589934592");
            }
        })
    }

    pub(crate) fn api_server(&self) -> Result<CommandLine> {
        let tokens = self.folder.join("tokens.csv");
        let policy = self.folder.join("audit-policy.yaml");
        fs::write(&tokens, token_file())?;
        fs::write(&policy, AUDIT_POLICY)?;
        Ok(self.command("kube-apiserver", "kube-apiserver", |line| {
            line.flag("etcd-servers", format!("http://127.0.0.1:{}", self.ports.etcd));
            line.flag("bind-address", "127.0.0.1");
            line.flag("advertise-address", "127.0.0.1");
            line.flag("secure-port", self.ports.api.to_string());
            line.flag("cert-dir", self.folder);
            line.flag("tls-cert-file", &self.certificates.server_certificate);
            line.flag("tls-private-key-file", &self.certificates.server_key);
            line.flag("token-auth-file", tokens);
            line.flag("authorization-mode", "RBAC,Node");
            line.flag("service-account-issuer", "https://kubernetes.default.svc");
            line.flag("service-account-key-file", &self.certificates.account_public_key);
            line.flag("service-account-signing-key-file", &self.certificates.account_key);
            line.flag("service-cluster-ip-range", "10.96.0.0/16");
            // Otherwise the API server writes 127.0.0.1 as an endpoint, and then refuses it.
            line.flag("endpoint-reconciler-type", "none");
            line.flag("audit-policy-file", policy);
            line.flag("audit-log-path", api_audit_log(self.folder));
            // In megabytes. The log must never be rotated, because tests count its lines.
            line.flag("audit-log-maxsize", "1000000");
            // Otherwise a server waits a minute for watches to end before it ends itself.
            line.flag("shutdown-watch-termination-grace-period", "1s");
            // There are few clients, all of one priority. Sorting their requests takes CPU time.
            line.flag("enable-priority-and-fairness", "false");
            line.flag("max-requests-inflight", "4000");
            line.flag("max-mutating-requests-inflight", "2000");
        }))
    }

    pub(crate) fn controller_manager(&self, kubeconfig: &Path) -> CommandLine {
        self.command("kube-controller-manager", "kube-controller-manager", |line| {
            line.flag("kubeconfig", kubeconfig);
            line.flag("service-account-private-key-file", &self.certificates.account_key);
            line.flag("root-ca-file", &self.certificates.ca_file);
            line.flag("secure-port", self.ports.controller_manager.to_string());
            if self.options.fixed.is_none() {
                line.flag("controllers", CONTROLLERS.join(","));
            }
            self.run_as_only_one(line, "controller-manager-certificates");
        })
    }

    pub(crate) fn scheduler(&self, kubeconfig: &Path) -> CommandLine {
        self.command("kube-scheduler", "kube-scheduler", |line| {
            line.flag("kubeconfig", kubeconfig);
            line.flag("secure-port", self.ports.scheduler.to_string());
            self.run_as_only_one(line, "scheduler-certificates");
        })
    }

    fn run_as_only_one(&self, line: &mut Arguments, certificates: &str) {
        line.flag("bind-address", "127.0.0.1");
        line.flag("cert-dir", self.folder.join(certificates));
        line.flag("leader-elect", "false");
        // The default of 20 requests a second is for clusters, and would only delay tests.
        let rate = if self.options.scale { "1000" } else { "200" };
        line.flag("kube-api-qps", rate);
        line.flag("kube-api-burst", rate);
    }

    pub(crate) fn kwok(&self, kubeconfig: &Path) -> Result<CommandLine> {
        let config = self.folder.join("kwok.yaml");
        fs::write(&config, format!("{STAGES}{}", forwards(self.ports.forwarded)))?;
        Ok(self.command("kwok", "kwok", |line| {
            line.flag("kubeconfig", kubeconfig);
            line.flag("config", config);
            line.flag("manage-all-nodes", "true");
            line.flag("server-address", format!("127.0.0.1:{}", self.ports.kwok));
        }))
    }

    pub(crate) fn vault(&self, flavour: VaultFlavour) -> Result<CommandLine> {
        let ports = VaultPorts { api: self.ports.vault, cluster: self.ports.vault_cluster };
        let storage = self.options.vault_storage;
        vault_command(self.binaries, self.folder, ports, storage, flavour)
    }

    fn command(
        &self,
        name: &'static str,
        binary: &str,
        fill: impl FnOnce(&mut Arguments),
    ) -> CommandLine {
        let mut arguments = Arguments(Vec::new());
        fill(&mut arguments);
        CommandLine { name, program: self.binaries.path(binary), args: arguments.0 }
    }
}

/// The Vault server that a binary is. The servers differ only in their configuration files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VaultFlavour {
    /// `OpenBao`: audit devices are declared in the configuration file.
    OpenBao,
    /// `HashiCorp` Vault: audit devices are enabled by a request, after the start.
    Vault,
}

impl VaultFlavour {
    /// Finds out which server a binary is. Runs the binary once per process.
    pub(crate) fn of(binary: &Path) -> Result<Self> {
        static KNOWN: Mutex<BTreeMap<PathBuf, VaultFlavour>> = Mutex::new(BTreeMap::new());
        let mut known = locked(&KNOWN);
        if let Some(flavour) = known.get(binary) {
            return Ok(*flavour);
        }
        let flavour = Self::ask(binary)?;
        known.insert(binary.to_owned(), flavour);
        Ok(flavour)
    }

    fn ask(binary: &Path) -> Result<Self> {
        let output = Command::new(binary)
            .arg("version")
            .output()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        let is_openbao = String::from_utf8_lossy(&output.stdout).contains("OpenBao");
        Ok(if is_openbao { Self::OpenBao } else { Self::Vault })
    }
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn flag(&mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) {
        let mut argument = OsString::from(format!("--{name}="));
        argument.push(value);
        self.0.push(argument);
    }
}

/// What KWOK plays for port-forwards to [`FORWARDED_PODS`]: connections to these ports.
fn forwards(ports: [u16; 2]) -> String {
    let forward = |(pod, port): (&str, u16)| {
        format!(
            "---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: ClusterPortForward
metadata:
  name: {pod}
spec:
  selector:
    matchNames: [{pod}]
  forwards:
  - ports: [{STATUS_PORT}]
    target:
      address: 127.0.0.1
      port: {port}
"
        )
    };
    FORWARDED_PODS.into_iter().zip(ports).map(forward).collect::<Vec<_>>().concat()
}

fn token_file() -> String {
    let line = |(user, token): &(&str, &str)| {
        let group = if *user == RELOADER_USER { "" } else { ",system:masters" };
        format!("{token},{user},{user}-uid{group}")
    };
    USERS.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Returns the command line of a Vault server in a folder of its own.
pub(crate) fn vault_command(
    binaries: &Binaries,
    folder: &Path,
    ports: VaultPorts,
    storage: VaultStorage,
    flavour: VaultFlavour,
) -> Result<CommandLine> {
    let storage = match storage {
        VaultStorage::Memory => "storage \"inmem\" {}\n".to_owned(),
        VaultStorage::Disk => {
            let path = folder.join("vault-data");
            fs::create_dir_all(&path)?;
            // With this multiplier, a single node becomes the leader in two seconds instead of ten.
            format!(
                "storage \"raft\" {{\n  path = \"{}\"\n  node_id = \"bed\"\n  \
                 performance_multiplier = \"1\"\n}}\n",
                path.display()
            )
        }
    };
    let VaultPorts { api: port, cluster: cluster_port } = ports;
    let own = match flavour {
        VaultFlavour::OpenBao => format!(
            "audit \"file\" \"tofile\" {{\n  options {{\n    file_path = \"{}\"\n    \
             log_raw = \"true\"\n  }}\n}}\n",
            vault_audit_log(folder).display()
        ),
        VaultFlavour::Vault => {
            let plugin = binaries.auth_plugin("kubernetes");
            let plugins =
                plugin.as_deref().and_then(Path::parent).map_or_else(String::new, |path| {
                    format!("plugin_directory = \"{}\"\n", path.display())
                });
            format!("disable_mlock = true\n{plugins}")
        }
    };
    let config = format!(
        "ui = false\n\
         api_addr = \"http://127.0.0.1:{port}\"\n\
         cluster_addr = \"http://127.0.0.1:{cluster_port}\"\n\
         listener \"tcp\" {{\n  address = \"127.0.0.1:{port}\"\n  \
         cluster_address = \"127.0.0.1:{cluster_port}\"\n  tls_disable = true\n}}\n\
         telemetry {{\n  prometheus_retention_time = \"24h\"\n  disable_hostname = true\n}}\n\
         {storage}{own}"
    );
    let file = folder.join("vault.hcl");
    fs::write(&file, config)?;
    Ok(CommandLine {
        name: "vault",
        program: binaries.vault(),
        args: vec!["server".into(), "-config".into(), file.into()],
    })
}

/// Returns the command line of a node of an `OpenBao` cluster, in a folder of its own. Other nodes
/// reach its cluster port by `cluster_address`.
pub(crate) fn raft_node_command(
    program: &Path,
    folder: &Path,
    node: usize,
    ports: VaultPorts,
    cluster_address: &str,
) -> Result<CommandLine> {
    fs::create_dir_all(folder.join("vault-data"))?;
    let VaultPorts { api, cluster } = ports;
    // All nodes must declare the same audit devices, so the path of the log is relative.
    let audit_log = vault_audit_log(Path::new(""));
    let config = format!(
        "ui = false\n\
         api_addr = \"http://127.0.0.1:{api}\"\n\
         cluster_addr = \"{cluster_address}\"\n\
         listener \"tcp\" {{\n  address = \"127.0.0.1:{api}\"\n  \
         cluster_address = \"127.0.0.1:{cluster}\"\n  tls_disable = true\n}}\n\
         storage \"raft\" {{\n  path = \"vault-data\"\n  node_id = \"node-{node}\"\n  \
         performance_multiplier = \"1\"\n}}\n\
         audit \"file\" \"tofile\" {{\n  options {{\n    file_path = \"{}\"\n    \
         log_raw = \"true\"\n  }}\n}}\n",
        audit_log.display()
    );
    let file = folder.join("vault.hcl");
    fs::write(&file, config)?;
    // With autopilot, a new node would vote only after some seconds.
    let script = "cd \"$0\" && BAO_RAFT_AUTOPILOT_DISABLE=1 exec \"$@\"";
    Ok(CommandLine {
        name: "vault",
        program: PathBuf::from("/bin/sh"),
        args: vec![
            "-c".into(),
            script.into(),
            folder.into(),
            program.into(),
            "server".into(),
            "-config".into(),
            file.into(),
        ],
    })
}

//! The seven workloads of the demo, and the expected effect of secret changes on each.

use e2e::workload::Generation;
use e2e::{Kind, Workload};

/// The annotation by which the webhook takes all keys of some paths.
const FROM_PATH: &str = "secrets-webhook.security.bank-vaults.io/vault-from-path";

/// A workload of the demo and what it uses.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    pub(crate) workload: Workload,
    pub(crate) short: &'static str,
    is_opted_in: bool,
    uses: Vec<Use>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Use {
    secret: &'static str,
    is_pinned: bool,
}

/// The expected effect on a workload, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    Roll(String),
    Leave(String),
}

impl Expected {
    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Roll(why) | Self::Leave(why) => why,
        }
    }

    pub(crate) fn is_roll(&self) -> bool {
        matches!(self, Self::Roll(_))
    }
}

impl Actor {
    fn new(workload: Workload, short: &'static str) -> Self {
        Self { workload, short, is_opted_in: false, uses: Vec::new() }
    }

    fn opted_in(mut self, by: Generation) -> Self {
        self.is_opted_in = true;
        self.workload = self.workload.opted_in_by(by);
        self
    }

    fn env(mut self, name: &str, secret: &'static str) -> Self {
        let value = format!("vault:{}#{name}", api_path(secret));
        self.workload = self.workload.env(name, &value);
        self.uses.push(Use { secret, is_pinned: false });
        self
    }

    fn env_of_version_1(mut self, name: &str, secret: &'static str) -> Self {
        let value = format!("vault:{}#{name}#1", api_path(secret));
        self.workload = self.workload.env(name, &value);
        self.uses.push(Use { secret, is_pinned: true });
        self
    }

    fn all_keys(mut self, secret: &'static str, version: &str) -> Self {
        let value = format!("{}{version}", api_path(secret));
        self.workload = self.workload.template_annotation(FROM_PATH, &value);
        self.uses.push(Use { secret, is_pinned: !version.is_empty() });
        self
    }

    /// Removes all references.
    pub(crate) fn forget_secrets(&mut self) {
        self.workload = self.workload.clone().without_env();
        self.uses.clear();
    }

    /// Describes the secrets that the workload uses.
    pub(crate) fn uses(&self) -> String {
        let one = |used: &Use| {
            let name = used.secret.trim_start_matches("secret/");
            if used.is_pinned { format!("{name}#1") } else { name.to_owned() }
        };
        self.uses.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    /// Returns the expected effect of new versions of these secrets.
    pub(crate) fn when_changed(&self, changed: &[&str]) -> Expected {
        let used = self.uses.iter().filter(|used| changed.contains(&used.secret));
        let (pinned, latest): (Vec<&Use>, Vec<&Use>) = used.partition(|used| used.is_pinned);
        if !self.is_opted_in {
            Expected::Leave("not opted in".to_owned())
        } else if !latest.is_empty() {
            let names: Vec<&str> = latest.iter().map(|used| used.secret).collect();
            Expected::Roll(format!("{} changed", names.join(" and ")))
        } else if !pinned.is_empty() {
            Expected::Leave("pinned to version 1".to_owned())
        } else if self.uses.is_empty() {
            Expected::Leave("has no reference any more".to_owned())
        } else {
            Expected::Leave("does not use it".to_owned())
        }
    }

    /// Returns the expected effect after this secret was deleted with its metadata.
    pub(crate) fn when_gone(&self, gone: &str) -> Expected {
        if self.uses.iter().any(|used| used.secret == gone) {
            Expected::Leave("held: its secret is gone, new pods would fail".to_owned())
        } else {
            self.when_changed(&[])
        }
    }
}

/// Returns the path of a secret in the form of references: with `data/` after the mount.
pub(crate) fn api_path(secret: &str) -> String {
    secret.replacen("secret/", "secret/data/", 1)
}

pub(crate) const MYSQL: &str = "secret/mysql";
pub(crate) const AWS: &str = "secret/accounts/aws";
pub(crate) const DOCKER: &str = "secret/dockerrepo";

/// The workload that loses its reference.
pub(crate) const TO_BE_RELOADED: &str = "deployment-to-be-reloaded";

/// Returns the workloads of the try-out that users of the replaced reloader know.
pub(crate) fn cast(namespace: &str) -> Vec<Actor> {
    let new = |kind: Kind, short: &'static str| {
        Actor::new(Workload::new(kind, namespace, &format!("reloader-test-{short}")), short)
    };
    let deployment = |short: &'static str| new(Kind::Deployment, short);
    vec![
        deployment(TO_BE_RELOADED).opted_in(Generation::Older).env("MYSQL_PASSWORD", MYSQL),
        deployment("deployment-no-reload").env("MYSQL_PASSWORD", MYSQL),
        deployment("deployment-fixed-versions-no-reload")
            .opted_in(Generation::Older)
            .env_of_version_1("MYSQL_PASSWORD", MYSQL),
        deployment("deployment-annotated-reload").opted_in(Generation::Current).all_keys(AWS, ""),
        deployment("deployment-annotated-no-reload")
            .opted_in(Generation::Current)
            .all_keys(MYSQL, "#1"),
        new(Kind::StatefulSet, "statefulset")
            .opted_in(Generation::Current)
            .env("MYSQL_PASSWORD", MYSQL),
        new(Kind::DaemonSet, "daemonset")
            .opted_in(Generation::Current)
            .env("AWS_SECRET_ACCESS_KEY", AWS)
            .env("DOCKER_REPO_PASSWORD", DOCKER),
    ]
}

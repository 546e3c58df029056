//! Values for tests.

use std::sync::Arc;

use jiff::Timestamp;

use crate::model::annotation::OptIn;
use crate::model::kind::Kind;
use crate::model::progress::Progress;
use crate::model::record::Recorded;
use crate::model::secret::{DEFAULT_CONNECTION, SecretId, Version};
use crate::model::strategy::Rollout;
use crate::model::workload::{Workload, WorkloadId};

/// Returns a time in seconds after the epoch.
pub(crate) fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// Returns a version that was created at a second after the epoch.
pub(crate) fn version(number: u64, created: i64) -> Version {
    Version { number, created: second(created) }
}

/// Returns a secret of the default server.
pub(crate) fn secret(path: &str) -> Arc<SecretId> {
    Arc::new(SecretId { connection: DEFAULT_CONNECTION.into(), namespace: None, path: path.into() })
}

/// Returns a Deployment that refers to some secrets and was never reloaded.
pub(crate) fn workload(name: &str, paths: &[&str]) -> Workload {
    Workload {
        id: WorkloadId { kind: Kind::DEPLOYMENT, namespace: "shop".into(), name: name.into() },
        uid: format!("uid-of-{name}").into(),
        resource_version: "1".into(),
        created: second(0),
        deleting: false,
        dry_run: false,
        reload_order: 0,
        continue_after: None,
        rolls_gradually: false,
        time_rules: None,
        owner: None,
        rollout: Rollout::Automatic,
        observed: true,
        progress: Progress::Complete,
        template: 1,
        generation: 1,
        opt_in: OptIn::Current,
        count: 0,
        mark: None,
        ignore_missing: false,
        update_revision: None,
        recorded: None,
        secrets: paths.iter().map(|path| secret(path)).collect(),
        former_secrets: Box::default(),
    }
}

/// Returns the content of a record for some secrets.
pub(crate) fn recorded(of_this_template: bool, versions: &[(&str, Version)]) -> Recorded {
    let versions =
        versions.iter().map(|(path, version)| (secret(path).hash64(), *version)).collect();
    Recorded { versions, of_this_template, at: None, streak: 0, was_unhealthy: false }
}

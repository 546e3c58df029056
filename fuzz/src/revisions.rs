//! Pages of ReplicaSets and ControllerRevisions. Input: a page a line.

use jiff::Timestamp;
use vault_secrets_reloader::decide::plan::Revision;
use vault_secrets_reloader::kubernetes::revisions::{Candidates, Page};
use vault_secrets_reloader::model::annotation::OptIn;
use vault_secrets_reloader::model::kind::Kind;
use vault_secrets_reloader::model::progress::Progress;
use vault_secrets_reloader::model::secret::{DEFAULT_CONNECTION, SecretId};
use vault_secrets_reloader::model::strategy::Rollout;
use vault_secrets_reloader::model::workload::{Workload, WorkloadId};

/// Asserts the properties that hold for any pages.
pub fn check(data: &[u8]) {
    let workloads = [
        workload(Kind::DEPLOYMENT, "u1", None),
        workload(Kind::STATEFUL_SET, "u2", Some("db-2")),
        workload(Kind::DAEMON_SET, "u3", None),
    ];
    let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let found = read(&workloads, lines.iter().copied());
    assert_eq!(found, read(&workloads, lines.iter().copied().rev()), "the order of the pages");
    for (uid, revision) in found {
        assert!(["u1", "u2", "u3"].contains(&&*uid));
        let hash = secret().hash64();
        assert!(revision.copies.iter().all(|copied| copied.secret == hash));
        assert!(revision.copies.len() <= 10_000);
    }
}

fn read<'a>(
    workloads: &[Workload],
    pages: impl Iterator<Item = &'a [u8]>,
) -> Vec<(Box<str>, Revision)> {
    let mut candidates = Candidates::new(workloads);
    for page in pages {
        if let Ok(page) = serde_json::from_slice::<Page>(page) {
            assert!(candidates.take(page).is_none_or(|next| !next.is_empty()));
        }
    }
    let mut found = candidates.into_revisions();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn secret() -> SecretId {
    let path = "secret/data/a".into();
    SecretId { connection: DEFAULT_CONNECTION.into(), namespace: None, path }
}

fn workload(kind: Kind, uid: &str, update_revision: Option<&str>) -> Workload {
    Workload {
        id: WorkloadId { kind, namespace: "shop".into(), name: uid.into() },
        uid: uid.into(),
        resource_version: "1".into(),
        created: Timestamp::UNIX_EPOCH,
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
        update_revision: update_revision.map(Into::into),
        recorded: None,
        secrets: [secret().into()].into_iter().collect(),
        former_secrets: Box::default(),
    }
}

//! Tests of the text that `status` prints.

use super::*;
use crate::model::fixtures::second;
use crate::status::api::{Finding, UsedSecret};

/// 2026-03-01T10:00:00Z.
const NOW: i64 = 1_772_359_200;

fn now() -> Timestamp {
    second(NOW)
}

fn ago(seconds: i64) -> Timestamp {
    second(NOW - seconds)
}

fn numbers(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
    counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

fn rotation(path: &str, state: &str, workloads: &[(&str, u64)]) -> Rotation {
    let server = DEFAULT_CONNECTION.to_owned();
    Rotation {
        secret: Secret { server, namespace: None, path: path.to_owned() },
        version: Some(Version { number: 8, created: ago(192) }),
        read_at: Some(ago(12)),
        state: state.to_owned(),
        revocable: false,
        workloads: numbers(workloads),
    }
}

fn progress(state: &str, code: &str, since: Option<i64>) -> Progress {
    Progress {
        state: state.to_owned(),
        reason: (!code.is_empty()).then(|| code.to_owned()),
        message: "What is the case".to_owned(),
        since: since.map(ago),
    }
}

fn user(name: &str, state: &str, code: &str) -> User {
    let workload = format!("shop/Deployment/{name}");
    User { workload, progress: progress(state, code, Some(178)) }
}

/// A secret whose counts are those of its workloads.
fn status(state: &str, users: &[(&str, &str)]) -> SecretStatus {
    let mut rotation = rotation("secret/data/mysql", state, &[]);
    for (state, _) in users {
        *rotation.workloads.entry((*state).to_owned()).or_default() += 1;
    }
    let items: Vec<User> =
        users.iter().map(|(state, code)| user(&format!("of-{code}"), state, code)).collect();
    let total = u64::try_from(items.len()).unwrap();
    let is_done = |(state, code): &(&str, &str)| *state == COMPLETE || *code == NO_REPLICAS;
    rotation.revocable = state == COMPLETE && users.iter().all(is_done);
    SecretStatus { now: now(), rotation, users: Page { items, total, next: None } }
}

fn server(last: Option<i64>, answered: Option<i64>) -> Server {
    Server {
        name: DEFAULT_CONNECTION.to_owned(),
        secrets: 42,
        last_poll: last.map(ago),
        last_successful_poll: answered.map(ago),
    }
}

#[test]
fn ages_have_two_units() {
    for (seconds, expected) in [
        (0, "0s"),
        (-5, "0s"),
        (59, "59s"),
        (192, "3m12s"),
        (3600, "1h"),
        (7_384, "2h3m"),
        (86_400 * 3 + 3_700, "3days1h"),
    ] {
        assert_eq!(age(ago(seconds), now()), expected);
    }
    assert_eq!(time(Timestamp::new(NOW, 123).unwrap()).to_string(), "2026-03-01T10:00:00Z");
}

#[test]
fn a_server_that_does_not_answer_has_a_warning() {
    for (last, answered, expected) in [
        (None, None, "not polled yet"),
        (Some(12), Some(12), "12s ago"),
        (Some(12), None, "12s ago  WARNING: the server has not answered any poll yet"),
        (Some(12), Some(843), "12s ago  WARNING: the last successful poll was 14m3s ago"),
    ] {
        assert_eq!(last_poll(&server(last, answered), now()), expected);
    }
}

#[test]
fn an_overview_lists_open_rotations_with_the_worst_first() {
    let mut certificate = rotation("pki/data/eu", "running", &[("complete", 3), ("running", 2)]);
    certificate.secret.namespace = Some("team-a".to_owned());
    certificate.secret.server = "eu".to_owned();
    let mysql =
        rotation("secret/data/mysql", "stopped", &[("complete", 3), ("failed", 1), ("silent", 1)]);
    let open = Page { items: vec![certificate, mysql], total: 2, next: None };
    let all = Overview {
        now: now(),
        version: "1.1.0".to_owned(),
        leader: "reloader-0".to_owned(),
        servers: vec![server(Some(12), Some(12))],
        rotations: numbers(&[("complete", 40), ("held", 0), ("running", 1), ("stopped", 1)]),
        workloads: numbers(&[("complete", 30), ("failed", 2)]),
        workloads_by_kind: numbers(&[("DaemonSet", 1), ("Deployment", 31), ("StatefulSet", 0)]),
        findings: numbers(&[("NoKey", 2)]),
    };
    let expected = "\
vault-secrets-reloader 1.1.0, leader reloader-0

VAULT SERVER  SECRETS  LAST POLL
default       42       12s ago

Workloads:                1 DaemonSet, 31 Deployments
Rotations:                40 complete, 1 stopped, 1 running
Workloads with findings:  2 NoKey

SECRET                                              VERSION  AGE    STATE    WORKLOADS
secret/data/mysql                                   8        3m12s  stopped  3 of 5 workloads have it
pki/data/eu in Vault namespace team-a on server eu  8        3m12s  running  3 of 5 workloads have it

For details:
  vault-secrets-reloader status secret PATH
  vault-secrets-reloader status workload NAMESPACE/KIND/NAME
";
    assert_eq!(overview(&all, &open, now()), expected);
    let none = Page { items: Vec::new(), total: 0, next: None };
    assert!(overview(&all, &none, now()).ends_with("\n\nAll rotations are complete.\n"));
}

#[test]
fn an_overview_lists_twenty_rotations_at_most() {
    let items = vec![rotation("a", "held", &[("held", 1)]); 25];
    let open = Page { items, total: 70, next: None };
    let all = Overview {
        now: now(),
        version: String::new(),
        leader: String::new(),
        servers: Vec::new(),
        rotations: BTreeMap::new(),
        workloads: BTreeMap::new(),
        workloads_by_kind: BTreeMap::new(),
        findings: BTreeMap::new(),
    };
    let text = overview(&all, &open, now());
    assert_eq!(text.matches("0 of 1 workloads have it").count(), MOST_ROTATIONS);
    assert!(text.contains("\n50 more rotations are not complete: "), "{text}");
}

#[test]
fn columns_are_aligned_and_rows_are_lines() {
    let rows = [heading(["A", "B", "C"]), heading(["wide", "", "x\ny\u{1b}[1m"])];
    assert_eq!(columns(&rows), "A     B  C\nwide     x\\ny\\u{1b}[1m\n");
}

#[test]
fn a_workload_shows_its_secrets_and_findings() {
    let secret = rotation("secret/data/mysql", "", &[]).secret;
    let version = Some(Version { number: 8, created: ago(192) });
    let used = |state, code, since, version| UsedSecret {
        secret: secret.clone(),
        version,
        progress: progress(state, code, since),
    };
    let mut web = WorkloadStatus {
        workload: "shop/Deployment/web".to_owned(),
        reloads: 4,
        last_reload: Some(ago(178)),
        secrets: vec![
            used("running", "RolloutRunning", Some(178), version),
            used("unknown", "NoAnswer", None, None),
        ],
        findings: vec![Finding {
            reason: "NoKey".to_owned(),
            message: "a reference without a key".to_owned(),
        }],
    };
    let expected = "\
shop/Deployment/web
  reloads:      4
  last reload:  2m58s ago (2026-03-01T09:57:02Z)

SECRET             VERSION  AGE    STATE    SINCE  MESSAGE
secret/data/mysql  8        3m12s  running  2m58s  RolloutRunning: What is the case
secret/data/mysql  -        -      unknown  -      NoAnswer: What is the case

FINDING  MESSAGE
NoKey    a reference without a key
";
    assert_eq!(workload(&web, now()), expected);
    (web.reloads, web.last_reload) = (0, None);
    (web.secrets, web.findings) = (Vec::new(), Vec::new());
    let text = workload(&web, now());
    assert!(text.contains("  last reload:  never\n"), "{text}");
    assert!(text.ends_with("\nNo secret of this workload is watched.\n"), "{text}");
}

#[test]
fn a_secret_lists_what_is_not_complete() {
    let status =
        status("stopped", &[("failed", "RolloutTimedOut"), ("complete", ""), ("complete", "")]);
    let expected = "\
secret/data/mysql
  state:      stopped
  version:    8, created 3m12s ago (2026-03-01T09:56:48Z)
  last read:  12s ago (2026-03-01T09:59:48Z)
  workloads:  3: 2 complete, 1 failed

WORKLOAD                            STATE   SINCE  MESSAGE
shop/Deployment/of-RolloutTimedOut  failed  2m58s  RolloutTimedOut: What is the case
Not listed: 2 complete (add --all)

Can the old credential be revoked? Not yet: the rotation has stopped, and 1 of 3 workloads do not \
run with version 8. The messages above say why, and what to do
";
    assert_eq!(secret(&status, false, now()), expected);
    let all = secret(&status, true, now());
    assert_eq!(all.matches("\nshop/Deployment/").count(), 3, "{all}");
    assert!(!all.contains("Not listed"), "{all}");
}

#[test]
fn the_old_credential_can_be_revoked_once_no_pod_uses_it() {
    let done = ("complete", "");
    for (state, users, expected) in [
        ("complete", vec![done, done], "Yes: all 2 workloads run with version 8"),
        (
            "complete",
            vec![("silent", "NoReplicas"), done],
            "Yes: 1 of 2 workloads run with version 8, and 1 have no pods",
        ),
        (
            "complete",
            vec![("silent", "OnDelete"), ("silent", "NoReplicas"), done],
            "Not yet: 1 of 3 workloads are silent: they do not tell when all their pods are \
             replaced. Look at their pods: ",
        ),
        (
            "running",
            vec![("running", "RolloutRunning"), done],
            "Not yet: 1 of 2 workloads do not run with version 8 yet. To wait",
        ),
        (
            "held",
            vec![("held", "SecretMissing"), ("silent", "Paused")],
            "Not yet: reloads are held, and 1 of 2 workloads do not run with version 8. The \
             messages above say why. Also, 1 of 2 workloads are silent: ",
        ),
        ("missing", vec![done], "Not yet: the secret is missing, or "),
        ("unknown", vec![("unknown", "NoAnswer")], "Not yet: Vault does not answer "),
        ("newer", vec![done], "Not yet: the rotation is newer"),
        // The list is of an earlier moment than the state.
        ("complete", vec![("failed", "FailedCreate"), done], "Not yet: the state changed "),
    ] {
        let answer = revocation(&status(state, &users));
        assert!(answer.starts_with(expected), "{state} {users:?}: {answer}");
    }
}

#[test]
fn a_cut_list_of_silent_workloads_is_no_yes() {
    let mut status = status("complete", &[("silent", "NoReplicas")]);
    status.rotation.workloads = numbers(&[("silent", 2)]);
    status.users.next = Some("more".to_owned());
    let text = secret(&status, false, now());
    assert!(text.contains("\nThe list is cut: 1 of 1 workloads were read\n"), "{text}");
    assert!(text.contains("? Not yet: 1 of 2 workloads are silent"), "{text}");
}

#[test]
fn a_change_is_one_line() {
    let rotation = rotation("a", "running", &[("complete", 3), ("running", 1), ("pending", 1)]);
    assert_eq!(
        change(&rotation, now()),
        "2026-03-01T10:00:00Z running: version 8: 3 of 5 workloads have it (3 complete, 1 \
         pending, 1 running)"
    );
}

//! Tests the extraction of references from a pod template.

use std::sync::Arc;

use super::*;
use crate::references::environment::SourceKind;

fn unknown(_: &SourceName) -> SourceState {
    SourceState::Unread
}

fn container(from: &[EnvFrom], variables: &[EnvVar]) -> Container {
    let (from, variables) = (from.to_vec(), variables.to_vec());
    Container { name: "app".to_owned(), from, variables, ..Container::default() }
}

fn config_map(name: &str) -> SourceName {
    SourceName { kind: SourceKind::ConfigMap, name: name.to_owned() }
}

fn from(name: &str, prefix: &str, optional: bool) -> EnvFrom {
    EnvFrom { prefix: prefix.to_owned(), source: config_map(name), optional }
}

fn key(variable: &str, name: &str, key: &str, optional: bool) -> EnvVar {
    let (source, key) = (config_map(name), key.to_owned());
    EnvVar { name: variable.to_owned(), value: EnvValue::Key { source, key, optional } }
}

/// A cluster with the ConfigMaps `refs` and `more`, one that may not be read, and one that is not
/// known yet. No others exist.
fn cluster(named: &SourceName) -> SourceState {
    let read = |data: &[(&'static str, &'static str)]| {
        let data = data.iter().map(|(key, value)| (*key, value.as_bytes()));
        SourceState::Read(Arc::new(Content::new(data)))
    };
    match &*named.name {
        "refs" => read(&[
            ("A", "vault:secret/data/a#k"),
            ("B", "x${vault:secret/data/b#k}y${vault:secret/data/c#k#2}"),
            ("PLAIN", "x"),
            ("TOKEN", "vault:login"),
        ]),
        "more" => read(&[("A", "vault:secret/data/more#k"), ("B", "plain")]),
        "denied" => SourceState::Unreadable(Reason::SourceDenied),
        "later" => SourceState::Unread,
        _ => SourceState::Missing,
    }
}

fn paths_of(paths: BTreeSet<(Scheme, Destination, String)>) -> Vec<String> {
    paths.into_iter().map(|(.., path)| path).collect()
}

fn found(from: &[EnvFrom], variables: &[EnvVar]) -> (Vec<String>, Vec<Reason>, bool) {
    let (annotations, app) = (Annotations::default(), [container(from, variables)]);
    let found = extract(&annotations, &app, cluster);
    let reasons = found.notes.iter().map(|note| note.reason).collect();
    (paths_of(found.paths), reasons, found.is_waiting)
}

#[test]
fn env_from_takes_all_keys_and_the_last_of_a_name_counts() {
    let (a, b, more) = ("secret/data/a", "secret/data/b", "secret/data/more");
    let whole = (vec![a.into(), b.into()], vec![Reason::Pinned, Reason::NoKey], false);
    assert_eq!(found(&[from("refs", "", false)], &[]), whole);
    // Under another name nothing is overridden.
    let (paths, ..) = found(&[from("refs", "", false), from("more", "X_", false)], &[]);
    assert_eq!(paths, [a, b, more]);
    // The later source counts: its `A` is another reference, and its `B` a plain text.
    let (paths, reasons, _) = found(&[from("refs", "", false), from("more", "", false)], &[]);
    assert_eq!(paths, [more]);
    let overridden = reasons.iter().filter(|reason| **reason == Reason::Overridden).count();
    assert_eq!(overridden, 2);
    // `env` comes after `envFrom`, whatever its value.
    for value in [EnvValue::Literal("x".to_owned()), EnvValue::Other] {
        let variable = EnvVar { name: "A".to_owned(), value };
        assert_eq!(found(&[from("refs", "", false)], &[variable]).0, [b]);
    }
    let twice = [EnvVar::literal("X", "vault:a#k"), EnvVar::literal("X", "vault:b#k")];
    assert_eq!(found(&[], &twice).0, ["b"]);
}

/// Returns a source with this many keys, and this many references per key.
fn source(keys: usize, references: usize) -> SourceState {
    let value = |key| {
        let reference = |number| format!("${{vault:secret/data/{key}-{number}#k}}");
        (0..references).map(reference).collect::<String>()
    };
    let data: Vec<_> = (0..keys).map(|key| (format!("K{key}"), value(key))).collect();
    let data = data.iter().map(|(key, value)| (key.as_str(), value.as_bytes()));
    SourceState::Read(Arc::new(Content::new(data)))
}

#[test]
fn a_product_of_sources_and_keys_is_not_worked_out() {
    let read = |container: &Container, known: &SourceState| {
        let mut taken = 0;
        let mut paths = HashSet::new();
        let annotations = Annotations::default();
        let mut reasons = BTreeSet::new();
        let containers = std::slice::from_ref(container);
        each(
            &annotations,
            containers,
            |_| known.clone(),
            |_, _, reading| {
                taken += 1;
                match reading {
                    Reading::Watch(_, path) => _ = paths.insert(path),
                    Reading::WatchOdd(_, _, reason) | Reading::Skip(reason) => {
                        reasons.insert(reason);
                    }
                }
            },
        );
        (taken, paths.len(), reasons)
    };
    // A source that is named again and again counts once.
    let same: Vec<_> = (0..1_000).map(|_| from("big", "", false)).collect();
    let (taken, paths, reasons) = read(&container(&same, &[]), &source(10_000, 1));
    assert_eq!((paths, reasons), (10_000, BTreeSet::from([Reason::Overridden])));
    assert!(taken <= 10_000 + 1_000, "{taken}");
    // Under new names each time, a note says that there are too many. No reference goes unwatched.
    let other: Vec<_> =
        (0..1_000).map(|number| from("big", &format!("P{number}_"), false)).collect();
    let (taken, paths, reasons) = read(&container(&other, &[]), &source(10_000, 1));
    assert_eq!((paths, reasons), (10_000, BTreeSet::from([Reason::TooManyVariables])));
    assert!(taken <= 10_000 + MOST_WORK + 1_000, "{taken}");
    // The same holds for one key in many variables.
    let keys: Vec<_> =
        (0..4_000).map(|number| key(&format!("V{number}"), "big", "K0", false)).collect();
    let (taken, paths, _) = read(&container(&[], &keys), &source(1, 4_000));
    assert_eq!(paths, 4_000);
    assert!(taken <= 4_000 + MOST_WORK, "{taken}");
    // A source whose keys are all overridden, and which another container names again.
    let (once, again) = (container(&same, &[]), container(&other, &keys));
    let mut paths = BTreeSet::new();
    let known = source(10_000, 1);
    each(
        &Annotations::default(),
        &[once, again],
        |_| known.clone(),
        |_, _, reading| {
            if let Reading::Watch(_, path) = reading {
                paths.insert(path);
            }
        },
    );
    assert_eq!(paths.len(), 10_000);
}

#[test]
fn an_overridden_reference_is_watched_where_another_variable_has_it_too() {
    let variables = [key("X", "refs", "A", false), EnvVar::literal("X", "plain")];
    assert_eq!(found(&[], &variables).0, [""; 0]);
    let (paths, reasons, _) = found(&[from("refs", "", false)], &variables);
    assert_eq!(paths, ["secret/data/a", "secret/data/b"]);
    assert!(reasons.contains(&Reason::Overridden));
}

#[test]
fn of_too_many_sources_the_first_are_read_and_the_others_said() {
    let annotations = Annotations::default();
    let names = |count: usize| -> Vec<EnvFrom> {
        (0..count).rev().map(|number| from(&format!("later-{number:05}"), "", true)).collect()
    };
    assert_eq!(found(&names(MOST_SOURCES), &[]), (vec![], vec![], false));
    let containers = [container(&names(10_000), &[])];
    let (read, first_beyond) = sources_of(&annotations, &containers);
    assert_eq!(read.last().unwrap().name, "later-00499");
    assert_eq!(first_beyond.unwrap().name, "later-00500");
    let all = extract(&annotations, &containers, |named| {
        assert!(read.contains(named));
        SourceState::Unread
    });
    assert!(all.is_waiting && all.notes.len() == 9_500);
    assert!(all.notes.iter().all(|note| note.reason == Reason::TooManySources));
    // The sources of another container, and of a key.
    let containers =
        [container(&names(MOST_SOURCES), &[]), container(&[], &[key("X", "refs", "A", false)])];
    let all = extract(&annotations, &containers, cluster);
    assert_eq!(paths_of(all.paths), [""; 0]);
    assert_eq!(all.notes[0].reason, Reason::TooManySources);
}

#[test]
fn the_value_of_a_key_is_read_as_one_of_its_variable() {
    let (paths, reasons, _) = found(&[], &[key("X", "refs", "A", false)]);
    assert_eq!((paths, reasons), (vec!["secret/data/a".to_owned()], vec![]));
    let reasons = |variable| found(&[], &[key(variable, "refs", "TOKEN", false)]).1;
    assert_eq!(reasons("VAULT_TOKEN"), [Reason::Login]);
    assert_eq!(reasons("BAO_TOKEN"), [Reason::NoKey]);
    assert_eq!(found(&[], &[key("X", "refs", "PLAIN", false)]), (vec![], vec![], false));
}

#[test]
fn what_is_missing_is_said_unless_it_is_optional() {
    assert_eq!(found(&[from("none", "", false)], &[]).1, [Reason::SourceMissing]);
    assert_eq!(found(&[from("none", "", true)], &[]).1, []);
    assert_eq!(found(&[], &[key("X", "none", "A", false)]).1, [Reason::SourceMissing]);
    assert_eq!(found(&[], &[key("X", "refs", "NONE", false)]).1, [Reason::KeyMissing]);
    for optional in [key("A", "none", "A", true), key("A", "refs", "NONE", true)] {
        // The variable then does not exist, and cannot override another one.
        let all = found(&[from("more", "", false)], &[optional]);
        assert_eq!(all, (vec!["secret/data/more".to_owned()], vec![], false));
    }
}

#[test]
fn what_the_webhook_has_resolved_is_said() {
    let role = "vault.security.banzaicloud.io/vault-role";
    let source = |value: &str, annotation: &str| {
        let content = Content::new([("A", value.as_bytes())]).annotated([annotation]);
        SourceState::Read(Arc::new(content))
    };
    let reasons = |known: &SourceState, from: &[EnvFrom], variables: &[EnvVar]| {
        let (annotations, app) = (Annotations::default(), [container(from, variables)]);
        let found = extract(&annotations, &app, |_| known.clone());
        found.notes.iter().map(|note| note.reason).collect::<Vec<_>>()
    };
    let is_resolved = [Reason::ResolvedWhenApplied];
    let whole = [from("m", "", false)];
    assert_eq!(reasons(&source("s3cret", role), &whole, &[]), is_resolved);
    assert_eq!(reasons(&source("s3cret", role), &[], &[key("X", "m", "A", false)]), is_resolved);
    assert_eq!(reasons(&source("s3cret", role), &[], &[key("X", "m", "B", true)]), []);
    // The reference is still there, or the annotation is not for the webhook.
    assert_eq!(reasons(&source("vault:a#k", role), &whole, &[]), []);
    assert_eq!(reasons(&source("s3cret", "other"), &whole, &[]), []);
}

#[test]
fn what_is_not_known_is_waited_for_and_what_cannot_be_is_said() {
    assert!(found(&[from("later", "", true)], &[]).2);
    assert!(found(&[], &[key("X", "later", "A", true)]).2);
    let (paths, reasons, waits) = found(
        &[from("denied", "", false), from("refs", "", false)],
        &[key("Z", "denied", "Z", false)],
    );
    assert_eq!((paths.len(), waits), (2, false));
    assert_eq!(reasons.iter().filter(|reason| **reason == Reason::SourceDenied).count(), 2);
}

#[test]
fn kubernetes_replaces_nothing_in_the_values_of_sources() {
    let value = "vault:secret/data/$(STAGE)/a$$#k";
    let path = "secret/data/$(STAGE)/a$$".to_owned();
    assert_eq!(
        StoredReference::all_of(value)[0].reading_in("X"),
        Reading::Watch(Scheme::Vault, path)
    );
}

#[test]
fn nobody_trims_the_items_of_a_list_of_paths() {
    let annotations: Annotations = [(
        "secrets-webhook.security.bank-vaults.io/vault-from-path",
        "secret/data/a , secret/data/b#1,,secret/data/c#0,secret/data/d#x,secret/data/e# 1",
    )]
    .into_iter()
    .collect();
    let found = extract(&annotations, &[], unknown);
    assert_eq!(paths_of(found.paths), ["secret/data/a ", "secret/data/c"]);
    let reasons: Vec<_> = found.notes.iter().map(|note| note.reason).collect();
    assert_eq!(
        reasons,
        [
            Reason::SpaceAroundPath,
            Reason::Pinned,
            Reason::NoPath,
            Reason::BadVersion,
            Reason::BadVersion,
        ]
    );
}

#[test]
fn a_product_of_namespaces_and_listed_paths_is_not_worked_out() {
    let list: Vec<_> = (0..10_000).map(|number| format!("secret/data/{number}")).collect();
    let list = ("secrets-webhook.security.bank-vaults.io/vault-from-path", list.join(","));
    let annotations: Annotations = [list].into_iter().collect();
    let app = |number| {
        let namespace = EnvVar::literal("VAULT_NAMESPACE", format!("ns{number}"));
        container(&[], &[namespace])
    };
    let containers: Vec<_> = (0..1_000).map(app).collect();
    let found = extract(&annotations, &containers, unknown);
    assert_eq!(found.paths.len(), 10_000 + MOST_WORK);
    let reasons: Vec<_> = found.notes.iter().map(|note| note.reason).collect();
    assert_eq!(reasons, [Reason::TooManyVariables]);
}

#[test]
fn a_source_that_holds_a_setting_makes_it_unknown() {
    let named = |key: &'static str| {
        move |_: &SourceName| SourceState::Read(Arc::new(Content::new([(key, b"team".as_slice())])))
    };
    let reference = EnvVar::literal("X", "vault:secret/data/a#k");
    let reasons = |from: &[EnvFrom], variables: &[EnvVar], key| {
        let variables = [std::slice::from_ref(&reference), variables].concat();
        let (annotations, app) = (Annotations::default(), [container(from, &variables)]);
        let found = extract(&annotations, &app, named(key));
        assert_eq!(found.paths.len(), 1);
        found.notes.iter().map(|note| note.reason).collect::<Vec<_>>()
    };
    let (plain, prefixed) = (from("m", "", false), from("m", "VAULT_", false));
    let is_unknown = [Reason::SettingUnknown];
    assert_eq!(reasons(std::slice::from_ref(&plain), &[], "VAULT_NAMESPACE"), is_unknown);
    assert_eq!(reasons(&[prefixed], &[], "NAMESPACE"), is_unknown);
    assert_eq!(reasons(std::slice::from_ref(&plain), &[], "BAO_NAMESPACE"), []);
    // The variable of the container wins, if there is one.
    let literal = EnvVar::literal("VAULT_NAMESPACE", "team");
    assert_eq!(reasons(&[plain], &[literal], "VAULT_NAMESPACE"), []);
    assert_eq!(reasons(&[], &[key("VAULT_NAMESPACE", "m", "k", true)], "k"), is_unknown);
    assert_eq!(reasons(&[], &[key("VAULT_NAMESPACE", "m", "k", true)], "other"), []);
}

#[test]
fn the_older_annotation_counts_only_where_the_current_is_absent() {
    let older = ("vault.security.banzaicloud.io/vault-env-from-path", "secret/data/old");
    let current = ("secrets-webhook.security.bank-vaults.io/vault-from-path", "secret/data/new");
    let paths = |pairs: &[(&str, &str)]| {
        let annotations: Annotations = pairs.iter().copied().collect();
        paths_of(extract(&annotations, &[], unknown).paths)
    };
    assert_eq!(paths(&[older]), ["secret/data/old"]);
    assert_eq!(paths(&[older, current]), ["secret/data/new"]);
}

#[test]
fn another_provider_is_skipped_and_a_path_is_listed_once() {
    let app = [container(
        &[],
        &[
            EnvVar::literal("X", "vault:secret/data/a#x"),
            EnvVar::literal("Y", "vault:/secret/data/a/#y"),
        ],
    )];
    assert_eq!(extract(&Annotations::default(), &app, unknown).paths.len(), 1);
    let aws: Annotations =
        [("secrets-webhook.security.bank-vaults.io/provider", "aws")].into_iter().collect();
    let found = extract(&aws, &app, unknown);
    assert!(found.paths.is_empty());
    assert!(found.notes.iter().all(|note| note.reason == Reason::OtherProvider));
}

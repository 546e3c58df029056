//! Tests of what a manifest refers to.

use super::*;
use crate::model::secret::DEFAULT_CONNECTION;
use crate::references::environment::EnvVar;
use crate::references::path_rules::{PathRules, Rule, RuleText};
use crate::references::servers::{Address, UndeclaredAddress};
use crate::references::settings::LONGEST_NAMESPACE;
use crate::references::source::nothing_known;

fn manifest(annotations: &[(&str, &str)], values: &[&str]) -> Manifest {
    let variable = |(number, value): (u32, &&str)| EnvVar::literal(format!("X{number}"), *value);
    Manifest {
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        uid: "u1".to_owned(),
        generation: 2,
        observed_generation: 2,
        annotations: annotations.iter().copied().collect(),
        containers: vec![Container {
            name: "app".to_owned(),
            variables: (1..).zip(values).map(variable).collect(),
            ..Container::default()
        }],
        ..Manifest::default()
    }
}

/// Returns the default server alone, in a Vault namespace.
fn in_namespace(name: &str) -> Servers {
    let default = VaultServer { namespace: Some(name.into()), ..VaultServer::default() };
    Servers::new(vec![default], UndeclaredAddress::Default).unwrap()
}

const OPT_IN: (&str, &str) =
    ("secrets-reloader.security.bank-vaults.io/reload-on-secret-change", "true");

#[test]
fn time_rules_are_kept_and_what_cannot_be_read_is_noted() {
    let read = |freeze: &str, windows: &str| {
        let mut manifest = manifest(&[OPT_IN], &["vault:secret/data/a#k"]);
        manifest.time_rules = TimeRules::new(Some(freeze), Some(windows)).boxed();
        let rules = manifest.time_rules.clone();
        let read = manifest.read(Kind::DEPLOYMENT, &Servers::default(), nothing_known);
        assert_eq!(read.workload.unwrap().time_rules, rules);
        let notes = read.notes.into_iter();
        notes.map(|note| (note.origin.to_string(), note.reason)).collect::<Vec<_>>()
    };
    assert!(read("", "").is_empty());
    assert!(read("2026-12-24", "allow 0 22 * * * 8h; deny 0 0 * * 0 1d").is_empty());
    let freeze = ("annotation freeze-until".to_owned(), Reason::InvalidFreeze);
    let windows = ("annotation reload-windows".to_owned(), Reason::InvalidWindow);
    assert_eq!(read("soon", "allow"), [freeze.clone(), windows]);
    assert_eq!(read("soon", "allow 0 22 * * * 8h"), [freeze]);
}

#[test]
fn a_workload_opts_in_and_refers_to_a_secret_or_is_not_kept() {
    let value = "vault:secret/data/a#k";
    let kept = |annotations: &[_], values: &[_]| {
        manifest(annotations, values)
            .read(Kind::DEPLOYMENT, &Servers::default(), nothing_known)
            .workload
            .is_some_and(|workload| !workload.secrets.is_empty())
    };
    assert!(kept(&[OPT_IN], &[value]));
    assert!(!kept(&[], &[value]));
    assert!(!kept(&[OPT_IN], &["plain"]));
    assert!(!kept(&[OPT_IN], &["vault:secret/data/a#k#1"]));
    let skip = ("secrets-webhook.security.bank-vaults.io/mutate", "skip");
    assert!(!kept(&[OPT_IN, skip], &[value]));
}

#[test]
fn a_workload_has_a_bounded_number_of_secrets_and_that_is_said() {
    for (number, kept) in [(MOST_SECRETS, MOST_SECRETS), (20_000, MOST_SECRETS)] {
        let value = |number: usize| format!("vault:secret/data/{number:05}#k");
        let values: Vec<_> = (0..number).map(value).collect();
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        let read =
            manifest(&[OPT_IN], &values).read(Kind::DEPLOYMENT, &Servers::default(), nothing_known);
        let secrets = read.workload.unwrap().secrets;
        assert_eq!(secrets.len(), kept);
        // Later references do not change which secrets are kept.
        assert_eq!(&*secrets[kept - 1].path, format!("secret/data/{:05}", kept - 1));
        let note = Note { origin: Origin::Workload, reason: Reason::TooManySecrets };
        assert_eq!(read.notes.contains(&note), number > MOST_SECRETS);
    }
}

#[test]
fn the_namespace_of_the_workload_wins_over_the_configured_one() {
    let configured = in_namespace("team");
    let named = ("secrets-webhook.security.bank-vaults.io/vault-namespace", "/other/");
    let namespace = |annotations: &[_]| {
        let read = manifest(annotations, &["vault:secret/data/a#k"]).read(
            Kind::DAEMON_SET,
            &configured,
            nothing_known,
        );
        read.workload.unwrap().secrets[0].namespace.clone().unwrap()
    };
    assert_eq!(&*namespace(&[OPT_IN]), "team");
    assert_eq!(&*namespace(&[OPT_IN, named]), "other");
}

#[test]
fn a_namespace_that_no_header_can_hold_is_not_another_one() {
    let configured = in_namespace("team");
    let key = "secrets-webhook.security.bank-vaults.io/vault-namespace";
    for name in ["a\nb", "a\u{0}b", &"x".repeat(LONGEST_NAMESPACE + 1)] {
        let read = manifest(&[OPT_IN, (key, name)], &["vault:secret/data/a#k"]).read(
            Kind::DEPLOYMENT,
            &configured,
            nothing_known,
        );
        assert_eq!(read.workload.unwrap().secrets.len(), 0, "{name:?}");
        assert_eq!(read.notes.len(), 1);
        assert!(read.notes[0].reason.is_warning());
    }
}

#[test]
fn the_address_of_the_workload_says_whose_secrets_are_meant() {
    let key = "secrets-webhook.security.bank-vaults.io/vault-addr";
    let b = VaultServer {
        name: "b".into(),
        addresses: vec![Address::parse("https://b:8200").unwrap()],
        namespace: Some("of-b".into()),
    };
    let read =
        |undeclared, address, value| {
            let default = VaultServer { namespace: Some("team".into()), ..VaultServer::default() };
            let servers = Servers::new(vec![default, b.clone()], undeclared).unwrap();
            let read = manifest(&[OPT_IN, (key, address)], &[value, "vault:secret/data/x#k#1"])
                .read(Kind::DEPLOYMENT, &servers, nothing_known);
            let secrets = read.workload.map(|workload| workload.secrets);
            let secrets: Vec<_> = secrets.iter().flatten().map(ToString::to_string).collect();
            let noted: Vec<_> = read.notes.iter().map(|note| note.reason).collect();
            (secrets.join(", "), noted)
        };
    let value = "vault:secret/data/a#k";
    assert_eq!(
        read(UndeclaredAddress::Refused, "https://B:8200/", value),
        ("secret/data/a in Vault namespace of-b on server b".to_owned(), vec![Reason::Pinned])
    );
    let of_default = "secret/data/a in Vault namespace team".to_owned();
    assert_eq!(
        read(UndeclaredAddress::Default, "https://c:8200", value),
        (of_default, vec![Reason::Pinned, Reason::AddressNotDeclared])
    );
    assert_eq!(
        read(UndeclaredAddress::Refused, "https://c:8200", value),
        (String::new(), vec![Reason::Pinned, Reason::AddressRefused])
    );
    // Without references, the address does not matter.
    for undeclared in [UndeclaredAddress::Default, UndeclaredAddress::Refused] {
        let nothing = (String::new(), vec![Reason::Pinned]);
        assert_eq!(read(undeclared, "https://c:8200", "plain"), nothing);
    }
}

#[test]
fn each_injector_reads_its_own_annotations_and_a_workload_is_of_one_server() {
    let key = |name: &str| format!("secrets-webhook.security.bank-vaults.io/{name}");
    let declared = |name: &str| VaultServer {
        name: name.into(),
        addresses: Address::parse(&format!("http://{name}")).into_iter().collect(),
        namespace: None,
    };
    let others = vec![declared("b"), declared("c")];
    let servers =
        Servers::new([vec![declared("default")], others].concat(), UndeclaredAddress::Default)
            .unwrap();
    let (vault, bao) = ("vault:secret/data/v#k", "bao:secret/data/b#k");
    let read = |annotations: &[(&str, &str)], values: &[&str]| {
        let keys: Vec<_> = annotations.iter().map(|(name, value)| (key(name), *value)).collect();
        let mut all: Vec<_> = keys.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        all.push(OPT_IN);
        let read = manifest(&all, values).read(Kind::DEPLOYMENT, &servers, nothing_known);
        let workload = read.workload;
        let secrets = workload.iter().flat_map(|workload| &workload.secrets);
        let secrets: Vec<_> = secrets.map(ToString::to_string).collect();
        let noted: Vec<_> = read.notes.iter().map(|note| note.reason).collect();
        (secrets.join(", "), noted, workload.is_some_and(|workload| workload.ignore_missing))
    };
    let secrets = |text: &str| (text.to_owned(), vec![], false);
    let both = [vault, bao];
    assert_eq!(read(&[], &both), secrets("secret/data/b, secret/data/v"));
    assert_eq!(
        read(&[("bao-addr", "http://b"), ("bao-namespace", "team")], &[bao]),
        secrets("secret/data/b in Vault namespace team on server b")
    );
    for (value, of_other) in [(bao, "vault"), (vault, "bao")] {
        let names = ["addr", "namespace", "ignore-missing-secrets"];
        let names = names.map(|name| format!("{of_other}-{name}"));
        let values = ["http://b", "team", "true"];
        let annotations: Vec<_> = names.iter().map(String::as_str).zip(values).collect();
        let alone = value.split([':', '#']).nth(1).unwrap();
        assert_eq!(read(&annotations, &[value]), secrets(alone));
    }
    let same = [("bao-addr", "http://b/"), ("vault-addr", "http://b:80"), ("bao-namespace", "t")];
    assert_eq!(
        read(&same, &both),
        secrets("secret/data/v on server b, secret/data/b in Vault namespace t on server b")
    );
    let (watched, noted, _) = read(&[("bao-addr", "http://b"), ("vault-addr", "http://c")], &both);
    assert_eq!((watched.as_str(), noted), ("secret/data/v on server c", vec![Reason::TwoServers]));
    // A namespace that cannot be named blocks only its own scheme.
    let (watched, noted, _) = read(&[("vault-namespace", "a\nb")], &both);
    assert_eq!((watched.as_str(), noted), ("secret/data/b", vec![Reason::BadNamespace]));
    let of_vault = ("vault-ignore-missing-secrets", "true");
    assert!(read(&[of_vault], &[vault]).2 && !read(&[of_vault], &both).2);
    assert!(read(&[of_vault, ("bao-ignore-missing-secrets", "true")], &both).2);
    // The text is read like Go's ParseBool, and is false if that fails.
    let ignores = |value| read(&[("vault-ignore-missing-secrets", value)], &[vault]).2;
    assert!(["1", "t", "T", "true", "TRUE", "True"].into_iter().all(ignores));
    assert!(!["0", "false", "", "yes", "tRUE", " true"].into_iter().any(ignores));
}

#[test]
fn where_the_webhook_is_kept_away_the_variables_of_the_container_count() {
    let declared = |name: &str| VaultServer {
        name: name.into(),
        addresses: Address::parse(&format!("http://{name}")).into_iter().collect(),
        namespace: None,
    };
    let servers =
        Servers::new(vec![declared("default"), declared("b")], UndeclaredAddress::Default);
    // The allow-list holds the addresses that the webhook accepts.
    let servers = servers.unwrap().with_allowed(Scheme::Vault, "http://nowhere");
    let skip = ("secrets-webhook.security.bank-vaults.io/mutate", "skip");
    let address = ("secrets-webhook.security.bank-vaults.io/vault-addr", "http://default");
    let ignores = ("secrets-webhook.security.bank-vaults.io/vault-ignore-missing-secrets", "1");
    let mut manual = manifest(&[OPT_IN, skip, address, ignores], &["vault:secret/data/a#k"]);
    manual.containers[0].starts_injector = true;
    let read = |manifest: &Manifest| {
        let read = manifest.read(Kind::DEPLOYMENT, &servers, nothing_known);
        let secrets = read.workload.iter().flat_map(|workload| &workload.secrets);
        let secrets: Vec<_> = secrets.map(ToString::to_string).collect();
        let notes: Vec<_> =
            read.notes.iter().map(|n| format!("{}: {}", n.reason.code(), n.origin)).collect();
        let ignores = read.workload.is_some_and(|workload| workload.ignore_missing);
        (secrets.join(", "), notes.join(", "), ignores)
    };
    let on_default = || ("secret/data/a".to_owned(), String::new(), false);
    assert_eq!(read(&manual), on_default());
    let mut with = |variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(name, value)| EnvVar::literal(*name, *value));
        manual.containers[0].variables.truncate(1);
        manual.containers[0].variables.extend(variables);
        read(&manual)
    };
    let (secrets, notes, ignores) = with(&[
        ("VAULT_ADDR", "http://b:80/"),
        ("VAULT_NAMESPACE", "team"),
        ("VAULT_IGNORE_MISSING_SECRETS", "true"),
    ]);
    assert_eq!(secrets, "secret/data/a in Vault namespace team on server b");
    assert_eq!((&*notes, ignores), ("", true));
    let (secrets, notes, _) = with(&[("VAULT_ADDR", "http://elsewhere")]);
    assert_eq!(secrets, "secret/data/a");
    assert_eq!(notes, "AddressNotDeclared: variable VAULT_ADDR of container app");
    let (secrets, notes, _) = with(&[("VAULT_NAMESPACE", "a\nb")]);
    assert_eq!(
        (&*secrets, &*notes),
        ("", "BadNamespace: variable VAULT_NAMESPACE of container app")
    );
    with(&[("VAULT_ADDR", "http://b")]);
    let mut second = manual.containers[0].clone();
    second.name = "second".to_owned();
    second.variables.truncate(1);
    manual.containers.push(second);
    let (secrets, notes, _) = read(&manual);
    assert_eq!(secrets, "secret/data/a on server b");
    assert_eq!(notes, "TwoServers: variable VAULT_ADDR of container second");
    // A container without an injector resolves nothing, and its sources do not matter.
    manual.containers.truncate(1);
    manual.containers[0].starts_injector = false;
    let (secrets, notes, _) = read(&manual);
    assert_eq!((&*secrets, &*notes), ("", "MutateSkip: variable X1 of container app"));
}

#[test]
fn what_no_path_rule_allows_to_the_namespace_is_no_secret_of_the_workload_and_is_said() {
    let rule = |namespace: &str, path: &str| {
        let paths = Some(vec![path.to_owned()]);
        let namespaces = vec![namespace.to_owned()];
        let vault_namespaces = Some(vec![String::new(), "of-shop".to_owned()]);
        Rule::new(&RuleText { namespaces, vault_namespaces, paths, ..RuleText::default() })
    };
    let rules =
        [rule("*", "secret/data/{namespace}/*").unwrap(), rule("pay", "shared/**").unwrap()];
    let servers = Servers::default().with_path_rules(PathRules::new(rules.into()));
    let read = |annotations: &[_], values: &[_]| {
        let annotations: Vec<_> = annotations.iter().copied().chain([OPT_IN]).collect();
        let manifest = manifest(&annotations, values);
        let read = manifest.read(Kind::DEPLOYMENT, &servers, nothing_known);
        let secrets = read.workload.iter().flat_map(|workload| &workload.secrets);
        let secrets: Vec<_> = secrets.map(ToString::to_string).collect();
        let said = |note: &Note| format!("{} {}", note.reason.code(), note.origin);
        let notes: Vec<_> = read.notes.iter().map(said).collect();
        (secrets.join(", "), notes.join(", "))
    };
    let pair = |secrets: &str, notes: &str| (secrets.to_owned(), notes.to_owned());
    let (own, other) = ("vault:secret/data/shop/a#k", "vault:secret/data/pay/a#k");
    assert_eq!(read(&[], &[own]), pair("secret/data/shop/a", ""));
    let refused = |number| format!("PathRefused variable X{number} of container app");
    assert_eq!(read(&[], &[other]), pair("", &refused(1)));
    // The same holds within one value, and for references that look odd.
    let both = "${vault:secret/data/shop/a#k}${vault:shared/x#k}";
    let odd = "{${vault:secret/data/pay/b#k}}";
    assert_eq!(
        read(&[], &[both, own, odd]),
        pair("secret/data/shop/a", &[refused(1), refused(3)].join(", "))
    );
    let (_, notes) = read(&[], &["{${vault:secret/data/shop/b#k}}"]);
    assert_eq!(notes, "BraceInKey variable X1 of container app");
    let list = "secrets-webhook.security.bank-vaults.io/vault-from-path";
    assert_eq!(
        read(&[(list, "secret/data/shop/b,secret/data/shop/../pay/b")], &[own]),
        pair("secret/data/shop/a, secret/data/shop/b", "PathRefused annotation vault-from-path")
    );
    // The Vault namespace comes from the header, or from the beginning of the path.
    let namespace = "secrets-webhook.security.bank-vaults.io/vault-namespace";
    let allowed = pair("secret/data/shop/a in Vault namespace of-shop", "");
    assert_eq!(read(&[(namespace, "/of-shop/")], &[own]), allowed);
    for name in ["of-pay", "of-shop/x", "of-shop/..", "of-shop/../of-pay"] {
        assert_eq!(read(&[(namespace, name)], &[own]), pair("", &refused(1)), "{name}");
    }
    let in_path = "vault:of-pay/secret/data/shop/a#k";
    assert_eq!(read(&[], &[in_path]), pair("", &refused(1)));
}

#[test]
fn refused_references_do_not_count_among_those_that_are_too_many() {
    let values: Vec<_> = (0..3 * MOST_SECRETS)
        .map(|number| {
            let mount = if number % 3 == 0 { "own" } else { "other" };
            format!("vault:{mount}/data/{number:05}#k")
        })
        .collect();
    let values: Vec<_> = values.iter().map(String::as_str).collect();
    let (namespaces, paths) = (vec!["shop".to_owned()], Some(vec!["own/**".to_owned()]));
    let rule = Rule::new(&RuleText { namespaces, paths, ..RuleText::default() }).unwrap();
    let servers = Servers::default().with_path_rules(PathRules::new(vec![rule]));
    let manifest = manifest(&[OPT_IN], &values);
    let read = manifest.read(Kind::DEPLOYMENT, &servers, nothing_known);
    assert_eq!(read.workload.unwrap().secrets.len(), MOST_SECRETS);
    assert!(read.notes.iter().all(|note| note.reason == Reason::PathRefused));
    assert_eq!(read.notes.len(), 2 * MOST_SECRETS);
}

#[test]
fn of_a_hostile_record_only_what_can_count_is_kept() {
    let entry = |n: u64| format!(r#""{n:x}":"1@1""#);
    let secret = SecretId {
        connection: DEFAULT_CONNECTION.into(),
        namespace: None,
        path: "secret/data/a".into(),
    };
    let hash = crate::model::secret::to_base36(u128::from(secret.hash64()));
    let entries: Vec<_> = (0..10_000).map(entry).collect();
    let mut hostile = manifest(&[OPT_IN], &["vault:secret/data/a#k", "vault:secret/data/b#k"]);
    hostile.record = Some(format!(
        r#"{{"v":1,"uid":"u1","mark":"m","secrets":{{{},"{hash}":"7@1"}}}}"#,
        entries.join(",")
    ));
    let workload =
        hostile.read(Kind::DEPLOYMENT, &Servers::default(), nothing_known).workload.unwrap();
    let kept: Vec<_> = workload.recorded.unwrap().versions.iter().collect();
    assert_eq!(kept.len(), 1);
    assert_eq!((kept[0].0, kept[0].1.number), (secret.hash64(), 7));
}

#[test]
fn an_odd_count_is_zero_and_an_odd_record_is_none_and_said() {
    let mut odd = manifest(
        &[OPT_IN, ("secrets-reloader.security.bank-vaults.io/secret-reload-count", "many")],
        &["vault:secret/data/a#k"],
    );
    odd.record = Some("nonsense".to_owned());
    let read = odd.read(Kind::STATEFUL_SET, &Servers::default(), nothing_known);
    let workload = read.workload.unwrap();
    assert_eq!((workload.count, workload.recorded), (0, None));
    assert_eq!(read.record_error, Some(RecordError::Malformed));
}

#[test]
fn a_record_of_a_cloned_workload_is_none_without_a_complaint() {
    let mut clone = manifest(&[OPT_IN], &["vault:secret/data/a#k"]);
    clone.record = Some(r#"{"v":1,"uid":"another","mark":"m","secrets":{}}"#.to_owned());
    let read = clone.read(Kind::DEPLOYMENT, &Servers::default(), nothing_known);
    assert_eq!((read.workload.unwrap().recorded, read.record_error), (None, None));
}

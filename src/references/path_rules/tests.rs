//! Tests which references the rules allow, and that nothing bypasses them.

use std::time::{Duration, Instant};

use super::*;
use crate::model::secret::DEFAULT_CONNECTION;
use crate::references::grammar::Reading;
use crate::references::grammar::parse;

fn list(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn rule(namespaces: &[&str], paths: &[&str]) -> RuleText {
    RuleText { namespaces: list(namespaces), paths: Some(list(paths)), ..RuleText::default() }
}

fn rules(texts: &[RuleText]) -> PathRules {
    PathRules::new(texts.iter().map(|text| Rule::new(text).unwrap()).collect())
}

fn secret(server: &str, vault_namespace: &str, path: &str) -> SecretId {
    let namespace = Some(vault_namespace).filter(|name| !name.is_empty());
    let namespace = namespace.map(Into::into);
    SecretId { connection: server.into(), namespace, path: path.into() }
}

fn on_default(path: &str) -> SecretId {
    secret(DEFAULT_CONNECTION, "", path)
}

#[test]
fn without_rules_everything_is_allowed_and_with_none_that_fits_nothing() {
    let path = on_default("secret/data/a");
    assert!(PathRules::default().allow("shop", &path));
    assert!(PathRules::default().allow("shop", &secret("b", "x/../y", "a//b")));
    assert!(!PathRules::new(Vec::new()).allow("shop", &path));
    let rules = rules(&[rule(&["shop"], &["secret/data/a"]), rule(&["shop"], &["secret/data/b"])]);
    assert!(rules.allow("shop", &path) && rules.allow("shop", &on_default("secret/data/b")));
    assert!(!rules.allow("shop", &on_default("secret/data/c")));
    assert!(!rules.allow("shop2", &path));
}

#[test]
fn a_star_stays_within_its_part_and_two_at_the_end_are_the_rest() {
    let table = [
        ("secret/data/a", "secret/data/a", true),
        ("secret/data/a", "secret/data/a/b", false),
        ("secret/data/a", "secret/data", false),
        ("secret/data/a", "SECRET/data/a", false),
        ("secret/data/*", "secret/data/a", true),
        ("secret/data/*", "secret/data/a/b", false),
        ("secret/data/*", "secret/data", false),
        ("secret/data/**", "secret/data/a", true),
        ("secret/data/**", "secret/data/a/b/c", true),
        ("secret/data/**", "secret/data", false),
        ("secret/data/**", "secret/database", false),
        ("**", "anything/at/all", true),
        ("*", "a", true),
        ("*", "a/b", false),
        ("*/data/x", "kv/data/x", true),
        ("*/data/x", "team/kv/data/x", false),
        ("a*", "a", true),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "abc", true),
        ("a*b*c", "acb", false),
        ("a*a", "a", false),
        ("*ab*", "xxab", true),
        ("ünï*/☃", "ünïx/☃", true),
        // Signs of other pattern languages have no meaning here.
        ("a.c", "abc", false),
        ("a?c", "abc", false),
        ("[ab]", "a", false),
        ("a+", "aa", false),
        (".*", "abc", false),
    ];
    for (pattern, path, expected) in table {
        let rules = rules(&[rule(&["*"], &[pattern])]);
        assert_eq!(rules.allow("shop", &on_default(path)), expected, "{pattern} {path}");
    }
}

#[test]
fn the_namespace_of_the_workload_is_taken_literally() {
    let table = [
        ("secret/data/{namespace}/*", "shop", "secret/data/shop/db", true),
        ("secret/data/{namespace}/*", "shop", "secret/data/shop2/db", false),
        ("secret/data/{namespace}/*", "shop", "secret/data/pay/db", false),
        ("secret/data/{namespace}-*/{namespace}", "a", "secret/data/a-x/a", true),
        ("secret/data/{namespace}-*/{namespace}", "a", "secret/data/a-x/b", false),
        // No Kubernetes namespace has this name. If one had, it would not be a pattern.
        ("secret/data/{namespace}/*", "*", "secret/data/shop/db", false),
        ("secret/data/{namespace}/*", "*", "secret/data/*/db", true),
        ("secret/data/{namespace}/*", "a/b", "secret/data/a/b/db", false),
        ("secret/data/{namespace}/*", "{namespace}", "secret/data/shop/db", false),
        ("secret/data/{namespace}*", "", "secret/data/shop", false),
        ("secret/data/{namespace}/*", "", "secret/data/db", false),
    ];
    for (pattern, namespace, path, expected) in table {
        let rules = rules(&[RuleText { namespaces: list(&["**"]), ..rule(&[], &[pattern]) }]);
        assert_eq!(
            rules.allow(namespace, &on_default(path)),
            expected,
            "{pattern} {namespace} {path}"
        );
    }
    let prod = rules(&[rule(&["prod-*", "infra"], &["**"])]);
    for (namespace, expected) in
        [("prod-a", true), ("prod-", true), ("prod", false), ("a-prod-a", false), ("infra", true)]
    {
        assert_eq!(prod.allow(namespace, &on_default("a")), expected, "{namespace}");
    }
}

#[test]
fn servers_and_vault_namespaces_are_told_apart() {
    let of_b = RuleText { servers: Some(list(&["b"])), ..rule(&["*"], &["secret/data/*"]) };
    let of_b = rules(&[of_b]);
    assert_eq!(of_b.servers().collect::<Vec<_>>(), ["b"]);
    assert!(of_b.allow("shop", &secret("b", "", "secret/data/a")));
    assert!(!of_b.allow("shop", &on_default("secret/data/a")));
    let table: [(&[&str], &str, bool); 16] = [
        (&[""], "", true),
        (&[""], "team", false),
        (&["team"], "", false),
        (&["team"], "team", true),
        (&["team"], "team/x", false),
        (&["team"], "Team", false),
        (&["team/*"], "team/x", true),
        (&["team/*"], "team", false),
        (&["team/**"], "team/x/y", true),
        (&["team/**"], "team", false),
        (&["{namespace}"], "shop", true),
        (&["{namespace}"], "pay", false),
        (&["*"], "team", true),
        // Only "" and ** match the root namespace.
        (&["*"], "", false),
        (&["**"], "", true),
        (&["", "team"], "team", true),
    ];
    for (patterns, vault_namespace, expected) in table {
        let vault_namespaces = Some(list(patterns));
        let rules = rules(&[RuleText { vault_namespaces, ..rule(&["*"], &["secret/data/*"]) }]);
        let secret = secret(DEFAULT_CONNECTION, vault_namespace, "secret/data/a");
        assert_eq!(rules.allow("shop", &secret), expected, "{patterns:?} {vault_namespace}");
    }
}

/// Servers take each of these for the root namespace, or may read it as another namespace.
#[test]
fn a_vault_namespace_that_is_spelt_oddly_is_the_one_that_the_server_takes_it_for_or_none() {
    for (pattern, is_root_allowed) in [("", true), ("*", false), ("team/**", false), ("*/*", false)]
    {
        let vault_namespaces = Some(list(&[pattern]));
        let rules = rules(&[RuleText { vault_namespaces, ..rule(&["*"], &["secret/data/*"]) }]);
        let allow = |name| rules.allow("shop", &secret(DEFAULT_CONNECTION, name, "secret/data/a"));
        for name in ["root", "Root", "ROOT"] {
            assert_eq!(allow(name), is_root_allowed, "{pattern} {name}");
        }
        for name in [
            ".",
            "..",
            "team/..",
            "team/../b",
            "team//b",
            "team/./b",
            " ",
            " team",
            "team\u{a0}",
            "root/team",
        ] {
            assert!(!allow(name), "{pattern} {name:?}");
        }
    }
    // A rule without Vault namespaces refuses such names, too: its paths are meant for a known
    // namespace.
    let rules = rules(&[rule(&["*"], &["**"])]);
    assert!(!rules.allow("shop", &secret(DEFAULT_CONNECTION, "team/..", "secret/data/a")));
    assert!(rules.allow("shop", &secret(DEFAULT_CONNECTION, "root", "secret/data/a")));
}

/// Returns the watched path of a reference.
fn watched(value: &str) -> Option<String> {
    let reference = parse("A", value).first()?.read();
    match reference {
        Reading::Watch(_, path) | Reading::WatchOdd(_, path, _) => Some(path),
        Reading::Skip(_) => None,
    }
}

#[test]
fn no_spelling_of_a_path_gets_around_the_rules() {
    let root = Some(list(&[""]));
    let own = RuleText { vault_namespaces: root, ..rule(&["*"], &["secret/data/{namespace}/*"]) };
    let deep = RuleText { namespaces: list(&["deep"]), ..rule(&[], &["secret/data/deep/**"]) };
    let rules = rules(&[own, deep]);
    let allowed = |namespace: &str, value: &str| {
        watched(value).map(|path| rules.allow(namespace, &on_default(&path)))
    };
    for value in [
        "vault:secret/data/shop/db#k",
        "vault:/secret//data/./shop/db/#k",
        "vault:secret/data/pay/../shop/db#k",
        "bao:secret/data/shop/db#k#0",
        "x${vault:secret/data/shop/db#k}",
    ] {
        assert_eq!(allowed("shop", value), Some(true), "{value}");
    }
    for path in [
        "secret/data/pay/db",
        "secret/data/shop/../pay/db",
        "secret/data/shop/x/../../pay/db",
        "secret//data//pay//db",
        "/secret/data/pay/db",
        "secret/data/shop//../pay/db",
        "./secret/data/pay/db",
        // For the server, each of these is another path, too.
        "Secret/data/shop/db",
        "secret/DATA/shop/db",
        "secret/data/Shop/db",
        "secret/data/shop%2Fdb",
        "secret%2Fdata/shop/db",
        "secret/data/%73hop/db",
        "secret/data/shop\\db",
        "secret/data/shop /db",
        " secret/data/shop/db",
        // A path that begins with a Vault namespace.
        "ns2/secret/data/shop/db",
        "root/secret/data/shop/db",
        "../secret/data/shop/db",
        // Other endpoints.
        "secret/metadata/shop/db",
        "secret/data/shop",
        "secret/data/shop/db/more",
        "sys/internal/ui/mounts/secret",
        "v1/secret/data/shop/db",
    ] {
        let value = format!("vault:{path}#k");
        assert_ne!(allowed("shop", &value), Some(true), "{value}");
    }
    // These name a secret in the own folder, whose name has such characters: the client encodes
    // them.
    for path in [
        "secret/data/shop/..%2Fpay%2Fdb",
        "secret/data/shop/%2e%2e",
        "secret/data/shop/db?list=true",
    ] {
        let watched = watched(&format!("vault:{path}#k")).unwrap();
        assert_eq!(watched, path);
        assert!(rules.allow("shop", &on_default(&watched)));
    }
    // The same holds under `**`.
    assert_eq!(allowed("deep", "vault:secret/data/deep/a/../b/c#k"), Some(true));
    assert_eq!(allowed("deep", "vault:secret/data/deep/../shop/db#k"), Some(false));
    assert_eq!(allowed("deep", "vault:secret/data/deep/a/../../shop/db#k"), Some(false));
}

#[test]
fn a_rule_that_cannot_be_used_names_the_field_and_the_remedy() {
    let path = |pattern: &str| rule(&["*"], &[pattern]);
    let namespace = |pattern: &str| rule(&[pattern], &["a"]);
    let vault = |patterns: &[&str], paths: Option<&[&str]>| RuleText {
        vault_namespaces: Some(list(patterns)),
        paths: paths.map(list),
        ..rule(&["*"], &[])
    };
    let long = "x".repeat(LONGEST_PATTERN + 1);
    let table = [
        (rule(&[], &["a"]), "namespaces", "\"*\" for all"),
        (rule(&["a"], &[]), "paths", "leave it out"),
        (RuleText { servers: Some(Vec::new()), ..path("a") }, "servers", "leave it out"),
        (vault(&[], Some(&["a"])), "vaultNamespaces", "leave it out"),
        (namespace("Shop"), "namespaces", "small letters"),
        (namespace("{namespace}"), "namespaces", "small letters"),
        (namespace("a/b"), "namespaces", "small letters"),
        (namespace(""), "namespaces", "empty part"),
        (path(""), "paths", "empty part"),
        (path("/a"), "paths", "empty part"),
        (path("a/"), "paths", "empty part"),
        (path("a//b"), "paths", "empty part"),
        (path("a/../b"), "paths", "dots"),
        (path("a/**/b"), "paths", "write a/**"),
        (path("a**"), "paths", "write a/**"),
        (path("***"), "paths", "write a/**"),
        (path("a/{name}"), "paths", "{namespace}"),
        (path("a/{namespace"), "paths", "{namespace}"),
        (path("a#k"), "paths", "without vault: and #KEY"),
        (path("vault:a"), "paths", "without vault: and #KEY"),
        (path("a\u{7}"), "paths", "control characters"),
        (path(" a"), "paths", "spaces"),
        (path(&long), "paths", "shorten it"),
        (vault(&["root"], Some(&["a"])), "vaultNamespaces", "write \"\""),
        (vault(&["a/"], Some(&["a"])), "vaultNamespaces", "empty part"),
        // Each of these would let a path begin with another Vault namespace.
        (vault(&[""], None), "paths", "add \"**\" to vaultNamespaces"),
        (vault(&["team"], None), "paths", "add \"team/**\" to vaultNamespaces"),
        (vault(&["team", "", "**/x"], Some(&["a"])), "vaultNamespaces", "write a/**"),
        (vault(&[""], Some(&["a/*", "*/data/x"])), "paths", "begin it with the mount"),
        (vault(&["a", "b"], Some(&["**"])), "paths", "add \"a/**\""),
        (vault(&["a", "a/**", "b"], Some(&["k*/**"])), "paths", "add \"b/**\""),
    ];
    for (text, field, remedy) in table {
        let error = Rule::new(&text).unwrap_err();
        assert_eq!(error.field, field, "{text:?}: {error:?}");
        assert!(error.problem.contains(remedy), "{text:?}: {error:?}");
    }
    for text in [
        vault(&["team", "team/**"], None),
        vault(&["**"], None),
        vault(&["", "**"], Some(&["*/data/x"])),
        vault(&["{namespace}", "{namespace}/**"], Some(&["**"])),
        vault(&[""], Some(&["{namespace}/**"])),
    ] {
        assert!(Rule::new(&text).is_ok(), "{text:?}");
    }
}

#[test]
fn hostile_texts_cost_no_more_than_their_length() {
    let pattern = "*a".repeat(1000) + "b";
    let rules = rules(&[rule(&["*"], &[&pattern])]);
    let path = on_default(&"a".repeat(2048));
    let start = Instant::now();
    for _ in 0..100 {
        assert!(!rules.allow("shop", &path));
    }
    // A matcher that goes back for each star would not finish in a year.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

//! The file of path rules.

use super::*;

/// Writes a file with rules. Returns its folder and the flag that names it.
fn with_rules(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yaml");
    std::fs::write(&file, text).unwrap();
    let flag = format!("--path-rules-file={}", file.display());
    (folder, flag)
}

#[test]
fn rules_say_which_namespaces_may_refer_to_which_paths() {
    let allows = |servers: &Servers, namespace: &str, path: &str| {
        let (connection, path) = (DEFAULT_CONNECTION.into(), path.into());
        servers.path_rules().allow(namespace, &SecretId { connection, namespace: None, path })
    };
    let servers = load(&[], &[ROLE]).unwrap().servers;
    assert!(allows(&servers, "shop", "secret/data/pay/a"), "any to any");
    let (_folder, flag) = with_rules(
        "rules:\n- namespaces: ['*']\n  paths: ['secret/data/{namespace}/*']\n\
         - namespaces: [infra]\n  servers: [default]\n  vaultNamespaces: ['**']\n",
    );
    let servers = load(&[&flag], &[ROLE]).unwrap().servers;
    assert!(allows(&servers, "shop", "secret/data/shop/a"));
    assert!(!allows(&servers, "shop", "secret/data/pay/a"));
    assert!(allows(&servers, "infra", "secret/data/pay/a"));
    // A rule may name a declared server.
    let (_folder, rules) = with_rules("rules: [{namespaces: ['*'], servers: [b]}]");
    let (_other, servers) =
        with_servers("servers: [{name: b, env: {VAULT_ADDR: 'http://b', VAULT_ROLE: r}}]");
    let servers = load(&[&servers, &rules], &[ROLE]).unwrap().servers;
    assert!(!allows(&servers, "shop", "secret/data/shop/a"));
}

#[test]
fn rules_that_cannot_be_used_are_refused_with_the_field_and_the_remedy() {
    let many = |count: usize, text: &str| vec![text; count].join(", ");
    let rules = |text: &str| format!("rules: [{text}]");
    let a = "{namespaces: [a]}";
    for (text, expected) in [
        ("", "write rules: [{namespaces:"),
        ("rules: 1", "write rules: [{namespaces:"),
        ("rules:", "write rules: [{namespaces:"),
        ("rules: []", "has no rule"),
        ("rule: []", "write rules: [{namespaces:"),
        ("rules: [{paths: [a]}]", "namespaces"),
        ("rules: [{namespaces: [a], path: [b]}]", "path"),
        ("rules: [{namespaces: [a], vault_namespaces: [b]}]", "vault_namespaces"),
        ("rules: [{namespaces: a}]", "write rules: [{namespaces:"),
        // A list whose elements were commented out does not count as left out.
        ("rules:\n- namespaces: [a]\n  paths:\n  # - b", "rule 1: paths: is empty"),
        ("rules: [{namespaces: [a], servers: []}]", "rule 1: servers: is empty"),
        (
            "rules: [{namespaces: [a]}, {namespaces: [A]}]",
            "rule 2: namespaces=\"A\": not a Kubernetes",
        ),
        ("rules: [{namespaces: [a], paths: [/b]}]", "rule 1: paths=\"/b\": has an empty part"),
        ("rules: [{namespaces: [a], servers: [b]}]", "servers=\"b\": no server has this name"),
        (&rules(&many(MOST_RULES + 1, a)), "more than 1,000 rules"),
        (&rules(&format!("{{namespaces: [{}]}}", many(MOST_PATTERNS + 1, "a"))), "10,000 patterns"),
        (&format!("{}#{}", rules(a), "x".repeat(256 << 10)), "longer than 256 KiB"),
    ] {
        let (_folder, flag) = with_rules(text);
        let error = load(&[&flag], &[ROLE]).unwrap_err();
        let shown = &text[..text.len().min(100)];
        assert!(error.contains(expected) && error.contains("rules.yaml"), "{shown}: {error}");
    }
    let (_folder, flag) = with_rules(&rules(&many(MOST_RULES, a)));
    load(&[&flag], &[ROLE]).unwrap();
    let error = load(&["--path-rules-file=/none.yaml"], &[ROLE]).unwrap_err();
    assert!(error.contains("/none.yaml") && error.contains("cannot be read"), "{error}");
}

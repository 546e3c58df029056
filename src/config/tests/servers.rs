//! The file of servers, and the addresses that workloads may name.

use super::*;

#[test]
fn the_lists_of_the_webhook_are_read() {
    let list = |value| {
        let config = load(&[], &[ROLE, ("VAULT_ADDR_ALLOWLIST", value)]).unwrap();
        meant(&config.servers, "https://vault:8200").1
    };
    assert_eq!(list("https://other, https://vault:8200/"), None);
    assert_eq!(list("https://other"), Some(Reason::AddressNotAllowed));
    // With this value, the addresses that the webhook allows are as unknown as without the
    // variable.
    assert_eq!(list(" "), None);
    let config = load(&[], &[ROLE, ("BAO_ADDR_ALLOWLIST", "https://other")]).unwrap();
    assert_eq!(meant(&config.servers, "https://vault:8200").1, None);
    let of_bao = [("secrets-webhook.security.bank-vaults.io/bao-addr", "https://vault:8200")];
    let (_, reason) = config.servers.meant_by(&of_bao.into_iter().collect(), Scheme::Bao);
    assert_eq!(reason, Some(Reason::AddressNotAllowed));
}

#[test]
fn other_servers_are_declared_by_a_file_and_take_nothing_from_the_default_one() {
    let (_folder, flag) = with_servers(
        r#"
servers:
  - name: default
    aliases: [https://vault.infra.svc:8200]
  - name: team-b
    aliases: ["https://vault.b.example.com/"]
    env:
      VAULT_ADDR: http://vault.b:8200
      VAULT_AUTH_METHOD: approle
      VAULT_ROLE_ID: reloader
      BAO_SECRET_ID_FILE: /etc/secret-id
      VAULT_NAMESPACE: 007
      VAULT_AUTH_NAMESPACE: /
      VAULT_SKIP_VERIFY: true
      VAULT_CLIENT_TIMEOUT: 3
      VAULT_TLS_SECRET: ca-of-b
      VAULT_IGNORE_MISSING_SECRETS: "1"
      VAULT_TOKEN_RENEW_THRESHOLD: 5m
  - name: c
    env: { VAULT_AGENT_ADDR: "http://127.0.0.1:8100", VAULT_ADDR: "https://c:8200", VAULT_AUTH_METHOD: none }
"#,
    );
    // With an agent, only the agent gets requests.
    let error = load(&[&flag], &[ROLE]).unwrap_err();
    assert!(error.contains("server c: VAULT_ADDR: is not used"), "{error}");
    let text = std::fs::read_to_string(flag.split_once('=').unwrap().1).unwrap();
    let (_folder, flag) = with_servers(&text.replace("VAULT_ADDR: \"https://c:8200\", ", ""));
    let environment = [
        ROLE,
        ("VAULT_ADDR", "https://vault:8200"),
        ("VAULT_CACERT_BYTES", "pem"),
        ("VAULT_NAMESPACE", "of-default"),
    ];
    let config = load(&[&flag, "--vault-token-renew-threshold=1m"], &environment).unwrap();
    let Config { connections, servers, warnings, .. } = config;
    let [vault, b, c] = &connections[..] else { panic!("three servers") };
    assert_eq!((&*vault.name, vault.threshold), ("default", Duration::from_mins(1)));
    assert_eq!((&*b.name, b.server.address.as_str()), ("team-b", "http://vault.b:8200/"));
    assert_eq!((b.server.namespace.as_deref(), b.server.timeout.as_secs()), (None, 3));
    assert!(matches!(b.method, Method::AppRole(_)) && b.ignore_missing);
    assert!(matches!(b.server.tls.authority, Authority::System));
    assert_eq!(b.threshold, Duration::from_mins(5));
    let ca = CaSecret { namespace: "default".to_owned(), name: "ca-of-b".to_owned() };
    assert_eq!(b.ca_secret, Some(ca));
    assert_eq!((&*c.name, c.server.address.as_str()), ("c", "http://127.0.0.1:8100/"));
    assert!(matches!(c.method, Method::None) && !c.ignore_missing);
    assert_eq!(c.threshold, Duration::from_mins(1));
    assert!(warnings[0].starts_with("server team-b: VAULT_SKIP_VERIFY"), "{warnings:?}");
    assert_eq!(warnings.len(), 1);
    for (address, name) in [
        ("", "default"),
        ("https://vault:8200", "default"),
        ("https://vault.infra.svc:8200", "default"),
        ("http://vault.b:8200", "team-b"),
        ("https://vault.b.example.com", "team-b"),
        ("http://127.0.0.1:8100", "c"),
    ] {
        assert_eq!(meant(&servers, address), (name.to_owned(), None));
    }
    assert_eq!(namespace_of(&servers).as_deref(), Some("of-default"));
    let of_b = "secrets-webhook.security.bank-vaults.io/vault-addr";
    let of_b = [(of_b, "http://vault.b:8200")].into_iter().collect();
    let namespace = &servers.meant_by(&of_b, Scheme::Vault).0.namespace;
    assert_eq!(namespace.as_deref(), Some("007"), "a text, as it was written");
    let not_declared = ("default".to_owned(), Some(Reason::AddressNotDeclared));
    assert_eq!(meant(&servers, "https://elsewhere:8200"), not_declared);
    let strict = load(&[&flag, "-refuse-undeclared-addresses"], &environment).unwrap().servers;
    assert_eq!(meant(&strict, "https://elsewhere:8200").1, Some(Reason::AddressRefused));
}

#[test]
fn files_of_a_server_that_are_not_there_yet_are_no_reason_not_to_start() {
    let files = "VAULT_CACERT: /no/such/ca, VAULT_CLIENT_CERT: /no/such/cert, \
                 VAULT_CLIENT_KEY: /no/such/key, VAULT_AUTH_METHOD: approle, \
                 VAULT_ROLE_ID_FILE: /no/such/role, VAULT_SECRET_ID_FILE: /no/such/id";
    for files in [files, "VAULT_CAPATH: /no/such/folder, VAULT_TOKEN_PATH: /no/such/token"] {
        let server =
            format!("servers: [{{name: b, env: {{VAULT_ADDR: 'https://b:8200', {files}}}}}]");
        let (_folder, flag) = with_servers(&server);
        let config = load(&[&flag], &[ROLE]).unwrap();
        assert_eq!(config.connections.len(), 2);
    }
}

#[test]
fn without_a_file_the_default_server_has_the_addresses_of_the_variables() {
    let agent = [("VAULT_AGENT_ADDR", "http://127.0.0.1:8100"), ("VAULT_ADDR", "https://v:8200")];
    for (environment, address) in [
        (&[ROLE][..], "https://vault:8200"),
        (&[ROLE, ("BAO_ADDR", "http://bao")], "http://bao:80"),
        (&agent, "http://127.0.0.1:8100"),
        (&agent, "https://v:8200"),
    ] {
        let servers = load(&[], environment).unwrap().servers;
        assert_eq!(meant(&servers, address), ("default".to_owned(), None), "{address}");
    }
}

#[test]
fn the_entry_of_the_default_server_adds_its_aliases_and_no_address_of_its_own() {
    let (_folder, flag) = with_servers(
        "servers: [{name: default, aliases: ['http://alias']}, \
         {name: b, env: {VAULT_ADDR: 'https://vault:8200', VAULT_ROLE: r}}]",
    );
    let environment = [ROLE, ("VAULT_ADDR", "https://elsewhere:8200")];
    let servers = load(&[&flag], &environment).unwrap().servers;
    for (address, name) in [
        ("http://alias", "default"),
        ("https://elsewhere:8200", "default"),
        ("https://vault:8200", "b"),
    ] {
        assert_eq!(meant(&servers, address), (name.to_owned(), None));
    }
}

#[test]
fn a_file_of_servers_that_cannot_be_used_is_refused_with_the_remedy() {
    let b = |env: &str| format!("servers: [{{name: b, env: {{{env}}}}}]");
    let at_b = |env: &str| b(&format!("VAULT_ADDR: 'http://b:8200', {env}"));
    for (text, expected) in [
        ("servers: 1", "write servers: [{name: NAME,"),
        ("server: []", "write servers: [{name: NAME,"),
        ("servers: [{name: b, adress: x}]", "adress"),
        ("servers: [{name: b}, {name: b}]", "two servers have the name b"),
        ("servers: [{name: B}]", "server B: name=\"B\": small letters"),
        ("servers: [{name: b-}]", "small letters"),
        ("servers: [{name: ''}]", "small letters"),
        ("servers: [{name: default, env: {VAULT_ADDR: 'http://x'}}]", "those of the environment"),
        (
            "servers: [{name: default, aliases: [vault]}]",
            "aliases=\"vault\": not an address of HTTP",
        ),
        (&b(""), "server b: VAULT_ADDR: not set"),
        (&b("VAULT_ADDR: nonsense, VAULT_ROLE: r"), "VAULT_ADDR=\"nonsense\": not an address"),
        (&b("VAULT_ADDR: 'https://vault:8200', VAULT_ROLE: r"), "servers default and b both have"),
        (&at_b(""), "server b: VAULT_ROLE: not set"),
        (
            &at_b("VAULT_TOKEN: hvs.secret"),
            "VAULT_TOKEN: a secret is not for this file; set VAULT_TOKEN_PATH",
        ),
        (&at_b("BAO_PASSWORD: hunter2"), "BAO_PASSWORD: a secret is not for this file"),
        (&at_b("VAULT_AWS_NONCE: a"), "VAULT_AWS_NONCE: a secret is not for this file"),
        (&at_b("AWS_SECRET_ACCESS_KEY: a"), "AWS_SECRET_ACCESS_KEY: a secret is not for this file"),
        (&at_b("VAULT_ROLE: r, VAULT_NAMSPACE: x"), "VAULT_NAMSPACE: is not used for this server"),
    ] {
        let (_folder, flag) = with_servers(text);
        let error = load(&[&flag], &[ROLE]).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(error.contains("servers.yaml"), "{error}");
        assert!(!error.contains("hunter2") && !error.contains("hvs.secret"), "{error}");
    }
    let error = load(&["--vault-servers-file=/none.yaml"], &[ROLE]).unwrap_err();
    assert!(error.contains("/none.yaml") && error.contains("cannot be read"), "{error}");
}

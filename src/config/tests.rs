//! Settings that are accepted, and settings that are refused.

use std::collections::HashMap;
use std::sync::Arc;

use secrecy::ExposeSecret;

use super::auth::POD_TOKEN;
use super::rules::{MOST_PATTERNS, MOST_RULES};
use super::*;
use crate::credentials::credential::Credential;
use crate::election::lease::Terms;
use crate::model::annotation::Annotations;
use crate::model::scheme::Scheme;
use crate::model::secret::SecretId;
use crate::references::reason::Reason;
use crate::rollouts::wave::WaveRules;
use crate::vault::login::Method;
use crate::vault::login::jwt::JwtSource;
use crate::vault::tls::Authority;

mod clouds;
mod path_rules;
mod servers;
mod status_api;
mod ways_in;

fn load(args: &[&str], variables: &[(&str, &str)]) -> Result<Config, String> {
    let args = ["vault-secrets-reloader"].iter().chain(args).map(OsString::from);
    let flags = Flags::parse_from(args).map_err(|error| error.to_string())?;
    let variables: HashMap<&str, &str> = variables.iter().copied().collect();
    Config::load(flags, |name| variables.get(name).map(|value| (*value).to_owned()))
        .map_err(|error| error.to_string())
}

/// Returns the Vault namespace of workloads that name neither a namespace nor a server.
fn namespace_of(servers: &Servers) -> Option<Arc<str>> {
    servers.meant_by(&Annotations::default(), Scheme::Vault).0.namespace.clone()
}

const ROLE: (&str, &str) = ("VAULT_ROLE", "reloader");

#[test]
fn defaults() {
    let config = load(&[], &[ROLE]).unwrap();
    assert_eq!(config.collector_sync_period, Duration::from_mins(30));
    assert_eq!(config.settings.period, Duration::from_mins(1));
    assert_eq!(config.connections[0].threshold, Duration::from_mins(3));
    assert_eq!(config.listen, Listen { host: None, port: 8080 });
    assert_eq!(config.connections[0].server.address.as_str(), "https://vault:8200/");
    assert_eq!(config.connections[0].server.timeout, Duration::from_secs(10));
    assert_eq!(config.connections[0].server.namespace, None, "an unset namespace is none");
    let Method::Jwt(login) = &config.connections[0].method else { panic!("a login") };
    assert_eq!((login.mount.as_str(), login.role.as_str()), ("kubernetes", "reloader"));
    assert_eq!(login.source, JwtSource::File(POD_TOKEN.into()));
    assert!(config.events);
    assert_eq!(config.injector.check, crate::rollouts::injector::InjectorCheck::Auto);
    assert_eq!(config.readable, ReadableSources { config_maps: true, secrets: false });
    assert!(config.warnings.is_empty());
}

#[test]
fn one_of_several_leads_unless_it_is_switched_off() {
    let election = |args: &[&str], variables: &[(&str, &str)]| {
        let all: Vec<_> = [ROLE].into_iter().chain(variables.iter().copied()).collect();
        load(args, &all).unwrap().leader_election
    };
    let default = election(&[], &[("POD_NAME", "reloader-x"), ("POD_NAMESPACE", "infra")]).unwrap();
    let terms = Terms {
        duration: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry_period: Duration::from_secs(2),
    };
    assert_eq!(
        default,
        LeaderElection {
            terms,
            name: "vault-secrets-reloader".to_owned(),
            namespace: Some("infra".to_owned()),
            replica: "reloader-x".to_owned(),
        }
    );
    // Outside a cluster: the machine's name, and the namespace of the kubeconfig.
    let outside = election(&["--leader-elect"], &[("POD_NAME", ""), ("POD_NAMESPACE", "")]);
    let outside = outside.unwrap();
    assert_eq!(outside.namespace, None);
    assert!(!outside.replica.is_empty() && !outside.replica.contains(char::is_whitespace));
    let other = election(
        &[
            "-leader-elect=T",
            "-leader-elect-lease-duration=2.1s",
            "-leader-elect-renew-deadline=2500ms",
            "-leader-elect-retry-period=500ms",
            "-leader-elect-resource-name=other",
            "-leader-elect-resource-namespace=there",
        ],
        &[("POD_NAMESPACE", "infra")],
    )
    .unwrap();
    assert_eq!((other.name.as_str(), other.namespace.as_deref()), ("other", Some("there")));
    assert_eq!(other.terms.duration, Duration::from_secs(3), "whole seconds, rounded up");
    for args in ["-leader-elect=false", "--leader-elect=0", "--leader-elect=F"] {
        assert_eq!(election(&[args], &[]), None);
    }
}

#[test]
fn flags_are_taken_as_go_programs_take_them() {
    for args in [
        &["-reloader-run-period=1h30m", "-enable-json-log", "-log-level", "debug"][..],
        &["--reloader-run-period", "1.5h", "--enable-json-log=true", "--log-level=debug"],
        &["-reloader-run-period", "90m", "-enable-json-log=T", "-log-level=debug"],
    ] {
        let config = load(args, &[ROLE]).unwrap();
        assert_eq!(config.settings.period, Duration::from_mins(90), "{args:?}");
        assert!(config.log.json, "{args:?}");
        assert_eq!(config.log.level, telemetry::Level::Debug, "{args:?}");
    }
    // The last value of a flag counts.
    let twice = load(&["-log-level=debug", "-log-level=warn"], &[ROLE]).unwrap();
    assert_eq!(twice.log.level, telemetry::Level::Warn);
    let config = load(&["-collector-sync-period=500ms"], &[ROLE]).unwrap();
    assert_eq!(config.collector_sync_period, Duration::from_millis(500));
}

#[test]
fn an_unknown_level_is_info_and_said() {
    let config = load(&["-log-level=chatty"], &[ROLE]).unwrap();
    assert_eq!(config.log.level, telemetry::Level::Info);
    assert!(config.warnings[0].contains("chatty"));
}

#[test]
fn variables_of_openbao_come_first_and_empty_ones_are_not_set() {
    let config = load(
        &[],
        &[
            ROLE,
            ("BAO_ADDR", "http://bao:8200"),
            ("VAULT_ADDR", "http://vault:8200"),
            ("VAULT_NAMESPACE", ""),
            ("BAO_PATH", "auth/k8s/"),
            ("KUBERNETES_SERVICE_ACCOUNT_TOKEN", "/token"),
        ],
    )
    .unwrap();
    assert_eq!(config.connections[0].server.address.as_str(), "http://bao:8200/");
    assert_eq!(config.connections[0].server.namespace, None);
    let Method::Jwt(login) = &config.connections[0].method else { panic!("a login") };
    assert_eq!((login.mount.as_str(), &login.source), ("k8s", &JwtSource::File("/token".into())));
}

#[test]
fn a_token_is_trimmed_and_wins_over_a_role() {
    let config = load(&[], &[ROLE, ("VAULT_TOKEN", "hvs.x\n")]).unwrap();
    let Method::Token(token) = &config.connections[0].method else { panic!("a token") };
    assert_eq!(token.expose_secret(), "hvs.x");
    let config = load(&[], &[("VAULT_TOKEN_PATH", "/sink")]).unwrap();
    assert!(matches!(config.connections[0].method, Method::TokenFile(_)));
}

#[test]
fn each_way_in_has_its_variables() {
    let method =
        |variables: &[(&str, &str)]| load(&[], variables).unwrap().connections.remove(0).method;
    let Method::AppRole(role) = method(&[
        ("VAULT_AUTH_METHOD", "approle"),
        ("VAULT_ROLE_ID", "role"),
        ("BAO_SECRET_ID_FILE", "/secret-id"),
    ]) else {
        panic!("an AppRole")
    };
    assert_eq!(role.mount, "approle");
    assert!(matches!(role.role_id, Credential::Text(_)) && role.secret_id.is_some());
    // A role may need no secret id.
    let Method::AppRole(role) = method(&[
        ("VAULT_AUTH_METHOD", "approle"),
        ("VAULT_ROLE_ID_FILE", "/role-id"),
        ("VAULT_PATH", "auth/machines"),
    ]) else {
        panic!("an AppRole")
    };
    assert_eq!((role.mount.as_str(), role.secret_id.is_none()), ("machines", true));
    let Method::UserPass { mount, username, password: Credential::Text(password) } = method(&[
        ("VAULT_AUTH_METHOD", "userpass"),
        ("VAULT_USERNAME", "jo@example.com"),
        ("VAULT_PASSWORD", "correct horse\n"),
    ]) else {
        panic!("a user")
    };
    assert_eq!((mount.as_str(), username.as_str()), ("userpass", "jo@example.com"));
    assert_eq!(password.expose_secret(), "correct horse");
    // With only the address of an agent, the agent logs in.
    let agent = ("VAULT_AGENT_ADDR", "http://127.0.0.1:8100");
    assert!(matches!(method(&[agent]), Method::None));
    assert!(matches!(method(&[agent, ROLE]), Method::Jwt { .. }));
    assert!(matches!(method(&[("VAULT_AUTH_METHOD", "none")]), Method::None));
    let token = [("VAULT_AUTH_METHOD", "token"), ("VAULT_TOKEN_PATH", "/sink")];
    assert!(matches!(method(&token), Method::TokenFile(_)));
}

#[test]
fn the_login_has_a_namespace_of_its_own_where_it_is_set() {
    let namespaces = |variables: &[(&str, &str)]| {
        let all: Vec<_> = [ROLE].into_iter().chain(variables.iter().copied()).collect();
        let config = load(&[], &all).unwrap();
        (config.connections[0].server.namespace.clone(), namespace_of(&config.servers))
    };
    let name = |name: &str| Some(name.into());
    let team = ("VAULT_NAMESPACE", "team");
    assert_eq!(namespaces(&[team]), (name("team"), name("team")));
    assert_eq!(namespaces(&[team, ("VAULT_AUTH_NAMESPACE", "/")]), (None, name("team")));
    assert_eq!(namespaces(&[("VAULT_AUTH_NAMESPACE", "admin/")]), (name("admin"), None));
}

#[test]
fn redirects_go_to_no_other_server_unless_it_is_named() {
    let redirects = |variables: &[(&str, &str)]| {
        let all: Vec<_> = [ROLE].into_iter().chain(variables.iter().copied()).collect();
        let redirects = load(&[], &all).unwrap().connections[0].server.redirects.clone();
        redirects.map(|urls| urls.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(redirects(&[]), Some(vec![]));
    assert_eq!(redirects(&[("VAULT_DISABLE_REDIRECTS", "true")]), None);
    let nodes = ("VAULT_REDIRECT_ADDRS", "https://vault-0:8200, https://vault-1:8200,");
    let expected = ["https://vault-0:8200/", "https://vault-1:8200/"].map(str::to_owned).to_vec();
    assert_eq!(redirects(&[nodes]), Some(expected));
}

#[test]
fn vault_is_pressed_as_hard_as_is_set() {
    let pace = |args: &[&str]| load(args, &[ROLE]).unwrap().pace;
    assert_eq!(pace(&[]), Pace::default());
    let gentle = pace(&["-vault-concurrency=2", "-vault-rate=50", "-vault-spread"]);
    let interval = Duration::from_millis(20);
    assert_eq!(gentle, Pace { at_once: 2, interval, is_spread: true, ..Pace::default() });
    let period = |args: &[&str]| load(args, &[ROLE]).unwrap().settings.start_within;
    assert_eq!(period(&[]), START_WITHIN);
    assert_eq!(period(&["-reloader-run-period=2s"]), Duration::from_secs(2));
}

#[test]
fn the_rest_of_the_variables() {
    let config = load(
        &[],
        &[
            ROLE,
            ("VAULT_CLIENT_TIMEOUT", "30"),
            ("VAULT_SKIP_VERIFY", "t"),
            ("VAULT_IGNORE_MISSING_SECRETS", "True"),
            ("VAULT_TLS_SECRET", "vault-tls"),
            ("VAULT_NAMESPACE", "/team/a/"),
            ("VAULT_TOKEN_RENEW_THRESHOLD", "10s"),
            ("VAULT_MAX_RETRIES", "3"),
            ("VAULT_TLS_SERVER_NAME", "vault.internal"),
            ("VAULT_CACERT_BYTES", "PEM"),
            ("LISTEN_ADDRESS", "[::1]:0"),
        ],
    )
    .unwrap();
    assert_eq!(config.connections[0].server.timeout, Duration::from_secs(30));
    assert!(config.connections[0].server.tls.skip_verify && config.connections[0].ignore_missing);
    assert_eq!(config.connections[0].server.tls.server_name.as_deref(), Some("vault.internal"));
    assert!(matches!(config.connections[0].server.tls.authority, Authority::Bytes(_)));
    assert_eq!(
        config.connections[0].ca_secret,
        Some(CaSecret { namespace: "default".to_owned(), name: "vault-tls".to_owned() })
    );
    assert_eq!(config.connections[0].server.namespace.as_deref(), Some("team/a"));
    assert_eq!(config.connections[0].threshold, Duration::from_secs(10));
    assert_eq!(config.listen, Listen { host: Some("::1".to_owned()), port: 0 });
    assert_eq!(config.connections[0].server.retries, 3);
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
}

#[test]
fn a_proxy_for_others_is_not_used_and_that_is_said() {
    let warned = |variables: &[(&str, &str)]| {
        let config = load(&[], &[&[ROLE], variables].concat()).unwrap();
        (
            config.connections[0].server.proxy.is_some(),
            config.warnings.iter().any(|it| it.contains("_PROXY is set")),
        )
    };
    let (plain, proxy) = (("VAULT_ADDR", "http://vault:8200"), "http://proxy:3128");
    assert_eq!(warned(&[("HTTPS_PROXY", proxy)]), (false, true));
    assert_eq!(warned(&[("https_proxy", proxy)]), (false, true));
    assert_eq!(warned(&[("HTTP_PROXY", proxy)]), (false, false), "Vault is asked by https");
    assert_eq!(warned(&[("HTTPS_PROXY", proxy), ("NO_PROXY", "vault")]), (false, false));
    assert_eq!(warned(&[("HTTPS_PROXY", proxy), ("no_proxy", "other")]), (false, true));
    assert_eq!(warned(&[plain, ("HTTP_PROXY", proxy)]), (false, true));
    assert_eq!(warned(&[("HTTPS_PROXY", proxy), ("VAULT_PROXY_ADDR", proxy)]), (true, false));
}

#[test]
fn what_cannot_be_used_is_refused_with_its_name_and_the_remedy() {
    let table: &[Case<'_>] = &[
        (&[], &[], "VAULT_ROLE: not set"),
        (
            &["-reloader-run-period=often"],
            &[ROLE],
            "--reloader-run-period=\"often\": not a duration",
        ),
        (&["-reloader-run-period=0s"], &[ROLE], "must be longer than zero"),
        (&["-reloader-run-period=500000000000y"], &[ROLE], "must be shorter than a year"),
        (&["-reloader-run-period=-5s"], &[ROLE], "not a duration"),
        (&["-enable-json-log=yes"], &[ROLE], "--enable-json-log=\"yes\": write true or false"),
        (&["-found-reload-rate=0"], &[ROLE], "--found-reload-rate=\"0\""),
        (&["--max-secrets-per-namespace=0"], &[ROLE], "--max-secrets-per-namespace=\"0\""),
        (&["-leader-elect=no"], &[ROLE], "--leader-elect=\"no\": write true or false"),
        (
            &["-leader-elect-lease-duration=10s"],
            &[ROLE],
            "--leader-elect-lease-duration=\"10s\": must be longer than \
             --leader-elect-renew-deadline=10s",
        ),
        (
            &["-leader-elect-renew-deadline=2s"],
            &[ROLE],
            "--leader-elect-renew-deadline=\"2s\": must be longer than \
             --leader-elect-retry-period=2s",
        ),
        (&["-leader-elect-lease-duration=900ms"], &[ROLE], "must be between 1s and 1h"),
        (&["-leader-elect-lease-duration=15h"], &[ROLE], "must be between 1s and 1h"),
        (&["-leader-elect-retry-period=1ms"], &[ROLE], "must be at least 100ms"),
        (&["-leader-elect-resource-name=A/b"], &[ROLE], "--leader-elect-resource-name=\"A/b\""),
        (&["-leader-elect-resource-name="], &[ROLE], "--leader-elect-resource-name=\"\""),
        (&[], &[ROLE, ("POD_NAMESPACE", "a b")], "POD_NAMESPACE=\"a b\": not a name"),
        (&["-ignore-versions-before=monday"], &[ROLE], "--ignore-versions-before=\"monday\""),
        (&["--freeze-until=soon"], &[ROLE], "--freeze-until=\"soon\": is not a time; write 2026-"),
        (
            &["--freeze-until=2026-12-24", "--reload-windows=allow 0 22 * * * 8h; never"],
            &[ROLE],
            "--reload-windows=\"allow 0 22 * * * 8h; never\": has a window that begins with neither",
        ),
        (&["-no-such-flag"], &[ROLE], "--no-such-flag"),
        (
            &[],
            &[ROLE, ("VAULT_SKIP_VERIFY", "no")],
            "VAULT_SKIP_VERIFY=\"no\": write true or false",
        ),
        (&[], &[ROLE, ("VAULT_ADDR", "vault:8200")], "VAULT_ADDR=\"vault:8200\": not an address"),
        (&[], &[ROLE, ("VAULT_AUTH_METHOD", "ldap")], "VAULT_AUTH_METHOD=\"ldap\""),
        (
            &[],
            &[ROLE, ("VAULT_TLS_SERVER_NAME", "10.0.0.1")],
            "VAULT_TLS_SERVER_NAME=\"10.0.0.1\": not the name of a host",
        ),
        (
            &[],
            &[
                ROLE,
                ("VAULT_TLS_SERVER_NAME", "vault"),
                ("VAULT_REDIRECT_ADDRS", "https://vault-0:8200"),
            ],
            "VAULT_REDIRECT_ADDRS: does not go with VAULT_TLS_SERVER_NAME",
        ),
        (
            &[],
            &[ROLE, ("VAULT_REDIRECT_ADDRS", "https://a:8200,b:8200")],
            "VAULT_REDIRECT_ADDRS=\"b:8200\"",
        ),
        (&["-vault-rate=0"], &[ROLE], "--vault-rate=\"0\": not a whole number above zero"),
        (&["-vault-concurrency=1000"], &[ROLE], "must not be more than 256"),
        (&[], &[ROLE, ("VAULT_PATH", "a?b")], "VAULT_PATH=\"a?b\""),
        (&[], &[ROLE, ("VAULT_CLIENT_TIMEOUT", "0")], "VAULT_CLIENT_TIMEOUT=\"0\""),
        (&[], &[ROLE, ("VAULT_CLIENT_CERT", "/x")], "VAULT_CLIENT_KEY is missing"),
        (&[], &[ROLE, ("VAULT_NAMESPACE", "tëam")], "VAULT_NAMESPACE=\"tëam\""),
        (&[], &[ROLE, ("LISTEN_ADDRESS", "8080")], "LISTEN_ADDRESS=\"8080\""),
    ];
    expect_refusals(table);
}

#[test]
fn the_rules_for_rollouts_can_be_switched_off_one_by_one() {
    let settings = load(&[], &[ROLE]).unwrap().settings;
    let rules = settings.rollouts;
    assert_eq!(rules.waves, Some(WaveRules::default()));
    assert_eq!((rules.limits.in_all, rules.limits.per_namespace), (Some(200), Some(50)));
    assert_eq!(rules.shortest_interval, Duration::from_mins(1));
    assert_eq!(rules.timeout, Duration::from_mins(10));
    assert!(settings.heeds_owners);
    let off = [
        "-waves=false",
        "-max-rollouts=0",
        "-max-rollouts-per-namespace=0",
        "-reload-min-interval=0s",
        "-secret-reload-policies=false",
    ];
    let settings = load(&off, &[ROLE]).unwrap().settings;
    let rules = settings.rollouts;
    assert_eq!((rules.waves, rules.shortest_interval), (None, Duration::ZERO));
    assert_eq!((rules.limits.in_all, rules.limits.per_namespace), (None, None));
    assert!(!settings.heeds_owners);
    expect_refusals(&[
        (&["-wave-step=0%"], &[ROLE], "--wave-step=\"0%\": not a percentage"),
        (&["-wave-first=0"], &[ROLE], "--wave-first=\"0\": not a whole number above zero"),
        (&["-max-rollouts=many"], &[ROLE], "--max-rollouts=\"many\": not a whole number"),
        (&["-reload-min-interval=2h"], &[ROLE], "must be 1h or less"),
        (&["-waves=off"], &[ROLE], "--waves=\"off\": write true or false"),
    ]);
}

#[test]
fn ways_in_that_do_not_fit_together_are_refused() {
    let table: &[Case<'_>] = &[
        (&[], &[("VAULT_AUTH_METHOD", "approle")], "VAULT_ROLE_ID: not set"),
        (
            &[],
            &[ROLE, ("VAULT_SECRET_ID", "x")],
            "VAULT_SECRET_ID: is for VAULT_AUTH_METHOD=approle",
        ),
        (
            &[],
            &[
                ("VAULT_AUTH_METHOD", "approle"),
                ("VAULT_ROLE_ID", "x"),
                ("VAULT_SECRET_ID_WRAPPED", "1"),
            ],
            "VAULT_SECRET_ID_WRAPPED: is set, and no secret id",
        ),
        (
            &[],
            &[
                ("VAULT_AUTH_METHOD", "approle"),
                ("VAULT_ROLE_ID", "x"),
                ("VAULT_ROLE_ID_FILE", "/x"),
            ],
            "VAULT_ROLE_ID: VAULT_ROLE_ID_FILE is set as well",
        ),
        (
            &[],
            &[("VAULT_AUTH_METHOD", "userpass"), ("VAULT_PASSWORD", "x")],
            "VAULT_USERNAME: not set",
        ),
        (
            &[],
            &[
                ("VAULT_AUTH_METHOD", "userpass"),
                ("VAULT_USERNAME", "a/b"),
                ("VAULT_PASSWORD", "x"),
            ],
            "VAULT_USERNAME=\"a/b\": not the name of a user",
        ),
        (
            &[],
            &[("VAULT_AUTH_METHOD", "none"), ("VAULT_TOKEN", "hvs.x")],
            "VAULT_TOKEN: does not go with VAULT_AUTH_METHOD=none",
        ),
        (&[], &[("VAULT_AUTH_METHOD", "token")], "VAULT_TOKEN: not set"),
        (
            &[],
            &[ROLE, ("VAULT_AUTH_METHOD", "approle"), ("VAULT_ROLE_ID", "x")],
            "VAULT_ROLE: does not go with VAULT_AUTH_METHOD=approle",
        ),
        (&[], &[("VAULT_AUTH_METHOD", "cert")], "VAULT_CLIENT_CERT: not set"),
    ];
    expect_refusals(table);
}

/// Flags, variables, and a part of the refusal.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);

fn expect_refusals(table: &[Case<'_>]) {
    for (args, variables, expected) in table {
        let error = load(args, variables).expect_err(expected);
        assert!(error.contains(expected), "{error:?} should say {expected:?}");
    }
}

#[test]
fn debug_output_holds_no_secret_whatever_the_way_in() {
    let ways: [&[(&str, &str)]; 4] = [
        &[("VAULT_TOKEN", "hvs.HIDDEN")],
        &[
            ("VAULT_AUTH_METHOD", "approle"),
            ("VAULT_ROLE_ID", "HIDDEN"),
            ("VAULT_SECRET_ID", "HIDDEN"),
        ],
        &[
            ("VAULT_AUTH_METHOD", "approle"),
            ("VAULT_ROLE_ID", "HIDDEN"),
            ("VAULT_SECRET_ID", "HIDDEN"),
            ("VAULT_SECRET_ID_WRAPPED", "true"),
        ],
        &[
            ("VAULT_AUTH_METHOD", "userpass"),
            ("VAULT_USERNAME", "reloader"),
            ("VAULT_PASSWORD", "HIDDEN"),
        ],
    ];
    for way in ways {
        let shown = format!("{:?}", load(&[], way).unwrap());
        assert!(shown.contains("method") && !shown.contains("HIDDEN"), "{shown}");
    }
}

#[test]
fn an_error_never_repeats_a_secret() {
    let user = [("VAULT_AUTH_METHOD", "userpass"), ("VAULT_USERNAME", "reloader")];
    let given = [user[0], user[1], ("VAULT_PASSWORD_FILE", "HIDDEN")];
    let error = load(&[], &given).unwrap_err();
    assert!(error.starts_with("VAULT_PASSWORD_FILE: ") && !error.contains("HIDDEN"), "{error}");
    for (name, value) in [
        ("VAULT_TOKEN", "hvs HIDDEN"),
        ("VAULT_ADDR", "https://user:HIDDEN@vault:8200"),
        ("VAULT_PROXY_ADDR", "socks9://user:HIDDEN@proxy"),
        ("VAULT_CLIENT_KEY", "-----BEGIN PRIVATE KEY-----HIDDEN"),
        ("VAULT_TOKEN_PATH", "hvs.HIDDEN"),
        ("VAULT_TOKEN_PATH", "b.HIDDEN"),
        ("KUBERNETES_SERVICE_ACCOUNT_TOKEN", "eyJHIDDEN"),
        ("VAULT_SECRET_ID", "HIDDEN"),
        ("VAULT_PASSWORD", "HIDDEN"),
        ("VAULT_SECRET_ID_FILE", "HIDDEN"),
        ("VAULT_PASSWORD_FILE", "HIDDEN"),
        ("VAULT_CACERT", "-----BEGIN CERTIFICATE-----\nHIDDEN"),
    ] {
        let error = load(&[], &[ROLE, (name, value)]).unwrap_err();
        assert!(error.starts_with(name) && !error.contains("HIDDEN"), "{error}");
    }
}

/// Writes a file with servers. Returns its folder and the flag that names it.
fn with_servers(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("servers.yaml");
    std::fs::write(&file, text).unwrap();
    let flag = format!("--vault-servers-file={}", file.display());
    (folder, flag)
}

/// Returns the server that an address means.
fn meant(servers: &Servers, address: &str) -> (String, Option<Reason>) {
    let key = "secrets-webhook.security.bank-vaults.io/vault-addr";
    let annotations = [(key, address)].into_iter().collect();
    let (server, reason) = servers.meant_by(&annotations, Scheme::Vault);
    (server.name.to_string(), reason)
}

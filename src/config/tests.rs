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
fn the_identities_of_google_and_azure_log_in_at_their_usual_mounts() {
    for (name, mount) in
        [("gcp", "gcp"), ("gcp-gce", "gcp"), ("gcp-iam", "gcp"), ("azure", "azure")]
    {
        let given = |path| {
            let variables = [ROLE, ("VAULT_AUTH_METHOD", name), ("VAULT_PATH", path)];
            match load(&[], &variables).unwrap().connections.remove(0).method {
                Method::Cloud(login) => (login.mount, login.role),
                _ => panic!("{name} is a login of a cloud"),
            }
        };
        assert_eq!(given(""), (mount.to_owned(), "reloader".to_owned()));
        assert_eq!(given("auth/other").0, "other");
        let without_role = load(&[], &[("VAULT_AUTH_METHOD", name)]).unwrap_err();
        assert!(without_role.starts_with("VAULT_ROLE: not set"), "{without_role}");
        let file = ("VAULT_JWT_FILE", "/jwt");
        let with_file = load(&[], &[ROLE, ("VAULT_AUTH_METHOD", name), file]).unwrap_err();
        let expected =
            format!("VAULT_JWT_FILE: does not go with VAULT_AUTH_METHOD={name}; remove one");
        assert!(with_file.starts_with(&expected), "{with_file}");
    }
}

#[test]
fn variables_of_google_and_azure_go_with_their_methods_only() {
    expect_refusals(&[
        (
            &[],
            &[ROLE, ("VAULT_AUTH_METHOD", "gcp"), ("VAULT_GCP_SERVICE_ACCOUNT", "a@b")],
            "VAULT_GCP_SERVICE_ACCOUNT: is for VAULT_AUTH_METHOD=gcp-iam",
        ),
        (
            &[],
            &[ROLE, ("BAO_AZURE_RESOURCE", "api://a")],
            "BAO_AZURE_RESOURCE: is for VAULT_AUTH_METHOD=azure",
        ),
        (
            &[],
            &[ROLE, ("VAULT_AUTH_METHOD", "azure"), ("VAULT_TOKEN", "hvs.x")],
            "VAULT_TOKEN: does not go with VAULT_AUTH_METHOD=azure",
        ),
    ]);
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
fn the_identities_of_aws_log_in_at_their_usual_mount_and_have_their_variables() {
    for name in ["aws", "aws-iam", "aws-ec2"] {
        let login = [ROLE, ("VAULT_AUTH_METHOD", name)];
        let Method::Cloud(cloud) = load(&[], &login).unwrap().connections.remove(0).method else {
            panic!("{name} is a login of a cloud")
        };
        assert_eq!((cloud.mount.as_str(), cloud.role.as_str()), ("aws", "reloader"));
        let warnings = load(&[], &login).unwrap().warnings;
        assert_eq!(warnings.len(), usize::from(name == "aws-ec2"), "{warnings:?}");
        let without_role = load(&[], &login[1..]).unwrap_err();
        assert!(without_role.starts_with("VAULT_ROLE: not set"), "{without_role}");
    }
    let (iam, ec2) = (("VAULT_AUTH_METHOD", "aws"), ("VAULT_AUTH_METHOD", "aws-ec2"));
    expect_refusals(&[
        (&[], &[ROLE, ec2, ("VAULT_AWS_REGION", "a")], "is for VAULT_AUTH_METHOD=aws-iam"),
        (&[], &[ROLE, ec2, ("BAO_AWS_HEADER_VALUE", "a")], "is for VAULT_AUTH_METHOD=aws-iam"),
        (&[], &[ROLE, ("VAULT_AWS_STS_ENDPOINT", "a")], "is for VAULT_AUTH_METHOD=aws-iam"),
        (&[], &[ROLE, iam, ("VAULT_AWS_NONCE", "a")], "is for VAULT_AUTH_METHOD=aws-ec2"),
        (&[], &[ROLE, iam, ("VAULT_AWS_NONCE_FILE", "/a")], "is for VAULT_AUTH_METHOD=aws-ec2"),
        (&[], &[ROLE, iam, ("VAULT_TOKEN", "hvs.x")], "does not go with VAULT_AUTH_METHOD=aws"),
        (
            &[],
            &[ROLE, ec2, ("VAULT_JWT_FILE", "/a")],
            "VAULT_JWT_FILE: does not go with VAULT_AUTH",
        ),
    ]);
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

/// Parses the flags of the status API.
fn status_api(
    address: &str,
    file: Option<&str>,
    kubernetes_auth: &str,
    audience: &str,
) -> Result<Option<StatusApi>, ConfigError> {
    status::api(StatusFlags {
        address: address.to_owned(),
        token_file: file.map(str::to_owned),
        kubernetes_auth: kubernetes_auth.to_owned(),
        audience: audience.to_owned(),
        page: "false".to_owned(),
    })
}

#[test]
fn the_status_is_served_to_this_machine_or_by_token() {
    let api = |address: &str, file: Option<&str>| status_api(address, file, "false", "a");
    let default = api(status::DEFAULT_ADDRESS, None).unwrap().unwrap();
    assert!(default.is_default && default.is_loopback && !default.needs_token());
    assert_eq!(default.listen, Listen { host: Some("127.0.0.1".to_owned()), port: 9180 });
    assert_eq!(api("", None), Ok(None));
    for loopback in ["localhost:0", "127.0.0.9:9180", "[::1]:9180"] {
        assert!(api(loopback, None).unwrap().unwrap().is_loopback, "{loopback}");
    }
    for elsewhere in [":9180", "0.0.0.0:9180", "[::]:9180", "10.0.0.1:9180", "vault.example:9180"] {
        let error = api(elsewhere, None).unwrap_err().to_string();
        for flag in ["--status-token-file", "--status-kubernetes-auth"] {
            assert!(error.contains(flag), "{error}");
        }
        assert!(!api(elsewhere, Some("/run/token")).unwrap().unwrap().is_loopback, "{elsewhere}");
        let by_cluster = status_api(elsewhere, None, "true", "ours").unwrap().unwrap();
        assert_eq!(by_cluster.audience.as_deref(), Some("ours"), "{elsewhere}");
    }
    let error = api("9180", None).unwrap_err().to_string();
    assert!(error.contains("--status-address") && error.contains("HOST:PORT"), "{error}");
    let error = api("", Some("hvs.secret")).unwrap_err().to_string();
    assert!(error.contains("--status-token-file") && !error.contains("hvs.secret"), "{error}");
    for (is_on, audience, expected) in [
        ("yes", "ours", "--status-kubernetes-auth=\"yes\": write true or false"),
        ("true", "", "--status-audience=\"\": not an audience"),
        ("true", "a b", "--status-audience=\"a b\": not an audience"),
    ] {
        let error = status_api(":9180", None, is_on, audience).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn the_page_is_served_if_it_is_switched_on() {
    for (args, expected) in [
        (&[][..], false),
        (&["--status-page"], true),
        (&["--status-page=true"], true),
        (&["--status-page=false"], false),
    ] {
        let config = load(args, &[ROLE]).unwrap();
        assert_eq!(config.status.map(|status| status.page), Some(expected), "{args:?}");
    }
    let error = load(&["--status-page", "--status-address="], &[ROLE]).unwrap_err();
    assert!(error.contains("--status-page") && error.contains("is empty"), "{error}");
    assert!(load(&["--status-page=maybe"], &[ROLE]).is_err());
}

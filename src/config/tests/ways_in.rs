//! Servers behind a path, a Unix socket or an access proxy, and how requests are sent to them.

use std::path::PathBuf;

use reqwest::Url;

use super::*;
use crate::vault::headers::Headers;
use crate::vault::limiter::RateLimit;

/// Returns the default server with some variables.
fn connection(variables: &[(&str, &str)]) -> Connection {
    load(&[], &[&[ROLE], variables].concat()).unwrap().connections.remove(0)
}

fn warnings(variables: &[(&str, &str)]) -> Vec<String> {
    load(&[], &[&[ROLE], variables].concat()).unwrap().warnings
}

#[test]
fn an_address_may_have_a_path_that_workloads_name_as_well() {
    for (text, expected) in [
        ("https://gw.example/vault", "https://gw.example/vault"),
        ("https://gw.example:443/vault/", "https://gw.example/vault"),
        ("https://GW.example/a/B-1._~//", "https://gw.example/a/B-1._~"),
        ("http://[::1]:8200/v", "http://[::1]:8200/v"),
        ("https://gw.example/", "https://gw.example/"),
    ] {
        for name in ["VAULT_ADDR", "BAO_ADDR", "VAULT_AGENT_ADDR"] {
            let config = load(&[], &[ROLE, (name, text)]).unwrap();
            assert_eq!(config.connections[0].server.address.as_str(), expected, "{name} {text}");
            assert_eq!(meant(&config.servers, text), ("default".to_owned(), None), "{text}");
        }
    }
    let servers = load(&[], &[ROLE, ("VAULT_ADDR", "https://gw.example/vault/")]).unwrap().servers;
    for (address, reason) in [
        ("https://gw.example:443/vault", None),
        ("https://gw.example", Some(Reason::AddressNotDeclared)),
        ("https://gw.example/vault/more", Some(Reason::AddressNotDeclared)),
        ("https://gw.example/vaults", Some(Reason::AddressNotDeclared)),
    ] {
        assert_eq!(meant(&servers, address).1, reason, "{address}");
    }
}

#[test]
fn two_servers_may_share_a_host_if_their_paths_differ() {
    let (_folder, flag) = with_servers(
        "servers: [{name: b, env: {VAULT_ADDR: 'https://gw.example/b/', VAULT_ROLE: r}}]",
    );
    let config = load(&[&flag], &[ROLE, ("VAULT_ADDR", "https://gw.example/a")]).unwrap();
    assert_eq!(config.connections[1].server.address.as_str(), "https://gw.example/b");
    for (address, name) in [("https://gw.example/a", "default"), ("https://gw.example/b", "b")] {
        assert_eq!(meant(&config.servers, address), (name.to_owned(), None));
    }
}

#[test]
fn redirects_may_lead_to_a_path() {
    let nodes = ("VAULT_REDIRECT_ADDRS", "https://gw.example/vault/, https://vault-1:8200");
    let redirects = connection(&[nodes]).server.redirects.unwrap();
    let redirects: Vec<&str> = redirects.iter().map(Url::as_str).collect();
    assert_eq!(redirects, ["https://gw.example/vault", "https://vault-1:8200/"]);
}

#[test]
fn a_path_that_can_lead_elsewhere_is_refused() {
    for path in ["/a//b", "/../a", "/a/..", "/a/.", "/a/%2e%2e/b", "/a%2fb", "/a b", "/a\\b", "/ä"]
    {
        for name in ["VAULT_ADDR", "VAULT_AGENT_ADDR", "VAULT_REDIRECT_ADDRS"] {
            let text = format!("https://gw.example{path}");
            let error = load(&[], &[ROLE, (name, &text)]).unwrap_err();
            assert!(
                error.starts_with(name) && error.contains("holds a path with a part"),
                "{error}"
            );
        }
    }
    expect_refusals(&[
        (&[], &[ROLE, ("VAULT_ADDR", "https://v/x?y")], "holds a query or a fragment"),
        (&[], &[ROLE, ("VAULT_ADDR", "https://v/x#y")], "holds a query or a fragment"),
        (&[], &[ROLE, ("VAULT_ADDR", "https://u@v/x")], "VAULT_ADDR: holds a user or a password"),
        (&[], &[ROLE, ("VAULT_PROXY_ADDR", "http://proxy/x")], "holds a path, which is not"),
    ]);
}

#[test]
fn an_address_that_ends_with_the_version_is_said() {
    let said = warnings(&[("VAULT_ADDR", "https://vault:8200/v1/")]);
    assert!(said[0].contains("go to https://vault:8200/v1/v1/"), "{said:?}");
    assert!(warnings(&[("VAULT_ADDR", "https://vault:8200/v1/x")]).is_empty());
}

#[test]
fn requests_go_through_a_socket() {
    let server = connection(&[
        ("VAULT_AGENT_ADDR", "unix:///run/vault/agent.sock"),
        ("VAULT_ADDR", "https://vault:8200"),
        ("VAULT_SKIP_VERIFY", "false"),
        ("HTTP_PROXY", "http://proxy:3128"),
    ])
    .server;
    assert_eq!(server.socket, Some(PathBuf::from("/run/vault/agent.sock")));
    assert_eq!(server.address.as_str(), "http://localhost/");
    assert_eq!(server.shown_address(), "unix:///run/vault/agent.sock");
    assert_eq!(server.redirects, None);
    // With only the address of an agent, the agent logs in.
    let config = load(&[], &[("VAULT_AGENT_ADDR", "unix:///run/vault/agent.sock")]).unwrap();
    assert!(matches!(config.connections[0].method, Method::None));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    assert_eq!(connection(&[("VAULT_ADDR", "unix:///a")]).server.socket, Some("/a".into()));
    // The address of the server behind the agent is the one that workloads name.
    let agent = ("VAULT_AGENT_ADDR", "unix:///run/agent.sock");
    let both = load(&[], &[agent, ("VAULT_ADDR", "https://vault:8200"), ROLE]).unwrap();
    assert_eq!(meant(&both.servers, "https://vault:8200").1, None);
    assert_eq!(meant(&both.servers, "https://else").1, Some(Reason::AddressNotDeclared));
}

#[test]
fn what_does_not_go_with_a_socket_is_refused() {
    let socket = ("VAULT_ADDR", "unix:///run/agent.sock");
    for (name, value) in [
        ("VAULT_CACERT", "/ca"),
        ("VAULT_CACERT_BYTES", "pem"),
        ("VAULT_CAPATH", "/ca"),
        ("VAULT_CLIENT_CERT", "/cert"),
        ("BAO_CLIENT_KEY", "/key"),
        ("VAULT_TLS_SECRET", "vault-tls"),
        ("VAULT_TLS_SERVER_NAME", "vault"),
        ("VAULT_SKIP_VERIFY", "true"),
        ("VAULT_SRV_LOOKUP", "true"),
        ("VAULT_PROXY_ADDR", "http://proxy"),
        ("VAULT_HTTP_PROXY", "http://proxy"),
        ("VAULT_REDIRECT_ADDRS", "https://vault-0:8200"),
    ] {
        let error = load(&[], &[ROLE, socket, (name, value)]).unwrap_err();
        let expected = format!("{name}: does not go with the Unix socket of VAULT_ADDR");
        assert!(error.starts_with(&expected), "{error}");
    }
    let long = format!("unix:///{}", "x".repeat(107));
    expect_refusals(&[
        (&[], &[ROLE, ("VAULT_ADDR", "unix://run/a.sock")], "write unix:///PATH"),
        (&[], &[ROLE, ("VAULT_ADDR", "unix:///")], "write unix:///PATH"),
        (&[], &[ROLE, ("VAULT_ADDR", "unix:/run/a.sock")], "not an address of HTTP"),
        (&[], &[ROLE, ("VAULT_ADDR", &long)], "is longer than 107 bytes"),
        (&[], &[ROLE, ("VAULT_REDIRECT_ADDRS", "unix:///a")], "not an address of HTTP"),
        (&[], &[socket, ("VAULT_AUTH_METHOD", "cert"), ("VAULT_ROLE", "r")], "VAULT_CLIENT_CERT"),
    ]);
}

#[test]
fn a_declared_server_behind_a_socket_needs_a_name_for_workloads() {
    let server = |aliases: &str| {
        with_servers(&format!(
            "servers: [{{name: b, aliases: [{aliases}], \
             env: {{VAULT_AGENT_ADDR: 'unix:///run/b.sock', VAULT_AUTH_METHOD: none}}}}]"
        ))
    };
    let (_folder, flag) = server("");
    let error = load(&[&flag], &[ROLE]).unwrap_err();
    assert!(error.contains("server b: aliases: not set"), "{error}");
    let (_folder, flag) = server("'https://b:8200'");
    let config = load(&[&flag], &[ROLE]).unwrap();
    assert_eq!(meant(&config.servers, "https://b:8200"), ("b".to_owned(), None));
    assert_eq!(config.connections[1].server.socket, Some("/run/b.sock".into()));
}

#[test]
fn headers_are_given_or_in_a_file() {
    assert!(matches!(connection(&[]).server.headers, Headers::None));
    let given = connection(&[("VAULT_HEADERS", r#"{"X-Access": "HIDDEN"}"#)]);
    let Headers::Given(headers) = &given.server.headers else { panic!("headers") };
    assert_eq!(headers["x-access"], "HIDDEN");
    let shown = format!("{given:?}");
    assert!(shown.contains("x-access") && !shown.contains("HIDDEN"), "{shown}");
    let file = connection(&[("BAO_HEADERS_FILE", "/etc/headers")]).server.headers;
    let Headers::File(path) = file else { panic!("a file") };
    assert_eq!(path, PathBuf::from("/etc/headers"));
}

#[test]
fn headers_that_cannot_be_sent_are_refused_and_not_repeated() {
    for (variables, expected) in [
        (&[("VAULT_HEADERS", "HIDDEN")][..], "VAULT_HEADERS: is not a JSON object"),
        (&[("VAULT_HEADERS", r#"{"X-Vault-Token": "HIDDEN"}"#)], "which only the controller sets"),
        (&[("VAULT_HEADERS_FILE", "HIDDEN")], "VAULT_HEADERS_FILE: does not begin with a slash"),
        (
            &[("VAULT_HEADERS", r#"{"a": "HIDDEN"}"#), ("VAULT_HEADERS_FILE", "/a")],
            "VAULT_HEADERS: VAULT_HEADERS_FILE is set as well",
        ),
    ] {
        let error = load(&[], &[&[ROLE], variables].concat()).unwrap_err();
        assert!(error.contains(expected) && !error.contains("HIDDEN"), "{error}");
    }
    let server = |name: &str, value: &str| {
        format!(
            "servers: [{{name: b, \
             env: {{VAULT_ADDR: 'http://b:8200', VAULT_ROLE: r, {name}: '{value}'}}}}]"
        )
    };
    let (_folder, flag) = with_servers(&server("VAULT_HEADERS", "{\"a\": \"HIDDEN\"}"));
    let error = load(&[&flag], &[ROLE]).unwrap_err();
    assert!(error.contains("set VAULT_HEADERS_FILE") && !error.contains("HIDDEN"), "{error}");
    let (_folder, flag) = with_servers(&server("VAULT_HEADERS_FILE", "/no/such/headers"));
    assert_eq!(load(&[&flag], &[ROLE]).unwrap().connections.len(), 2);
}

#[test]
fn a_rate_limit_is_that_of_the_official_client() {
    let rate = |text: &str| {
        let RateLimit { interval, burst } =
            connection(&[("VAULT_RATE_LIMIT", text)]).server.rate.unwrap();
        (interval, burst)
    };
    assert_eq!(connection(&[]).server.rate, None);
    assert_eq!(rate("50"), (Duration::from_millis(20), 50));
    assert_eq!(rate("2.5"), (Duration::from_millis(400), 2));
    // The official client has no burst here, and sends without a limit.
    assert_eq!(rate("0.5"), (Duration::from_secs(2), 1));
    assert_eq!(rate("10:20"), (Duration::from_millis(100), 20));
    for text in ["0", "-1", "NaN", "inf", "0.01", "fast", "10:", "10:0", "10:x", "10:20:30", ":5"] {
        let error = load(&[], &[ROLE, ("VAULT_RATE_LIMIT", text)]).unwrap_err();
        let expected = format!("VAULT_RATE_LIMIT={text:?}: not a rate");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn retries_have_a_default_and_a_limit() {
    let retries = |text: &str| connection(&[("VAULT_MAX_RETRIES", text)]).server.retries;
    assert_eq!(connection(&[]).server.retries, 2);
    assert_eq!((retries("0"), retries("3"), retries("1000000")), (0, 3, 10));
    assert!(warnings(&[("VAULT_MAX_RETRIES", "10")]).is_empty());
    let said = warnings(&[("VAULT_MAX_RETRIES", "11")]);
    assert!(said[0].starts_with("VAULT_MAX_RETRIES=11 is more than 10"), "{said:?}");
    let wrong = "VAULT_MAX_RETRIES=\"-1\": not a whole number";
    expect_refusals(&[(&[], &[ROLE, ("VAULT_MAX_RETRIES", "-1")], wrong)]);
}

#[test]
fn srv_records_are_not_looked_up_and_that_is_refused() {
    let look_up = ("VAULT_SRV_LOOKUP", "true");
    for address in ["https://vault", "https://vault/a", "http://[::1]/"] {
        let error = load(&[], &[ROLE, look_up, ("VAULT_ADDR", address)]).unwrap_err();
        assert!(error.starts_with("VAULT_SRV_LOOKUP: is not supported"), "{address}: {error}");
    }
    // With a port, the official client looks up nothing either.
    for address in ["https://vault:8200", "https://vault:443/a", "http://[::1]:8200"] {
        assert!(warnings(&[look_up, ("VAULT_ADDR", address)]).is_empty(), "{address}");
    }
    assert!(warnings(&[look_up]).is_empty(), "the default address has a port");
    let off = [("VAULT_SRV_LOOKUP", "false"), ("VAULT_ADDR", "https://vault")];
    assert!(warnings(&off).is_empty());
}

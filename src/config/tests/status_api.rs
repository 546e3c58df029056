//! The status API and its page.

use super::*;

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

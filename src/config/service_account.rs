//! The configuration of a login with tokens that the API server gives for a ServiceAccount.

use super::environment::Environment;
use super::error::{ConfigError, error, error_without_value};
use crate::credentials::service_account::ServiceAccount;

/// The longest name of a namespace, which is a DNS label.
const LONGEST_LABEL: usize = 63;

/// The longest name of a ServiceAccount, which is a DNS subdomain.
const LONGEST_NAME: usize = 253;

/// The longest audience, in bytes. It is a name or a URL.
const LONGEST_AUDIENCE: usize = 1024;

/// Returns the ServiceAccount whose tokens log in, if one is set. Refuses other sources of a token
/// beside it.
pub(super) fn service_account(
    env: &Environment<'_>,
) -> Result<Option<ServiceAccount>, ConfigError> {
    let audience = env.get("JWT_AUDIENCE");
    let Some((name, text)) = env.get("JWT_SERVICE_ACCOUNT") else {
        return match audience {
            None => Ok(None),
            Some((audience, _)) => Err(error_without_value(
                &audience,
                "is for VAULT_JWT_SERVICE_ACCOUNT, which is not set; set that, or remove this. The \
                 audience of a token in a file is set where the file comes from",
            )),
        };
    };
    let of_pod = "KUBERNETES_SERVICE_ACCOUNT_TOKEN";
    let files = ["TOKEN", "TOKEN_PATH", "JWT_FILE"].into_iter().find_map(|it| env.get(it));
    let files = files.map(|(other, _)| other);
    if let Some(other) = files.or_else(|| env.other(of_pod).map(|_| of_pod.to_owned())) {
        return Err(error_without_value(
            &other,
            &format!("does not go with {name}; remove one of them"),
        ));
    }
    let Some((namespace, account)) = text.split_once('/') else {
        return Err(error(&name, &text, "not a ServiceAccount; write NAMESPACE/NAME"));
    };
    if namespace.len() > LONGEST_LABEL || !is_label(namespace) {
        let problem = "not the name of a namespace: small letters, digits and dashes are expected \
                       before the slash, 63 at most; write NAMESPACE/NAME";
        return Err(error(&name, &text, problem));
    }
    if account.len() > LONGEST_NAME || !account.split('.').all(is_label) {
        let problem = "not the name of a ServiceAccount: small letters, digits, dashes and dots are \
                       expected after the slash, 253 at most; write NAMESPACE/NAME";
        return Err(error(&name, &text, problem));
    }
    Ok(Some(ServiceAccount {
        namespace: namespace.to_owned(),
        name: account.to_owned(),
        audience: audience.map(|(name, text)| valid_audience(&name, text)).transpose()?,
    }))
}

/// Checks an audience. A comma is refused, because a list would be one audience that no role has.
fn valid_audience(name: &str, text: String) -> Result<String, ConfigError> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b',';
    if text.len() > LONGEST_AUDIENCE || !text.bytes().all(is_plain) {
        let problem = "not an audience: one name or URL is expected, without spaces and commas; write \
                       the audience that the role in Vault names";
        return Err(error(name, &text, problem));
    }
    Ok(text)
}

/// Returns whether a text has the form of a DNS label, of any length.
fn is_label(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let has_ends =
        [bytes.first(), bytes.last()].iter().all(|end| end.is_some_and(|b| is_plain(*b)));
    has_ends && bytes.iter().all(|byte| is_plain(*byte) || *byte == b'-')
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::auth::method;
    use super::*;
    use crate::vault::login::Method;

    const ACCOUNT: (&str, &str) = ("VAULT_JWT_SERVICE_ACCOUNT", "infra/vault-login");
    const ROLE: (&str, &str) = ("VAULT_ROLE", "reloader");

    fn load(variables: &[(&str, &str)]) -> Result<Method, String> {
        let variables: HashMap<&str, &str> = variables.iter().copied().collect();
        let look_up = |name: &str| variables.get(name).map(|value| (*value).to_owned());
        method(&Environment::of_process(&look_up), true).map_err(|error| error.to_string())
    }

    #[test]
    fn a_service_account_is_namespace_and_name_with_or_without_an_audience() {
        let long = format!("{}/{}", "n".repeat(63), "a".repeat(253));
        for (variables, expected) in [
            (&[ACCOUNT][..], ("infra", "vault-login", None)),
            (&[ACCOUNT, ("VAULT_JWT_AUDIENCE", "vault")], ("infra", "vault-login", Some("vault"))),
            (
                &[ACCOUNT, ("BAO_JWT_AUDIENCE", "https://vault.example.com:8200/")],
                ("infra", "vault-login", Some("https://vault.example.com:8200/")),
            ),
            (&[ACCOUNT, ("VAULT_JWT_AUDIENCE", "")], ("infra", "vault-login", None)),
            (&[("BAO_JWT_SERVICE_ACCOUNT", "1/a.b-c.2")], ("1", "a.b-c.2", None)),
            (&[ACCOUNT, ("VAULT_AUTH_METHOD", "jwt")], ("infra", "vault-login", None)),
            (&[ACCOUNT, ("VAULT_AUTH_METHOD", "kubernetes")], ("infra", "vault-login", None)),
            (&[("VAULT_JWT_SERVICE_ACCOUNT", long.as_str())], (&long[..63], &long[64..], None)),
        ] {
            let all: Vec<_> = [ROLE].into_iter().chain(variables.iter().copied()).collect();
            let method = load(&all).unwrap();
            let account = method.service_account().unwrap();
            let found = (&*account.namespace, &*account.name, account.audience.as_deref());
            assert_eq!(found, expected, "{variables:?}");
        }
        assert_eq!(load(&[ROLE]).unwrap().service_account(), None);
    }

    #[test]
    fn a_name_that_no_object_has_is_refused_with_the_form() {
        let too_long = [format!("{}/a", "n".repeat(64)), format!("n/{}", "a".repeat(254))];
        let names =
            ["vault-login", "/a", "n/", "/", "a/b/c", "N/a", "n/A", "n.m/a", "-n/a", "n/a-"];
        let more = ["n/a..b", "n/.a", "n/a_b", "n /a", "n/a?b", "n/ä", "../../secrets/a"];
        let too_long = too_long.iter().map(String::as_str);
        for name in names.into_iter().chain(more).chain(too_long) {
            let error = load(&[ROLE, ("VAULT_JWT_SERVICE_ACCOUNT", name)]).unwrap_err();
            assert!(error.starts_with("VAULT_JWT_SERVICE_ACCOUNT="), "{error}");
            assert!(error.ends_with("write NAMESPACE/NAME"), "{error}");
        }
        for audience in ["a,b", "a b", "a\n", "ä", &*"x".repeat(LONGEST_AUDIENCE + 1)] {
            let error = load(&[ROLE, ACCOUNT, ("VAULT_JWT_AUDIENCE", audience)]).unwrap_err();
            assert!(error.starts_with("VAULT_JWT_AUDIENCE="), "{error}");
            assert!(error.ends_with("that the role in Vault names"), "{error}");
        }
    }

    #[test]
    fn what_does_not_go_with_a_service_account_is_refused_by_name() {
        let audience = ("VAULT_JWT_AUDIENCE", "vault");
        let method = |name| ("VAULT_AUTH_METHOD", name);
        for (variables, start, part) in [
            (&[ROLE, audience][..], "VAULT_JWT_AUDIENCE: ", "VAULT_JWT_SERVICE_ACCOUNT"),
            (&[ACCOUNT], "VAULT_ROLE: not set", "role to log in with"),
            (&[ROLE, ACCOUNT, ("VAULT_JWT_FILE", "/jwt")], "VAULT_JWT_FILE: ", "remove one"),
            (
                &[ROLE, ACCOUNT, ("KUBERNETES_SERVICE_ACCOUNT_TOKEN", "/jwt")],
                "KUBERNETES_SERVICE_ACCOUNT_TOKEN: ",
                "remove one",
            ),
            (&[ROLE, ACCOUNT, ("BAO_TOKEN", "hvs.x")], "BAO_TOKEN: ", "remove one"),
            (&[ROLE, ACCOUNT, ("VAULT_TOKEN_PATH", "/a")], "VAULT_TOKEN_PATH: ", "remove one"),
            (&[ACCOUNT, method("none")], "VAULT_JWT_SERVICE_ACCOUNT: ", "VAULT_AUTH_METHOD=none"),
            (&[audience, method("none")], "VAULT_JWT_AUDIENCE: ", "VAULT_AUTH_METHOD=none"),
            (
                &[ACCOUNT, method("token"), ("VAULT_TOKEN", "hvs.x")],
                "VAULT_JWT_SERVICE_ACCOUNT: ",
                "VAULT_AUTH_METHOD=token",
            ),
            (
                &[ACCOUNT, method("approle"), ("VAULT_ROLE_ID", "a")],
                "VAULT_JWT_SERVICE_ACCOUNT: ",
                "VAULT_AUTH_METHOD=approle",
            ),
            (
                &[ROLE, ACCOUNT, method("aws")],
                "VAULT_JWT_SERVICE_ACCOUNT: ",
                "VAULT_AUTH_METHOD=aws",
            ),
            (&[ACCOUNT, method("magic")], "VAULT_AUTH_METHOD=", "unknown"),
        ] {
            let error = load(variables).unwrap_err();
            assert!(error.starts_with(start) && error.contains(part), "{variables:?}: {error}");
            assert!(!error.contains("hvs."), "{error}");
        }
    }
}

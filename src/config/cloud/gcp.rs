//! The configuration of logins with the identity of Google Cloud.

use reqwest::Url;

use super::super::environment::Environment;
use super::super::error::{ConfigError, error, error_without_value};
use super::address::{address, guarded};
use crate::cloud::gcp::{Gcp, GcpKind, is_account};

/// The variable of Google's clients that names the metadata server: a host, and a port if need be.
const METADATA_HOST: &str = "GCE_METADATA_HOST";

/// The default host of the metadata server. An address needs no DNS, which others may control.
const DEFAULT_HOST: &str = "169.254.169.254";

const DEFAULT_ENDPOINT: &str = "https://iamcredentials.googleapis.com";

/// Returns the login with the identity token of the metadata server.
pub(super) fn gce(env: &Environment<'_>) -> Result<Gcp, ConfigError> {
    Ok(Gcp { metadata: metadata(env)?, kind: GcpKind::Gce })
}

/// Returns the login with a JWT that is signed for a service account.
pub(super) fn iam(env: &Environment<'_>) -> Result<Gcp, ConfigError> {
    let service_account = match env.get("GCP_SERVICE_ACCOUNT") {
        Some((name, text)) if !is_account(&text) => {
            return Err(error(
                &name,
                &text,
                "not a service account; write NAME@PROJECT.iam.gserviceaccount.com",
            ));
        }
        given => given.map(|(_, text)| text),
    };
    let (name, endpoint) = env
        .get("GCP_IAM_ENDPOINT")
        .unwrap_or_else(|| ("VAULT_GCP_IAM_ENDPOINT".to_owned(), DEFAULT_ENDPOINT.to_owned()));
    let kind = GcpKind::Iam { service_account, endpoint: guarded(&name, &endpoint)? };
    Ok(Gcp { metadata: metadata(env)?, kind })
}

/// Returns the address of the metadata server.
fn metadata(env: &Environment<'_>) -> Result<Url, ConfigError> {
    let host = env.of_pod(METADATA_HOST).unwrap_or_else(|| DEFAULT_HOST.to_owned());
    address(METADATA_HOST, &format!("http://{host}"))
        .map_err(|_| error_without_value(METADATA_HOST, "not a host; write HOST or HOST:PORT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Variables<'a> = &'a [(&'a str, &'a str)];

    fn with<T>(
        variables: Variables<'_>,
        read: impl Fn(&Environment<'_>) -> Result<T, ConfigError>,
    ) -> Result<T, String> {
        let look_up = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        read(&Environment::of_process(&look_up)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_metadata_server_has_a_fixed_address_unless_the_environment_names_another() {
        for (variables, expected) in [
            (&[][..], "http://169.254.169.254/"),
            (
                &[("GCE_METADATA_HOST", "metadata.google.internal")],
                "http://metadata.google.internal/",
            ),
            (&[("GCE_METADATA_HOST", "127.0.0.1:988")], "http://127.0.0.1:988/"),
        ] {
            let gcp = with(variables, gce).unwrap();
            assert_eq!((gcp.metadata.as_str(), gcp.kind), (expected, GcpKind::Gce));
        }
        for host in ["http://metadata", "host/path", "user@host", "a b"] {
            let problem = with(&[("GCE_METADATA_HOST", host)], gce).unwrap_err();
            assert!(problem.starts_with("GCE_METADATA_HOST"), "{problem}");
        }
    }

    #[test]
    fn the_service_account_and_the_endpoint_can_be_set() {
        let Ok(Gcp { kind: GcpKind::Iam { service_account, endpoint }, .. }) = with(&[], iam)
        else {
            panic!("another kind")
        };
        assert_eq!(service_account, None);
        assert_eq!(endpoint.as_str(), "https://iamcredentials.googleapis.com/");
        let account = "reloader@project-1.iam.gserviceaccount.com";
        let variables = [
            ("VAULT_GCP_SERVICE_ACCOUNT", account),
            ("VAULT_GCP_IAM_ENDPOINT", "https://iam.example.com"),
        ];
        let Ok(Gcp { kind: GcpKind::Iam { service_account, endpoint }, .. }) =
            with(&variables, iam)
        else {
            panic!("another kind")
        };
        assert_eq!(service_account.as_deref(), Some(account));
        assert_eq!(endpoint.as_str(), "https://iam.example.com/");
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name() {
        for (name, value) in [
            ("VAULT_GCP_SERVICE_ACCOUNT", "a/../b"),
            ("VAULT_GCP_SERVICE_ACCOUNT", "a b"),
            ("VAULT_GCP_IAM_ENDPOINT", "http://iam.example.com"),
            ("BAO_GCP_IAM_ENDPOINT", "iam.example.com"),
        ] {
            let problem = with(&[(name, value)], iam).unwrap_err();
            assert!(problem.starts_with(name), "{problem}");
        }
    }
}

//! Parses the names and settings on the command line of `status`.

use http::HeaderValue;
use url::Url;

use super::error::StatusError;
use crate::model::kind::Kind;
use crate::model::workload::WorkloadId;

/// Parses the name of a workload: `NAMESPACE/KIND/NAME`.
pub(super) fn workload(text: &str) -> Result<WorkloadId, StatusError> {
    let parts: Vec<&str> = text.split('/').collect();
    let [namespace, kind_name, name] = parts.as_slice() else {
        return Err(StatusError::Workload(text.to_owned()));
    };
    if parts.iter().any(|part| part.trim().is_empty()) {
        return Err(StatusError::Workload(text.to_owned()));
    }
    let kind = kind(kind_name).ok_or_else(|| StatusError::Kind((*kind_name).to_owned()))?;
    Ok(WorkloadId { kind, namespace: (*namespace).into(), name: (*name).into() })
}

/// Parses a kind as kubectl does: its name, its plural or its short name, in any case.
fn kind(text: &str) -> Option<Kind> {
    let short = match text.to_ascii_lowercase().as_str() {
        "deploy" => Some(Kind::DEPLOYMENT),
        "ds" => Some(Kind::DAEMON_SET),
        "sts" => Some(Kind::STATEFUL_SET),
        _ => None,
    };
    let is_named = |kind: &Kind| {
        text.eq_ignore_ascii_case(kind.name()) || text.eq_ignore_ascii_case(kind.plural())
    };
    short.or_else(|| Kind::ALL.into_iter().find(is_named))
}

/// Parses the API path of a secret. Slashes at both ends do not count, as in references.
pub(super) fn path(text: &str) -> Result<String, StatusError> {
    let path = text.trim().trim_matches('/');
    if path.is_empty() { Err(StatusError::EmptyPath) } else { Ok(path.to_owned()) }
}

/// Parses the address of the API. The address must not hold a password, because errors show it.
pub(super) fn address(text: &str) -> Result<Url, StatusError> {
    let mut url = Url::parse(text.trim()).map_err(|_| StatusError::Address)?;
    let is_plain = matches!(url.scheme(), "http" | "https")
        && url.username().is_empty()
        && url.password().is_none();
    if !is_plain {
        return Err(StatusError::Address);
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

/// Returns the value of the `Authorization` header for the content of a token file.
pub(super) fn authorization(file: &str, content: &str) -> Result<HeaderValue, StatusError> {
    let wrong = || StatusError::Token(file.to_owned());
    let token = content.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(wrong());
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_spelt_as_for_kubectl() {
        for (text, expected) in [
            ("shop/Deployment/web", "shop/Deployment/web"),
            ("shop/deployment/web", "shop/Deployment/web"),
            ("shop/deploy/web", "shop/Deployment/web"),
            ("shop/DEPLOYMENTS/web", "shop/Deployment/web"),
            ("db/sts/mysql", "db/StatefulSet/mysql"),
            ("db/statefulsets/mysql", "db/StatefulSet/mysql"),
            ("kube-system/ds/agent", "kube-system/DaemonSet/agent"),
            ("kube-system/daemonSet/agent", "kube-system/DaemonSet/agent"),
        ] {
            assert_eq!(workload(text).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn a_malformed_name_is_refused_with_the_remedy() {
        for (text, remedy) in [
            ("web", "write NAMESPACE/KIND/NAME"),
            ("shop/web", "write NAMESPACE/KIND/NAME"),
            ("shop//web", "write NAMESPACE/KIND/NAME"),
            ("shop/Deployment/", "write NAMESPACE/KIND/NAME"),
            ("shop/Deployment/web/x", "write NAMESPACE/KIND/NAME"),
            ("shop/CronJob/web", "write Deployment, DaemonSet or StatefulSet"),
            ("shop/\u{1b}[1m/web", "\"\\u{1b}[1m\" is not a kind"),
        ] {
            let error = workload(text).unwrap_err().to_string();
            assert!(error.contains(remedy), "{text}: {error}");
        }
    }

    #[test]
    fn a_path_has_no_slashes_at_its_ends() {
        for text in ["secret/data/a", "/secret/data/a", "secret/data/a/"] {
            assert_eq!(path(text).unwrap(), "secret/data/a");
        }
        assert!(matches!(path("/"), Err(StatusError::EmptyPath)));
    }

    #[test]
    fn an_address_is_a_plain_url() {
        for (text, expected) in [
            ("http://127.0.0.1:9180", "http://127.0.0.1:9180/"),
            ("https://reloader.example/api/?a=b#c", "https://reloader.example/api/"),
        ] {
            assert_eq!(address(text).unwrap().as_str(), expected);
        }
        for text in ["127.0.0.1:9180", "localhost:9180", "", "http://", "http://me:pw@host:1"] {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_is_one_word() {
        let value = authorization("f", " abc.def\n").unwrap();
        assert_eq!(value.to_str().unwrap(), "Bearer abc.def");
        assert!(value.is_sensitive());
        for content in ["", "\n", "two words", "a\u{0}b"] {
            let error = authorization("f", content).unwrap_err().to_string();
            assert!(error.starts_with("--token-file=\"f\" "), "{error}");
        }
    }
}

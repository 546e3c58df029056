//! Why a secret cannot be watched, for the log and for the owners of the workloads that use the
//! secret.

use super::failure::Failure;
use super::login::LoginError;
use super::mounts::Engine;
use crate::index::findings::{Finding, message};
use crate::model::secret::SecretId;

/// Why the version of a secret is unknown, or why a new pod could not read the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReadError {
    Missing,
    Deleted,
    Destroyed,
    Denied {
        metadata: String,
    },
    /// The mount does not exist, or the policy grants nothing on it.
    NoMount {
        metadata: String,
    },
    NoDataPrefix {
        correct: String,
    },
    NotKvV2(Engine),
    /// The failure concerns this secret alone.
    Failed(Failure),
    /// The failure concerns the server, or a whole Vault namespace.
    Out {
        failure: Failure,
        /// Whether a request for this secret met the failure.
        is_own: bool,
    },
    /// The token allows no more requests, and no other token is available.
    NoToken(LoginError),
    /// There was no time left for the request.
    Late,
    /// There was no time left for the request, because the server limits the rate of requests.
    Limited,
}

impl ReadError {
    /// Returns what the error means, and what to do.
    pub(super) fn meaning(&self) -> String {
        match self {
            Self::Missing => "not found in Vault".to_owned(),
            Self::Deleted => "its latest version is deleted: a new pod would fail".to_owned(),
            Self::Destroyed => "its latest version is destroyed: a new pod would fail".to_owned(),
            Self::Denied { metadata } => format!("permission denied. {}", missing_rule(metadata)),
            Self::NoMount { metadata } => format!(
                "permission denied: Vault tells of no such mount (preflight capability check returned \
                 403). If there is none, correct the path; if there is, the policy grants nothing of \
                 it. {}",
                missing_rule(metadata)
            ),
            Self::NoDataPrefix { correct } => format!("on a KV v2 mount, write it as {correct}"),
            Self::NotKvV2(Engine::Other(engine)) => format!(
                "it belongs to an engine that has no versions ({engine}), and is never called, since \
                 a read of some engines makes a new secret"
            ),
            Self::NotKvV2(_) => "KV v1 has no versions".to_owned(),
            Self::Failed(failure) | Self::Out { failure, .. } => format!("Vault {failure}"),
            Self::NoToken(error) => error.to_string(),
            Self::Late => "there was no time to ask".to_owned(),
            Self::Limited => format!("Vault {}", Failure::RateLimited),
        }
    }

    /// Returns the finding for the owners of workloads that use the secret; `None` if the secret is
    /// only waiting.
    pub(super) fn notice(&self, secret: &SecretId) -> Option<Finding> {
        let reason = self.code()?;
        let message = message(std::iter::once(secret.to_string()), &self.meaning());
        Some(Finding { reason, is_warning: true, message })
    }

    /// Returns the stable reason why a reference is not watched; `None` if it is watched and only
    /// waiting.
    pub(super) fn code(&self) -> Option<&'static str> {
        match self {
            Self::Missing => Some("NotFound"),
            Self::Deleted => Some("Deleted"),
            Self::Destroyed => Some("Destroyed"),
            Self::Denied { .. } | Self::NoMount { .. } => Some("Denied"),
            Self::NoDataPrefix { .. } => Some("MissingData"),
            Self::NotKvV2(Engine::Other(_)) => Some("OtherEngine"),
            Self::NotKvV2(_) => Some("KvV1"),
            Self::Failed(_) | Self::Out { .. } | Self::NoToken(_) | Self::Late | Self::Limited => {
                None
            }
        }
    }
}

/// Returns the rule that a policy lacks, ready to paste. Tenants write paths, so a path with
/// characters that are special in a policy is not put into a rule.
fn missing_rule(metadata: &str) -> String {
    if metadata.contains(['"', '*', '+', '{', '}', '\\']) {
        return "The policy needs read on the metadata of the secret. No rule is shown, because \
                the path contains characters that are special in a policy"
            .to_owned();
    }
    format!("Add to the policy: path \"{metadata}\" {{ capabilities = [\"read\"] }}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_to_paste_grants_nothing_but_what_it_names() {
        assert_eq!(
            missing_rule("secret/metadata/mysql"),
            r#"Add to the policy: path "secret/metadata/mysql" { capabilities = ["read"] }"#
        );
        for path in ["a\" { capabilities = [\"sudo\"] } path \"b", "secret/metadata/*", "a/+/b"] {
            assert!(!missing_rule(path).contains(path), "{path}");
        }
    }
}

//! Why a secret cannot be watched: for the log, and for the owners of the workloads that use it.

use super::failure::Failure;
use super::login::LoginError;
use super::mounts::Engine;
use crate::index::findings::{Finding, message};
use crate::model::secret::SecretId;

/// Why nothing is known of a secret, or why a new pod could not read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReadError {
    Missing,
    Deleted,
    Destroyed,
    Denied {
        metadata: String,
    },
    /// There is no mount of it, or the policy grants nothing of that.
    NoMount {
        metadata: String,
    },
    NoDataPrefix {
        correct: String,
    },
    NotKvV2(Engine),
    /// It concerns this secret alone.
    Failed(Failure),
    /// It concerns the server, or all of a Vault namespace.
    Out {
        failure: Failure,
        /// Whether it was met by asking for this secret.
        is_own: bool,
    },
    /// The token was used up, and no other is to be had.
    NoToken(LoginError),
    /// There was no time left to ask.
    Late,
    /// Nor was there, since the server limits the rate of requests.
    Limited,
}

impl ReadError {
    /// What it means and what to do.
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

    /// What the owners of workloads that use a secret should know; nothing where it has only to wait.
    pub(super) fn notice(&self, secret: &SecretId) -> Option<Finding> {
        let reason = self.code()?;
        let message = message(std::iter::once(secret.to_string()), &self.meaning());
        Some(Finding { reason, is_warning: true, message })
    }

    /// The stable name of the reason why a reference is not watched; none where it is, and has only to
    /// wait.
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

/// The rule that a policy lacks, ready to paste. A path is written by a tenant: one that means more
/// than itself in a policy is not put into one.
fn missing_rule(metadata: &str) -> String {
    if metadata.contains(['"', '*', '+', '{', '}', '\\']) {
        return "The policy needs read on its metadata; its path holds characters that mean \
                something else in a policy"
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

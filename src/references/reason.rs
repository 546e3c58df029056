//! The reasons why a reference is not watched, or is watched but looks like a mistake.

/// A reason, for a user. Its [code](Reason::code) is stable: tables, events and metrics use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The reference names one version, which never changes.
    Pinned,
    /// The reference writes (`>>vault:`), and so makes a new value at every start of a pod.
    Write,
    /// The reference is a transit ciphertext: the value is in the manifest.
    Transit,
    /// The reference passes on the pod's own Vault token.
    Login,
    /// The workload uses a secret provider other than Vault or OpenBao.
    OtherProvider,
    /// The reference has no `#key`, or an empty one, and the injector refuses it.
    NoKey,
    /// The path is empty.
    NoPath,
    /// The path leaves the API by `..`, holds control characters, or is longer than any storage
    /// keeps.
    BadPath,
    /// The version is not a number, and the pod would fail.
    BadVersion,
    /// The injector does not know the form `${>vault:…}`, and does not resolve it.
    SingleArrow,
    /// A brace after an inline reference is read as part of its key. The reference is watched all
    /// the same.
    BraceInKey,
    /// An inline reference ends at the first brace, which cuts its template. The reference is
    /// watched all the same.
    TemplateCut,
    /// An inline reference around another one: only the inner one is resolved.
    Nested,
    /// The path or version holds `$(NAME)`. Kubernetes replaces it by a value outside the template.
    Expansion,
    /// The path begins or ends with a space, which is never trimmed. The reference is watched all
    /// the same.
    SpaceAroundPath,
    /// The webhook skips the workload, and the container starts no injector.
    MutateSkip,
    /// A variable that sets the injector's destination has its value outside the template.
    SettingUnknown,
    /// No request can name the workload's Vault namespace.
    BadNamespace,
    /// The workload names an undeclared address. The default server is used.
    AddressNotDeclared,
    /// The workload names an undeclared address, and its references there are not watched.
    AddressRefused,
    /// The workload names an address that is missing from the webhook's allow-list.
    AddressNotAllowed,
    /// The operator's path rules do not allow the path to the workload's namespace.
    PathRefused,
    /// References of both schemes mean two servers. Only those with Vault's scheme are watched.
    TwoServers,
    /// Another variable of the same name overrides the reference.
    Overridden,
    /// The reference may be in a source of a kind that is not read.
    SourceNotRead,
    /// The service account may not read the source.
    SourceDenied,
    /// The API server fails to return the source.
    SourceFailed,
    /// The source does not exist and is not optional: the pod does not start.
    SourceMissing,
    /// The source lacks a key that is not optional: the pod does not start.
    KeyMissing,
    /// The API server would refuse the data of the source.
    SourceMalformed,
    /// The webhook resolved the source when it was applied, and a restart does not refresh it.
    ResolvedWhenApplied,
    /// So many variables come from whole sources that no pod can start with them. Overridden
    /// variables are not told apart, and each reference counts.
    TooManyVariables,
    /// The workload refers to more secrets than are watched for one workload.
    TooManySecrets,
    /// The workloads of the namespace refer to more secrets than the operator allows.
    TooManySecretsInNamespace,
    /// The workload names so many sources that this one is not read.
    TooManySources,
    /// The freeze of the workload cannot be read, and holds its reloads.
    InvalidFreeze,
    /// The windows of the workload cannot be read, and hold its reloads.
    InvalidWindow,
}

impl Reason {
    /// All reasons, in the order of the documentation.
    pub const ALL: [Self; 37] = [
        Self::Pinned,
        Self::Write,
        Self::Transit,
        Self::Login,
        Self::OtherProvider,
        Self::Overridden,
        Self::SourceNotRead,
        Self::AddressNotDeclared,
        Self::NoKey,
        Self::NoPath,
        Self::BadPath,
        Self::BadVersion,
        Self::SingleArrow,
        Self::BraceInKey,
        Self::TemplateCut,
        Self::Nested,
        Self::Expansion,
        Self::SpaceAroundPath,
        Self::MutateSkip,
        Self::SettingUnknown,
        Self::BadNamespace,
        Self::AddressRefused,
        Self::AddressNotAllowed,
        Self::PathRefused,
        Self::TwoServers,
        Self::SourceDenied,
        Self::SourceFailed,
        Self::SourceMissing,
        Self::KeyMissing,
        Self::SourceMalformed,
        Self::ResolvedWhenApplied,
        Self::TooManyVariables,
        Self::TooManySecrets,
        Self::TooManySecretsInNamespace,
        Self::TooManySources,
        Self::InvalidFreeze,
        Self::InvalidWindow,
    ];

    /// Returns the stable name, in the style of Kubernetes reasons.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Pinned => "Pinned",
            Self::Write => "Write",
            Self::Transit => "Transit",
            Self::Login => "Login",
            Self::OtherProvider => "OtherProvider",
            Self::NoKey => "NoKey",
            Self::NoPath => "NoPath",
            Self::BadPath => "BadPath",
            Self::BadVersion => "BadVersion",
            Self::SingleArrow => "SingleArrow",
            Self::BraceInKey => "BraceInKey",
            Self::TemplateCut => "TemplateCut",
            Self::Nested => "Nested",
            Self::Expansion => "Expansion",
            Self::SpaceAroundPath => "SpaceAroundPath",
            Self::MutateSkip => "MutateSkip",
            Self::SettingUnknown => "SettingUnknown",
            Self::BadNamespace => "BadNamespace",
            Self::AddressNotDeclared => "AddressNotDeclared",
            Self::AddressRefused => "AddressRefused",
            Self::AddressNotAllowed => "AddressNotAllowed",
            Self::PathRefused => "PathRefused",
            Self::TwoServers => "TwoServers",
            Self::Overridden => "Overridden",
            Self::SourceNotRead => "SourceNotRead",
            Self::SourceDenied => "SourceDenied",
            Self::SourceFailed => "SourceFailed",
            Self::SourceMissing => "SourceMissing",
            Self::KeyMissing => "KeyMissing",
            Self::SourceMalformed => "SourceMalformed",
            Self::ResolvedWhenApplied => "ResolvedWhenApplied",
            Self::TooManyVariables => "TooManyVariables",
            Self::TooManySecrets => "TooManySecrets",
            Self::TooManySecretsInNamespace => "TooManySecretsInNamespace",
            Self::TooManySources => "TooManySources",
            Self::InvalidFreeze => "InvalidFreeze",
            Self::InvalidWindow => "InvalidWindow",
        }
    }

    /// Whether the user should act: the pod fails, or runs with an unintended value, or a rotation
    /// would be missed.
    #[must_use]
    pub fn is_warning(self) -> bool {
        match self {
            Self::Pinned
            | Self::Write
            | Self::Transit
            | Self::Login
            | Self::OtherProvider
            | Self::Overridden
            | Self::SourceNotRead => false,
            Self::NoKey
            | Self::NoPath
            | Self::BadPath
            | Self::BadVersion
            | Self::SingleArrow
            | Self::BraceInKey
            | Self::TemplateCut
            | Self::Nested
            | Self::Expansion
            | Self::SpaceAroundPath
            | Self::MutateSkip
            | Self::SettingUnknown
            | Self::BadNamespace
            | Self::AddressNotDeclared
            | Self::AddressRefused
            | Self::AddressNotAllowed
            | Self::PathRefused
            | Self::TwoServers
            | Self::SourceDenied
            | Self::SourceFailed
            | Self::SourceMissing
            | Self::KeyMissing
            | Self::SourceMalformed
            | Self::ResolvedWhenApplied
            | Self::TooManyVariables
            | Self::TooManySecrets
            | Self::TooManySecretsInNamespace
            | Self::TooManySources
            | Self::InvalidFreeze
            | Self::InvalidWindow => true,
        }
    }

    /// Returns the meaning and the remedy, for a log line.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "one table, with a text for each reason")]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Pinned => "pinned to a version, so it never changes",
            Self::Write => "a write, which makes a new value at every start of a pod; never called",
            Self::Transit => "a transit ciphertext, whose value is in the manifest",
            Self::Login => "the pod's own Vault token",
            Self::OtherProvider => "the workload uses another secret provider",
            Self::NoKey => "no key: write it as PATH#KEY",
            Self::NoPath => "no path: write it as PATH#KEY",
            Self::BadPath => {
                "the path leaves the API, holds control characters or is too long: correct it"
            }
            Self::BadVersion => {
                "the version is not a number, the pod would fail: correct or remove it"
            }
            Self::SingleArrow => {
                "${>vault:...} is not resolved: remove the arrow, or write two for a write"
            }
            Self::BraceInKey => {
                "watched, but the brace behind the reference is read as part of its key: \
                 put a space between the braces"
            }
            Self::TemplateCut => {
                "watched, but the reference ends at its first brace, within the template: \
                 give each template a reference of its own"
            }
            Self::Nested => {
                "a reference around another one is not resolved, only the inner one is: \
                 write them side by side"
            }
            Self::Expansion => {
                "not watched, since the value of $(NAME) in it is not in the template: write the \
                 value out, or define the variable before it, in the template"
            }
            Self::SpaceAroundPath => {
                "watched, but the path begins or ends with a space, which the webhook does not trim: \
                 remove it"
            }
            Self::MutateSkip => {
                "not resolved and not watched, since mutate: skip keeps the webhook away and the \
                 container's command is not vault-env or secret-init: remove the one, or add the other"
            }
            Self::SettingUnknown => {
                "its value is not in the template, so the default is used: write the value out, or \
                 set it by an annotation of the webhook"
            }
            Self::BadNamespace => {
                "the name is too long or holds control characters, so nothing in that Vault \
                 namespace is watched: correct it"
            }
            Self::AddressNotDeclared => {
                "the address is not declared, so the default server is asked: have it declared by \
                 --vault-servers-file, as an alias of the default server or as another one"
            }
            Self::AddressRefused => {
                "the address is not declared, so nothing on that server is watched: have it \
                 declared by --vault-servers-file, or remove the annotation"
            }
            Self::AddressNotAllowed => {
                "the address is not in VAULT_ADDR_ALLOWLIST or BAO_ADDR_ALLOWLIST, so the webhook \
                 refuses it and nothing on that server is watched: add it to the list, or remove \
                 the annotation"
            }
            Self::PathRefused => {
                "not watched and never asked for, since no path rule of the operator (--path-rules-file) \
                 allows it to this namespace: correct the path, or have a rule added"
            }
            Self::TwoServers => {
                "another server than that of the vault: references, so that the bao: references are \
                 not watched: leave them to another workload"
            }
            Self::Overridden => "another variable of the same name takes its place",
            Self::SourceNotRead => {
                "not read: references in Secrets are watched with --read-secrets, those in \
                 ConfigMaps unless --read-config-maps=false"
            }
            Self::SourceDenied => {
                "not read, since the service account may not: grant it get, list and watch"
            }
            Self::SourceFailed => "not read, since the API server fails for it; tried again",
            Self::SourceMissing => {
                "does not exist, so the pod does not start: make it, or set optional: true"
            }
            Self::KeyMissing => {
                "there is no such key, so the pod does not start: add it, or set optional: true"
            }
            Self::SourceMalformed => {
                "not read, since its data is not base64, which the API server refuses: write texts \
                 under stringData"
            }
            Self::ResolvedWhenApplied => {
                "the webhook resolves it when it is applied, so a restart does not refresh it: refer to \
                 the secret in the pod template, or have the webhook leave it alone (mutate: skip)"
            }
            Self::TooManyVariables => {
                "all its references are watched, since the workload takes over 50,000 variables from \
                 whole sources, more than a pod can start with: name it less often"
            }
            Self::TooManySecrets => {
                "only the first 1,000 secrets are watched, in the order of their server, Vault namespace \
                 and path, since the workload refers to more: spread them over several workloads"
            }
            Self::TooManySecretsInNamespace => {
                "not watched, since the workloads of the namespace refer to more secrets than \
                 --max-secrets-per-namespace allows: refer to fewer, or have the limit raised"
            }
            Self::TooManySources => {
                "not read, since the workload names over 500 ConfigMaps and Secrets: put their \
                 references into fewer of them"
            }
            Self::InvalidFreeze => {
                "not a time, so that reloads are held: write it as 2026-12-24T00:00:00Z or 2026-12-24, or \
                 remove it"
            }
            Self::InvalidWindow => {
                "not windows, so that reloads are held: write each as allow 0 22 * * 1-5 8h Europe/Berlin, or \
                 remove it"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_distinct_and_spelt_as_kubernetes_spells_reasons() {
        let codes: BTreeSet<_> = Reason::ALL.into_iter().map(Reason::code).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(reason.code(), format!("{reason:?}"));
            assert!(reason.code().starts_with(|c: char| c.is_ascii_uppercase()));
            assert!(reason.code().bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
    }
}

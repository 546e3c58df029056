//! The requests to the API server and to Vault, from the servers' own audit logs.
//!
//! A [`Mark`] is a moment in both logs. After `bed.mark()`, `bed.api_requests_since(&mark)` and
//! `bed.vault_requests_since(&mark)` return the requests since the mark. Vault writes a line before
//! its answer. The API server writes a line shortly after its answer, so [`crate::Bed`] first waits
//! for the line of a request of its own. A watch is logged when it ends, with all that came before
//! it.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;

/// A moment in both audit logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    pub(crate) api: u64,
    pub(crate) vault: u64,
}

impl Mark {
    /// The number of bytes written to Vault's audit log between another moment and this one.
    #[must_use]
    pub fn bytes_since(&self, before: Self) -> u64 {
        self.vault.saturating_sub(before.vault)
    }
}

/// A request that the API server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiRequest {
    /// The client's name and version, such as `vault-secrets-reloader/1.0.0`.
    pub user_agent: String,
    /// The user, such as `system:serviceaccount:NAMESPACE:NAME`.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`...
    pub verb: String,
    /// Such as `deployments`; empty for paths such as `/version`.
    pub resource: String,
    /// Such as `status`; mostly empty.
    pub subresource: String,
    /// Empty where the request names none.
    pub namespace: String,
    /// Empty where the request names none.
    pub name: String,
    /// The HTTP status of the answer.
    pub code: u16,
    /// Path and query.
    pub uri: String,
}

impl ApiRequest {
    /// Whether the request patches a workload. An Event that is repeated is patched, too.
    #[must_use]
    pub fn patches_workload(&self) -> bool {
        self.verb == "patch" && self.resource != "events"
    }
}

/// A request that reached the core of the Vault server. Health checks do not reach the core, and
/// neither do requests that are refused earlier (sealed, wrong namespace, over quota).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultRequest {
    /// `read`, `list`, `update`, `create`, `delete`...
    pub operation: String,
    /// Without `/v1/`.
    pub path: String,
    /// The namespace's path; empty for the root namespace.
    pub namespace: String,
    /// The token; empty for a login. `HashiCorp` Vault logs another form of a token than the form
    /// that it issued, so tests identify tokens by their accessors.
    pub token: String,
    /// The token's accessor; empty for a login.
    pub accessor: String,
    /// Such as `token-reloader`, `kubernetes-NAMESPACE-NAME`.
    pub display_name: String,
    /// Why the request was refused; empty if it was not.
    pub error: String,
    /// The body; `Null` for a request without one. It may hold credentials.
    pub data: Value,
}

impl VaultRequest {
    /// Whether this request is a login.
    #[must_use]
    pub fn is_login(&self) -> bool {
        self.path.starts_with("auth/")
            && (self.path.contains("/login/") || self.path.ends_with("/login"))
    }

    /// Whether this request may have touched a value. Only KV v2 metadata, logins and requests
    /// about the server itself touch none. The controller never sends another request, not even one
    /// that is refused: a read of another engine can create a credential.
    ///
    /// `sys/internal/ui/mounts/secret/data/a` returns the mount of a path, and reads no value.
    #[must_use]
    pub fn touches_a_value(&self) -> bool {
        let about_the_server = ["sys/", "auth/"].iter().any(|root| self.path.starts_with(root));
        let is_metadata = ["/metadata", "/detailed-metadata"]
            .iter()
            .any(|part| self.path.ends_with(part) || self.path.contains(&format!("{part}/")));
        let is_looked_at = ["read", "list"].contains(&self.operation.as_str());
        !(about_the_server || is_metadata && is_looked_at)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ApiLine {
    #[serde(rename = "requestURI")]
    request_uri: String,
    verb: String,
    user: User,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    response_status: Status,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ObjectRef {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    code: u16,
}

pub(crate) fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

/// Returns the requests after an offset whose lines contain a text. Most lines belong to other
/// clients and need not be parsed.
pub(crate) fn api_requests(log: &Path, from: u64, text: &str) -> Result<Vec<ApiRequest>> {
    lines_from(log, from)?
        .lines()
        .filter(|line| line.contains(text))
        .map(|line| {
            let line: ApiLine = serde_json::from_str(line)
                .with_context(|| format!("odd line in {}: {line}", log.display()))?;
            Ok(ApiRequest {
                user_agent: line.user_agent,
                user: line.user.username,
                verb: line.verb,
                resource: line.object_ref.resource,
                subresource: line.object_ref.subresource,
                namespace: line.object_ref.namespace,
                name: line.object_ref.name,
                code: line.response_status.code,
                uri: line.request_uri,
            })
        })
        .collect()
}

pub(crate) fn vault_requests(log: &Path, from: u64) -> Result<Vec<VaultRequest>> {
    let mut requests = Vec::new();
    for line in lines_from(log, from)?.lines() {
        let line: Value = serde_json::from_str(line)
            .with_context(|| format!("odd line in {}: {line}", log.display()))?;
        let field = |pointer: &str| {
            line.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let path = field("/request/path");
        // Each request also has a line for its answer, and the server itself tests its audit
        // device.
        if field("/type") != "request" || path == "sys/audit/test" {
            continue;
        }
        requests.push(VaultRequest {
            operation: field("/request/operation"),
            path,
            namespace: field("/request/namespace/path"),
            token: field("/request/client_token"),
            accessor: field("/auth/accessor"),
            display_name: field("/auth/display_name"),
            error: field("/error"),
            data: line.pointer("/request/data").cloned().unwrap_or_default(),
        });
    }
    Ok(requests)
}

/// Returns the complete lines after an offset. A line that is being written is left for the next
/// call. A line that was being written at the offset belongs to the time before it.
fn lines_from(log: &Path, from: u64) -> Result<String> {
    let mut bytes = Vec::new();
    let mut file = File::open(log).with_context(|| format!("cannot read {}", log.display()))?;
    file.seek(SeekFrom::Start(from.saturating_sub(1)))?;
    file.read_to_end(&mut bytes)?;
    let is_newline = |byte: &u8| *byte == b'\n';
    let end = bytes.iter().rposition(is_newline).map_or(0, |newline| newline + 1);
    bytes.truncate(end);
    if from > 0 {
        let begin = bytes.iter().position(is_newline).map_or(0, |newline| newline + 1);
        bytes.drain(..begin);
    }
    String::from_utf8(bytes).with_context(|| format!("{} is not text", log.display()))
}

#[cfg(test)]
mod tests {
    use super::{VaultRequest, lines_from};

    #[test]
    fn only_whole_lines_after_the_offset_count() {
        let log = std::env::temp_dir().join(format!("counts-{}", std::process::id()));
        std::fs::write(&log, "one\ntwo\nthr").unwrap();
        let table = [(0, "one\ntwo\n"), (2, "two\n"), (4, "two\n"), (8, ""), (10, ""), (11, "")];
        let read: Vec<_> = table.map(|(from, _)| lines_from(&log, from).unwrap()).into();
        std::fs::remove_file(&log).unwrap();
        assert_eq!(read, table.map(|(_, wanted)| wanted));
    }

    #[test]
    fn only_metadata_and_questions_about_the_server_touch_no_value() {
        for (operation, path, wanted) in [
            ("read", "secret/metadata/a/b", false),
            ("list", "secret/metadata/", false),
            ("list", "secret/detailed-metadata/a/", false),
            ("read", "sys/internal/ui/mounts/secret/data/a", false),
            ("update", "auth/kubernetes/login", false),
            ("read", "secret/data/a", true),
            ("read", "kv1/a", true),
            ("read", "database/creds/role", true),
            ("update", "transit/encrypt/key", true),
            ("update", "pki/issue/role", true),
        ] {
            let request = VaultRequest {
                operation: operation.to_owned(),
                path: path.to_owned(),
                namespace: String::new(),
                token: String::new(),
                accessor: String::new(),
                display_name: String::new(),
                error: String::new(),
                data: serde_json::Value::Null,
            };
            assert_eq!(request.touches_a_value(), wanted, "{operation} {path}");
        }
    }
}

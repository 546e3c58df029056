//! Reports requests and logins to the sinks of events.
//!
//! Architecture Invariant: nothing of a path or an answer is reported but the name of the operation
//! and the status.

use std::sync::Arc;

use reqwest::Url;

use crate::events::event::Event;
use crate::events::sink::Events;
use crate::model::request_end::{PendingRequest, RequestEnd};

/// Reports what happens at one server. By default, nobody is told.
#[derive(Clone, Debug, Default)]
pub(super) struct Reporter {
    server: Arc<str>,
    events: Events,
}

impl Reporter {
    /// Returns a reporter of the server of this name.
    pub(super) fn new(server: Arc<str>, events: Events) -> Self {
        Self { server, events }
    }

    /// Sends a request, and reports how its operation ended.
    pub(super) async fn send(
        &self,
        http: &reqwest::Client,
        operation: &'static str,
        request: reqwest::Request,
    ) -> reqwest::Result<reqwest::Response> {
        let server = &self.server;
        let pending = PendingRequest::new(|end| {
            self.events.emit(&Event::VaultRequest { server, operation, end });
        });
        let response = http.execute(request).await;
        pending.ended(match &response {
            Ok(response) => RequestEnd::Answered(response.status().as_u16()),
            Err(error) if error.is_timeout() => RequestEnd::TimedOut,
            Err(_) => RequestEnd::Failed,
        });
        response
    }

    /// Reports the end of a login.
    pub(super) fn login(&self, method: &'static str, is_success: bool) {
        self.events.emit(&Event::VaultLogin { server: &self.server, method, is_success });
    }
}

/// Returns the name of the operation of a request, for metrics. `prefix` is the path of the server's
/// address.
pub(super) fn operation_of(url: &Url, prefix: &str) -> &'static str {
    let path = url.path().strip_prefix(prefix).and_then(|path| path.strip_prefix("/v1/"));
    match path.unwrap_or_default() {
        "sys/health" => "health",
        "sys/seal-status" => "seal_status",
        "sys/wrapping/lookup" => "wrapping_lookup",
        "sys/wrapping/unwrap" => "unwrap",
        "auth/token/lookup-self" => "lookup",
        "auth/token/renew-self" => "renew",
        "auth/token/revoke-self" => "revoke",
        path if path.starts_with("sys/internal/ui/mounts/") => "mounts",
        path if path.starts_with("auth/") => "login",
        _ if url.query_pairs().any(|(key, value)| key == "list" && value == "true") => "list",
        _ => "metadata",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_an_operation() {
        for (path, expected) in [
            ("sys/health", "health"),
            ("sys/seal-status", "seal_status"),
            ("sys/internal/ui/mounts/secret/data/a", "mounts"),
            ("sys/wrapping/lookup", "wrapping_lookup"),
            ("sys/wrapping/unwrap", "unwrap"),
            ("auth/kubernetes/login", "login"),
            ("auth/team/userpass/login/reloader", "login"),
            ("auth/token/lookup-self", "lookup"),
            ("auth/token/renew-self", "renew"),
            ("auth/token/revoke-self", "revoke"),
            ("secret/metadata/a", "metadata"),
            ("secret/metadata/auth/list", "metadata"),
            ("secret/metadata/a%3Flist=true", "metadata"),
            ("secret/detailed-metadata/a?list=true&limit=1000", "list"),
        ] {
            for prefix in ["", "/vault", "/a/b"] {
                let url = Url::parse(&format!("https://vault:8200{prefix}/v1/{path}")).unwrap();
                assert_eq!(operation_of(&url, prefix), expected, "{prefix} {path}");
            }
        }
    }
}

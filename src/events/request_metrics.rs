//! The metrics of requests: to Vault and to the API server, and the Events that were written.
//!
//! Architecture Invariant: each label is from a closed set or from the configuration, so nobody
//! else can add series. Counting a request allocates nothing once its labels are known.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::event::Event;

/// The counters of requests.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestMetrics {
    vault_requests: Family<VaultLabels, Counter>,
    vault_logins: Family<LoginLabels, Counter>,
    api_requests: Family<ApiLabels, Counter>,
    events: Family<EventLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VaultLabels {
    server: Arc<str>,
    operation: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoginLabels {
    server: Arc<str>,
    method: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiLabels {
    verb: &'static str,
    resource: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    r#type: &'static str,
    reason: &'static str,
    result: &'static str,
}

impl RequestMetrics {
    /// Registers the counters.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "vault_requests",
            "Requests to a Vault server, by operation and status of the answer",
            metrics.vault_requests.clone(),
        );
        registry.register(
            "vault_logins",
            "Logins to a Vault server, by auth method",
            metrics.vault_logins.clone(),
        );
        registry.register(
            "api_requests",
            "Requests to the API server, by verb, resource and status of the answer",
            metrics.api_requests.clone(),
        );
        registry.register(
            "events",
            "Kubernetes Events written on workloads, by type and reason",
            metrics.events.clone(),
        );
        metrics
    }

    /// Counts an event, if it is one of a request.
    pub(super) fn on(&self, event: &Event<'_>) {
        match *event {
            Event::VaultRequest { server, operation, end } => {
                let (server, code) = (Arc::clone(server), end.code());
                let labels = VaultLabels { server, operation, code };
                self.vault_requests.get_or_create(&labels).inc();
            }
            Event::VaultLogin { server, method, is_success } => {
                let (server, result) = (Arc::clone(server), result(is_success));
                let labels = LoginLabels { server, method, result };
                self.vault_logins.get_or_create(&labels).inc();
            }
            Event::ApiRequest { verb, resource, end } => {
                let labels = ApiLabels { verb, resource, code: end.code() };
                self.api_requests.get_or_create(&labels).inc();
            }
            Event::EventWritten { reason, is_warning, is_success } => {
                let r#type = if is_warning { "Warning" } else { "Normal" };
                let labels = EventLabels { r#type, reason, result: result(is_success) };
                self.events.get_or_create(&labels).inc();
            }
            _ => {}
        }
    }
}

fn result(is_success: bool) -> &'static str {
    if is_success { "success" } else { "failure" }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::model::request_end::RequestEnd;

    #[test]
    fn requests_are_counted_by_their_labels() {
        let mut registry = Registry::default();
        let metrics = RequestMetrics::register(&mut registry);
        let server = &Arc::from("default");
        let ok = RequestEnd::Answered(200);
        for end in [ok, ok, RequestEnd::TimedOut] {
            metrics.on(&Event::VaultRequest { server, operation: "metadata", end });
        }
        metrics.on(&Event::VaultLogin { server, method: "jwt", is_success: true });
        metrics.on(&Event::ApiRequest { verb: "patch", resource: "deployments", end: ok });
        let (reason, is_warning, is_success) = ("NoKey", true, false);
        metrics.on(&Event::EventWritten { reason, is_warning, is_success });
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "vault_requests_total{server=\"default\",operation=\"metadata\",code=\"200\"} 2",
            "vault_requests_total{server=\"default\",operation=\"metadata\",code=\"timeout\"} 1",
            "vault_logins_total{server=\"default\",method=\"jwt\",result=\"success\"} 1",
            "api_requests_total{verb=\"patch\",resource=\"deployments\",code=\"200\"} 1",
            "events_total{type=\"Warning\",reason=\"NoKey\",result=\"failure\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}

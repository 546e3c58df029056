//! The permissions that the service account lacks, reported once at the start.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::client::in_time;
use super::injector::WATCHED_RESOURCES;
use super::leader;
use crate::credentials::service_account::ServiceAccount;
use crate::model::kind::Kind;
use crate::references::environment::SourceKind;
use crate::references::source::ReadableSources;

/// A permission that the controller needs.
#[derive(Debug, Default)]
struct Needed {
    verb: &'static str,
    resource: &'static str,
    subresource: Option<&'static str>,
    group: &'static str,
    /// The namespace of the permission. `None` means all namespaces.
    namespace: Option<String>,
    /// The object of the permission. `None` means all objects.
    name: Option<String>,
}

/// What the status API does with the API server.
#[derive(Clone, Copy, Debug, Default)]
pub struct StatusRequests {
    /// It asks about callers.
    pub reviews: bool,
    /// It reads the pod that holds the Lease.
    pub leader_pod: bool,
}

fn needed(
    readable: ReadableSources,
    events: bool,
    injector: bool,
    lease: Option<&leader::Settings>,
    status: StatusRequests,
    accounts: &[ServiceAccount],
) -> impl Iterator<Item = Needed> {
    let of_kind = |kind: Kind| {
        ["get", "list", "watch", "patch"].map(|verb| (verb, kind.plural(), kind.group()))
    };
    let workloads = Kind::ALL.into_iter().flat_map(of_kind);
    let revisions = [("list", "replicasets", "apps"), ("list", "controllerrevisions", "apps")];
    let everywhere = workloads.chain(revisions).map(|(verb, resource, group)| Needed {
        verb,
        resource,
        group,
        ..Needed::default()
    });
    let of_namespaces =
        ["list", "watch"].map(|verb| Needed { verb, resource: "namespaces", ..Needed::default() });
    let of_lease = lease.into_iter().flat_map(|settings| {
        ["get", "create", "update", "watch"].map(|verb| Needed {
            verb,
            resource: "leases",
            group: "coordination.k8s.io",
            namespace: Some(settings.namespace.clone()),
            // An RBAC rule cannot name an object that does not exist yet.
            name: (verb != "create").then(|| settings.name.clone()),
            ..Needed::default()
        })
    });
    let of_sources = SourceKind::ALL.into_iter().filter(move |kind| readable.includes(*kind));
    let of_sources = of_sources.flat_map(|kind| {
        ["get", "list", "watch"].map(|verb| Needed {
            verb,
            resource: kind.plural(),
            ..Needed::default()
        })
    });
    let of_events = events.then_some(["create", "patch"]).into_iter().flatten();
    let of_events = of_events.map(|verb| Needed {
        verb,
        resource: "events",
        group: "events.k8s.io",
        ..Needed::default()
    });
    let of_injector = injector.then_some(WATCHED_RESOURCES).into_iter().flatten();
    let of_injector = of_injector.flat_map(|(resource, group)| {
        ["list", "watch"].map(|verb| Needed { verb, resource, group, ..Needed::default() })
    });
    let of_status = of_status(status, lease);
    let everywhere = everywhere.chain(of_namespaces).chain(of_sources).chain(of_events);
    let of_accounts = accounts.iter().map(of_account);
    everywhere.chain(of_injector).chain(of_lease).chain(of_status).chain(of_accounts)
}

/// Returns what a login with the tokens of a ServiceAccount needs.
fn of_account(ServiceAccount { namespace, name, audience: _ }: &ServiceAccount) -> Needed {
    Needed {
        verb: "create",
        resource: "serviceaccounts",
        subresource: Some("token"),
        group: "",
        namespace: Some(namespace.clone()),
        name: Some(name.clone()),
    }
}

/// Returns what the status API needs.
fn of_status(
    status: StatusRequests,
    lease: Option<&leader::Settings>,
) -> impl Iterator<Item = Needed> + use<> {
    let of_pods = lease.filter(|_| status.leader_pod).map(|settings| Needed {
        verb: "get",
        resource: "pods",
        namespace: Some(settings.namespace.clone()),
        ..Needed::default()
    });
    let reviews = [
        ("tokenreviews", "authentication.k8s.io"),
        ("subjectaccessreviews", "authorization.k8s.io"),
    ];
    let reviews = status.reviews.then_some(reviews).into_iter().flatten();
    let of_reviews = reviews.map(|(resource, group)| Needed {
        verb: "create",
        resource,
        group,
        ..Needed::default()
    });
    of_reviews.chain(of_pods)
}

/// Returns the missing permissions, each with the place to add it. The permissions on a Lease are
/// checked only if there is a `lease`, and those for the `injector` only if it is checked. `accounts` are
/// those whose tokens the controller requests.
///
/// Nothing is reported if the API server cannot tell: the requests themselves will then fail.
pub async fn missing(
    client: &Client,
    readable: ReadableSources,
    events: bool,
    injector: bool,
    lease: Option<&leader::Settings>,
    status: StatusRequests,
    accounts: &[ServiceAccount],
) -> Vec<String> {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut missing = Vec::new();
    for Needed { verb, resource, subresource, group, namespace, name } in
        needed(readable, events, injector, lease, status, accounts)
    {
        // A token is requested of one object, which the rule has to name.
        let part = subresource.map_or_else(String::new, |part| {
            format!("/{part} of {}", name.as_deref().unwrap_or_default())
        });
        let place = namespace.as_ref().map_or_else(
            || ". Add it to its ClusterRole".to_owned(),
            |namespace| format!(" in namespace {namespace}. Add it to its Role there"),
        );
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: Some(group.to_owned()),
                    resource: Some(resource.to_owned()),
                    subresource: subresource.map(str::to_owned),
                    verb: Some(verb.to_owned()),
                    namespace,
                    name,
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let params = PostParams::default();
        let Ok(answer) = in_time(api.create(&params, &review)).await else { continue };
        if answer.status.is_some_and(|status| !status.allowed) {
            let dot = if group.is_empty() { "" } else { "." };
            missing.push(format!("{verb} {resource}{part}{dot}{group}{place}"));
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use axum::body::Body as Answer;
    use http::Response;
    use serde_json::json;

    use super::super::scripted::client_of;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_missing_permission_for_tokens_names_the_account() {
        let client = client_of(|_| {
            let review = json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                "metadata": {}, "spec": {}, "status": { "allowed": false },
            });
            Response::new(Answer::from(review.to_string()))
        });
        let account = |namespace: &str, audience: Option<&str>| ServiceAccount {
            namespace: namespace.to_owned(),
            name: "vault-login".to_owned(),
            audience: audience.map(str::to_owned),
        };
        let accounts = [account("infra", Some("vault")), account("team-b", None)];
        let readable = ReadableSources { config_maps: false, secrets: false };
        let status = StatusRequests::default();
        let missing = missing(&client, readable, false, false, None, status, &accounts).await;
        let of_tokens = missing.iter().filter(|line| line.contains("token"));
        let expected = ["infra", "team-b"].map(|namespace| {
            format!(
                "create serviceaccounts/token of vault-login in namespace {namespace}. Add it to its \
                 Role there"
            )
        });
        assert!(of_tokens.eq(&expected), "{missing:?}");
        assert!(missing.iter().any(|line| line == "list namespaces. Add it to its ClusterRole"));
    }
}

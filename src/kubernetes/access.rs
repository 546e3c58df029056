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
use crate::model::scope::WatchScope;
use crate::references::environment::SourceKind;
use crate::references::source::ReadableSources;

/// The most missing permissions that are reported, and after which no more is asked. With named
/// namespaces, there are up to 23 of each namespace.
const MOST_REPORTED: usize = 50;

/// The most permissions that are asked about, one request each. The first ten named namespaces are
/// checked as a whole. What is missing in the others shows when they are listed.
const MOST_ASKED: usize = 250;

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

/// What the controller does with the API server.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    /// The kinds of sources that may be read.
    pub readable: ReadableSources,
    /// Whether Events are written.
    pub events: bool,
    /// Whether the injecting webhook is watched.
    pub injector: bool,
    /// Which namespaces are watched.
    pub scope: WatchScope,
    /// The Lease, if there is leader election.
    pub lease: Option<leader::Settings>,
    /// What the status API does.
    pub status: StatusRequests,
    /// The `ServiceAccounts` whose tokens the controller requests.
    pub accounts: Vec<ServiceAccount>,
}

/// What the status API does with the API server.
#[derive(Clone, Copy, Debug, Default)]
pub struct StatusRequests {
    /// It asks about callers.
    pub reviews: bool,
    /// It reads the pod that holds the Lease.
    pub leader_pod: bool,
}

/// Returns what the controller needs on workloads, their revisions, their sources and Events.
fn of_workloads(readable: ReadableSources, events: bool) -> impl Iterator<Item = Needed> {
    let of_kind = |kind: Kind| {
        ["get", "list", "watch", "patch"].map(|verb| (verb, kind.plural(), kind.group()))
    };
    let workloads = Kind::ALL.into_iter().flat_map(of_kind);
    let revisions = [("list", "replicasets", "apps"), ("list", "controllerrevisions", "apps")];
    let workloads = workloads.chain(revisions).map(|(verb, resource, group)| Needed {
        verb,
        resource,
        group,
        ..Needed::default()
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
    workloads.chain(of_sources).chain(of_events)
}

/// Returns what the controller needs on the namespaces themselves.
fn of_namespaces(scope: &WatchScope) -> Vec<Needed> {
    let needed = |verb| Needed { verb, resource: "namespaces", ..Needed::default() };
    if !scope.is_named() {
        return ["list", "watch"].map(needed).into();
    }
    let names = scope.names().iter().map(|name| Some(name.to_string()));
    names.map(|name| Needed { namespace: name.clone(), name, ..needed("get") }).collect()
}

fn needed(uses: &Uses) -> impl Iterator<Item = Needed> {
    let Uses { readable, events, injector, ref scope, ref lease, status, ref accounts } = *uses;
    let lease = lease.as_ref();
    let in_scope = scope.places().into_iter().flat_map(move |place| {
        of_workloads(readable, events)
            .map(move |needed| Needed { namespace: place.as_deref().map(str::to_owned), ..needed })
    });
    let of_injector = injector.then_some(WATCHED_RESOURCES).into_iter().flatten();
    let of_injector = of_injector.flat_map(|(resource, group)| {
        ["list", "watch"].map(|verb| Needed { verb, resource, group, ..Needed::default() })
    });
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
    let of_status = of_status(status, lease);
    let of_accounts = accounts.iter().map(of_account);
    let of_process = of_lease.chain(of_status).chain(of_accounts).chain(of_injector);
    of_process.chain(of_namespaces(scope)).chain(in_scope)
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

/// Returns the missing permissions, each with the place to add it. With named namespaces, those on
/// workloads, sources and Events are checked in each of them.
///
/// Nothing is reported if the API server cannot tell: the requests themselves will then fail.
pub async fn missing(client: &Client, uses: &Uses) -> Vec<String> {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut missing = Vec::new();
    for Needed { verb, resource, subresource, group, namespace, name } in
        needed(uses).take(MOST_ASKED)
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
            if missing.len() >= MOST_REPORTED {
                let others =
                    "and more. Add these, and start the controller again to see the others";
                missing.push(others.to_owned());
                break;
            }
            let dot = if group.is_empty() { "" } else { "." };
            missing.push(format!("{verb} {resource}{part}{dot}{group}{place}"));
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::Body as Answer;
    use http::Response;
    use serde_json::json;

    use super::super::scripted::client_of;
    use super::*;

    #[test]
    fn with_named_namespaces_no_permission_is_needed_in_the_whole_cluster() {
        let readable = ReadableSources { config_maps: true, secrets: true };
        let of = |scope: WatchScope| {
            let uses = Uses { readable, events: true, scope, ..Uses::default() };
            needed(&uses).collect::<Vec<_>>()
        };
        let all = of(WatchScope::All);
        assert!(all.iter().all(|one| one.namespace.is_none()), "{all:?}");
        let named = of(WatchScope::Named(["bank", "shop"].map(Arc::<str>::from).into()));
        assert!(named.iter().all(|one| one.namespace.is_some()), "{named:?}");
        // Of each namespace all but list and watch of Namespaces, and get of this one.
        assert_eq!(named.len(), 2 * (all.len() - 1));
        let of_itself = |one: &&Needed| one.resource == "namespaces" && one.name == one.namespace;
        assert_eq!(named.iter().filter(of_itself).count(), 2);
    }

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
        let accounts = vec![account("infra", Some("vault")), account("team-b", None)];
        let missing = missing(&client, &Uses { accounts, ..Uses::default() }).await;
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

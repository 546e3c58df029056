//! Which permissions the service account lacks, said once at the start.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::client::in_time;
use crate::core::workload::Kind;

/// The permissions that the controller needs, as (verb, resource in the group `apps`).
fn needed() -> impl Iterator<Item = (&'static str, &'static str)> {
    let workloads = Kind::ALL
        .into_iter()
        .flat_map(|kind| ["get", "list", "watch", "patch"].map(|verb| (verb, kind.plural())));
    workloads.chain([("list", "replicasets"), ("list", "controllerrevisions")])
}

/// The permissions that are lacking, as `verb resource.apps`.
///
/// Where the API server cannot say, nothing is reported: the requests themselves will tell.
pub async fn lacking(client: &Client) -> Vec<String> {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut lacking = Vec::new();
    for (verb, resource) in needed() {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: Some("apps".to_owned()),
                    resource: Some(resource.to_owned()),
                    verb: Some(verb.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let params = PostParams::default();
        let Ok(answer) = in_time(api.create(&params, &review)).await else { continue };
        if answer.status.is_some_and(|status| !status.allowed) {
            lacking.push(format!("{verb} {resource}.apps"));
        }
    }
    lacking
}

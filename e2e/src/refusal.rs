//! Admission policies that refuse changes of some workloads, or all new pods of a namespace, by any
//! client.

use std::time::Duration;

use anyhow::Result;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::wait::eventually;
use crate::workload::Workload;

const GROUP: &str = "admissionregistration.k8s.io";

/// Refuses changes of workloads that have a label, with a message, until [`lift`]. Returns when a
/// change of the workload `probe` was refused.
///
/// # Errors
/// When the cluster refuses the policy, or the policy is not in force `within` the time.
pub async fn refuse(
    cluster: &Cluster,
    name: &str,
    (label, message): (&str, &str),
    probe: &Workload,
    within: Duration,
) -> Result<()> {
    let condition = format!("has(object.metadata.labels) && '{label}' in object.metadata.labels");
    let rule = json!({
        "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"],
        "resources": ["deployments", "statefulsets", "daemonsets"],
    });
    for (object, plural) in objects(name, &rule, &condition, message) {
        cluster.apply_object(&object, plural).await?;
    }
    eventually("the policy to be in force", within, || async {
        // Labels, not annotations: a change of a Deployment's annotations changes its generation.
        let tried = fastrand::u64(..).to_string();
        let patch = json!({"metadata": {"labels": {"e2e/tried": tried}}});
        Ok(cluster.patch(probe, &patch).await.err())
    })
    .await
    .map(drop)
}

/// Refuses new pods of a namespace until [`lift`]. Returns when a new pod was refused.
///
/// # Errors
/// When the cluster refuses the policy, or the policy is not in force `within` the time.
pub async fn refuse_pods(cluster: &Cluster, namespace: &str, within: Duration) -> Result<()> {
    let condition = format!("object.metadata.namespace == '{namespace}'");
    let rule = json!({
        "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"],
    });
    for (object, plural) in objects(namespace, &rule, &condition, "no new pods here") {
        cluster.apply_object(&object, plural).await?;
    }
    eventually("the policy to be in force", within, || async {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": namespace, "generateName": "probe-"},
            "spec": {"containers": [{"name": "app", "image": "example.com/app:1"}]},
        });
        Ok(cluster.create_object(&pod, "pods").await.err())
    })
    .await
    .map(drop)
}

/// Deletes a policy, if it exists.
///
/// # Errors
/// When the cluster does not delete the policy.
pub async fn lift(cluster: &Cluster, name: &str) -> Result<()> {
    for (object, plural) in objects(name, &Value::Null, "", "").into_iter().rev() {
        let resource = ApiResource {
            group: GROUP.to_owned(),
            version: "v1".to_owned(),
            api_version: format!("{GROUP}/v1"),
            kind: object["kind"].as_str().unwrap_or_default().to_owned(),
            plural: plural.to_owned(),
        };
        let api: Api<DynamicObject> = Api::all_with(cluster.client(), &resource);
        match api.delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            answer => drop(answer?),
        }
    }
    Ok(())
}

fn objects(name: &str, rule: &Value, condition: &str, message: &str) -> [(Value, &'static str); 2] {
    let policy = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [rule]},
            "matchConditions": [{"name": "concerned", "expression": condition}],
            "validations": [{"expression": "false", "message": message}],
        },
    });
    let binding = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    });
    [(policy, "validatingadmissionpolicies"), (binding, "validatingadmissionpolicybindings")]
}

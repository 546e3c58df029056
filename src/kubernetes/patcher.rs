//! The patcher: one PATCH starts a rollout and records it, or changes nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{Patch, PatchParams};
use kube::core::{DynamicResourceScope, PartialObjectMeta};
use kube::{Api, Client, Resource};
use serde_json::{Value, json};

use super::client::{RequestError, in_time};
use super::object::Object;
use super::revisions::Revisions;
use crate::decide::plan::{Reload, Revision};
use crate::engine::ports::{Cluster, WriteError};
use crate::model::annotation::{MARK, RECORD};
use crate::model::kind::Kind;
use crate::model::workload::{Workload, WorkloadId};
use crate::references::manifest::Manifest;

/// The field manager that the API server notes for fields that the controller wrote.
const FIELD_MANAGER: &str = "vault-secrets-reloader";

/// Returns the merge patch of a reload.
///
/// The resource version is a precondition: the PATCH applies only to the object that was evaluated.
/// This holds with several controllers, a stale index, or a lost answer.
#[must_use]
pub fn patch_of(workload: &Workload, reload: &Reload) -> Value {
    json!({
        "metadata": {
            "resourceVersion": workload.resource_version,
            "annotations": BTreeMap::from([(RECORD, reload.record.encode())]),
        },
        "spec": { "template": { "metadata": { "annotations": BTreeMap::from([
            (workload.opt_in.count_key(), reload.count.to_string()),
            (MARK, reload.record.mark.clone()),
        ]) } } },
    })
}

/// The cluster, as the reloader sees it.
#[derive(Clone)]
pub struct Patcher {
    client: Client,
    revisions: Revisions,
}

impl Patcher {
    /// Makes a patcher that uses `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { revisions: Revisions::new(client.clone()), client }
    }

    fn api<K>(&self, id: &WorkloadId) -> Api<K>
    where
        K: Resource<DynamicType = Kind, Scope = DynamicResourceScope>,
    {
        Api::namespaced_with(self.client.clone(), &id.namespace, &id.kind)
    }
}

impl Cluster for Patcher {
    async fn revisions(&self, workloads: &[Arc<Workload>]) -> HashMap<Box<str>, Revision> {
        self.revisions.of(workloads).await
    }

    async fn patch(&self, workload: &Workload, reload: &Reload) -> Result<Manifest, WriteError> {
        let patch = patch_of(workload, reload);
        let params =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let api: Api<Object> = self.api(&workload.id);
        let object = in_time(api.patch(&workload.id.name, &params, &Patch::Merge(&patch)))
            .await
            .map_err(|error| write_error(&error))?;
        Ok(object.into_manifest())
    }

    async fn get(&self, id: &WorkloadId) -> Result<Manifest, WriteError> {
        let api: Api<Object> = self.api(id);
        Ok(in_time(api.get(&id.name)).await.map_err(|error| write_error(&error))?.into_manifest())
    }

    async fn last_writer(&self, id: &WorkloadId) -> Option<String> {
        let api: Api<PartialObjectMeta<Object>> = self.api(id);
        let object = in_time(api.get(&id.name)).await.ok()?;
        last_writer(object.metadata.managed_fields.unwrap_or_default())
    }
}

/// Returns the last writer among the entries of the API server, without this controller and without
/// writes of the status.
#[must_use]
pub fn last_writer(entries: Vec<ManagedFieldsEntry>) -> Option<String> {
    entries
        .into_iter()
        .filter(|entry| entry.subresource.as_deref().unwrap_or_default().is_empty())
        .filter(|entry| entry.manager.as_deref() != Some(FIELD_MANAGER))
        .max_by_key(|entry| entry.time.as_ref().map_or(Timestamp::MIN, |time| time.0))
        .and_then(|entry| entry.manager)
}

/// A PATCH that is applied after its time-out does no harm: the next decision finds its record.
fn write_error(error: &RequestError) -> WriteError {
    match error.code() {
        404 => WriteError::NotFound,
        409 => WriteError::Conflict,
        400 | 401 | 403 | 422 => WriteError::Refused(error.to_string()),
        _ => WriteError::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::observation::{Observation, ObservedVersion};
    use crate::decide::plan;
    use crate::model::fixtures::{second, version, workload};

    #[test]
    fn one_patch_holds_count_mark_record_and_precondition() {
        let web = workload("web", &["a"]);
        let seen = ObservedVersion::of(Observation::Live(version(2, 1)));
        let circumstances = plan::Circumstances { at: second(0), ..Default::default() };
        let reload = plan::reload(
            &web,
            |_| seen,
            &plan::Rules::default(),
            "fresh".to_owned(),
            circumstances,
        );
        let patch = patch_of(&web, &reload);
        let template = "secrets-reloader.security.bank-vaults.io";
        assert_eq!(
            patch,
            json!({
                "metadata": {
                    "resourceVersion": "1",
                    "annotations": { format!("{template}/reload-record"): reload.record.encode() },
                },
                "spec": { "template": { "metadata": { "annotations": {
                    format!("{template}/secret-reload-count"): "1",
                    format!("{template}/reload-mark"): "fresh",
                } } } },
            })
        );
    }

    #[test]
    fn what_the_api_server_says_is_told_apart() {
        let error = |code| {
            let status = json!({ "code": code, "message": "so it is" });
            write_error(&kube::Error::Api(serde_json::from_value(status).unwrap()).into()).reason()
        };
        let table = [
            (404, "not_found"),
            (409, "conflict"),
            (403, "refused"),
            (422, "refused"),
            (429, "failed"),
            (500, "failed"),
            (503, "failed"),
        ];
        for (code, reason) in table {
            assert_eq!(error(code), reason, "{code}");
        }
    }

    #[test]
    fn the_last_writer_is_somebody_else_and_not_a_status() {
        let entry = |manager: &str, time: &str, subresource: Option<&str>| {
            serde_json::from_value(json!({
                "manager": manager, "time": time, "subresource": subresource, "operation": "Update",
            }))
            .unwrap()
        };
        let entries = vec![
            entry("helm", "2026-11-22T05:00:00Z", None),
            entry("argocd", "2026-11-22T06:00:00Z", None),
            entry(FIELD_MANAGER, "2026-11-22T07:00:00Z", None),
            entry("kube-controller-manager", "2026-11-22T08:00:00Z", Some("status")),
        ];
        assert_eq!(last_writer(entries).as_deref(), Some("argocd"));
        assert_eq!(last_writer(Vec::new()), None);
    }
}

//! The other answers of the API server, decoded with the types that `kube` uses. Input: JSON.

use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::core::v1::Secret;
use kube::core::{ObjectList, PartialObjectMeta, Status, WatchEvent};
use serde_json::{Value, json};
use vault_secrets_reloader::kubernetes::object::Object;
use vault_secrets_reloader::kubernetes::patcher::last_writer;
use vault_secrets_reloader::references::manifest::Manifest;

/// Asserts the properties that hold for any JSON.
pub fn check(data: &[u8]) {
    // Any result is fine, but no panic.
    let list = serde_json::from_slice::<ObjectList<Object>>(data);
    let event = serde_json::from_slice::<WatchEvent<Object>>(data);
    drop((list, event));
    drop(serde_json::from_slice::<Status>(data));
    drop(serde_json::from_slice::<SelfSubjectAccessReview>(data));
    drop(serde_json::from_slice::<Secret>(data));
    if let Ok(object) = serde_json::from_slice::<PartialObjectMeta<Object>>(data) {
        let writer = last_writer(object.metadata.managed_fields.unwrap_or_default());
        assert_ne!(writer.as_deref(), Some("vault-secrets-reloader"));
    }
    if let Ok(object) = serde_json::from_slice::<Value>(data) {
        check_that_all_ways_lead_to_the_same(&object);
    }
}

/// Asserts that an object in a list, an object in an event of a watch and an object alone are
/// decoded alike, and that the object stops neither the list nor the watch.
fn check_that_all_ways_lead_to_the_same(object: &Value) {
    let alone = serde_json::from_str::<Object>(&object.to_string());
    let Ok(alone) = alone.map(Object::into_manifest) else {
        panic!("not an object: {object}");
    };
    let list = json!({
        "kind": "DeploymentList", "apiVersion": "apps/v1",
        "metadata": { "resourceVersion": "1" }, "items": [object, {}, object],
    });
    let list: Result<ObjectList<Object>, _> = serde_json::from_str(&list.to_string());
    let listed: Vec<Manifest> =
        list.into_iter().flat_map(|list| list.items).map(Object::into_manifest).collect();
    assert!(listed.len() == 3 && listed[0] == alone && listed[2] == alone, "{object}");
    // The type may come before or after the object.
    for event in [
        format!(r#"{{"type":"MODIFIED","object":{object}}}"#),
        format!(r#"{{"object":{object},"type":"MODIFIED"}}"#),
    ] {
        let event: Result<WatchEvent<Object>, _> = serde_json::from_str(&event);
        let Ok(WatchEvent::Modified(watched)) = event else { panic!("no event: {object}") };
        assert_eq!(watched.into_manifest(), alone, "{object}");
    }
}

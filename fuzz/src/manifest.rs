//! The path of an API server's object from its JSON to a workload. Input: the JSON.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use vault_secrets_reloader::kubernetes::object::Object;
use vault_secrets_reloader::model::annotation::RECORD;
use vault_secrets_reloader::model::kind::Kind;
use vault_secrets_reloader::model::workload::MOST_SECRETS;
use vault_secrets_reloader::references::environment::{Container, EnvValue, SourceName};
use vault_secrets_reloader::references::grammar::may_hold_reference;
use vault_secrets_reloader::references::manifest::{Manifest, Read};
use vault_secrets_reloader::references::servers::{
    Address, Servers, UndeclaredAddress, VaultServer,
};
use vault_secrets_reloader::references::source::SourceState;

use crate::path::assert_is_clean;

/// Asserts the properties that hold for any JSON.
pub fn check(data: &[u8]) {
    let Some(manifest) = manifest_of(data) else { return };
    assert_eq!(manifest_of(data), Some(manifest.clone()), "the same bytes are the same");
    for kind in Kind::ALL {
        check_read(&manifest, kind);
    }
    // Any JSON is an object. Without duplicate keys, the JSON has only one reading.
    if let Ok(value) = serde_json::from_slice::<Value>(data) {
        let text = value.to_string();
        let manifest = manifest_of(text.as_bytes());
        assert!(manifest.is_some(), "{text}");
        check_against_slow_reading(&manifest.unwrap_or_default(), &value);
    }
}

fn manifest_of(json: &[u8]) -> Option<Manifest> {
    serde_json::from_slice::<Object>(json).ok().map(Object::into_manifest)
}

fn check_against_slow_reading(manifest: &Manifest, value: &Value) {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let metadata = &value["metadata"];
    assert_eq!(manifest.name, text("/metadata/name"));
    assert_eq!(manifest.namespace, text("/metadata/namespace"));
    assert_eq!(manifest.uid, text("/metadata/uid"));
    assert_eq!(manifest.resource_version, text("/metadata/resourceVersion"));
    assert_eq!(manifest.generation, metadata["generation"].as_u64().unwrap_or_default());
    assert_eq!(manifest.deleting, metadata["deletionTimestamp"].is_string());
    assert_eq!(manifest.record.as_deref(), metadata["annotations"][RECORD].as_str());
    let template = &value["spec"]["template"];
    let mut variables = Vec::new();
    let mut sources = BTreeSet::new();
    // Containers in which a variable refers to other variables. Their values are expanded.
    let mut expanded = BTreeSet::new();
    let name_of = |source: &Value| source["name"].as_str().unwrap_or_default().to_owned();
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in template["spec"][list].as_array().into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default();
            for variable in container["env"].as_array().into_iter().flatten() {
                let text = |key: &str| variable[key].as_str().unwrap_or_default();
                if text("value").contains('$') {
                    expanded.insert(name);
                }
                if text("value").is_empty() {
                    let from = &variable["valueFrom"];
                    sources.insert(name_of(&from["configMapKeyRef"]));
                    sources.insert(name_of(&from["secretKeyRef"]));
                } else if may_hold_reference(text("value")) {
                    variables.push((name, text("name"), text("value")));
                }
            }
            for from in container["envFrom"].as_array().into_iter().flatten() {
                sources.insert(name_of(&from["configMapRef"]));
                sources.insert(name_of(&from["secretRef"]));
            }
        }
    }
    variables.retain(|(container, ..)| !expanded.contains(container));
    variables.sort_unstable();
    let all = || {
        manifest.containers.iter().flat_map(|container| {
            container.variables.iter().map(|variable| (&*container.name, variable))
        })
    };
    let mut read: Vec<_> = all()
        .filter_map(|(container, variable)| match &variable.value {
            EnvValue::Literal(value) | EnvValue::Partly(value) if may_hold_reference(value) => {
                Some((container, &*variable.name, &**value))
            }
            _ => None,
        })
        .filter(|(container, ..)| !expanded.contains(container))
        .collect();
    read.sort_unstable();
    assert_eq!(read, variables);
    // If a place names two sources of one kind, one of them is read.
    let named = manifest.containers.iter().flat_map(Container::sources);
    assert!(named.into_iter().all(|source| sources.contains(&source.name)));
}

fn check_read(manifest: &Manifest, kind: Kind) {
    let default = VaultServer { namespace: Some("team".into()), ..VaultServer::default() };
    let other = VaultServer {
        name: "other".into(),
        addresses: Address::parse("https://other:8200").into_iter().collect(),
        namespace: None,
    };
    let servers =
        Servers::new(vec![default, other], UndeclaredAddress::Default).unwrap_or_default();
    let unknown = |_: &Arc<str>, _: &SourceName| SourceState::Unread;
    let read = manifest.read(kind, &servers, unknown);
    let Read { id, workload, notes, is_waiting, record_error } = &read;
    assert!(!is_waiting || !manifest.sources().is_empty());
    assert_eq!((&*id.namespace, &*id.name), (&*manifest.namespace, &*manifest.name));
    let is_opted_in = manifest.annotations.opt_in().is_some();
    assert!(is_opted_in || (workload.is_none() && notes.is_empty() && record_error.is_none()));

    let without = Manifest { record: None, ..manifest.clone() }.read(kind, &servers, unknown);
    if record_error.is_some() {
        // A record that cannot be read counts as no record, and changes nothing else.
        assert_eq!(Read { record_error: None, ..read.clone() }, without);
    }
    let Some(workload) = workload else { return };
    assert!(workload.secrets.is_sorted_by(|a, b| a < b));
    let mut hashes = Vec::new();
    for secret in &workload.secrets {
        assert_is_clean(&secret.path);
        let namespace = secret.namespace.as_deref().unwrap_or_default();
        assert!(namespace.len() <= 1024 && !namespace.chars().any(char::is_control));
        assert!(!namespace.starts_with('/') && !namespace.ends_with('/'));
        hashes.push(secret.hash64());
    }
    if let Some(recorded) = &workload.recorded {
        let is_short = recorded.versions.len() <= MOST_SECRETS;
        assert!(is_short || recorded.versions.iter().all(|(hash, _)| hashes.contains(&hash)));
    }
    let another = Manifest { uid: format!("{}x", manifest.uid), ..manifest.clone() };
    let another = another.read(kind, &servers, unknown).workload;
    assert!(another.is_some_and(|another| another.recorded.is_none()));
}

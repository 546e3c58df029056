//! Tests which fields of an object are kept, and that any JSON is accepted.

use serde_json::{Value, json};

use super::*;
use crate::model::annotation;
use crate::model::progress::RolloutStatus;

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "web",
            "namespace": "shop",
            "uid": "u1",
            "resourceVersion": "12",
            "generation": 3,
            "creationTimestamp": "2026-11-22T05:51:00Z",
            "annotations": {
                "a": "b",
                annotation::RECORD: "{}",
                annotation::DRY_RUN: "true",
                annotation::RELOAD_ORDER: "-3",
                annotation::CONTINUE_AFTER_FAILURE: "7",
                annotation::RELOAD_WINDOWS: "allow 0 22 * * * 8h",
                annotation::FREEZE_UNTIL: "2026-12-24",
            },
            "managedFields": [{ "fieldsV1": { "f:spec": {} } }],
        },
        "spec": {
            "replicas": 3,
            "strategy": { "type": "Recreate" },
            "template": {
                "metadata": { "annotations": { annotation::MARK: "m", "other": "x" } },
                "spec": {
                    "initContainers": [{
                        "env": [{ "name": "I", "value": "vault:secret/data/i#k" }],
                        "name": "init",
                    }],
                    "containers": [{
                        "name": "app",
                        "image": "app:1",
                        "env": [
                            { "name": "PLAIN", "value": "x" },
                            { "value": "vault:secret/data/a#k", "name": "A" },
                            { "name": "NONE", "valueFrom": { "fieldRef": { "fieldPath": "x" } } },
                        ],
                    }],
                },
            },
        },
        "status": {
            "observedGeneration": 2,
            "updateRevision": "web-1",
            "currentRevision": "web-1",
            "replicas": 4,
            "updatedReplicas": 2,
            "readyReplicas": 3,
            "availableReplicas": 1,
            "terminatingReplicas": 5,
            "conditions": [
                { "type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable" },
                { "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded" },
                { "reason": "FailedCreate", "status": "True", "type": "ReplicaFailure" },
            ],
        },
    })
}

fn read(value: &Value) -> Manifest {
    serde_json::from_str::<Object>(&value.to_string()).unwrap().into_manifest()
}

#[test]
fn what_is_needed_is_kept_in_any_order_of_the_fields() {
    let manifest = read(&deployment());
    let container = |name: &str, variable: &str, value: &str| Container {
        name: name.to_owned(),
        variables: vec![EnvVar::literal(variable, value)],
        ..Container::default()
    };
    assert_ne!(manifest.template, 0);
    let mut containers = manifest.containers.clone();
    containers.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(
        Manifest { template: 0, containers, ..manifest },
        Manifest {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: "u1".to_owned(),
            resource_version: "12".to_owned(),
            generation: 3,
            created: "2026-11-22T05:51:00Z".parse().unwrap(),
            deleting: false,
            owner: None,
            rollout: Rollout::Automatic,
            record: Some("{}".to_owned()),
            dry_run: true,
            reload_order: -3,
            continue_after: Some(7),
            recreates: true,
            time_rules: TimeRules::new(Some("2026-12-24"), Some("allow 0 22 * * * 8h")).boxed(),
            observed_generation: 2,
            status: RolloutStatus {
                replicas_in_spec: Some(3),
                replicas: 4,
                updated: 2,
                ready: 3,
                available: 1,
                terminating: 5,
                failure: Some(RolloutFailure::FailedCreate),
                has_ended: true,
            },
            update_revision: Some("web-1".to_owned()),
            template: 0,
            annotations: [(annotation::MARK, "m")].into_iter().collect(),
            containers: vec![
                container("app", "A", "vault:secret/data/a#k"),
                container("init", "I", "vault:secret/data/i#k"),
            ],
        }
    );
}

#[test]
fn the_digest_changes_with_the_template_and_with_nothing_else() {
    let digest = |pointer: &str, value: Value| {
        let mut object = deployment();
        *object.pointer_mut(pointer).unwrap() = value;
        read(&object).template
    };
    let same = read(&deployment()).template;
    assert_eq!(digest("/spec/replicas", json!(5)), same);
    assert_eq!(digest("/metadata/resourceVersion", json!("13")), same);
    assert_eq!(digest("/status", json!({})), same);
    let containers = "/spec/template/spec/containers/0";
    assert_ne!(digest(&format!("{containers}/image"), json!("app:2")), same);
    assert_ne!(digest(&format!("{containers}/env/0/value"), json!("y")), same);
    assert_ne!(digest(&format!("{containers}/env/2"), json!(null)), same);
    assert_ne!(digest("/spec/template/metadata/annotations/other", json!("y")), same);
}

#[test]
fn the_counters_of_a_daemon_set_have_other_names() {
    let mut object = deployment();
    object["spec"]["replicas"] = Value::Null;
    object["status"] = json!({
        "desiredNumberScheduled": 4,
        "updatedNumberScheduled": 2,
        "numberReady": 3,
        "numberAvailable": 1,
        "currentNumberScheduled": 9,
        "conditions": [null, {}, "odd"],
    });
    let (replicas, updated, ready, available) = (4, 2, 3, 1);
    let expected =
        RolloutStatus { replicas, updated, ready, available, ..RolloutStatus::default() };
    assert_eq!(read(&object).status, expected);
    // Odd values count as absent.
    object["status"] = json!({ "replicas": -1, "updatedReplicas": "2", "readyReplicas": 1.5 });
    object["status"]["availableReplicas"] = json!(u64::MAX);
    let expected = RolloutStatus { available: u32::MAX, ..RolloutStatus::default() };
    assert_eq!(read(&object).status, expected);
}

/// Returns a Deployment with all exceptional fields.
fn odd_one() -> Value {
    let mut object = deployment();
    object["metadata"]["ownerReferences"] = json!([
        { "kind": "Team", "name": "shop", "uid": "u8" },
        { "controller": true, "kind": "Database", "name": "orders", "uid": "u9" },
        { "controller": false, "kind": "Chart", "name": "shop", "uid": "u7" },
    ]);
    object["spec"]["paused"] = json!(true);
    object["spec"]["updateStrategy"] =
        json!({ "rollingUpdate": { "partition": 2 }, "type": "RollingUpdate" });
    object
}

#[test]
fn who_owns_it_and_how_it_rolls_out_are_kept_and_not_part_of_the_template() {
    let odd = read(&odd_one());
    assert_eq!((odd.owner.as_deref(), odd.rollout), (Some("Database/orders"), Rollout::Paused));
    assert_eq!(odd.template, read(&deployment()).template);
    let rollout = |paused: Value, strategy: Value| {
        let mut object = odd_one();
        object["spec"]["paused"] = paused;
        object["spec"]["updateStrategy"] = strategy;
        read(&object).rollout
    };
    let none = || json!(null);
    assert_eq!(rollout(json!(false), none()), Rollout::Automatic);
    assert_eq!(rollout(none(), json!({ "type": "OnDelete" })), Rollout::OnDelete);
    assert_eq!(rollout(none(), json!({ "type": "RollingUpdate" })), Rollout::Automatic);
    let partition =
        |value| json!({ "type": "RollingUpdate", "rollingUpdate": { "partition": value } });
    assert_eq!(rollout(none(), partition(0)), Rollout::Automatic);
    assert_eq!(rollout(none(), partition(2)), Rollout::Partition(2));
    // The strategy of a Deployment has neither.
    let mut object = deployment();
    object["spec"]["strategy"] = json!({ "type": "OnDelete" });
    assert_eq!(read(&object).rollout, Rollout::Automatic);
    // An owner reference without `controller` is ignored.
    object["metadata"]["ownerReferences"] = json!([{ "kind": "Team", "name": "shop" }]);
    assert_eq!(read(&object).owner, None);
}

#[test]
fn fields_of_any_type_are_read_as_absent_and_never_fail() {
    let odd = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1.5),
        json!("x"),
        json!([[1]]),
        json!({"a": {"name": []}}),
    ];
    let pointers = [
        "/metadata",
        "/metadata/name",
        "/metadata/generation",
        "/metadata/creationTimestamp",
        "/metadata/annotations",
        "/metadata/ownerReferences",
        "/metadata/ownerReferences/1",
        "/metadata/ownerReferences/1/controller",
        "/spec",
        "/spec/paused",
        "/spec/updateStrategy",
        "/spec/updateStrategy/rollingUpdate",
        "/spec/updateStrategy/rollingUpdate/partition",
        "/spec/template",
        "/spec/template/metadata/annotations",
        "/spec/template/spec/containers",
        "/spec/template/spec/containers/0",
        "/spec/template/spec/containers/0/env",
        "/spec/template/spec/containers/0/env/1",
        "/spec/template/spec/containers/0/env/1/value",
        "/status",
    ];
    for pointer in pointers {
        for value in &odd {
            let mut object = odd_one();
            *object.pointer_mut(pointer).unwrap() = value.clone();
            read(&object);
        }
    }
    for value in &odd {
        read(value);
    }
}

#[test]
fn objects_are_read_from_lists_and_from_watch_events() {
    let list = json!({ "kind": "DeploymentList", "apiVersion": "apps/v1", "metadata": {}, "items": [deployment()] });
    let list: kube::core::ObjectList<Object> = serde_json::from_str(&list.to_string()).unwrap();
    assert_eq!(list.items[0].clone().into_manifest(), read(&deployment()));
    let event = format!(r#"{{"object":{},"type":"ADDED"}}"#, deployment());
    let event: kube::api::WatchEvent<Object> = serde_json::from_str(&event).unwrap();
    let kube::api::WatchEvent::Added(object) = event else { panic!("an addition") };
    assert_eq!(object.into_manifest(), read(&deployment()));
}

#[test]
fn sources_are_kept_and_what_can_take_the_place_of_a_reference() {
    let mut value = deployment();
    let key = |source: &str, optional: Value| json!({ source: { "name": "s", "key": "k", "optional": optional } });
    value["spec"]["template"]["spec"] = json!({ "containers": [
        {
            "name": "from",
            "env": [{ "name": "PLAIN", "value": "x" }, { "name": "F", "valueFrom": { "fieldRef": {} } }],
            "envFrom": [
                { "configMapRef": { "name": "a" } },
                { "prefix": "P_", "secretRef": { "optional": true, "name": "b" } },
                { "configMapRef": { "name": "" } },
                { "configMapRef": { "name": 7, "optional": "true" } },
                {},
                7,
            ],
        },
        {
            "name": "keys",
            "env": [
                { "name": "A", "value": "vault:a#k" },
                { "name": "A", "value": "plain" },
                { "name": "OTHER", "value": "plain" },
                { "name": "B", "valueFrom": key("configMapKeyRef", json!(true)) },
                { "name": "C", "valueFrom": key("secretKeyRef", json!(null)) },
                { "name": "D", "valueFrom": { "configMapKeyRef": { "key": "k" } } },
            ],
        },
        { "name": "none", "env": [{ "name": "PLAIN", "value": "x" }], "envFrom": null },
    ]});
    let source = |kind, name: &str| SourceName { kind, name: name.to_owned() };
    let from =
        |prefix: &str, source, optional| EnvFrom { prefix: prefix.to_owned(), source, optional };
    let other = |name: &str| EnvVar { name: name.to_owned(), value: EnvValue::Other };
    let of_key = |name: &str, kind, optional| {
        let (source, key) = (source(kind, "s"), "k".to_owned());
        EnvVar { name: name.to_owned(), value: EnvValue::Key { source, key, optional } }
    };
    let expected = [
        Container {
            name: "from".to_owned(),
            from: vec![
                from("", source(SourceKind::ConfigMap, "a"), false),
                from("P_", source(SourceKind::Secret, "b"), true),
            ],
            variables: vec![other("PLAIN"), other("F")],
            starts_injector: false,
        },
        Container {
            name: "keys".to_owned(),
            from: Vec::new(),
            variables: vec![
                EnvVar::literal("A", "vault:a#k"),
                other("A"),
                of_key("B", SourceKind::ConfigMap, true),
                of_key("C", SourceKind::Secret, false),
            ],
            starts_injector: false,
        },
    ];
    assert_eq!(read(&value).containers, expected);
    // The name of a source counts for the template, as everything else does.
    let before = read(&value).template;
    value["spec"]["template"]["spec"]["containers"][0]["envFrom"][1]["optional"] = json!(false);
    assert_ne!(read(&value).template, before);
}

#[test]
fn what_tells_an_injector_something_is_kept_and_variables_are_expanded() {
    let mut value = deployment();
    value["spec"]["template"]["metadata"]["labels"] =
        json!({ annotation::MUTATE_LABEL: "skip", "app": "web" });
    value["spec"]["template"]["spec"] = json!({ "containers": [
        {
            "name": "app",
            "command": ["/bin/sh", "-c"],
            "args": ["exec /vault/vault-env /app", 7],
            "env": [
                { "name": "STAGE", "value": "prod" },
                { "name": "VAULT_NAMESPACE", "value": "team/$(STAGE)" },
                { "name": "VAULT_ADDR", "valueFrom": { "fieldRef": { "fieldPath": "x" } } },
                { "name": "BAO_NAMESPACE" },
                { "name": "A", "value": "vault:$(STAGE)/$$#k" },
                { "name": "B", "value": "vault:$(NONE)#k" },
                { "name": "C", "value": "vault$(STAGE):" },
            ],
        },
        { "name": "copy", "command": ["cp", "/bin/vault-environment", "/vault/"] },
    ]});
    let manifest = read(&value);
    assert!(manifest.annotations.is_left_alone());
    let variable = |name: &str, value: EnvValue| EnvVar { name: name.to_owned(), value };
    let expected = Container {
        name: "app".to_owned(),
        from: Vec::new(),
        variables: vec![
            EnvVar::literal("VAULT_NAMESPACE", "team/prod"),
            variable("VAULT_ADDR", EnvValue::Other),
            EnvVar::literal("BAO_NAMESPACE", ""),
            EnvVar::literal("A", "vault:prod/$#k"),
            variable("B", EnvValue::Partly("vault:$(NONE)#k".to_owned())),
        ],
        starts_injector: true,
    };
    assert_eq!(manifest.containers, std::slice::from_ref(&expected));
    // With a list of paths, a container without references gets those paths, too.
    let list = "secrets-webhook.security.bank-vaults.io/vault-from-path";
    value["spec"]["template"]["metadata"]["annotations"][list] = json!("secret/data/a");
    assert_eq!(read(&value).containers, [expected, Container::default()]);
}

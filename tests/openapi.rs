//! `docs/openapi.yaml` describes the API as it is: the same paths, the same fields of each type, and
//! the same names of states.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly, its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use vault_secrets_reloader::model::kind::Kind;
use vault_secrets_reloader::rollouts::rotation::RotationState;
use vault_secrets_reloader::status::api::{self, FAILURE_CODES, REASONS, WORKLOAD_STATES};
use vault_secrets_reloader::web::api::PATHS;

/// The schema of the answer of each path.
const ANSWERS: [(&str, &str); 5] = [
    ("/v1/overview", "Overview"),
    ("/v1/rotations", "RotationPage"),
    ("/v1/secret", "SecretStatus"),
    ("/v1/workloads", "WorkloadPage"),
    ("/v1/workload", "WorkloadStatus"),
];

fn document() -> Value {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.yaml");
    serde_saphyr::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// Returns the target of a reference such as `#/components/schemas/Secret`.
fn target<'a>(document: &'a Value, reference: &str) -> &'a Value {
    let pointer = reference.strip_prefix('#');
    let found = pointer.and_then(|pointer| document.pointer(pointer));
    found.unwrap_or_else(|| panic!("{reference} leads nowhere"))
}

/// Returns the schema that a reference leads to, or the schema itself.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let reference = schema.get("$ref").and_then(Value::as_str);
    reference.map_or(schema, |reference| target(document, reference))
}

fn items(list: Option<&Value>) -> &[Value] {
    list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn texts(list: Option<&Value>) -> Vec<&str> {
    items(list).iter().map(|item| item.as_str().unwrap()).collect()
}

fn keys(map: &Value) -> BTreeSet<&str> {
    map.as_object().unwrap().keys().map(String::as_str).collect()
}

/// The fields of an object.
#[derive(Default)]
struct Fields<'a> {
    schemas: BTreeMap<&'a str, &'a Value>,
    required: BTreeSet<&'a str>,
}

/// Returns the fields of a schema and of all schemas that it is put together from.
fn fields<'a>(document: &'a Value, schema: &'a Value) -> Fields<'a> {
    let schema = resolved(document, schema);
    let mut all = Fields::default();
    for part in items(schema.get("allOf")) {
        let part = fields(document, part);
        all.schemas.extend(part.schemas);
        all.required.extend(part.required);
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        let former = all.schemas.insert(name, property);
        assert!(former.is_none(), "{name} is described twice in {schema}");
    }
    all.required.extend(texts(schema.get("required")));
    all
}

/// Asserts that a schema describes a value and everything in this value.
fn assert_describes(document: &Value, schema: &Value, value: &Value, at: &str) {
    let schema = resolved(document, schema);
    match value {
        Value::Object(map) => {
            if let Some(values) = schema.get("additionalProperties") {
                for (name, value) in map {
                    if let Some(names) = schema.get("propertyNames") {
                        assert_describes(document, names, &Value::from(name.as_str()), at);
                    }
                    assert_describes(document, values, value, &format!("{at}.{name}"));
                }
                return;
            }
            let fields = fields(document, schema);
            for name in fields.required {
                assert!(map.contains_key(name), "{at}.{name} is absent");
            }
            for (name, value) in map {
                let at = format!("{at}.{name}");
                let Some(property) = fields.schemas.get(name.as_str()) else {
                    panic!("{at} is not described")
                };
                assert_describes(document, property, value, &at);
            }
        }
        Value::Array(values) => {
            assert_eq!(schema["type"], "array", "{at}");
            for value in values {
                assert_describes(document, &schema["items"], value, at);
            }
        }
        Value::String(text) => {
            assert_eq!(schema["type"], "string", "{at}");
            let names = texts(schema.get("enum"));
            assert!(names.is_empty() || names.contains(&text.as_str()), "{at}: {text}");
            if schema["format"] == "date-time" {
                assert!(text.parse::<Timestamp>().is_ok(), "{at}: {text}");
            }
        }
        Value::Number(number) => {
            assert_eq!(schema["type"], "integer", "{at}");
            assert!(number.is_u64(), "{at}: {number}");
        }
        Value::Bool(_) => assert_eq!(schema["type"], "boolean", "{at}"),
        Value::Null => panic!("{at} is null"),
    }
}

/// A type of the API in JSON.
struct Example {
    /// The name of its schema.
    schema: &'static str,
    /// A value with all fields.
    full: Value,
    /// A value without the fields that may be absent.
    minimal: Value,
}

fn example(schema: &'static str, full: &impl Serialize, minimal: &impl Serialize) -> Example {
    let full = serde_json::to_value(full).unwrap();
    let minimal = serde_json::to_value(minimal).unwrap();
    Example { schema, full, minimal }
}

fn example_of_page<T: Serialize + Clone>(schema: &'static str, item: &T) -> Example {
    let full = page(item);
    let minimal = api::Page { next: None, ..full.clone() };
    example(schema, &full, &minimal)
}

fn page<T: Clone>(item: &T) -> api::Page<T> {
    api::Page { items: vec![item.clone()], total: 2, next: Some("next".to_owned()) }
}

fn time() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

fn counts(names: &[&str]) -> BTreeMap<String, u64> {
    names.iter().map(|name| ((*name).to_owned(), 1)).collect()
}

fn secret() -> api::Secret {
    let namespace = Some("team".to_owned());
    api::Secret { server: "default".to_owned(), namespace, path: "secret/data/mysql".to_owned() }
}

fn version() -> api::Version {
    api::Version { number: 2, created: time() }
}

fn rotation() -> api::Rotation {
    api::Rotation {
        secret: secret(),
        version: Some(version()),
        read_at: Some(time()),
        state: RotationState::Running.name().to_owned(),
        revocable: false,
        workloads: counts(&WORKLOAD_STATES),
    }
}

fn progress() -> api::Progress {
    api::Progress {
        state: WORKLOAD_STATES[0].to_owned(),
        reason: Some(REASONS[0].to_owned()),
        message: "New pods cannot be created".to_owned(),
        since: Some(time()),
    }
}

fn minimal_progress() -> api::Progress {
    api::Progress { reason: None, since: None, ..progress() }
}

fn finding() -> api::Finding {
    api::Finding { reason: "NoKey".to_owned(), message: "there is no #KEY".to_owned() }
}

fn workload() -> String {
    "shop/Deployment/web".to_owned()
}

/// The examples of what lists hold.
fn parts() -> Vec<Example> {
    let server = api::Server {
        name: "default".to_owned(),
        secrets: 1,
        last_poll: Some(time()),
        last_successful_poll: Some(time()),
    };
    let unread = api::Server { last_poll: None, last_successful_poll: None, ..server.clone() };
    let root = api::Secret { namespace: None, ..secret() };
    let unknown = api::Rotation { version: None, read_at: None, ..rotation() };
    let user = api::User { workload: workload(), progress: progress() };
    let complete = api::User { progress: minimal_progress(), ..user.clone() };
    let state = WORKLOAD_STATES[0].to_owned();
    let row = api::Workload { workload: workload(), secrets: 1, state };
    let used = api::UsedSecret { secret: secret(), version: Some(version()), progress: progress() };
    let unread_used =
        api::UsedSecret { version: None, progress: minimal_progress(), ..used.clone() };
    vec![
        example("Server", &server, &unread),
        example("Secret", &secret(), &root),
        example("Version", &version(), &version()),
        example("Rotation", &rotation(), &unknown),
        example("User", &user, &complete),
        example("Progress", &progress(), &minimal_progress()),
        example("Workload", &row, &row),
        example("UsedSecret", &used, &unread_used),
        example("Finding", &finding(), &finding()),
        example_of_page("RotationPage", &rotation()),
        example_of_page("UserPage", &user),
        example_of_page("WorkloadPage", &row),
    ]
}

/// The examples of all types.
fn examples() -> Vec<Example> {
    let overview = api::Overview {
        now: time(),
        version: "1.1.0".to_owned(),
        leader: "vault-secrets-reloader-0".to_owned(),
        servers: Vec::new(),
        rotations: counts(&RotationState::ALL.map(RotationState::name)),
        workloads: counts(&WORKLOAD_STATES),
        workloads_by_kind: counts(&Kind::ALL.map(Kind::name)),
        findings: counts(&["NoKey"]),
    };
    let user = api::User { workload: workload(), progress: progress() };
    let status = api::SecretStatus { now: time(), rotation: rotation(), users: page(&user) };
    let unknown = api::Rotation { version: None, read_at: None, ..rotation() };
    let unknown = api::SecretStatus { rotation: unknown, ..status.clone() };
    let used = api::UsedSecret { secret: secret(), version: Some(version()), progress: progress() };
    let reloaded = api::WorkloadStatus {
        workload: workload(),
        reloads: 1,
        last_reload: Some(time()),
        secrets: vec![used],
        findings: vec![finding()],
    };
    let never_reloaded = api::WorkloadStatus { last_reload: None, ..reloaded.clone() };
    let (code, message) = ("notLeader".to_owned(), "ask the leader".to_owned());
    let failure = api::Failure { code, message };
    let mut examples = parts();
    examples.extend([
        example("Overview", &overview, &overview),
        example("SecretStatus", &status, &unknown),
        example("WorkloadStatus", &reloaded, &never_reloaded),
        example("Failure", &failure, &failure),
    ]);
    examples
}

#[test]
fn each_type_has_the_fields_of_its_schema() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    let mut compared = BTreeSet::new();
    for Example { schema: name, full, minimal } in examples() {
        let schema = &schemas[name];
        let fields = fields(&document, schema);
        let described: BTreeSet<&str> = fields.schemas.keys().copied().collect();
        assert_eq!(keys(&full), described, "{name}");
        assert_eq!(keys(&minimal), fields.required, "the fields of {name} that are required");
        assert_describes(&document, schema, &full, name);
        assert_describes(&document, schema, &minimal, name);
        compared.insert(name);
    }
    // The three kinds of pages share the fields of this schema.
    compared.insert("Page");
    let has_fields = |name: &&str| !fields(&document, &schemas[*name]).schemas.is_empty();
    let described: BTreeSet<&str> = keys(schemas).into_iter().filter(has_fields).collect();
    assert_eq!(described, compared);
}

#[test]
fn states_and_kinds_have_the_names_of_the_program() {
    let document = document();
    let names = |schema: &str| texts(document["components"]["schemas"][schema].get("enum"));
    assert_eq!(names("RotationState"), RotationState::ALL.map(RotationState::name));
    assert_eq!(names("WorkloadState"), WORKLOAD_STATES);
    assert_eq!(names("WorkloadKind"), Kind::ALL.map(Kind::name));
    let failure = &document["components"]["schemas"]["Failure"];
    assert_eq!(texts(failure["properties"]["code"].get("enum")), FAILURE_CODES);
}

#[test]
fn each_path_is_described_with_its_answer() {
    let document = document();
    let paths = &document["paths"];
    assert_eq!(keys(paths), BTreeSet::from(PATHS));
    assert_eq!(keys(paths), ANSWERS.iter().map(|(path, _)| *path).collect::<BTreeSet<_>>());
    for (path, schema) in ANSWERS {
        assert_eq!(keys(&paths[path]), BTreeSet::from(["get"]), "{path}");
        let answers = &paths[path]["get"]["responses"];
        let answer = &answers["200"]["content"]["application/json"]["schema"];
        assert_eq!(answer["$ref"], format!("#/components/schemas/{schema}"), "{path}");
        for status in ["401", "403", "429", "503"] {
            assert!(answers.get(status).is_some(), "{path}: {status}");
        }
    }
}

fn add_references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str));
            for value in map.values() {
                add_references(value, found);
            }
        }
        Value::Array(values) => {
            for value in values {
                add_references(value, found);
            }
        }
        _ => {}
    }
}

#[test]
fn each_reference_leads_to_a_component_and_each_component_is_used() {
    let document = document();
    let mut references = BTreeSet::new();
    add_references(&document, &mut references);
    assert!(references.len() > 20, "{references:?}");
    for reference in &references {
        target(&document, reference);
    }
    for section in ["parameters", "headers", "responses", "schemas"] {
        for name in keys(&document["components"][section]) {
            let reference = format!("#/components/{section}/{name}");
            assert!(references.contains(reference.as_str()), "{reference} is not used");
        }
    }
}

//! What is read often must cost little: by the count of an allocator.

use std::sync::Arc;

use allocation_counter::measure;
use vault_secrets_reloader::model::annotation::Annotations;
use vault_secrets_reloader::references::environment::{Container, EnvFrom, SourceKind, SourceName};
use vault_secrets_reloader::references::extraction::{extract, read_value};
use vault_secrets_reloader::references::grammar::may_hold_reference;
use vault_secrets_reloader::references::source::{Content, SourceState};
use vault_secrets_reloader::vault::answer::Answer;
use vault_secrets_reloader::vault::metadata::{self, Metadata};

#[test]
fn a_value_without_a_reference_is_read_without_an_allocation() {
    let long = "https://shop.svc:8443/a?b=c#d ".repeat(10_000);
    for value in ["", "plain", "https://a:8443", "default:", "bao", "${VAR}", "}}}", &long] {
        let used = measure(|| {
            assert!(!may_hold_reference(value));
            assert!(read_value("VARIABLE", value).is_empty());
        });
        assert_eq!(used.count_total, 0, "{value:.40}");
    }
    // It does count.
    assert_ne!(measure(|| drop(read_value("VARIABLE", "vault:a#b"))).count_total, 0);
}

#[test]
fn metadata_with_ten_thousand_versions_are_read_without_keeping_them() {
    let version = |number: u32| {
        format!(
            "\"{number}\":{{\"created_time\":\"2026-11-22T06:00:00.{number:09}Z\",\"deletion_time\":\"\",\"destroyed\":false}}"
        )
    };
    let versions: Vec<String> = (1..=10_000).map(version).collect();
    let body = format!(
        "{{\"data\":{{\"current_version\":10000,\"versions\":{{{}}}}}}}",
        versions.join(",")
    );
    let answer = Answer::new(200, body.into_bytes());
    let now = "2026-11-28T00:00:00Z".parse().unwrap_or_default();
    let mut read = None;
    let used = measure(|| read = metadata::read(&answer, now).ok());
    assert!(
        matches!(read, Some(Metadata::Live(version, _)) if version.number == 10_000),
        "{read:?}"
    );
    assert!(used.bytes_max < 16 << 10, "{} bytes beside {}", used.bytes_max, answer.body.len());
}

#[test]
fn a_source_that_is_named_a_thousand_times_costs_no_product() {
    const KEYS: usize = 10_000;
    let keys: Vec<String> = (0..KEYS).map(|key| format!("K{key}")).collect();
    let value = |key: &String| format!("vault:secret/data/{key}#k");
    let values: Vec<String> = keys.iter().map(value).collect();
    let data = keys.iter().zip(&values).map(|(key, value)| (key.as_str(), value.as_bytes()));
    let known = SourceState::Read(Arc::new(Content::new(data)));
    let source = SourceName { kind: SourceKind::ConfigMap, name: "big".to_owned() };
    let from =
        |number| EnvFrom { prefix: format!("P{number}_"), source: source.clone(), optional: false };
    let from = (0..1_000).map(from).collect();
    let app = [Container { name: "app".to_owned(), from, ..Container::default() }];
    let mut paths = 0;
    let used = measure(|| {
        let annotations = Annotations::default();
        paths = extract(&annotations, &app, |_| known.clone()).paths.len();
    });
    assert_eq!(paths, KEYS);
    // Some for each of the 50,000 variables that are told apart, and none for the millions beyond.
    assert!(used.count_total < 1_000_000, "{used:?}");
    assert!(used.bytes_max < 64 << 20, "{used:?}");
}

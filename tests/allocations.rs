//! What is read often must cost little: by the count of an allocator.

use allocation_counter::measure;
use vault_secrets_reloader::core::reference::{may_hold_reference, read_value};
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
    assert!(matches!(read, Some(Metadata::Live(version)) if version.number == 10_000), "{read:?}");
    assert!(used.bytes_max < 16 << 10, "{} bytes beside {}", used.bytes_max, answer.body.len());
}

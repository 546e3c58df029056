//! What is read in every manifest must cost nothing: by the count of an allocator.

use allocation_counter::measure;
use vault_secrets_reloader::core::reference::{may_hold_reference, read_value};

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

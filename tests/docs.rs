//! What the documentation lists is what there is.

use std::fs;
use std::path::Path;

use vault_secrets_reloader::core::reference::Reason;

#[test]
fn every_reason_is_in_the_table_with_whether_it_warns() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/references.md");
    let text = fs::read_to_string(file).unwrap_or_default();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    for reason in Reason::ALL {
        let code = format!("`{}`", reason.code());
        let found: Vec<_> = rows.iter().filter(|cells| cells[1] == code).collect();
        assert_eq!(found.len(), 1, "{code}");
        assert_eq!(found[0][2] == "yes", reason.is_warning(), "{code}");
    }
}

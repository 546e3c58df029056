//! The commands `check` and `explain`: manifests to check, and values to explain. Input: YAML or
//! JSON.

use vault_secrets_reloader::cli::check::Manifests;
use vault_secrets_reloader::cli::{explain, print};
use vault_secrets_reloader::references::servers::Servers;
use vault_secrets_reloader::references::source::ReadableSources;

/// Asserts the properties that hold for any file.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut manifests = Manifests::default();
    manifests.add("file.yaml", &text);
    let report =
        manifests.check(ReadableSources { config_maps: true, secrets: true }, &Servers::default());
    // In YAML, a carriage return alone also ends a line.
    let lines = text.split(['\r', '\n']).count() as u64;
    for workload in &report.workloads {
        assert!(!workload.references.is_empty() || !workload.remarks.is_empty());
        assert!((1..=lines).contains(&workload.at.line));
        for found in &workload.references {
            assert!((1..=lines).contains(&found.at.line), "{found:?}");
            assert!(found.path.is_some() || found.remark.is_some());
            assert!(!found.watched || (workload.reloaded && found.path.is_some()));
        }
    }
    assert!(report.problems.len() <= 1);
    let json: serde_json::Value = serde_json::from_str(&print::json(&report)).unwrap_or_default();
    assert_eq!(json["warnings"], report.warnings());
    let github = print::github(&report);
    let commands = github.lines().filter(|line| line.starts_with("::")).count();
    assert_eq!(commands, report.warnings() + report.problems.len());
    assert!(print::table(&report).ends_with('\n'));
    assert!(explain::explain("VAULT_TOKEN", &text, |_| true).ends_with('\n'));
}

//! The exit codes of `check`, which pipelines act on.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

use std::io::Write as _;
use std::process::{Command, Stdio};

/// A Deployment that opts in, with one variable.
fn deployment(value: &str) -> String {
    format!(
        r#"{{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {{"name": "web"}},
            "spec": {{"template": {{
                "metadata": {{"annotations":
                    {{"secrets-reloader.security.bank-vaults.io/reload-on-secret-change": "true"}}}},
                "spec": {{"containers": [{{"name": "app",
                    "env": [{{"name": "A", "value": "{value}"}}]}}]}}}}}}}}"#
    )
}

/// The exit code of `check` with these arguments and this manifest on its standard input.
fn exit_code(arguments: &[&str], manifest: &str) -> Option<i32> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vault-secrets-reloader"))
        .arg("check")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // A command that reads nothing may have ended before all is written.
    let _ = child.stdin.take().unwrap().write_all(manifest.as_bytes());
    child.wait().unwrap().code()
}

#[test]
fn warnings_fail_a_check_only_where_that_is_asked_for() {
    let good = deployment("vault:secret/data/a#k");
    let odd = deployment("vault:secret/data/a");
    assert_eq!(exit_code(&["-"], &good), Some(0));
    assert_eq!(exit_code(&["--strict", "-"], &good), Some(0));
    assert_eq!(exit_code(&["-"], &odd), Some(0));
    assert_eq!(exit_code(&["--strict", "-"], &odd), Some(1));
}

#[test]
fn what_cannot_be_read_fails_a_check() {
    assert_eq!(exit_code(&["-"], "a: [b"), Some(2));
    assert_eq!(exit_code(&["/no/such/file.yaml"], ""), Some(2));
    assert_eq!(exit_code(&["--no-such-flag", "-"], ""), Some(2));
}

//! The exit codes of `check` and `status`, which pipelines act on.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

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

/// What `status` with these arguments does: the exit code, its output and its errors.
fn status(arguments: &[&str]) -> (Option<i32>, String, String) {
    let program = env!("CARGO_BIN_EXE_vault-secrets-reloader");
    let output = Command::new(program).arg("status").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Serves one status and body to all requests that hold a text, and 404 to all others. Returns the
/// address.
fn serve(asked: &'static str, status: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let answer = move |stream: &mut TcpStream| {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            request.extend_from_slice(&byte);
        }
        let is_asked = String::from_utf8(request).unwrap().contains(asked);
        let (status, body) = if is_asked { (status, body) } else { ("404 Not Found", "nothing") };
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n");
        let answer = format!("{head}location: /elsewhere\r\nconnection: close\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).unwrap();
    };
    thread::spawn(move || {
        for stream in listener.incoming() {
            answer(&mut stream.unwrap());
        }
    });
    address
}

const COMPLETE: &str = r#"{"secret": {"server": "default", "path": "secret/data/a"},
    "now": "2026-03-01T10:01:00Z", "readAt": "2026-03-01T10:01:00Z", "revocable": true,
    "version": {"number": 3, "created": "2026-03-01T10:00:00Z"}, "state": "complete",
    "workloads": {"complete": 1}, "users": {"items": [{"workload": "shop/Deployment/web",
    "state": "complete", "message": "m"}], "total": 1}}"#;

#[test]
fn a_status_is_read_from_the_api() {
    let address = serve("GET /v1/secret?path=secret%2Fdata%2Fa&limit=", "200 OK", COMPLETE);
    let (code, output, errors) = status(&["--address", &address, "secret", "secret/data/a"]);
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{output}");
    assert!(
        output.ends_with("revoked? Yes: all 1 workloads run with version 3\n"),
        "the last line answers: {output}"
    );
    let arguments = ["secret", "/secret/data/a", "--wait=1m", "-o=json", "--address", &address];
    let (code, output, _) = status(&arguments);
    let document: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!((code, document["version"]["number"].as_u64()), (Some(0), Some(3)));
}

#[test]
fn a_status_that_cannot_be_read_is_one_sentence_and_exit_code_two() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let not_found = r#"{"code": "notFound", "message": "No workload refers to this secret"}"#;
    for (address, arguments, expected) in [
        (format!("http://{closed}"), &[][..], "is found by the kubeconfig"),
        (serve("/v1/secret", "404 Not Found", not_found), &["secret", "a"], "No workload refers"),
        (
            serve("/v1/overview", "302 Found", ""),
            &[],
            "status 302, and not as the controller's API",
        ),
        (serve("/v1/overview", "200 OK", "<html>"), &[], "Check --address"),
        (String::new(), &["workload", "web"], "write NAMESPACE/KIND/NAME"),
    ] {
        let given = [&["--address", address.as_str()][..], arguments].concat();
        let (code, output, errors) = status(&given);
        assert_eq!((code, output.as_str()), (Some(2), ""), "{arguments:?}: {errors}");
        assert!(errors.contains(expected) && errors.lines().count() == 1, "{errors}");
    }
}

#[test]
fn a_wait_for_a_stopped_rotation_fails() {
    const STOPPED: &str = r#"{"secret": {"server": "default", "path": "a"}, "state": "stopped",
        "now": "2026-03-01T10:01:00Z", "readAt": "2026-03-01T10:01:00Z", "revocable": false,
        "workloads": {"failed": 1}, "users": {"items": [{"workload": "shop/Deployment/web",
        "state": "failed", "reason": "FailedCreate", "message": "New pods cannot be created"}],
        "total": 1}}"#;
    let address = serve("/v1/secret", "200 OK", STOPPED);
    let (code, output, _) = status(&["secret", "a", "--wait", "--address", &address]);
    assert_eq!(code, Some(1));
    assert!(output.contains("  FailedCreate: New pods cannot be created\n"), "{output}");
    let (code, ..) = status(&["secret", "a", "--address", &address]);
    assert_eq!(code, Some(0), "without --wait, only the request counts");
}

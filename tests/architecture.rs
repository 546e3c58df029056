//! The rules of the architecture that no lint can hold: who may name what.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

use std::fs;
use std::path::{Path, PathBuf};

/// All Rust files of the controller, by their path below `src/`.
fn sources() -> Vec<(String, String)> {
    fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            // Comments may speak of what the code must not use.
            let code = fs::read_to_string(&path).unwrap();
            let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            (name, code.collect::<Vec<_>>().join("\n"))
        })
        .collect()
}

/// The files that hold one of some words, other than those that may.
fn offenders(words: &[&str], may: &[&str]) -> Vec<String> {
    let sources = sources();
    assert!(sources.len() > 20, "the sources were not found");
    let mut found = Vec::new();
    for (name, code) in sources {
        if may.iter().any(|allowed| name.starts_with(allowed)) {
            continue;
        }
        found.extend(
            words.iter().filter(|word| code.contains(*word)).map(|w| format!("{name}: {w}")),
        );
    }
    found
}

#[test]
fn only_kubernetes_talks_to_the_api_server() {
    assert!(offenders(&["kube::", "k8s_openapi"], &["kubernetes/"]).is_empty());
}

#[test]
fn only_vault_talks_to_vault() {
    // An address is parsed by the type that the client takes.
    let found = offenders(&["vaultrs", "reqwest", "rustify"], &["vault/", "config.rs", "config/"]);
    assert!(found.is_empty(), "{found:?}");
    assert!(offenders(&["vaultrs"], &["vault/"]).is_empty());
}

#[test]
fn only_the_wiring_knows_both() {
    for (name, code) in sources() {
        let both = code.contains("crate::kubernetes") && code.contains("crate::vault");
        assert!(!both || name == "run.rs", "{name} knows both");
    }
    // What works offline decodes objects as the collector does.
    assert!(offenders(&["crate::kubernetes"], &["kubernetes/", "offline/", "run.rs"]).is_empty());
    assert!(offenders(&["crate::vault"], &["vault/", "run.rs", "config.rs", "config/"]).is_empty());
}

#[test]
fn the_core_is_pure() {
    let impure = [
        "async ",
        ".await",
        "tokio",
        "std::env",
        "std::fs",
        "std::net",
        "Timestamp::now",
        "Instant::now",
        "SystemTime",
        "tracing",
        "crate::reloader",
        "crate::config",
        "fastrand",
        "uuid",
    ];
    // Tests hand in a time, and so have to come by one.
    let is_core = |name: &str| name.starts_with("core/") && !name.ends_with("/tests.rs");
    for (name, code) in sources().into_iter().filter(|(name, _)| is_core(name)) {
        for word in impure {
            assert!(!code.contains(word), "{name} holds {word}");
        }
    }
}

#[test]
fn only_the_wiring_spawns_and_only_the_configuration_reads_the_environment() {
    assert!(offenders(&["tokio::spawn", ".spawn("], &["run.rs"]).is_empty());
    let found = offenders(&["std::env::"], &["config.rs", "main.rs"]);
    assert!(found.is_empty(), "{found:?}");
}

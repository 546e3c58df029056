//! The rules of the architecture that no lint can hold: which file may import what.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly, its helpers too")]

mod circles;
mod examples;
mod imports;
mod workspace;

use imports::Names;
use workspace::IMPORTS;

/// The parts of the controller, each with the parts whose files it may import. What is in a folder, or
/// in the file beside it, is one part.
const ARROWS: [(&str, &[&str]); 22] = [
    ("model", &[]),
    ("heartbeat", &[]),
    ("telemetry", &[]),
    ("process", &[]),
    // It also holds the port through which a login gets a token of the cluster.
    ("credentials", &[]),
    ("cloud", &["credentials", "model"]),
    ("election", &[]),
    ("rollouts", &["decide", "model"]),
    ("references", &["model", "rollouts"]),
    ("decide", &["model"]),
    ("index", &["model", "references"]),
    ("events", &["decide", "election", "index", "model", "references", "rollouts"]),
    // The ports of the API are implemented by `kubernetes`.
    ("status", &["decide", "election", "events", "index", "model", "rollouts"]),
    (
        "engine",
        &["decide", "election", "events", "heartbeat", "index", "model", "references", "rollouts"],
    ),
    // Both adapters implement the ports of the engine, and neither knows the other.
    ("vault", &["cloud", "credentials", "decide", "engine", "events", "index", "model"]),
    (
        "kubernetes",
        &[
            "credentials",
            "decide",
            "election",
            "engine",
            "events",
            "heartbeat",
            "index",
            "model",
            "references",
            "rollouts",
            "status",
        ],
    ),
    // It reads its files as the client of Vault does, so that a mount that hangs holds one thread.
    (
        "notifications",
        &["credentials", "decide", "election", "events", "model", "rollouts", "vault"],
    ),
    ("web", &["election", "events", "heartbeat", "index", "model", "rollouts", "status"]),
    (
        "config",
        &[
            "cloud",
            "credentials",
            "election",
            "engine",
            "index",
            "model",
            "references",
            "rollouts",
            "telemetry",
            "vault",
        ],
    ),
    // What works offline decodes objects as the collector does.
    ("cli", &["config", "credentials", "kubernetes", "model", "references", "status"]),
    (
        "app",
        &[
            "config",
            "credentials",
            "decide",
            "election",
            "engine",
            "events",
            "heartbeat",
            "index",
            "kubernetes",
            "model",
            "notifications",
            "process",
            "rollouts",
            "status",
            "telemetry",
            "vault",
            "web",
        ],
    ),
    ("main", &["app", "cli", "config", "telemetry"]),
];

/// The parts that are pure: no async, I/O, clock, randomness or environment.
const PURE_PARTS: [&str; 5] = ["model", "references", "index", "decide", "rollouts"];

/// What the pure parts may use of other crates: each of these, and what is in it.
const PURE: [&str; 23] = [
    "cronexpr",
    "jiff::SignedDuration",
    "jiff::Timestamp",
    "jiff::civil",
    "jiff::fmt",
    "jiff::tz",
    "regex",
    "serde",
    "serde_json",
    "siphasher",
    "std::borrow",
    "std::collections",
    "std::fmt",
    "std::hash",
    "std::iter",
    "std::mem",
    "std::num",
    "std::ops",
    "std::str",
    "std::sync",
    "std::time",
    "thiserror",
    "url",
];

/// What may be used nowhere in them, though it is in something that may: the clocks, and what reads
/// time zones of the machine.
const CLOCKS: [&str; 8] = [
    "jiff::Timestamp::now",
    "jiff::tz::TimeZone::get",
    "jiff::tz::TimeZone::system",
    "jiff::tz::TimeZoneDatabase::from_env",
    "jiff::tz::db",
    "std::time::Instant::now",
    "std::time::SystemTime",
    "std::time::UNIX_EPOCH",
];

/// The files of the controller, without what is compiled for tests only.
fn controller() -> Vec<(&'static str, &'static Names)> {
    let files = IMPORTS.files.iter();
    let files: Vec<_> =
        files.filter_map(|(file, names)| Some((file.strip_prefix("src/")?, names))).collect();
    assert!(files.len() > 100, "the sources were not found");
    files
}

/// The part of the controller that a file below `src/` belongs to.
fn part_of(file: &str) -> &str {
    let part = file.split('/').next().unwrap_or_default();
    part.strip_suffix(".rs").unwrap_or(part)
}

/// Whether a path is another one, or leads into it.
fn is_in(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The files of the controller that name one of some crates, modules or items, other than those that
/// may: files, or folders with a slash at the end.
fn offenders(named: &[&str], may: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (file, names) in controller() {
        if may.iter().any(|allowed| file.starts_with(allowed)) {
            continue;
        }
        let its = names.outside.iter().filter(|path| named.iter().any(|outer| is_in(path, outer)));
        found.extend(its.map(|path| format!("{file}: {path}")));
    }
    found
}

fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn every_file_is_read() {
    let is_test_only = |file: &String| IMPORTS.test_only.iter().any(|path| file.starts_with(path));
    let unread: Vec<_> = workspace::sources()
        .into_keys()
        .filter(|file| !IMPORTS.files.contains_key(file) && !is_test_only(file))
        .collect();
    assert_none(&unread);
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    // The model in `tests/` spreads its world over child modules.
    assert_none(&circles::describe(&IMPORTS, &["src/", "e2e/", "fuzz/"]));
}

#[test]
fn each_part_imports_only_what_it_may() {
    let mut wrong = Vec::new();
    let mut used = Vec::new();
    for (file, names) in controller() {
        let part = part_of(file);
        if file == "lib.rs" {
            assert_eq!(names.files.len(), 0, "lib.rs holds nothing but modules");
            continue;
        }
        let Some((_, may)) = ARROWS.iter().find(|(known, _)| *known == part) else {
            wrong.push(format!("{file}: a part that is not in the table"));
            continue;
        };
        for (other, paths) in &names.files {
            let Some(other_part) = other.strip_prefix("src/").map(part_of) else {
                wrong.push(format!("{file}: {paths:?}"));
                continue;
            };
            if other_part != part && !may.contains(&other_part) {
                wrong.push(format!("{file}: {paths:?}"));
            }
            used.push((part, other_part));
        }
    }
    assert_none(&wrong);
    for (part, may) in ARROWS {
        for other in may {
            assert!(used.contains(&(part, *other)), "{part} does not import {other} any more");
        }
    }
}

#[test]
fn the_arrows_of_the_architecture_page_are_the_table() {
    let page = include_str!("../../ARCHITECTURE.md");
    let (_, layers) = page.split_once("## Layers").unwrap();
    let block = layers.split("```").nth(1).unwrap();
    let mut lines = block.lines().filter(|line| !line.trim().is_empty());
    for (part, may) in ARROWS {
        let line = lines.find(|line| line.split_whitespace().next() == Some(part)).unwrap();
        let arrows = line.split_once("->").map_or("", |(_, arrows)| arrows.trim());
        let mut named: Vec<&str> = arrows.split(", ").filter(|name| !name.is_empty()).collect();
        if arrows == "all of the above but cli" {
            let (others, _) = block.split_once("\napp ").unwrap();
            named = others.lines().filter_map(|line| line.split_whitespace().next()).collect();
            named.retain(|name| *name != "cli");
            // The wiring uses most parts, and none that is not above.
            assert!(may.iter().all(|other| named.contains(other)), "{line}");
        } else {
            assert_eq!(named, may, "{line}");
        }
    }
    assert_eq!(lines.next(), None);
}

#[test]
fn only_kubernetes_talks_to_the_api_server() {
    assert_none(&offenders(&["kube", "k8s_openapi"], &["kubernetes/"]));
}

#[test]
fn only_vault_talks_to_vault() {
    assert_none(&offenders(&["vaultrs", "rustify"], &["vault/"]));
    // `status` is a client of the controller's API, and notifications have a webhook.
    let may = ["cloud/", "vault/", "config/", "cli/status/client.rs", "notifications/client.rs"];
    assert_none(&offenders(&["reqwest"], &may));
    // An address is parsed by the type that the client takes.
    for (file, names) in controller().iter().filter(|(file, _)| part_of(file) == "config") {
        for path in names.outside.iter().filter(|path| is_in(path, "reqwest")) {
            assert!(is_in(path, "reqwest::Url"), "{file}: {path}");
        }
    }
}

#[test]
fn the_pure_parts_are_pure() {
    for (file, names) in controller() {
        if !PURE_PARTS.contains(&part_of(file)) {
            continue;
        }
        assert!(!names.is_async, "{file} is async");
        for path in &names.outside {
            assert!(PURE.iter().any(|pure| is_in(path, pure)), "{file}: {path}");
            assert!(!CLOCKS.iter().any(|clock| is_in(path, clock)), "{file}: {path}");
        }
    }
}

#[test]
fn only_the_wiring_spawns() {
    assert_none(&offenders(
        &["tokio::spawn", "tokio::task::spawn", "std::thread"],
        &["app.rs", "app/"],
    ));
    let spawns = |(file, names): &(&str, &Names)| {
        (part_of(file) != "app" && names.methods.contains("spawn")).then(|| (*file).to_owned())
    };
    let spawning: Vec<_> = controller().iter().filter_map(spawns).collect();
    assert_none(&spawning);
}

#[test]
fn only_the_configuration_reads_the_environment() {
    assert_none(&offenders(&["std::env"], &["config.rs", "main.rs"]));
    // The arguments are no environment.
    let (_, names) = controller().into_iter().find(|(file, _)| *file == "main.rs").unwrap();
    for path in names.outside.iter().filter(|path| is_in(path, "std::env")) {
        assert!(is_in(path, "std::env::args_os"), "main.rs: {path}");
    }
}

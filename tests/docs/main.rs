//! What the documentation lists is what there is: each flag, variable, annotation, reason and chart
//! value once, in the table of its page; and links lead somewhere.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use vault_secrets_reloader::config::{Config, Flags};
use vault_secrets_reloader::events::owners;
use vault_secrets_reloader::model::notification::NotificationKind;
use vault_secrets_reloader::references::reason::Reason;
use vault_secrets_reloader::rollouts::rotation::RotationState;
use vault_secrets_reloader::status::api::{REASONS, WORKLOAD_STATES};

mod chart;
mod metrics;

const CHART: &str = "deploy/charts/vault-secrets-reloader";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// All files below a folder that have an ending, by their path from the root.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == ending) {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The texts of the Rust files below a folder, without those of tests.
fn code_below(folder: &str) -> Vec<String> {
    let is_of_tests =
        |file: &PathBuf| file.iter().any(|part| part == "tests" || part == "tests.rs");
    let files = files(folder, "rs").into_iter().filter(|file| !is_of_tests(file));
    let code = |text: String| text.split("#[cfg(test)]").next().unwrap().to_owned();
    files.map(|file| code(read(file))).collect()
}

/// The pages that people read.
fn pages() -> Vec<PathBuf> {
    let mut pages = files("docs", "md");
    pages.extend(files("deploy", "md"));
    let of_root = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let of_root = of_root.filter(|path| path.extension().is_some_and(|it| it == "md"));
    pages.extend(of_root.map(|path| path.strip_prefix(root()).unwrap().to_owned()));
    assert!(pages.len() > 10, "the pages were not found");
    pages
}

/// The lines of a page that are not within a block of code.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    page.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// The rows of the tables of a page, without the headings.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let mut rows = Vec::new();
    let mut is_body = false;
    for line in prose(page) {
        if !line.starts_with('|') {
            is_body = false;
        } else if line.starts_with("|---") {
            is_body = true;
        } else if is_body {
            rows.push(line.trim_matches('|').split('|').map(str::trim).collect());
        }
    }
    rows
}

/// What stands between backticks.
fn code(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// What the first cells of the tables of a page name, and how often.
fn named(page: &str) -> BTreeMap<String, usize> {
    let mut named = BTreeMap::new();
    for row in rows(page) {
        for name in code(row[0]) {
            *named.entry(name.to_owned()).or_default() += 1;
        }
    }
    named
}

/// Each is named once by its page, and by no table of another page in `docs/`.
fn assert_named_once(names: &BTreeSet<String>, page: &str) {
    for other in pages().iter().filter(|path| path.starts_with("docs") || path.ends_with(page)) {
        let named = named(&read(other));
        for name in names {
            let expected = usize::from(other == Path::new(page));
            let found = named.get(name).copied().unwrap_or_default();
            assert_eq!(found, expected, "{name} in the first cells of {}", other.display());
        }
    }
}

#[test]
fn the_readme_is_short() {
    let words = read("README.md").split_whitespace().count();
    assert!(words < 1_000, "{words} words");
}

#[test]
fn every_reason_is_in_the_table_with_whether_it_warns() {
    let text = read("docs/reasons.md");
    let rows = rows(&text);
    for reason in Reason::ALL {
        let code = format!("`{}`", reason.code());
        let found: Vec<_> = rows.iter().filter(|cells| cells[0] == code).collect();
        assert_eq!(found.len(), 1, "{code}");
        assert_eq!(found[0][1] == "yes", reason.is_warning(), "{code}");
    }
}

/// The texts in the sources that stand behind one of these and are spelt as a reason.
fn spelt_reasons(folder: &str, behind: &str) -> BTreeSet<String> {
    let mut reasons = BTreeSet::new();
    for text in code_below(folder) {
        for rest in text.split(behind).skip(1) {
            let reason = rest.split('"').next().unwrap();
            if reason.len() > 2 && reason.chars().all(|c| c.is_ascii_alphanumeric()) {
                reasons.insert(reason.to_owned());
            }
        }
    }
    reasons
}

#[test]
fn every_reason_is_documented_once() {
    let is_reason = |name: &String| name.starts_with(|c: char| c.is_ascii_uppercase());
    let mut of_answers = spelt_reasons("src/vault", "=> Some(\"");
    of_answers.retain(is_reason);
    assert!(of_answers.contains("Denied") && of_answers.len() >= 7, "{of_answers:?}");
    let of_check = spelt_reasons("src/cli", "reason: \"");
    assert!(of_check.contains("NotOptedIn") && of_check.len() >= 7, "{of_check:?}");
    let of_references = Reason::ALL.iter().map(|reason| reason.code().to_owned());
    let all: BTreeSet<String> = of_references.chain(of_answers).chain(of_check).collect();
    assert_named_once(&all, "docs/reasons.md");
    let named = named(&read("docs/reasons.md"));
    let gone: Vec<_> =
        named.keys().filter(|name| is_reason(name) && !all.contains(*name)).collect();
    assert!(gone.is_empty(), "no such reasons: {gone:?}");
}

/// The flags that a command's `--help` names, with their default values.
fn flags_of(command: &[&str]) -> BTreeMap<String, Option<String>> {
    let program = env!("CARGO_BIN_EXE_vault-secrets-reloader");
    let output = Command::new(program).args(command).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let mut flags = BTreeMap::new();
    let mut flag = None;
    for line in help.lines().map(str::trim) {
        let words = line.split(|c: char| c.is_whitespace() || c == '=' || c == '[');
        if let Some(name) = words.clone().find(|word| word.starts_with("--"))
            && line.starts_with('-')
        {
            flags.insert(name.to_owned(), None);
            flag = Some(name.to_owned());
        }
        if let Some((_, rest)) = line.split_once("[default: ") {
            let default = rest.trim_end_matches(']').to_owned();
            flags.insert(flag.clone().unwrap(), Some(default));
        }
    }
    flags.remove("--help");
    flags.remove("--version");
    assert!(flags.len() >= 3, "{help}");
    flags
}

/// The rows of the tables of a page whose first column has this heading.
fn rows_below<'a>(page: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let mut rows = Vec::new();
    let mut is_one = false;
    for line in prose(page) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if !line.starts_with('|') {
            is_one = false;
        } else if cells[0] == heading {
            is_one = true;
        } else if is_one && !line.starts_with("|---") {
            rows.push(cells);
        }
    }
    rows
}

/// The flags that the first cells of a page's tables with this heading name, with the second cells.
fn documented_flags(page: &str, heading: &str) -> BTreeMap<String, Vec<String>> {
    let mut flags: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for cells in rows_below(&read(page), heading) {
        for flag in code(cells[0]).into_iter().filter(|name| name.starts_with("--")) {
            flags.entry(flag.to_owned()).or_default().push(cells[1].to_owned());
        }
    }
    flags
}

#[test]
fn every_state_and_reason_of_a_rotation_is_documented_once() {
    let page = read("docs/status.md");
    let first_cells = |heading| -> Vec<&str> {
        rows_below(&page, heading).into_iter().flat_map(|row| code(row[0])).collect()
    };
    assert_eq!(first_cells("state of a rotation"), RotationState::ALL.map(RotationState::name));
    assert_eq!(first_cells("state of a workload"), WORKLOAD_STATES);
    assert_eq!(first_cells("reason"), REASONS);
}

#[test]
fn every_flag_is_documented_once_with_its_default() {
    for (command, page, heading) in [
        (&[][..], "docs/configuration.md", "flag"),
        (&["check"], "docs/check.md", "flag of `check`"),
        (&["explain"], "docs/check.md", "flag of `explain`"),
        (&["status"], "docs/status.md", "flag of `status`"),
        (&["status", "workload"], "docs/status.md", "flag of `status`"),
    ] {
        let documented = documented_flags(page, heading);
        let flags = flags_of(command);
        assert!(
            documented.keys().eq(flags.keys()),
            "{heading}: {:?} and {:?}",
            documented.keys(),
            flags.keys()
        );
        for (flag, default) in flags {
            // A switch of `check` has no value, and so no default.
            let expected = default.map_or_else(
                || vec!["none".to_owned(), "off".to_owned()],
                |default| vec![format!("`{default}`")],
            );
            let said = &documented[&flag];
            assert!(said.len() == 1 && expected.contains(&said[0]), "{flag}: {said:?}");
        }
    }
}

#[test]
fn every_kind_of_notification_is_documented_once_with_whether_it_is_sent() {
    let flags = flags_of(&[]);
    let defaults = flags["--notify-on"].clone().unwrap();
    let page = read("docs/notifications.md");
    let rows = rows_below(&page, "kind");
    let documented: Vec<_> = rows.iter().map(|row| (row[0].trim_matches('`'), row[1])).collect();
    let is_default = |name: &str| defaults.split(',').any(|default| default == name);
    let yes_or_no = |name| (name, if is_default(name) { "yes" } else { "no" });
    let names = NotificationKind::CHOICES.map(NotificationKind::name);
    let mut expected: Vec<_> = names.into_iter().map(yes_or_no).collect();
    expected.push((NotificationKind::LeftOut.name(), "always"));
    assert_eq!(documented, expected);
}

/// The variables that the configuration looks up, whatever the login and the server.
fn variables() -> BTreeSet<String> {
    let role = ("VAULT_ROLE", "r");
    let method = |name| ("VAULT_AUTH_METHOD", name);
    let environments: &[&[(&str, &str)]] = &[
        &[role],
        &[("VAULT_TLS_SECRET", "a"), role],
        &[("VAULT_CLIENT_CERT", "/a"), ("VAULT_CLIENT_KEY", "/b"), role],
        &[("VAULT_TOKEN_PATH", "/a")],
        &[("HTTPS_PROXY", "http://proxy:3128"), role],
        &[method("approle"), ("VAULT_ROLE_ID", "a"), ("VAULT_SECRET_ID", "b")],
        &[method("userpass"), ("VAULT_USERNAME", "a"), ("VAULT_PASSWORD", "b")],
        &[method("token"), ("VAULT_TOKEN", "a")],
        &[method("none"), ("VAULT_ADDR", "http://vault:8200")],
        &[method("aws-iam"), role],
        &[
            method("aws-iam"),
            role,
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials"),
        ],
        &[method("aws-ec2"), role],
        &[method("gcp-gce"), role],
        &[method("gcp-iam"), role],
        &[method("azure"), role],
        &[
            method("azure"),
            role,
            ("AZURE_FEDERATED_TOKEN_FILE", "/a"),
            ("AZURE_TENANT_ID", "b"),
            ("AZURE_CLIENT_ID", "c"),
        ],
    ];
    let asked = RefCell::new(BTreeSet::new());
    for environment in environments {
        let flags = Flags::parse_from([OsString::from("vault-secrets-reloader")]).unwrap();
        let look_up = |name: &str| {
            asked.borrow_mut().insert(name.to_owned());
            let found = environment.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Config::load(flags, look_up).unwrap();
    }
    let mut names = BTreeSet::new();
    for name in asked.into_inner() {
        // Where the home folder and the machine's name are, as every program is told.
        if ["HOME", "HOSTNAME"].contains(&name.as_str()) || name.to_uppercase() != name {
            continue;
        }
        // Each of the client's has two names.
        let has_list = name.ends_with("_ADDR_ALLOWLIST");
        match name.strip_prefix("BAO_").filter(|_| !has_list) {
            Some(suffix) => names.insert(format!("VAULT_{suffix}")),
            None => names.insert(name),
        };
    }
    assert!(names.len() > 40, "{names:?}");
    names
}

#[test]
fn every_variable_is_documented_once() {
    let page = "docs/configuration.md";
    let mut variables = variables();
    // The client of Kubernetes reads it.
    variables.insert("KUBECONFIG".to_owned());
    let named = named(&read(page));
    let is_variable = |name: &&String| !name.starts_with('-');
    let documented: BTreeSet<String> = named.keys().filter(is_variable).cloned().collect();
    let missing: Vec<_> = variables.difference(&documented).collect();
    assert!(missing.is_empty(), "not documented: {missing:?}");
    let gone: Vec<_> = documented.difference(&variables).collect();
    assert!(gone.is_empty(), "not read: {gone:?}");
    assert!(named.values().all(|times| *times == 1), "{named:?}");
}

#[test]
fn every_annotation_is_documented_once() {
    let mut annotations = BTreeSet::new();
    for text in code_below("src/model") {
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let texts = line.split('"').skip(1).step_by(2);
            let is_whole = |text: &&str| {
                let domain = text.split_once("bank-vaults.io/");
                let domain = domain.or_else(|| text.split_once("banzaicloud.io/"));
                domain.is_some_and(|(_, name)| !name.is_empty())
            };
            annotations.extend(texts.filter(is_whole).map(str::to_owned));
        }
    }
    assert!(annotations.len() >= 20, "{annotations:?}");
    let page = read("docs/annotations.md");
    let rows = rows(&page);
    for name in &annotations {
        let cell = format!("`{name}`");
        let times = rows.iter().flatten().filter(|it| **it == cell).count();
        assert_eq!(times, 1, "{name}");
    }
    let documented = rows.iter().flat_map(|row| code(row[0]));
    let gone: Vec<_> = documented.filter(|name| !annotations.contains(*name)).collect();
    assert!(gone.is_empty(), "not read: {gone:?}");
}

#[test]
fn every_file_that_the_architecture_names_is_there() {
    let page = read("ARCHITECTURE.md");
    let named: BTreeSet<&str> = page
        .split('`')
        .filter(|name| Path::new(name).extension().is_some_and(|ending| ending == "rs"))
        .collect();
    assert!(named.len() > 50, "{named:?}");
    for name in named {
        let found = ["src", "."].iter().any(|folder| Path::new(folder).join(name).is_file());
        assert!(found, "ARCHITECTURE.md names {name}");
    }
}

#[test]
fn the_events_of_reloads_are_documented() {
    let page = read("docs/operations.md");
    let rows = rows_below(&page, "Event");
    let documented: Vec<_> = rows.iter().map(|row| (row[0].trim_matches('`'), row[1])).collect();
    assert_eq!(documented, owners::REASONS);
}

#[test]
fn as_many_scenarios_as_are_said_need_openbao() {
    let scenarios: String = files("e2e/tests/scenarios", "rs").into_iter().map(read).collect();
    let page = read("docs/compatibility.md");
    for mark in ["needs_openbao", "lists_metadata", "uses_namespaces"] {
        let has_mark = |line: &&str| {
            let marks = line.split_once(": ").map_or("", |(_, marks)| marks.trim_end_matches(','));
            line.starts_with("    ") && marks.split(' ').any(|it| it == mark)
        };
        let count = scenarios.lines().filter(has_mark).count();
        assert!(page.contains(&format!("| `{mark}` | {count} |")), "{mark}: {count}");
    }
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for line in prose(page).filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        assert!(anchors.insert(anchor), "two headings are {heading}");
    }
    anchors
}

#[test]
fn links_lead_to_files_and_headings() {
    let mut checked = 0;
    for page in pages() {
        let text = read(&page);
        for line in prose(&text) {
            for rest in line.split("](").skip(1) {
                let target = rest.split(')').next().unwrap();
                if target.contains("://") {
                    continue;
                }
                checked += 1;
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let file =
                    if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
                let path = root().join(&file);
                assert!(path.exists(), "{}: {target}", page.display());
                if !anchor.is_empty() {
                    let anchors = anchors(&read(&file));
                    assert!(anchors.contains(anchor), "{}: {target}: {anchors:?}", page.display());
                }
            }
        }
    }
    assert!(checked > 50, "{checked} links");
}

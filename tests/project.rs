//! What surrounds the code fits together: the site lists each page, the workflows call targets that
//! exist, what they use is pinned, and all files name the same version.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const WORKFLOWS: &str = ".github/workflows";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// The files in a folder with an ending, by their path from the root.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == ending))
        .map(|path| path.strip_prefix(root()).unwrap().to_owned())
        .collect();
    files.sort();
    files
}

fn yaml(file: impl AsRef<Path>) -> Value {
    serde_saphyr::from_str(&read(file)).unwrap()
}

/// The workflows, by their path.
fn workflows() -> Vec<(PathBuf, Value)> {
    let files = files(WORKFLOWS, "yaml");
    assert!(files.len() >= 4, "{files:?}");
    files.into_iter().map(|file| (file.clone(), yaml(file))).collect()
}

/// The jobs of a workflow, by their name.
fn jobs(workflow: &Value) -> impl Iterator<Item = (&String, &Value)> {
    workflow["jobs"].as_object().unwrap().iter()
}

/// The steps of a workflow's jobs, without those of the workflows that it calls.
fn steps(workflow: &Value) -> impl Iterator<Item = &Value> {
    jobs(workflow).filter_map(|(_, job)| job["steps"].as_array()).flatten()
}

/// The targets of the Makefile.
fn targets() -> BTreeSet<String> {
    let makefile = read("Makefile");
    let is_name = |name: &&str| {
        let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !name.is_empty() && name.chars().all(is_letter)
    };
    let is_rule = |line: &&str| !line.starts_with(['#', '\t', ' ']) && !line.contains(":=");
    let rules = makefile.lines().filter(is_rule);
    let names = rules.filter_map(|line| Some(line.split_once(':')?.0));
    names.flat_map(|names| names.split(' ')).filter(is_name).map(str::to_owned).collect()
}

/// The targets that a script calls by `make`.
fn called_targets(script: &str) -> Vec<&str> {
    let mut words = script.split_whitespace();
    let mut targets = Vec::new();
    while let Some(word) = words.next() {
        if word == "make" || word.ends_with("(make") {
            let is_target = |word: &&str| !word.starts_with('-') && !word.contains('=');
            targets.extend(words.find(is_target));
        }
    }
    targets
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.chars().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase())
}

#[test]
fn every_page_is_in_the_site_once() {
    let summary = read("docs/SUMMARY.md");
    let links = summary.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    let mut listed: Vec<&str> = links.collect();
    listed.sort_unstable();
    let pages = files("docs", "md");
    let names = pages.iter().map(|page| page.file_name().unwrap().to_str().unwrap());
    let expected: Vec<&str> = names.filter(|name| *name != "SUMMARY.md").collect();
    assert!(expected.len() > 15, "{expected:?}");
    assert_eq!(listed, expected);
}

#[test]
fn workflows_call_targets_and_files_that_exist() {
    let targets = targets();
    let mut called = BTreeSet::new();
    for (file, workflow) in workflows() {
        for script in steps(&workflow).filter_map(|step| step["run"].as_str()) {
            for target in called_targets(script) {
                assert!(targets.contains(target), "{}: make {target}", file.display());
                called.insert(target.to_owned());
            }
            let words = script.split(|c: char| c.is_whitespace() || "()<".contains(c));
            let of_repository =
                |word: &&str| word.starts_with(".ci/") || word.starts_with("deploy/");
            for path in words.filter(of_repository) {
                assert!(root().join(path).is_file(), "{}: {path}", file.display());
            }
        }
    }
    assert!(called.len() >= 8, "{called:?}");
}

#[test]
fn workflows_have_limits_and_few_permissions() {
    for (file, workflow) in workflows() {
        let file = file.display();
        let Some(permissions) = workflow["permissions"].as_object() else {
            panic!("{file}: no permissions");
        };
        // Whoever needs to write is a job.
        assert!(permissions.values().all(|it| it == "read"), "{file}: {permissions:?}");
        assert!(workflow["concurrency"]["group"].is_string(), "{file}: no concurrency group");
        for (name, job) in jobs(&workflow) {
            // A job that calls a workflow has the limits of that workflow.
            let has_limit = job["timeout-minutes"].is_u64() || job["uses"].is_string();
            assert!(has_limit, "{file}: {name} has no time limit");
        }
        for step in steps(&workflow) {
            let action = step["uses"].as_str().unwrap_or_default();
            if action.starts_with("actions/checkout@") {
                // Else later steps could push with the token.
                assert_eq!(step["with"]["persist-credentials"], false, "{file}: {step}");
            }
        }
    }
}

#[test]
fn actions_are_pinned_by_commit_and_say_their_version() {
    let mut pinned = 0;
    for (file, _) in workflows() {
        let text = read(&file);
        let uses = text
            .lines()
            .filter_map(|line| line.trim_start().trim_start_matches("- ").strip_prefix("uses: "));
        // A workflow of this repository has the commit of its caller.
        for action in uses.filter(|action| !action.starts_with("./")) {
            let (name, version) = action.split_once(" # v").unwrap_or((action, ""));
            let commit = name.split_once('@').map_or("", |(_, commit)| commit);
            assert!(is_hex(commit, 40), "{}: {action}", file.display());
            assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{action}: which version?");
            pinned += 1;
        }
    }
    assert!(pinned > 10, "{pinned} actions");
}

#[test]
fn workflows_work_in_a_fork() {
    for (file, _) in workflows() {
        let text = read(&file);
        let mut lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        // Owner and registry come from the repository that the workflow runs in.
        let named = lines.find(|line| line.contains("ghcr.io/") || line.contains("github.com/"));
        assert_eq!(named, None, "{}", file.display());
    }
}

#[test]
fn base_images_are_pinned_by_digest() {
    let text = read("Dockerfile");
    let images: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("FROM "))
        .filter_map(|line| line.split(' ').find(|word| !word.starts_with("--")))
        .collect();
    assert_eq!(images.len(), 2, "{images:?}");
    for image in &images {
        let digest = image.split_once("@sha256:").map_or("", |(_, digest)| digest);
        assert!(is_hex(digest, 64), "{image}");
    }
    let toolchain = read("rust-toolchain.toml");
    let (_, version) = toolchain.split_once("channel = \"").unwrap();
    let version: Vec<&str> = version.split(['.', '"']).take(2).collect();
    let rust = format!("rust:{}-trixie@", version.join("."));
    assert!(images[0].starts_with(&rust), "{} is not {rust}", images[0]);
    assert!(images[1].starts_with("gcr.io/distroless/cc-debian13:nonroot@"), "{}", images[1]);
}

#[test]
fn program_chart_and_changelog_have_one_version() {
    let tag = concat!("v", env!("CARGO_PKG_VERSION"));
    let mut check = Command::new(root().join("deploy/release/release.sh"));
    let output = check.args(["check", tag]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut check = Command::new(root().join("deploy/release/release.sh"));
    let output = check.args(["check", "v0.0.1"]).output().unwrap();
    assert!(!output.status.success(), "a tag that is not the version is refused");
}

#[test]
fn the_chart_ends_with_the_links_that_a_release_adds_to() {
    let chart = read("deploy/charts/vault-secrets-reloader/Chart.yaml");
    let (_, links) = chart.split_once("  artifacthub.io/links: |\n").unwrap();
    assert!(links.lines().all(|line| line.starts_with("    ")), "{links}");
    let icon = "src/web/page/page.svg";
    assert!(read("deploy/release/release.sh").contains(icon), "the icon is another file");
    assert!(root().join(icon).is_file(), "{icon}");
}

#[test]
fn issue_forms_ask_something() {
    let forms = files(".github/ISSUE_TEMPLATE", "yaml");
    assert_eq!(forms.len(), 2, "{forms:?}");
    for form in forms {
        let form_of = yaml(&form);
        for key in ["name", "description"] {
            assert!(form_of[key].is_string(), "{}: {key}", form.display());
        }
        let questions = form_of["body"].as_array().unwrap();
        let is_required = |question: &&Value| question["validations"]["required"] == true;
        assert!(questions.iter().any(|it| is_required(&it)), "{}", form.display());
    }
}

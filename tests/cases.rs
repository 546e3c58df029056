//! Manifests as people write them, each with what is right to say of it.
//!
//! The lines of a file that begin with `#=` say it: `watched PATH [@NAMESPACE]` for each path that is
//! watched, and no other is; `says CODE` for a reason that is said; `silent CODE` for one that is not.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use vault_secrets_reloader::cli::check::{Checked, Manifests};
use vault_secrets_reloader::references::servers::Servers;
use vault_secrets_reloader::references::source::ReadableSources;

/// What is wrong with what is said of a manifest, a line each.
fn wrong(text: &str) -> Vec<String> {
    let mut manifests = Manifests::default();
    manifests.add("case.yaml", text);
    let readable = ReadableSources { secrets: true, ..ReadableSources::default() };
    let report = manifests.check(readable, &Servers::default());
    let mut wrong: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
    let found = report.workloads.iter().flat_map(|workload| &workload.references);
    let watched = found.filter(|found| found.watched).map(|found| {
        let namespace = found.namespace.as_ref().map(|name| format!(" @{name}"));
        format!("{}{}", found.path.clone().unwrap_or_default(), namespace.unwrap_or_default())
    });
    let watched: BTreeSet<_> = watched.collect();
    let codes = report.workloads.iter().flat_map(Checked::all_remarks).map(|remark| remark.reason);
    let codes: BTreeSet<_> = codes.collect();
    let expected = |word: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix("#= "));
        lines
            .filter_map(|line| line.strip_prefix(word)?.strip_prefix(' '))
            .map(Into::into)
            .collect()
    };
    let right = expected("watched");
    wrong.extend(right.difference(&watched).map(|path| format!("not watched: {path}")));
    wrong.extend(watched.difference(&right).map(|path| format!("watched: {path}")));
    let said = |code: &String| codes.contains(code.as_str());
    let missing = expected("says").into_iter().filter(|code| !said(code));
    wrong.extend(missing.map(|code| format!("not said: {code}, but {codes:?}")));
    wrong.extend(expected("silent").into_iter().filter(said).map(|code| format!("said: {code}")));
    wrong
}

#[test]
fn of_each_manifest_what_is_right_is_said() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut all = Vec::new();
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("\n#= "), "{name} says nothing of what is right");
        all.extend(wrong(&text).into_iter().map(|wrong| format!("{name}: {wrong}")));
        files += 1;
    }
    assert!(files > 10 && all.is_empty(), "of {files} files:\n{}", all.join("\n"));
}

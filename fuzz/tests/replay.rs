//! Replays what is kept: the corpus that fuzzing has built up, and each input that once failed.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use vault_secrets_reloader_fuzz::TARGETS;

/// Runs every target over every file of its folder below `kept`, and answers how many there were.
fn replay(kept: &str) -> usize {
    let mut files = 0;
    for (target, check) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(kept).join(target);
        let before = files;
        assert!(folder.is_dir(), "{} is missing", folder.display());
        for entry in fs::read_dir(&folder).unwrap() {
            let file = entry.unwrap().path();
            let data = fs::read(&file).unwrap();
            let outcome = catch_unwind(|| check(&data));
            assert!(outcome.is_ok(), "{target} fails on {}", file.display());
            files += 1;
        }
        assert!(files > before, "{} is empty", folder.display());
    }
    files
}

#[test]
fn every_input_of_the_corpus_passes() {
    let files = replay("corpus");
    assert!(files >= 10 * TARGETS.len(), "only {files} files");
}

#[test]
fn every_input_that_once_failed_passes() {
    replay("regressions");
}

#[test]
fn every_target_has_its_binary_for_libfuzzer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets");
    let mut binaries: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    binaries.sort();
    assert_eq!(binaries, TARGETS.map(|(name, _)| name));
}

//! Replays the kept inputs: the corpus of fuzzing, and each input that once failed.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly, its helpers too")]

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use vault_secrets_reloader_fuzz::{TARGETS, Target};

/// Runs targets over every file of their folders below `kept`. Returns the number of files.
fn replay(kept: &str, targets: &[Target]) -> usize {
    let mut files = 0;
    for (target, check) in targets {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(kept).join(target);
        // A target that never failed has no folder of failures.
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let file = entry.unwrap().path();
            let data = fs::read(&file).unwrap();
            let outcome = catch_unwind(|| check(&data));
            assert!(outcome.is_ok(), "{target} fails on {}", file.display());
            files += 1;
        }
    }
    files
}

#[test]
fn every_input_of_the_corpus_passes() {
    for target in TARGETS {
        let files = replay("corpus", &[target]);
        assert!(files >= 10, "only {files} files for {}", target.0);
    }
}

#[test]
fn every_input_that_once_failed_passes() {
    assert!(replay("regressions", &TARGETS) >= 10);
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

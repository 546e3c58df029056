//! The Rust files of this workspace, and the crates that they belong to.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use crate::imports::{self, Crate, Imports};

/// The packages, by the folders that hold them, and what code calls their libraries.
const PACKAGES: [(&str, &str); 3] =
    [("", "vault_secrets_reloader"), ("e2e/", "e2e"), ("fuzz/", "vault_secrets_reloader_fuzz")];

/// The folders of a package in which each file, or each folder with a `main.rs`, is a crate of its own.
const FOLDERS_OF_CRATES: [&str; 3] = ["benches", "fuzz_targets", "tests"];

/// What all files of the workspace name.
pub(crate) static IMPORTS: LazyLock<Imports> = LazyLock::new(|| {
    let sources = sources();
    imports::read(&crates(sources.keys()), &sources)
});

/// All Rust files by their path, with their text.
pub(crate) fn sources() -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (package, _) in PACKAGES {
        for folder in ["src"].iter().chain(&FOLDERS_OF_CRATES) {
            collect(root, &format!("{package}{folder}"), &mut sources);
        }
    }
    sources
}

fn collect(root: &Path, folder: &str, sources: &mut BTreeMap<String, String>) {
    // Not each package has each folder.
    let Ok(entries) = fs::read_dir(root.join(folder)) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = format!("{folder}/{}", path.file_name().unwrap().to_string_lossy());
        if path.is_dir() {
            collect(root, &name, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.insert(name, fs::read_to_string(path).unwrap());
        }
    }
}

/// The crates that Cargo finds among some files.
fn crates<'a>(files: impl Iterator<Item = &'a String>) -> Vec<Crate> {
    files.filter_map(|file| Some(Crate { name: crate_name(file)?, root: file.clone() })).collect()
}

/// The name of the crate whose root is this file.
fn crate_name(file: &str) -> Option<String> {
    let (package, library) = PACKAGES.iter().rev().find(|(folder, _)| file.starts_with(folder))?;
    match file.strip_prefix(package)?.split('/').collect::<Vec<_>>()[..] {
        ["src", "lib.rs"] => Some((*library).to_owned()),
        ["src", "main.rs"] => Some(format!("{library} (program)")),
        [folder, _] | [folder, _, "main.rs"] if FOLDERS_OF_CRATES.contains(&folder) => {
            Some(file.to_owned())
        }
        _ => None,
    }
}

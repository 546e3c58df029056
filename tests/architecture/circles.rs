//! Finds the circles in a graph of files.

use std::collections::{BTreeMap, BTreeSet};

use crate::imports::{Imports, Names};

/// The files that each file names.
pub(crate) type Graph = BTreeMap<String, BTreeSet<String>>;

/// The largest groups of files in which each file leads to each other one.
pub(crate) fn find(graph: &Graph) -> Vec<BTreeSet<String>> {
    let reached: BTreeMap<_, _> =
        graph.keys().map(|file| (file, reached_from(graph, file))).collect();
    let mut circles = BTreeSet::new();
    for (file, files) in &reached {
        let leads_back = |other: &&String| reached.get(other).is_some_and(|r| r.contains(*file));
        let circle: BTreeSet<String> = files.iter().filter(leads_back).cloned().collect();
        if !circle.is_empty() {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}

/// The files that a file leads to; itself only where a circle leads back.
fn reached_from(graph: &Graph, file: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&String> = graph.get(file).into_iter().flatten().collect();
    while let Some(file) = next.pop() {
        if reached.insert(file.clone()) {
            next.extend(graph.get(file).into_iter().flatten());
        }
    }
    reached
}

/// The circles among the files whose path begins with one of these, each with what makes it one.
///
/// A file leads to the files that it imports from, and to the child modules that it declares: a child
/// may add methods to a type of its parent, which no import shows.
pub(crate) fn describe(imports: &Imports, folders: &[&str]) -> Vec<String> {
    let is_of_folders = |file: &String| folders.iter().any(|folder| file.starts_with(folder));
    let files = imports.files.iter().filter(|(file, _)| is_of_folders(file));
    let graph = files
        .map(|(file, Names { files, children, .. })| {
            (file.clone(), files.keys().chain(children).cloned().collect())
        })
        .collect();
    let describe = |circle: BTreeSet<String>| {
        let mut lines = vec![format!("a circle of {} files:", circle.len())];
        for file in &circle {
            let Names { files, children, .. } = &imports.files[file];
            let declared = children.iter().filter(|child| circle.contains(*child));
            lines.extend(declared.map(|child| format!("  {file} declares {child}")));
            let imported = files.iter().filter(|(to, _)| circle.contains(*to));
            lines.extend(imported.map(|(to, paths)| format!("  {file} imports {to}: {paths:?}")));
        }
        lines.join("\n")
    };
    find(&graph).into_iter().map(describe).collect()
}

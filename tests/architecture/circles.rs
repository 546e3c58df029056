//! Finds the circles in a graph of files.

use std::collections::{BTreeMap, BTreeSet};

use crate::imports::Imports;

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

/// Each circle on lines of its own: the imports that make it one.
pub(crate) fn describe(imports: &Imports) -> Vec<String> {
    let files = imports.files.iter();
    let graph =
        files.map(|(file, names)| (file.clone(), names.files.keys().cloned().collect())).collect();
    let describe = |circle: BTreeSet<String>| {
        let mut lines = vec![format!("a circle of {} files:", circle.len())];
        for file in &circle {
            let within = imports.files[file].files.iter().filter(|(to, _)| circle.contains(*to));
            lines.extend(within.map(|(to, paths)| format!("  {file} -> {to}: {paths:?}")));
        }
        lines.join("\n")
    };
    find(&graph).into_iter().map(describe).collect()
}

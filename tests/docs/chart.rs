//! The values of the chart.

use serde_json::Value;

use super::{CHART, code, named, read, rows};

/// Paths of the values that are no maps, or empty ones, with dots between the keys.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let dot = if path.is_empty() { "" } else { "." };
                leaves(value, &format!("{path}{dot}{key}"), found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

#[test]
fn every_chart_value_is_documented_once() {
    let page = format!("{CHART}/README.md");
    let text = read(&page);
    let (_, values) = text.split_once("## Values").unwrap();
    let documented = named(values);
    assert!(documented.values().all(|times| *times == 1), "{documented:?}");
    let values: Value = serde_saphyr::from_str(&read(format!("{CHART}/values.yaml"))).unwrap();
    let mut paths = Vec::new();
    leaves(&values, "", &mut paths);
    assert!(paths.len() > 40, "{paths:?}");
    for path in paths {
        let holds = |name: &&String| path == **name || path.starts_with(&format!("{name}."));
        assert_eq!(documented.keys().filter(holds).count(), 1, "{path}");
    }
    // Some have no default, and so are in the schema alone.
    let schema: Value = serde_json::from_str(&read(format!("{CHART}/values.schema.json"))).unwrap();
    for name in documented.keys() {
        let pointer = format!("/properties/{}", name.replace('.', "/properties/"));
        assert!(schema.pointer(&pointer).is_some(), "{name} is in no schema");
    }
}

#[test]
fn the_table_of_chart_values_says_their_defaults() {
    let page = read(format!("{CHART}/README.md"));
    let (_, table) = page.split_once("## Values").unwrap();
    let values: Value = serde_saphyr::from_str(&read(format!("{CHART}/values.yaml"))).unwrap();
    let mut checked = 0;
    for row in rows(table) {
        // A row for several values, or with words for a default, is for people to check.
        let (names, defaults) = (code(row[0]), code(row[1]));
        let ([name], [default]) = (names.as_slice(), defaults.as_slice()) else { continue };
        if row[1] != format!("`{default}`") {
            continue;
        }
        let default: Value = serde_saphyr::from_str(default).unwrap();
        let pointer = format!("/{}", name.replace('.', "/"));
        assert_eq!(values.pointer(&pointer), Some(&default), "{name}");
        checked += 1;
    }
    assert!(checked > 80, "{checked}");
}

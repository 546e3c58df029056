//! YAML and JSON with the line of each value.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The line on which the value begins, counted from 1.
    pub line: u64,
    /// The value.
    pub value: Value,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A scalar other than a text.
    Scalar(serde_json::Value),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the file.
    Map(Vec<(String, Node)>),
}

/// Why a text is not YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The line, if it is known.
    pub line: Option<u64>,
    /// The problem, on one line.
    pub message: String,
}

/// Reads all documents of a text. Empty documents are left out.
pub fn read(text: &str) -> Result<Vec<Node>, Malformed> {
    // The limits of the parser protect against foreign input. Manifests are the user's own, and a
    // chart of many workloads is long. The limits of aliases and of depth remain.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
            max_documents: usize::MAX,
        },
        // kubectl and Helm do the same.
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        with_snippet: false,
    };
    let documents: Vec<Option<Node>> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|error| Malformed {
            line: error.location().map(|location| location.line()).filter(|line| *line > 0),
            message: error.to_string().lines().next().unwrap_or_default().to_owned(),
        })?;
    let is_empty = |node: &Node| node.value == Value::Scalar(serde_json::Value::Null);
    Ok(documents.into_iter().flatten().filter(|node| !is_empty(node)).collect())
}

impl Node {
    /// Returns a member of a map.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(members) => {
                members.iter().find(|(name, _)| name == key).map(|(_, node)| node)
            }
            _ => None,
        }
    }

    /// Returns the value at the end of a path of keys.
    #[must_use]
    pub fn at(&self, keys: &[&str]) -> Option<&Self> {
        keys.iter().try_fold(self, |node, key| node.get(key))
    }

    /// Returns the elements of a list. Other values have none.
    #[must_use]
    pub fn elements(&self) -> &[Self] {
        match &self.value {
            Value::List(elements) => elements,
            _ => &[],
        }
    }

    /// As [`Self::elements`], but consumes the value.
    #[must_use]
    pub fn into_elements(self) -> Vec<Self> {
        match self.value {
            Value::List(elements) => elements,
            _ => Vec::new(),
        }
    }

    /// Returns the text of a text value.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether `holds` is true for any text in the value.
    #[must_use]
    pub fn any_text(&self, holds: &impl Fn(&str) -> bool) -> bool {
        match &self.value {
            Value::Scalar(_) => false,
            Value::Text(text) => holds(text),
            Value::List(elements) => elements.iter().any(|node| node.any_text(holds)),
            Value::Map(members) => members.iter().any(|(_, node)| node.any_text(holds)),
        }
    }

    /// Returns the value as JSON, without lines.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Scalar(scalar) => scalar.clone(),
            Value::Text(text) => text.as_str().into(),
            Value::List(elements) => elements.iter().map(Self::to_json).collect(),
            Value::Map(members) => {
                members.iter().map(|(key, node)| (key.clone(), node.to_json())).collect()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { line: spanned.referenced.line(), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyValue;

        impl<'de> Visitor<'de> for AnyValue {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Scalar(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Scalar(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(Value::Scalar(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Scalar(value.into()))
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Scalar(serde_json::Value::Null))
            }

            fn visit_none<E>(self) -> Result<Value, E> {
                Ok(Value::Scalar(serde_json::Value::Null))
            }

            fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Value, D::Error> {
                inner.deserialize_any(self)
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(Value::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = list.next_element()? {
                    elements.push(element);
                }
                Ok(Value::List(elements))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Value::Map(members))
            }
        }

        deserializer.deserialize_any(AnyValue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_their_lines_in_all_documents() {
        let text = "a: 1\nb:\n  - x\n  - c: true\n---\n# nothing\n---\n{\"d\":\n \"e\"}\n";
        let documents = read(text).unwrap();
        assert_eq!(documents.len(), 2);
        let list = documents[0].get("b").unwrap();
        assert_eq!((list.elements()[0].line, list.elements()[0].text()), (3, Some("x")));
        assert_eq!(list.elements()[1].get("c").unwrap().line, 4);
        assert_eq!(documents[1].get("d").unwrap().line, 9);
        let expected = serde_json::json!({ "a": 1, "b": ["x", { "c": true }] });
        assert_eq!(documents[0].to_json(), expected);
    }

    #[test]
    fn what_is_no_yaml_is_said_with_its_line() {
        let malformed = read("a: 1\nb: {{ .Values.x }}\nc: [\n").unwrap_err();
        assert!(malformed.line.is_some_and(|line| line >= 2), "{malformed:?}");
        assert!(!malformed.message.contains('\n'));
    }

    #[test]
    fn of_a_key_that_is_there_twice_the_last_counts() {
        assert_eq!(read("a: 1\na: 2\n").unwrap()[0].to_json(), serde_json::json!({ "a": 2 }));
    }

    #[test]
    fn a_long_stream_is_read() {
        let document = "kind: ConfigMap\nmetadata: {name: x, labels: {a: b, c: d}}\n---\n";
        assert_eq!(read(&document.repeat(60_000)).unwrap().len(), 60_000);
    }
}

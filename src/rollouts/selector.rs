//! Label selectors of namespaces, with the semantics of Kubernetes.

use std::collections::BTreeMap;

/// The label that the API server sets on each namespace: the name of the namespace.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The labels of a namespace, as far as a selector mentions them.
pub type Labels = BTreeMap<Box<str>, Box<str>>;

/// A label selector. A namespace is selected if it meets all requirements. A selector without
/// requirements selects each namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Box<[Requirement]>);

/// A requirement of a selector on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: Box<str>,
    condition: Condition,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    In(Box<[Box<str>]>),
    NotIn(Box<[Box<str>]>),
    Exists,
    DoesNotExist,
    /// An operator that Kubernetes did not have when this was written. Each label meets it.
    Unknown,
}

impl Selector {
    /// Returns the selector of `matchLabels`, each a key and a value, and of `matchExpressions`,
    /// each a key, an operator and values.
    #[must_use]
    pub fn new(
        labels: impl IntoIterator<Item = (String, String)>,
        expressions: impl IntoIterator<Item = (String, String, Vec<String>)>,
    ) -> Self {
        let labels = labels.into_iter().map(|(key, value)| Requirement {
            key: key.into(),
            condition: Condition::In([value.into()].into()),
        });
        let expressions = expressions.into_iter().map(|(key, operator, values)| Requirement {
            key: key.into(),
            condition: Condition::of(&operator, values),
        });
        Self(labels.chain(expressions).collect())
    }

    /// Returns the keys of the labels that decide, without the name of the namespace.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let keys = self.0.iter().map(|requirement| &*requirement.key);
        keys.filter(|key| *key != NAME_LABEL)
    }

    /// Whether the selector selects a namespace. `None` if that depends on labels, and `labels` are
    /// not known.
    #[must_use]
    pub fn selects(&self, namespace: &str, labels: Option<&Labels>) -> Option<bool> {
        let mut is_known = true;
        for Requirement { key, condition } in &self.0 {
            let is_met = match (&**key, labels) {
                (NAME_LABEL, _) => condition.is_met_by(Some(namespace)),
                (key, Some(labels)) => condition.is_met_by(labels.get(key).map(|value| &**value)),
                (_, None) => {
                    is_known = false;
                    continue;
                }
            };
            if !is_met {
                return Some(false);
            }
        }
        is_known.then_some(true)
    }
}

impl Condition {
    fn of(operator: &str, values: Vec<String>) -> Self {
        let values = || values.into_iter().map(String::into_boxed_str).collect();
        match operator {
            "In" => Self::In(values()),
            "NotIn" => Self::NotIn(values()),
            "Exists" => Self::Exists,
            "DoesNotExist" => Self::DoesNotExist,
            _ => Self::Unknown,
        }
    }

    fn is_met_by(&self, value: Option<&str>) -> bool {
        let is_among = |values: &[Box<str>]| {
            value.is_some_and(|value| values.iter().any(|other| **other == *value))
        };
        match self {
            Self::In(values) => is_among(values),
            Self::NotIn(values) => !is_among(values),
            Self::Exists => value.is_some(),
            Self::DoesNotExist => value.is_none(),
            Self::Unknown => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expression(key: &str, operator: &str, values: &[&str]) -> (String, String, Vec<String>) {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        (key.to_owned(), operator.to_owned(), values)
    }

    #[test]
    fn a_namespace_is_selected_if_it_meets_all_requirements() {
        let labels = Labels::from([("team".into(), "a".into()), ("tier".into(), "web".into())]);
        for (selector, selects, without_labels) in [
            (vec![], true, Some(true)),
            (vec![expression("team", "In", &["a", "b"])], true, None),
            (vec![expression("team", "In", &["b"])], false, None),
            (vec![expression("other", "In", &["a"])], false, None),
            (vec![expression("team", "NotIn", &["a"])], false, None),
            (vec![expression("team", "NotIn", &["b"])], true, None),
            (vec![expression("other", "NotIn", &["a"])], true, None),
            (vec![expression("team", "Exists", &[])], true, None),
            (vec![expression("other", "Exists", &[])], false, None),
            (vec![expression("team", "DoesNotExist", &[])], false, None),
            (vec![expression("other", "DoesNotExist", &[])], true, None),
            (vec![expression("team", "Later", &["a"])], true, None),
            (
                vec![expression("team", "Exists", &[]), expression("tier", "In", &["db"])],
                false,
                None,
            ),
            // The name is known without the labels.
            (vec![expression(NAME_LABEL, "NotIn", &["vault"])], true, Some(true)),
            (vec![expression(NAME_LABEL, "NotIn", &["shop"])], false, Some(false)),
            (
                vec![expression("team", "Exists", &[]), expression(NAME_LABEL, "In", &["vault"])],
                false,
                Some(false),
            ),
        ] {
            let text = format!("{selector:?}");
            let selector = Selector::new([], selector);
            assert_eq!(selector.selects("shop", Some(&labels)), Some(selects), "{text}");
            assert_eq!(selector.selects("shop", None), without_labels, "{text}");
        }
    }

    #[test]
    fn labels_are_requirements_too() {
        let labels = [("team".to_owned(), "a".to_owned())];
        let selector = Selector::new(labels, [expression(NAME_LABEL, "Exists", &[])]);
        let of_team = |team: &str| Labels::from([("team".into(), team.into())]);
        assert_eq!(selector.selects("shop", Some(&of_team("a"))), Some(true));
        assert_eq!(selector.selects("shop", Some(&of_team("b"))), Some(false));
        assert_eq!(selector.selects("shop", Some(&Labels::new())), Some(false));
        assert_eq!(selector.keys().collect::<Vec<_>>(), ["team"]);
    }
}

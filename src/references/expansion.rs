//! Expands the values of variables like the kubelet: `$(NAME)` is the earlier variable of that
//! name, and `$$` is one `$`.
//!
//! Architecture Invariant: expanding takes time in proportion to the values and [`MOST`], whatever
//! the values are.

use std::collections::HashMap;

use crate::references::environment::{EnvValue, EnvVar};

/// How much expansion may add to the values of one workload, in bytes. Each variable can use the
/// one before twice, so without a limit a short list would fill the memory.
const MOST: usize = 64 << 10;

/// Expands the variables of one workload.
#[derive(Clone, Debug)]
pub struct Expansion {
    /// How many bytes may still be added.
    left: usize,
}

impl Default for Expansion {
    fn default() -> Self {
        Self { left: MOST }
    }
}

impl Expansion {
    /// Expands the variables of a container, which are in order. A variable that is not in the
    /// template, or is too long, stays as `$(NAME)`. The value is then [`EnvValue::Partly`] known.
    pub fn expand(&mut self, variables: &mut [EnvVar]) {
        let is_concerned = |variable: &EnvVar| matches!(&variable.value, EnvValue::Literal(text) if text.contains('$'));
        if !variables.iter().any(is_concerned) {
            return;
        }
        let mut before: HashMap<&str, usize> = HashMap::new();
        let mut expanded: Vec<Option<EnvValue>> = Vec::with_capacity(variables.len());
        for (index, variable) in variables.iter().enumerate() {
            let look_up = |name: &str| {
                let index = *before.get(name)?;
                Some(expanded[index].as_ref().unwrap_or(&variables[index].value))
            };
            let value = match &variable.value {
                EnvValue::Literal(text) if text.contains('$') => Some(self.text(text, look_up)),
                _ => None,
            };
            expanded.push(value);
            before.insert(&variable.name, index);
        }
        for (variable, expanded) in variables.iter_mut().zip(expanded) {
            if let Some(value) = expanded {
                variable.value = value;
            }
        }
    }

    /// Expands one value.
    fn text<'v>(&mut self, text: &str, look_up: impl Fn(&str) -> Option<&'v EnvValue>) -> EnvValue {
        let mut value = String::with_capacity(text.len());
        let mut is_known = true;
        // No parenthesis is searched for after the last one.
        let last_close = text.rfind(')').unwrap_or(0);
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            value.push_str(&rest[..at]);
            let behind = &rest[at + 1..];
            let close =
                (text.len() - behind.len() <= last_close).then(|| behind.find(')')).flatten();
            match (behind.strip_prefix('('), close) {
                (None, _) if behind.starts_with('$') => {
                    value.push('$');
                    rest = &behind[1..];
                }
                (Some(_), Some(close)) => {
                    let (known, is_whole) = match look_up(&behind[1..close]) {
                        Some(EnvValue::Literal(known)) => (Some(known), true),
                        Some(EnvValue::Partly(known)) => (Some(known), false),
                        _ => (None, false),
                    };
                    if let Some(known) = known.filter(|known| known.len() <= self.left) {
                        self.left -= known.len();
                        value.push_str(known);
                        is_known &= is_whole;
                    } else {
                        value.push('$');
                        value.push_str(&behind[..=close]);
                        is_known = false;
                    }
                    rest = &behind[close + 1..];
                }
                _ => {
                    value.push('$');
                    rest = behind;
                }
            }
        }
        value.push_str(rest);
        if is_known { EnvValue::Literal(value) } else { EnvValue::Partly(value) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(variables: &[(&str, &str)]) -> Vec<EnvValue> {
        let variable = |(name, value): &(&str, &str)| match *value {
            "(elsewhere)" => EnvVar { name: (*name).to_owned(), value: EnvValue::Other },
            value => EnvVar::literal(*name, value),
        };
        let mut variables: Vec<_> = variables.iter().map(variable).collect();
        Expansion::default().expand(&mut variables);
        variables.into_iter().map(|variable| variable.value).collect()
    }

    fn last(variables: &[(&str, &str)]) -> EnvValue {
        expanded(variables).pop().unwrap()
    }

    #[test]
    fn values_are_expanded_as_by_the_kubelet() {
        let known = |text: &str| EnvValue::Literal(text.to_owned());
        let partly = |text: &str| EnvValue::Partly(text.to_owned());
        let cases = [
            ("plain", known("plain")),
            ("$$", known("$")),
            ("$$$$", known("$$")),
            ("$$$", known("$$")),
            ("a$", known("a$")),
            ("$a$b", known("$a$b")),
            ("${A}", known("${A}")),
            ("$(A)", known("one")),
            ("x$(A)y$(A)", known("xoneyone")),
            ("$$(A)", known("$(A)")),
            ("$$$(A)", known("$one")),
            ("$(DOLLARS)", known("$(A)")),
            ("$(NONE)", partly("$(NONE)")),
            ("$()", partly("$()")),
            ("$(A", known("$(A")),
            ("$($(A)", partly("$($(A)")),
            ("$(ELSEWHERE)-$(A)", partly("$(ELSEWHERE)-one")),
            ("$(PARTLY)", partly("$(NONE)/x")),
            ("é$$é", known("é$é")),
        ];
        for (value, expected) in cases {
            let before = [
                ("A", "zero"),
                ("A", "one"),
                ("DOLLARS", "$$(A)"),
                ("ELSEWHERE", "(elsewhere)"),
                ("PARTLY", "$(NONE)/x"),
            ];
            assert_eq!(last(&[&before[..], &[("X", value),]].concat()), expected, "{value}");
        }
        // A later variable is not known yet, even if an earlier one has the same name.
        assert_eq!(expanded(&[("X", "$(A)"), ("A", "a")])[0], partly("$(A)"));
        assert_eq!(last(&[("A", "a"), ("A", "$(A)b"), ("X", "$(A)")]), known("ab"));
    }

    #[test]
    fn what_doubles_again_and_again_has_an_end() {
        let mut variables = vec![("V0".to_owned(), "vault:a#k".to_owned())];
        for number in 1..2_000 {
            let before = format!("$(V{})", number - 1);
            variables.push((format!("V{number}"), before.repeat(2)));
        }
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let written: usize = variables.iter().map(|(_, value)| value.len()).sum();
        let values = expanded(&variables);
        let length: usize = values
            .iter()
            .map(|value| match value {
                EnvValue::Literal(text) | EnvValue::Partly(text) => text.len(),
                EnvValue::Key { .. } | EnvValue::Other => 0,
            })
            .sum();
        assert!(length <= written + MOST, "{length}");
        assert!(matches!(values.last(), Some(EnvValue::Partly(_))));
    }
}

//! `explain`: shows how one value is read, part by part.

use std::fmt::Write;

use crate::cli::print::one_line;
use crate::references::environment::{EnvValue, EnvVar};
use crate::references::expansion::Expansion;
use crate::references::grammar::Reading;
use crate::references::grammar::{self, Form, Reference};
use crate::references::reason::Reason;

/// Explains a value of a pod template: a line or two for each of its parts, in order. `is_allowed`
/// tells whether path rules allow a path.
#[must_use]
pub fn explain(variable: &str, value: &str, is_allowed: impl Fn(&str) -> bool) -> String {
    let mut said = String::new();
    let mut expanded = [EnvVar::literal(variable, value)];
    Expansion::default().expand(&mut expanded);
    let (value, is_known) = match &expanded[0].value {
        EnvValue::Partly(text) => (text.as_str(), false),
        EnvValue::Literal(text) if text != value => {
            let _ = writeln!(said, "{text:?}\n  what Kubernetes makes of it");
            (text.as_str(), true)
        }
        EnvValue::Literal(_) | EnvValue::Key { .. } | EnvValue::Other => (value, true),
    };
    let references = grammar::parse(variable, value);
    if references.is_empty() {
        let _ = writeln!(said, "{value:?}\n  a literal: it holds no reference");
        return said;
    }
    let mut end = 0;
    for reference in &references {
        say_text(&mut said, value.get(end..reference.span.start));
        let _ = writeln!(said, "{}", one_line(&value[reference.span.clone()]));
        let _ = writeln!(said, "  {}", form(reference));
        let reading = if is_known { reference.read() } else { reference.read_partly() };
        let _ = writeln!(said, "  {}", outcome(by_rules(reading, &is_allowed)));
        end = end.max(reference.span.end);
    }
    say_text(&mut said, value.get(end..));
    said
}

fn say_text(said: &mut String, text: Option<&str>) {
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        let _ = writeln!(said, "{text:?}\n  text, which stays as it is");
    }
}

fn form(reference: &Reference) -> String {
    let kind = if reference.is_inline { "an inline reference" } else { "a reference" };
    match reference.form {
        Form::Read { path, key, version } => {
            let mut form = format!("{kind} to path {path:?}");
            let what = if key.contains("${") && key.contains('}') { "template" } else { "key" };
            let _ = write!(form, ", {what} {key:?}");
            if let Some(version) = version {
                let _ = write!(form, ", version {version:?}");
            }
            form
        }
        Form::Write => format!("{kind} that writes"),
        Form::Transit => "a ciphertext of the transit engine".to_owned(),
        Form::Login => "the token that the pod logged in with".to_owned(),
        Form::NoKey => format!("{kind} without a key"),
        Form::SingleArrow => format!("{kind} with one arrow"),
        Form::Around => format!("{kind} around another one"),
    }
}

/// Applies path rules to a reading.
fn by_rules(reading: Reading, is_allowed: impl Fn(&str) -> bool) -> Reading {
    match &reading {
        Reading::Watch(_, path) | Reading::WatchOdd(_, path, _) if !is_allowed(path) => {
            Reading::Skip(Reason::PathRefused)
        }
        _ => reading,
    }
}

fn outcome(reading: Reading) -> String {
    match reading {
        Reading::Watch(_, path) => format!("watched: {path}"),
        Reading::WatchOdd(_, path, reason) => {
            format!("watched: {path}\n  {}: {}", reason.code(), reason.advice())
        }
        Reading::Skip(reason) => format!("not watched ({}): {}", reason.code(), reason.advice()),
    }
}

#[cfg(test)]
mod tests {
    fn explain(variable: &str, value: &str) -> String {
        super::explain(variable, value, |_| true)
    }

    #[test]
    fn a_path_that_no_rule_allows_is_not_watched() {
        let value = "${vault:/a//b#c}${vault:d#e}${vault:a/b#${.x}";
        let said = super::explain("X", value, |path| path != "a/b");
        assert_eq!(said.matches("  not watched (PathRefused): ").count(), 2, "{said}");
        assert!(said.contains("  watched: d\n") && !said.contains("TemplateCut"), "{said}");
    }

    #[test]
    fn each_part_is_said_in_order() {
        let said = explain("URL", "x${vault:/secret/data/a#u}:${bao:b#${.p}#2}@h");
        let expected = "\
\"x\"
  text, which stays as it is
${vault:/secret/data/a#u}
  an inline reference to path \"/secret/data/a\", key \"u\"
  watched: secret/data/a
\":\"
  text, which stays as it is
${bao:b#${.p}
  an inline reference to path \"b\", key \"${.p\"
  watched: b
";
        assert!(said.starts_with(expected), "{said}");
        assert!(said.contains("\n  TemplateCut: watched, but "), "{said}");
        assert!(said.ends_with("\"#2}@h\"\n  text, which stays as it is\n"), "{said}");
    }

    #[test]
    fn a_literal_is_one() {
        assert_eq!(explain("X", "plain"), "\"plain\"\n  a literal: it holds no reference\n");
    }

    #[test]
    fn what_is_not_watched_has_a_reason() {
        for (value, expected) in [
            ("vault:a", "not watched (NoKey): "),
            (">>vault:a#b", "not watched (Write): "),
            ("vault:a#b#1", "not watched (Pinned): "),
            ("${vault:a#b}}", "BraceInKey: watched, but "),
            ("${vault:a#${vault:b#c}}", "not watched (Nested): "),
            ("vault:$(A)#b", "not watched (Expansion): "),
            ("vault:a$$b#c", "\"vault:a$b#c\"\n  what Kubernetes makes of it\nvault:a$b#c\n"),
            ("vault:a#b\nc", "\nvault:a#b\\nc\n  a reference to "),
        ] {
            let said = format!("\n{}", explain("X", value));
            assert!(said.contains(expected), "{value}: {said}");
        }
    }
}

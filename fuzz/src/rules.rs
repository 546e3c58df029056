//! The path rules. Input: a Kubernetes namespace, the name of a server, a Vault namespace and the
//! path of a reference, a line each; then the rules file, as YAML or JSON.
//!
//! The time must be in proportion to the input: `fuzz/run` fails an input that takes over 10
//! seconds.

use serde::{Deserialize, Serialize};
use vault_secrets_reloader::config::PathRulesFile;
use vault_secrets_reloader::model::secret::{DEFAULT_CONNECTION, SecretId};
use vault_secrets_reloader::references::extraction::read_value;
use vault_secrets_reloader::references::grammar::Reading;
use vault_secrets_reloader::references::path_rules::PathRules;
use vault_secrets_reloader::references::servers::Servers;

use crate::input::first_line;
use crate::path::assert_is_clean;

const PLACEHOLDER: &str = "{namespace}";

/// The most steps of the slow matcher for one input.
const MOST_STEPS: usize = 4_000_000;

/// A reference that the rules allow or refuse.
struct Question {
    namespace: String,
    server: String,
    /// The Vault namespace; empty for a workload that names none.
    vault_namespace: String,
    /// The path as a reference spells it.
    path: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct File {
    rules: Vec<Rule>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Rule {
    namespaces: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    servers: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vault_namespaces: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paths: Option<Vec<String>>,
}

/// Asserts the properties of any rules file and any question.
pub fn check(data: &[u8]) {
    let (namespace, rest) = first_line(data);
    let (server, rest) = first_line(rest);
    let (vault_namespace, rest) = first_line(rest);
    let (path, file) = first_line(rest);
    let server = if server.is_empty() { DEFAULT_CONNECTION.to_owned() } else { server };
    let question = Question { namespace, server, vault_namespace, path };
    let text = String::from_utf8_lossy(file);
    if let Some(rules) = read(&text) {
        question.check_spellings(&rules);
    }
    if let Ok(file) = serde_json::from_str::<File>(&text) {
        check_decisions(&file, &question);
    }
}

/// Returns the rules of a file, if the file is valid.
fn read(text: &str) -> Option<PathRules> {
    match PathRulesFile::parse("rules.yaml", text) {
        Ok(file) => Some(file.into_rules()),
        Err(error) => {
            let said = error.to_string();
            assert!(said.contains("rules.yaml") && !said.contains('\n'), "{said}");
            None
        }
    }
}

/// Returns the paths that the controller watches for a reference.
fn watched(path: &str) -> Vec<String> {
    let readings = read_value("A", &format!("vault:{path}#k"));
    let path = |reading| match reading {
        Reading::Watch(_, path) | Reading::WatchOdd(_, path, _) => Some(path),
        Reading::Skip(_) => None,
    };
    readings.into_iter().filter_map(path).collect()
}

impl Question {
    fn secret(&self, path: &str) -> SecretId {
        let vault_namespace = Some(self.vault_namespace.as_str()).filter(|name| !name.is_empty());
        SecretId {
            connection: self.server.as_str().into(),
            namespace: vault_namespace.map(Into::into),
            path: path.into(),
        }
    }

    fn is_allowed(&self, rules: &PathRules, path: &str) -> bool {
        rules.allow(&self.namespace, &self.secret(path))
    }

    /// Asserts that no spelling of a path gets around a refusal: for each spelling, the rules get
    /// the same clean path.
    fn check_spellings(&self, rules: &PathRules) {
        // The controller never passes an unclean path to the rules. An unclean path must not panic
        // either.
        self.is_allowed(rules, &self.path);
        for path in watched(&self.path) {
            assert_is_clean(&path);
            let decision = self.is_allowed(rules, &path);
            // Some characters have a meaning in a reference, and a path that is too long is not
            // watched.
            if path.len() > 500 || path.contains(['$', '{', '}', ':', '>']) {
                continue;
            }
            for spelling in [
                format!("{path}/"),
                format!("//{path}//"),
                path.replace('/', "//"),
                path.replace('/', "/./"),
                path.replace('/', "/x/../"),
                format!("./{path}/."),
                format!("x/../{path}"),
                format!("{path}/x/y/../.."),
            ] {
                let found = watched(&spelling);
                assert_eq!(found, [path.as_str()], "{spelling:?}");
                assert_eq!(self.is_allowed(rules, &found[0]), decision, "{spelling:?}");
            }
            // A path that leads above its first part is not watched.
            for spelling in [format!("../{path}"), format!("x/../../{path}")] {
                assert!(watched(&spelling).is_empty(), "{spelling:?}");
            }
        }
    }
}

/// Asserts that the rules decide as a simple and slow matcher does.
fn check_decisions(file: &File, question: &Question) {
    let text = serde_json::to_string(file).unwrap_or_default();
    let Some(rules) = read(&text) else { return };
    let servers = file.rules.iter().flat_map(|rule| rule.servers.iter().flatten());
    let servers: Vec<&str> = servers.map(String::as_str).collect();
    assert_eq!(rules.servers().collect::<Vec<_>>(), servers);
    let applied =
        PathRulesFile::parse("rules.yaml", &text).and_then(|file| file.apply(Servers::default()));
    assert_eq!(applied.is_ok(), servers.iter().all(|name| *name == DEFAULT_CONNECTION));

    for path in watched(&question.path) {
        if file.steps(question, &path) > MOST_STEPS {
            continue;
        }
        let allowing: Vec<&Rule> = match asked_namespace(&question.vault_namespace) {
            Some(name) => {
                file.rules.iter().filter(|rule| rule.allows(question, name, &path)).collect()
            }
            None => Vec::new(),
        };
        assert_eq!(question.is_allowed(&rules, &path), !allowing.is_empty(), "{path:?}");
        for rule in allowing {
            rule.check_that_path_begins_with_no_other_namespace(question, &path);
        }
    }
}

impl File {
    fn steps(&self, question: &Question, path: &str) -> usize {
        let text = question.namespace.len() + question.vault_namespace.len() + path.len() + 1;
        let pattern = |pattern: &String| {
            let placeholders = pattern.matches(PLACEHOLDER).count();
            pattern.len() + placeholders * question.namespace.len()
        };
        let lists = self.rules.iter().flat_map(Rule::patterns);
        lists.map(pattern).sum::<usize>().saturating_mul(text)
    }
}

/// Returns the Vault namespace that a server understands by a name, if that is clear.
fn asked_namespace(name: &str) -> Option<&str> {
    if name.is_empty() || name.eq_ignore_ascii_case("root") {
        return Some("");
    }
    let starts_at_root = name.to_ascii_lowercase().starts_with("root/");
    let slashed = format!("/{name}/");
    let is_odd = ["//", "/./", "/../"].iter().any(|odd| slashed.contains(odd));
    (!starts_at_root && !is_odd && name.trim().len() == name.len()).then_some(name)
}

impl Rule {
    fn patterns(&self) -> impl Iterator<Item = &String> {
        let optional = [&self.vault_namespaces, &self.paths];
        self.namespaces.iter().chain(optional.into_iter().flatten().flatten())
    }

    fn allows(&self, question: &Question, vault_namespace: &str, path: &str) -> bool {
        let namespace = &question.namespace;
        let fits = |pattern: &String, text: &str| fits(pattern, namespace, text);
        let any = |list: &Option<Vec<String>>, text: &str| {
            list.as_ref().is_none_or(|list| list.iter().any(|pattern| fits(pattern, text)))
        };
        self.namespaces.iter().any(|pattern| fits(pattern, namespace))
            && self.servers.as_ref().is_none_or(|names| names.contains(&question.server))
            && any(&self.vault_namespaces, vault_namespace)
            && any(&self.paths, path)
    }

    /// Asserts that a path does not lead into another Vault namespace than the rule allows. To a
    /// server, the path `a/b` in the root namespace is the path `b` in the namespace `a`. So a rule
    /// that names Vault namespaces must also allow the namespace `a`, or name the first part of the
    /// path literally.
    fn check_that_path_begins_with_no_other_namespace(&self, question: &Question, path: &str) {
        let Some(vault_namespaces) = &self.vault_namespaces else { return };
        let (first, _) = path.split_once('/').unwrap_or((path, ""));
        let below = match asked_namespace(&question.vault_namespace) {
            Some("") | None => first.to_owned(),
            Some(name) => format!("{name}/{first}"),
        };
        let namespace = &question.namespace;
        let is_allowed = vault_namespaces.iter().any(|pattern| fits(pattern, namespace, &below));
        let is_literal = |pattern: &String| {
            let (first, _) = pattern.split_once('/').unwrap_or((pattern, ""));
            fits(pattern, namespace, path) && !first.contains('*')
        };
        let is_literal = self.paths.iter().flatten().any(is_literal);
        assert!(is_allowed || is_literal, "{path:?} in {:?}", question.vault_namespace);
    }
}

/// Whether a pattern matches a text. Tracks all places of the text at which a prefix of the pattern
/// can end.
fn fits(pattern: &str, namespace: &str, text: &str) -> bool {
    let has_placeholder = pattern.contains(PLACEHOLDER);
    if has_placeholder && (namespace.is_empty() || namespace.contains('/')) {
        return false;
    }
    // Only the empty pattern and `**` match the empty text.
    if text.is_empty() {
        return matches!(pattern, "" | "**");
    }
    let (pattern, is_open) = match pattern.strip_suffix("**") {
        Some(rest) => (rest, true),
        None => (pattern, false),
    };
    let text = text.as_bytes();
    let mut places = vec![false; text.len() + 1];
    places[0] = true;
    for (number, part) in pattern.split(PLACEHOLDER).enumerate() {
        if number > 0 {
            step_over_literally(&mut places, text, namespace);
        }
        for (number, literal) in part.split('*').enumerate() {
            if number > 0 {
                for place in 0..text.len() {
                    places[place + 1] |= places[place] && text[place] != b'/';
                }
            }
            step_over_literally(&mut places, text, literal);
        }
    }
    // `**` stands for at least one character.
    if is_open { places[..text.len()].contains(&true) } else { places[text.len()] }
}

fn step_over_literally(places: &mut [bool], text: &[u8], literal: &str) {
    for byte in literal.bytes() {
        for place in (0..text.len()).rev() {
            places[place + 1] = places[place] && text[place] == byte;
        }
        places[0] = false;
    }
}

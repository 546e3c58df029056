//! What counts as a reference to a secret, and what is done with each.
//!
//! This is the one place that reads references. It follows the grammar of the injectors:
//!
//! ```text
//! value  = inline-value | ref | literal
//! ref    = [ ">>" ] scheme body                  at byte 0, case-sensitive, nothing trimmed
//! scheme = "vault:" | "bao:"
//! body   = "login"                               only in VAULT_TOKEN or BAO_TOKEN
//!        | "v" 1*DIGIT ":" 1*CHAR                a transit ciphertext
//!        | path "#" key [ "#" version ]          split at "#" into at most three parts
//! inline = "${" [ ">" [ ">" ] ] scheme body "}"  anywhere, any number of times, on one line
//! ```
//!
//! Architecture Invariant: reading never fails. Every value yields the paths to watch and, for each
//! reference that is not watched or looks odd, a note with the reason.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::LazyLock;

use regex::Regex;

use super::annotation::{Annotations, Webhook};

/// The longest path that is watched, in bytes. No storage of Vault keeps a longer one, and it must
/// fit into the request line of any proxy, where a byte can take three.
const LONGEST_PATH: usize = 2048;

/// Why a reference is not watched, or is watched but looks like a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// It names one version, which never changes.
    Pinned,
    /// It writes (`>>vault:`), and so makes a new value at every start of a pod.
    Write,
    /// It is a transit ciphertext: the value is in the manifest.
    Transit,
    /// It passes the pod's own Vault token on.
    Login,
    /// The workload uses a secret provider other than Vault or OpenBao.
    OtherProvider,
    /// It has no `#key`, and the injector refuses it.
    NoKey,
    /// Its path is empty.
    NoPath,
    /// Its path leaves the API by `..`, holds control characters, or is longer than any storage
    /// keeps.
    BadPath,
    /// Its version is not a number, and the pod would fail.
    BadVersion,
    /// `${>vault:…}` is not a form that the injector knows; it stays as it is.
    SingleArrow,
    /// A brace behind an inline reference is read as part of its key. It is watched all the same.
    BraceInKey,
    /// The Vault namespace of the workload is none that a request could name.
    BadNamespace,
}

impl Reason {
    /// Whether the user should look at it: the pod fails, or runs with something unintended.
    #[must_use]
    pub fn is_warning(self) -> bool {
        match self {
            Self::Pinned | Self::Write | Self::Transit | Self::Login | Self::OtherProvider => false,
            Self::NoKey
            | Self::NoPath
            | Self::BadPath
            | Self::BadVersion
            | Self::SingleArrow
            | Self::BraceInKey
            | Self::BadNamespace => true,
        }
    }

    /// What it means and what to do, for a log line.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Pinned => "pinned to a version, so it never changes",
            Self::Write => "a write, which makes a new value at every start of a pod; never called",
            Self::Transit => "a transit ciphertext, whose value is in the manifest",
            Self::Login => "the pod's own Vault token",
            Self::OtherProvider => "the workload uses another secret provider",
            Self::NoKey => "no key: write it as vault:PATH#KEY",
            Self::NoPath => "no path: write it as vault:PATH#KEY",
            Self::BadPath => {
                "the path leaves the API, holds control characters or is too long: correct it"
            }
            Self::BadVersion => {
                "the version is not a number, the pod would fail: correct or remove it"
            }
            Self::SingleArrow => {
                "${>vault:...} is not resolved: remove the arrow, or write two for a write"
            }
            Self::BraceInKey => {
                "watched, but the brace behind the reference is read as part of its key: \
                 put a space between the braces"
            }
            Self::BadNamespace => {
                "the name is too long or holds control characters, so nothing of this workload is \
                 watched: correct it"
            }
        }
    }
}

/// Where in a pod template a reference stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// The environment of a container.
    Env {
        /// The container's name.
        container: String,
        /// The variable's name.
        name: String,
    },
    /// One of the annotations that list paths.
    FromPath(PathList),
    /// The annotation that names the Vault namespace.
    Namespace,
}

/// An annotation that lists paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathList {
    /// `vault-from-path`
    Vault,
    /// `bao-from-path`
    Bao,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env { container, name } => write!(f, "variable {name} of container {container}"),
            Self::FromPath(PathList::Vault) => f.write_str("annotation vault-from-path"),
            Self::FromPath(PathList::Bao) => f.write_str("annotation bao-from-path"),
            Self::Namespace => f.write_str("annotation vault-namespace"),
        }
    }
}

/// One reference that is not watched or looks odd. It never holds the value itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Note {
    /// Where it stands.
    pub origin: Origin,
    /// Why it is noted.
    pub reason: Reason,
}

/// A variable of a container, as it stands in the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvVar {
    /// The container's name.
    pub container: String,
    /// The variable's name.
    pub name: String,
    /// The variable's value.
    pub value: String,
}

/// What a pod template refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extraction {
    /// The API paths to watch, cleaned, each once, in order.
    pub paths: BTreeSet<String>,
    /// What is not watched or looks odd.
    pub notes: Vec<Note>,
}

/// Whether a value can hold a reference at all.
///
/// This is the cheap test that lets a decoder drop nearly every value at once.
#[must_use]
pub fn may_hold_reference(value: &str) -> bool {
    value.contains("vault:") || value.contains("bao:")
}

/// Collects the references of a pod template from its annotations and its variables.
#[must_use]
pub fn extract<'a>(
    annotations: &Annotations,
    variables: impl IntoIterator<Item = &'a EnvVar>,
) -> Extraction {
    let mut found = Extraction::default();
    let known_provider =
        matches!(annotations.webhook(Webhook::Provider), None | Some("" | "vault" | "bao"));
    for variable in variables {
        let origin =
            || Origin::Env { container: variable.container.clone(), name: variable.name.clone() };
        for reading in read_value(&variable.name, &variable.value) {
            found.add(reading, known_provider, origin);
        }
    }
    for (annotation, list) in
        [(Webhook::VaultFromPath, PathList::Vault), (Webhook::BaoFromPath, PathList::Bao)]
    {
        let items = annotations.webhook(annotation).unwrap_or_default();
        for item in items.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (path, version) = item.split_once('#').unwrap_or((item, ""));
            found.add(read_latest(path, version), known_provider, || Origin::FromPath(list));
        }
    }
    found
}

impl Extraction {
    fn add(&mut self, reading: Reading, known_provider: bool, origin: impl Fn() -> Origin) {
        let (path, reason) = match reading {
            _ if !known_provider => (None, Some(Reason::OtherProvider)),
            Reading::Watch(path) => (Some(path), None),
            Reading::WatchOdd(path, reason) => (Some(path), Some(reason)),
            Reading::Skip(reason) => (None, Some(reason)),
        };
        self.paths.extend(path);
        self.notes.extend(reason.map(|reason| Note { origin: origin(), reason }));
    }
}

/// How one reference is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Its latest version is used: watch this path.
    Watch(String),
    /// Watch this path, though the reference looks like a mistake.
    WatchOdd(String, Reason),
    /// It is not watched.
    Skip(Reason),
}

/// Finds the references in one value; a literal has none.
///
/// `variable` is the name of the variable that holds the value: one form counts only in
/// `VAULT_TOKEN` and `BAO_TOKEN`.
#[must_use]
pub fn read_value(variable: &str, value: &str) -> Vec<Reading> {
    // Lazily up to the first closing brace that can end it; `#*` and `}?` let an empty version and
    // one more brace, the end of a template, belong to it.
    #[expect(clippy::unwrap_used, reason = "a constant pattern, compiled by every test here")]
    static INLINE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\$\{([>]{0,2})((?:vault|bao):.*?#*\}?)\}").unwrap());

    if !may_hold_reference(value) {
        return Vec::new();
    }
    let inline: Vec<Reading> = INLINE
        .captures_iter(value)
        .filter_map(|found| match &found[1] {
            ">" => Some(Reading::Skip(Reason::SingleArrow)),
            ">>" => Some(Reading::Skip(Reason::Write)),
            _ => read_reference(variable, &found[2]).map(flag_swallowed_brace(&found[2])),
        })
        .collect();
    if !inline.is_empty() {
        return inline;
    }
    let (value, write) = value.strip_prefix(">>").map_or((value, false), |rest| (rest, true));
    match read_reference(variable, value) {
        Some(_) if write => vec![Reading::Skip(Reason::Write)],
        reading => reading.into_iter().collect(),
    }
}

/// An inline reference may swallow a brace that was meant to stand behind it.
fn flag_swallowed_brace(reference: &str) -> impl Fn(Reading) -> Reading {
    let key = reference.split('#').nth(1).unwrap_or_default();
    let odd = key.ends_with('}') && !key.contains("${");
    move |reading| match reading {
        Reading::Watch(path) if odd => Reading::WatchOdd(path, Reason::BraceInKey),
        reading => reading,
    }
}

/// Reads `scheme body`; `None` is a literal.
fn read_reference(variable: &str, reference: &str) -> Option<Reading> {
    let (body, token_variable) = match reference.strip_prefix("vault:") {
        Some(body) => (body, "VAULT_TOKEN"),
        None => (reference.strip_prefix("bao:")?, "BAO_TOKEN"),
    };
    if body == "login" && variable == token_variable {
        return Some(Reading::Skip(Reason::Login));
    }
    if is_transit(body) {
        return Some(Reading::Skip(Reason::Transit));
    }
    let mut parts = body.splitn(3, '#');
    let path = parts.next().unwrap_or_default();
    if parts.next().is_none() {
        return Some(Reading::Skip(Reason::NoKey));
    }
    Some(read_latest(path, parts.next().unwrap_or_default()))
}

/// `v1:…`, the form of a ciphertext of the transit engine.
fn is_transit(body: &str) -> bool {
    let Some((version, text)) = body.strip_prefix('v').and_then(|rest| rest.split_once(':')) else {
        return false;
    };
    !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty()
}

/// Reads a path with the version behind it; an empty version, zero and below mean the latest.
fn read_latest(path: &str, version: &str) -> Reading {
    match version.parse::<i64>() {
        Ok(number) if number > 0 => return Reading::Skip(Reason::Pinned),
        Err(_) if !version.is_empty() => return Reading::Skip(Reason::BadVersion),
        _ => {}
    }
    match clean_path(path) {
        Ok(path) => Reading::Watch(path),
        Err(reason) => Reading::Skip(reason),
    }
}

/// Cleans a path as the injectors' client library does before it asks: empty segments and `.` are
/// dropped, `..` takes one segment away.
fn clean_path(path: &str) -> Result<String, Reason> {
    if path.len() > LONGEST_PATH || path.chars().any(char::is_control) {
        return Err(Reason::BadPath);
    }
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop().ok_or(Reason::BadPath)?;
            }
            name => segments.push(name),
        }
    }
    if segments.is_empty() { Err(Reason::NoPath) } else { Ok(segments.join("/")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(path: &str) -> Vec<Reading> {
        vec![Reading::Watch(path.to_owned())]
    }

    fn skip(reason: Reason) -> Vec<Reading> {
        vec![Reading::Skip(reason)]
    }

    /// One line a form of the grammar.
    #[test]
    fn whole_values() {
        let cases = [
            ("vault:secret/data/a#k", watch("secret/data/a")),
            ("bao:secret/data/a#k", watch("secret/data/a")),
            ("vault:secret/data/a#${.k}", watch("secret/data/a")),
            ("vault:secret/data/a#${.k | b64enc}", watch("secret/data/a")),
            ("vault:secret/data/a#text ${.k} text", watch("secret/data/a")),
            ("vault:secret/data/a#k#", watch("secret/data/a")),
            ("vault:secret/data/a#k#-1", watch("secret/data/a")),
            ("vault:secret/data/a#k#0", watch("secret/data/a")),
            ("vault:secret/data/a#", watch("secret/data/a")),
            ("vault:secret/data/a#k#3", skip(Reason::Pinned)),
            ("vault:secret/data/a#k#+3", skip(Reason::Pinned)),
            ("vault:secret/data/a#k#abc", skip(Reason::BadVersion)),
            ("vault:secret/data/a#k#3#4", skip(Reason::BadVersion)),
            ("vault:secret/data/a#k# 3", skip(Reason::BadVersion)),
            ("vault:secret/data/a#k#99999999999999999999", skip(Reason::BadVersion)),
            (">>vault:pki/issue/r#certificate#{\"a\":\"b#c\"}", skip(Reason::Write)),
            (">>bao:pki/issue/r#certificate#{}", skip(Reason::Write)),
            ("vault:v1:8SDd3WHDOjf7mq69CyCqYjBXAiQQAVZRkFM13ok481zo==", skip(Reason::Transit)),
            ("vault:v12:x", skip(Reason::Transit)),
            ("vault:v1:", skip(Reason::NoKey)),
            ("vault:secret/data/a", skip(Reason::NoKey)),
            ("vault:login", skip(Reason::NoKey)),
            ("vault:", skip(Reason::NoKey)),
            ("vault:#k", skip(Reason::NoPath)),
            ("vault:/#k", skip(Reason::NoPath)),
            ("vault:/secret//data/./a/#k", watch("secret/data/a")),
            ("vault:secret/data/b/../a#k", watch("secret/data/a")),
            ("vault:../sys/raw#k", skip(Reason::BadPath)),
            ("vault:secret/data/a\nb#k", skip(Reason::BadPath)),
            ("vault:secret/data/ä ö#k", watch("secret/data/ä ö")),
            ("vault:v1beta/data/a#k", watch("v1beta/data/a")),
            // Literals.
            ("", vec![]),
            ("plain", vec![]),
            (" vault:secret/data/a#k", vec![]),
            ("Vault:secret/data/a#k", vec![]),
            (">vault:secret/data/a#k", vec![]),
            (">>>vault:secret/data/a#k", vec![]),
            ("see vault:secret/data/a#k", vec![]),
            ("arn:aws:secretsmanager:eu:1:secret:x", vec![]),
            ("gcp:secretmanager:x", vec![]),
        ];
        for (value, expected) in cases {
            assert_eq!(read_value("PASSWORD", value), expected, "{value:?}");
        }
    }

    #[test]
    fn inline_values() {
        let cases = [
            (
                "x${vault:secret/data/a#u}:${vault:secret/data/b#${.p | urlquery}}@h",
                [watch("secret/data/a"), watch("secret/data/b")].concat(),
            ),
            ("${vault:secret/data/a#u#2}", skip(Reason::Pinned)),
            ("${vault:secret/data/a#u#}", watch("secret/data/a")),
            (
                r#"{"p":${vault:secret/data/a#n}}"#,
                vec![Reading::WatchOdd("secret/data/a".to_owned(), Reason::BraceInKey)],
            ),
            (r#"{"p":"${vault:secret/data/a#n}"}"#, watch("secret/data/a")),
            ("${>vault:x#y}", skip(Reason::SingleArrow)),
            ("${>>vault:pki/issue/r#certificate#{}}", skip(Reason::Write)),
            ("${bao:secret/data/a#u}", watch("secret/data/a")),
            // Inline references win over the whole value.
            ("vault:secret/data/x#a${vault:secret/data/a#u}", watch("secret/data/a")),
            // A reference does not span lines.
            ("${vault:secret/data/a\n#u}", vec![]),
            ("${vault:secret/data/a#u", vec![]),
            ("${VAULT:secret/data/a#u}", vec![]),
        ];
        for (value, expected) in cases {
            assert_eq!(read_value("URL", value), expected, "{value:?}");
        }
    }

    #[test]
    fn a_path_has_an_end() {
        let value = |length: usize| format!("vault:{}#k", "a".repeat(length));
        assert_eq!(read_value("X", &value(LONGEST_PATH)), watch(&"a".repeat(LONGEST_PATH)));
        assert_eq!(read_value("X", &value(LONGEST_PATH + 1)), skip(Reason::BadPath));
    }

    #[test]
    fn login_counts_only_in_the_variable_of_its_own_scheme() {
        assert_eq!(read_value("VAULT_TOKEN", "vault:login"), skip(Reason::Login));
        assert_eq!(read_value("BAO_TOKEN", "bao:login"), skip(Reason::Login));
        assert_eq!(read_value("BAO_TOKEN", "vault:login"), skip(Reason::NoKey));
    }

    #[test]
    fn from_path_annotations_are_trimmed_and_skip_pinned_items() {
        let annotations: Annotations = [(
            "secrets-webhook.security.bank-vaults.io/vault-from-path",
            " secret/data/a , secret/data/b#1,,secret/data/c#0,secret/data/d#x",
        )]
        .into_iter()
        .collect();
        let found = extract(&annotations, []);
        assert_eq!(found.paths.iter().collect::<Vec<_>>(), ["secret/data/a", "secret/data/c"],);
        let reasons: Vec<_> = found.notes.iter().map(|note| note.reason).collect();
        assert_eq!(reasons, [Reason::Pinned, Reason::BadVersion]);
    }

    #[test]
    fn the_older_annotation_counts_only_where_the_current_is_absent() {
        let older = ("vault.security.banzaicloud.io/vault-env-from-path", "secret/data/old");
        let current =
            ("secrets-webhook.security.bank-vaults.io/vault-from-path", "secret/data/new");
        let paths = |pairs: &[(&str, &str)]| {
            extract(&pairs.iter().copied().collect(), []).paths.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(paths(&[older]), ["secret/data/old"]);
        assert_eq!(paths(&[older, current]), ["secret/data/new"]);
    }

    #[test]
    fn another_provider_is_skipped_and_a_path_is_listed_once() {
        let variables: Vec<EnvVar> = ["vault:secret/data/a#x", "vault:/secret/data/a/#y"]
            .into_iter()
            .map(|value| EnvVar {
                container: "app".to_owned(),
                name: "X".to_owned(),
                value: value.to_owned(),
            })
            .collect();
        assert_eq!(extract(&Annotations::default(), &variables).paths.len(), 1);
        let aws: Annotations =
            [("secrets-webhook.security.bank-vaults.io/provider", "aws")].into_iter().collect();
        let found = extract(&aws, &variables);
        assert!(found.paths.is_empty());
        assert!(found.notes.iter().all(|note| note.reason == Reason::OtherProvider));
    }
}

//! Path rules: which Kubernetes namespaces may refer to which paths of Vault.
//!
//! Without rules every reference is allowed. With rules a reference is allowed if at least one rule
//! allows it. A namespace that no rule names is allowed nothing.
//!
//! Architecture Invariant: rules only ever allow. They are applied to the secret as it will be
//! requested: the cleaned path, the name of the declared server, and the Vault namespace as the
//! server understands it. A spelling with an unclear meaning is refused. Matching takes time in
//! proportion to the patterns and the text, whatever they contain.

use crate::model::secret::SecretId;

/// The longest pattern, in bytes: the length of the longest path.
const LONGEST_PATTERN: usize = 2048;

/// Stands for the Kubernetes namespace of the workload.
const PLACEHOLDER: &str = "{namespace}";

/// The rules of the operator.
#[derive(Clone, Debug, Default)]
pub struct PathRules {
    /// `None` allows everything.
    rules: Option<Vec<Rule>>,
}

/// The text of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleText {
    /// Patterns of Kubernetes namespaces.
    pub namespaces: Vec<String>,
    /// Names of servers. `None` allows any.
    pub servers: Option<Vec<String>>,
    /// Patterns of Vault namespaces. `None` allows any. An empty pattern is the root namespace.
    pub vault_namespaces: Option<Vec<String>>,
    /// Patterns of paths. `None` allows any.
    pub paths: Option<Vec<String>>,
}

/// A rule that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// The field.
    pub field: &'static str,
    /// The bad pattern, if there is one.
    pub value: Option<String>,
    /// The problem and the remedy.
    pub problem: String,
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    namespaces: Vec<Pattern>,
    servers: Option<Vec<String>>,
    vault_namespaces: Option<Vec<Pattern>>,
    paths: Option<Vec<Pattern>>,
}

impl PathRules {
    /// Makes rules that allow a reference if at least one of them does.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules: Some(rules) }
    }

    /// Returns the names of the servers in the rules.
    pub fn servers(&self) -> impl Iterator<Item = &str> {
        let lists = self.rules.iter().flatten().filter_map(|rule| rule.servers.as_ref());
        lists.flatten().map(String::as_str)
    }

    /// Whether workloads of a Kubernetes namespace may refer to a secret.
    #[must_use]
    pub fn allow(&self, namespace: &str, secret: &SecretId) -> bool {
        let Some(rules) = &self.rules else { return true };
        let Some(vault_namespace) = asked_namespace(secret.namespace.as_deref()) else {
            return false;
        };
        rules
            .iter()
            .any(|rule| rule.allows(namespace, &secret.connection, vault_namespace, &secret.path))
    }
}

/// Returns the Vault namespace that a server reads from a name. An empty text is the root
/// namespace. Returns `None` for a name that servers may read as another one.
///
/// `OpenBao` resolves `a/..`, `.` and `root` to the root namespace, and HTTP trims spaces around a
/// header.
fn asked_namespace(name: Option<&str>) -> Option<&str> {
    let Some(name) = name else { return Some("") };
    if name.eq_ignore_ascii_case("root") {
        return Some("");
    }
    let is_clear = |segment: &str| !["", ".", ".."].contains(&segment);
    let first = name.split('/').next().unwrap_or_default();
    (name.trim() == name && name.split('/').all(is_clear) && !first.eq_ignore_ascii_case("root"))
        .then_some(name)
}

impl Rule {
    /// Reads a rule.
    pub fn new(text: &RuleText) -> Result<Self, RuleError> {
        let RuleText { namespaces, servers, vault_namespaces, paths } = text;
        let lists = [
            ("namespaces", Some(namespaces), "name namespaces, or \"*\" for all"),
            ("servers", servers.as_ref(), "leave it out to allow all servers"),
            ("vaultNamespaces", vault_namespaces.as_ref(), "leave it out to allow all of them"),
            ("paths", paths.as_ref(), "leave it out to allow all paths"),
        ];
        for (field, list, remedy) in lists {
            if list.is_some_and(Vec::is_empty) {
                let problem = format!("is empty; {remedy}");
                return Err(RuleError { field, value: None, problem });
            }
        }
        let rule = Self {
            namespaces: patterns("namespaces", namespaces, Pattern::of_namespace)?,
            servers: servers.clone(),
            vault_namespaces: vault_namespaces
                .as_ref()
                .map(|list| patterns("vaultNamespaces", list, Pattern::of_vault_namespace))
                .transpose()?,
            paths: paths
                .as_ref()
                .map(|list| patterns("paths", list, Pattern::of_path))
                .transpose()?,
        };
        rule.check_beginnings(text)?;
        Ok(rule)
    }

    /// Checks the beginnings of the paths. A path can begin with a Vault namespace. So if a rule
    /// names Vault namespaces, but not those below them, its paths must begin with a name.
    fn check_beginnings(&self, text: &RuleText) -> Result<(), RuleError> {
        let Some(listed) = &text.vault_namespaces else { return Ok(()) };
        let below = |name: &str| match name {
            "" => "**".to_owned(),
            name => format!("{name}/**"),
        };
        let is_closed = |name: &String| {
            name.ends_with("**")
                || listed.contains(&below(name))
                || listed.iter().any(|it| it == "**")
        };
        let Some(open) = listed.iter().find(|name| !is_closed(name)) else { return Ok(()) };
        let below = below(open);
        match &self.paths {
            None => {
                let problem = format!(
                    "is left out, and a path can begin with a Vault namespace below {open:?}; list paths \
                     that begin with their mount, or add {below:?} to vaultNamespaces"
                );
                Err(RuleError { field: "paths", value: None, problem })
            }
            Some(paths) => {
                let texts = text.paths.iter().flatten();
                match paths.iter().zip(texts).find(|(path, _)| path.begins_with_wildcard()) {
                    None => Ok(()),
                    Some((_, value)) => {
                        let problem = format!(
                            "begins with a wildcard, which also matches a Vault namespace below {open:?}; \
                             begin it with the mount, or add {below:?} to vaultNamespaces"
                        );
                        Err(RuleError { field: "paths", value: Some(value.clone()), problem })
                    }
                }
            }
        }
    }

    fn allows(&self, namespace: &str, server: &str, vault_namespace: &str, path: &str) -> bool {
        let any = |patterns: &[Pattern], text| {
            patterns.iter().any(|pattern| pattern.matches(namespace, text))
        };
        let any_of = |patterns: &Option<Vec<Pattern>>, text| {
            patterns.as_ref().is_none_or(|patterns| any(patterns, text))
        };
        any(&self.namespaces, namespace)
            && self.servers.as_ref().is_none_or(|names| names.iter().any(|name| name == server))
            && any_of(&self.vault_namespaces, vault_namespace)
            && any_of(&self.paths, path)
    }
}

fn patterns(
    field: &'static str,
    list: &[String],
    read: impl Fn(&str) -> Result<Pattern, String>,
) -> Result<Vec<Pattern>, RuleError> {
    let read = |text: &String| {
        let error = |problem| RuleError { field, value: Some(text.clone()), problem };
        read(text).map_err(error)
    };
    list.iter().map(read).collect()
}

/// A pattern of texts that slashes divide. A `*` matches any characters but slashes. A `**` at the
/// end matches the rest.
#[derive(Clone, Debug)]
struct Pattern {
    /// The segments, each split at its `*`.
    segments: Vec<Vec<String>>,
    /// Whether one or more segments must follow.
    is_open: bool,
}

impl Pattern {
    fn of_namespace(text: &str) -> Result<Self, String> {
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-*".contains(&byte);
        if !text.bytes().all(is_plain) {
            return Err("not a Kubernetes namespace; write small letters, digits and dashes, with * for any \
                        run of them"
                .to_owned());
        }
        Self::parse(text)
    }

    fn of_vault_namespace(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self { segments: Vec::new(), is_open: false });
        }
        if text.split('/').next().is_some_and(|first| first.eq_ignore_ascii_case("root")) {
            return Err("write \"\" for the root namespace".to_owned());
        }
        Self::parse(text)
    }

    fn of_path(text: &str) -> Result<Self, String> {
        if text.contains('#') || text.starts_with("vault:") || text.starts_with("bao:") {
            return Err("write the path alone, without vault: and #KEY".to_owned());
        }
        Self::parse(text)
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST_PATTERN {
            return Err(format!("longer than {LONGEST_PATTERN} bytes; shorten it"));
        }
        if text.chars().any(char::is_control) || text.trim() != text {
            return Err("holds control characters, or spaces at its ends; remove them".to_owned());
        }
        if text.replace(PLACEHOLDER, "").contains(['{', '}']) {
            return Err(format!("has no placeholder but {PLACEHOLDER}; write that, or no braces"));
        }
        let (closed, is_open) = match text {
            "**" => (None, true),
            text => text.strip_suffix("/**").map_or((Some(text), false), |rest| (Some(rest), true)),
        };
        let mut segments = Vec::new();
        for segment in closed.into_iter().flat_map(|text| text.split('/')) {
            if ["", ".", ".."].contains(&segment) {
                return Err(
                    "has an empty part, or one of dots; write it without, as in a/b/*".to_owned()
                );
            }
            if segment.contains("**") {
                return Err(
                    "has a ** that is not the whole of its last part; write a/**".to_owned()
                );
            }
            segments.push(segment.split('*').map(str::to_owned).collect());
        }
        Ok(Self { segments, is_open })
    }

    fn begins_with_wildcard(&self) -> bool {
        self.segments.first().is_none_or(|pieces| pieces.len() > 1)
    }

    fn matches(&self, namespace: &str, text: &str) -> bool {
        let mut rest = Some(text).filter(|text| !text.is_empty());
        for pieces in &self.segments {
            let Some(left) = rest else { return false };
            let (segment, after) = match left.split_once('/') {
                Some((segment, after)) => (segment, Some(after)),
                None => (left, None),
            };
            if !matches_segment(pieces, namespace, segment) {
                return false;
            }
            rest = after;
        }
        // A lone `**` matches everything, also the root namespace.
        if self.is_open { rest.is_some() || self.segments.is_empty() } else { rest.is_none() }
    }
}

/// Whether a segment holds all pieces in order: the first at its start, the last at its end. The
/// leftmost position of each piece is as good as any other, so nothing is tried twice.
fn matches_segment(pieces: &[String], namespace: &str, segment: &str) -> bool {
    // An empty namespace would reduce the placeholder to nothing.
    if namespace.is_empty() && pieces.iter().any(|piece| piece.contains(PLACEHOLDER)) {
        return false;
    }
    let text = |piece: &String| piece.replace(PLACEHOLDER, namespace);
    let [first, rest @ ..] = pieces else { return segment.is_empty() };
    let Some(segment) = segment.strip_prefix(&text(first)) else { return false };
    let [middle @ .., last] = rest else { return segment.is_empty() };
    let Some(mut segment) = segment.strip_suffix(&text(last)) else { return false };
    for piece in middle {
        let piece = text(piece);
        let Some(at) = segment.find(&piece) else { return false };
        segment = &segment[at + piece.len()..];
    }
    true
}

#[cfg(test)]
mod tests;

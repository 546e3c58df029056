//! The file of path rules: which Kubernetes namespaces may refer to which paths of Vault.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Deserializer};

use super::error::{ConfigError, error};
use crate::references::path_rules::{PathRules, Rule, RuleError, RuleText};
use crate::references::servers::Servers;

/// The flag that names the file.
const FLAG: &str = "--path-rules-file";

/// The longest file, in bytes: a quarter of the limit of a `ConfigMap`.
const LONGEST_FILE: u64 = 256 << 10;

/// The most rules, and the most patterns in all rules. A reference may be compared with each
/// pattern, and a workload can have many thousands of references.
pub(super) const MOST_RULES: usize = 1000;
pub(super) const MOST_PATTERNS: usize = 10_000;

/// The content of the file.
#[derive(Debug)]
pub struct PathRulesFile {
    path: String,
    rules: PathRules,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    rules: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Entry {
    namespaces: Vec<String>,
    #[serde(default, deserialize_with = "given")]
    servers: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    vault_namespaces: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    paths: Option<Vec<String>>,
}

/// Deserializes a list that is present. A list without elements is empty. It must not count as left
/// out, because a list that is left out allows more.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    let list = Option::<Vec<String>>::deserialize(deserializer)?;
    Ok(Some(list.unwrap_or_default()))
}

impl PathRulesFile {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let name = path.to_string_lossy();
        let mut text = String::new();
        // Reading one byte more shows that the file is too long.
        let read =
            File::open(path).and_then(|file| file.take(LONGEST_FILE + 1).read_to_string(&mut text));
        match read {
            Ok(_) => Self::parse(&name, &text),
            Err(problem) => Err(error(FLAG, &name, &format!("cannot be read: {problem}"))),
        }
    }

    /// Parses the text of a file. Messages name the file `path`.
    pub fn parse(path: &str, text: &str) -> Result<Self, ConfigError> {
        let wrong = |problem: &str| error(FLAG, path, problem);
        if text.len() as u64 > LONGEST_FILE {
            return Err(wrong(
                "longer than 256 KiB; use patterns, so that one rule is for many namespaces",
            ));
        }
        let Content { rules: entries } = serde_saphyr::from_str(text).map_err(|problem| {
            let problem = problem.to_string();
            let problem = problem.lines().next().unwrap_or_default();
            let form = "write rules: [{namespaces: [PATTERN], servers: [NAME], \
                        vaultNamespaces: [PATTERN], paths: [PATTERN]}]";
            wrong(&format!("{problem}; {form}"))
        })?;
        if entries.is_empty() {
            return Err(wrong(
                "has no rule, so that nothing would be watched; add one, or leave the flag out",
            ));
        }
        if entries.len() > MOST_RULES {
            return Err(wrong(
                "has more than 1,000 rules; use patterns, so that one rule is for many namespaces",
            ));
        }
        if entries.iter().map(Entry::patterns).sum::<usize>() > MOST_PATTERNS {
            return Err(wrong("has more than 10,000 patterns in all; use * to make one of many"));
        }
        let rule =
            |(entry, number): (Entry, usize)| {
                Rule::new(&entry.into()).map_err(|RuleError { field, value, problem }| {
                    ConfigError { name: format!("{path}: rule {number}: {field}"), value, problem }
                })
            };
        let rules = entries.into_iter().zip(1..).map(rule).collect::<Result<_, _>>()?;
        Ok(Self { path: path.to_owned(), rules: PathRules::new(rules) })
    }

    /// Returns the servers with the rules. Each server that a rule names must be declared.
    pub fn apply(self, servers: Servers) -> Result<Servers, ConfigError> {
        if let Some(name) = self.rules.servers().find(|name| !servers.has(name)) {
            let problem =
                "no server has this name; declare it by --vault-servers-file, or correct it";
            return Err(error(&format!("{}: servers", self.path), name, problem));
        }
        Ok(servers.with_path_rules(self.rules))
    }

    /// The rules.
    #[must_use]
    pub fn into_rules(self) -> PathRules {
        self.rules
    }
}

impl Entry {
    fn patterns(&self) -> usize {
        let optional = [&self.servers, &self.vault_namespaces, &self.paths];
        self.namespaces.len() + optional.into_iter().flatten().map(Vec::len).sum::<usize>()
    }
}

impl From<Entry> for RuleText {
    fn from(entry: Entry) -> Self {
        let Entry { namespaces, servers, vault_namespaces, paths } = entry;
        Self { namespaces, servers, vault_namespaces, paths }
    }
}

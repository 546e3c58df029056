//! The file that declares servers beside the default server. Each server has the addresses that
//! workloads may name, and variables that are read like environment variables. A declared server
//! takes nothing over from the default server: not its token, not its CA, not its Vault namespace.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::address;
use super::environment::Environment;
use super::error::{ConfigError, error, error_without_value};
use super::vault::{self, Connection};
use crate::credentials::files::read_text_at_most;
use crate::model::secret::DEFAULT_CONNECTION;
use crate::references::servers::{Address, Servers, UndeclaredAddress, VaultServer};

/// The flag that names the file.
const FLAG: &str = "--vault-servers-file";

/// The longest file, in bytes: the limit of a `ConfigMap`.
const LONGEST_FILE: usize = 1 << 20;

/// Variables that hold a secret, and the variables to use instead. The file may be in a
/// `ConfigMap`, where no secret belongs.
const SECRET: [(&str, &str); 5] = [
    ("TOKEN", "TOKEN_PATH"),
    ("SECRET_ID", "SECRET_ID_FILE"),
    ("PASSWORD", "PASSWORD_FILE"),
    ("HEADERS", "HEADERS_FILE"),
    ("AWS_NONCE", "AWS_NONCE_FILE"),
];

/// Variables of clouds that hold a secret. Clouds read them from the environment alone.
const SECRET_OF_CLOUD: [&str; 3] =
    ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN"];

/// The content of the file. The files that it names were not read.
#[derive(Debug, Default)]
pub struct ServersFile {
    path: String,
    entries: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    servers: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

/// Looks up a variable of the process where none counts.
fn nothing(_: &str) -> Option<String> {
    None
}

impl ServersFile {
    /// Reads the file and validates its names, addresses and variables.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let name = path.to_string_lossy();
        match read_text_at_most(path, LONGEST_FILE) {
            Ok(text) => Self::parse(&name, &text),
            Err(problem) => Err(error(FLAG, &name, &format!("cannot be read: {problem}"))),
        }
    }

    /// Parses and validates the text of a file. Messages name the file `path`.
    pub fn parse(path: &str, text: &str) -> Result<Self, ConfigError> {
        let Content { servers: entries } = serde_saphyr::from_str(text).map_err(|problem| {
            let problem = problem.to_string();
            let problem = problem.lines().next().unwrap_or_default();
            let form =
                "write servers: [{name: NAME, aliases: [ADDRESS], env: {VAULT_ADDR: ADDRESS}}]";
            error(FLAG, path, &format!("{problem}; {form}"))
        })?;
        let mut names = BTreeSet::new();
        for entry in &entries {
            if !names.insert(&entry.name) {
                let problem = format!("two servers have the name {}; rename one", entry.name);
                return Err(error(FLAG, path, &problem));
            }
        }
        let file = Self { path: path.to_owned(), entries };
        for entry in &file.entries {
            entry.check().map_err(|problem| file.of(entry, problem))?;
        }
        Ok(file)
    }

    /// Returns the default server at the address of the flag `--vault-addr`.
    pub fn default_at(text: &str) -> Result<VaultServer, ConfigError> {
        let address = Address::parse(text).ok_or_else(|| {
            error("--vault-addr", text, "not an address of HTTP; write https://HOST:PORT")
        })?;
        Ok(VaultServer { addresses: vec![address], ..VaultServer::default() })
    }

    /// Returns all servers with the addresses that workloads may name. `default` is the default
    /// server from the environment; the file may add addresses to it.
    pub fn declared(
        &self,
        default: VaultServer,
        undeclared: UndeclaredAddress,
    ) -> Result<Servers, ConfigError> {
        let mut servers = vec![default];
        for entry in &self.entries {
            let declared = entry.declared().map_err(|problem| self.of(entry, problem))?;
            if entry.is_default() {
                servers[0].addresses.extend(declared.addresses);
            } else {
                servers.push(declared);
            }
        }
        Servers::new(servers, undeclared)
            .map_err(|ambiguous| error(FLAG, &self.path, &ambiguous.to_string()))
    }

    /// Returns the connections of all servers but the default server. `threshold` is the default
    /// renewal threshold of a token. `of_process` looks up what clouds put into the pod.
    pub(super) fn connections(
        &self,
        threshold: Duration,
        of_process: &dyn Fn(&str) -> Option<String>,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Connection>, ConfigError> {
        let others = self.entries.iter().filter(|entry| !entry.is_default());
        let connection = |entry: &Entry| {
            let connection = entry.connection(threshold, of_process, warnings);
            connection.map_err(|problem| self.of(entry, problem))
        };
        others.map(connection).collect()
    }

    /// Adds the file and the server to a problem.
    fn of(&self, entry: &Entry, problem: ConfigError) -> ConfigError {
        let name = format!("{}: server {}: {}", self.path, entry.name, problem.name);
        ConfigError { name, ..problem }
    }
}

impl Entry {
    fn is_default(&self) -> bool {
        self.name == DEFAULT_CONNECTION
    }

    fn look_up(&self, name: &str) -> Option<String> {
        self.env.get(name).cloned()
    }

    fn check(&self) -> Result<(), ConfigError> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let has_ends =
            |ends: [Option<&u8>; 2]| ends.iter().all(|end| end.is_some_and(|b| is_plain(*b)));
        let bytes = self.name.as_bytes();
        if bytes.len() > 63
            || !bytes.iter().all(|byte| is_plain(*byte) || *byte == b'-')
            || !has_ends([bytes.first(), bytes.last()])
        {
            let problem = "small letters, digits and dashes are expected, 63 at most";
            return Err(error("name", &self.name, problem));
        }
        if self.is_default() {
            let Some(name) = self.env.keys().next() else { return Ok(()) };
            let problem = "the variables of this server are those of the environment; set it there";
            return Err(error_without_value(name, problem));
        }
        for (suffix, instead) in SECRET {
            for name in ["BAO_", "VAULT_"].map(|prefix| format!("{prefix}{suffix}")) {
                if self.env.contains_key(&name) {
                    let problem = format!("a secret is not for this file; set VAULT_{instead}");
                    return Err(error_without_value(&name, &problem));
                }
            }
        }
        if let Some(name) = SECRET_OF_CLOUD.iter().find(|name| self.env.contains_key(**name)) {
            let problem = "a secret is not for this file; set it in the environment";
            return Err(error_without_value(name, problem));
        }
        let look_up = |name: &str| self.look_up(name);
        let env = Environment::of_server(&look_up, &nothing);
        let addresses = [env.get("AGENT_ADDR"), env.get("ADDR")];
        if addresses == [None, None] {
            return Err(error_without_value("VAULT_ADDR", "not set; write https://HOST:PORT"));
        }
        for (name, address) in addresses.into_iter().flatten() {
            address::server(&name, &address)?;
        }
        Ok(())
    }

    fn declared(&self) -> Result<VaultServer, ConfigError> {
        let look_up = |name: &str| self.look_up(name);
        let env = Environment::of_server(&look_up, &nothing);
        // The addresses of the default server come from the environment.
        let of_default = self.is_default();
        let mut addresses = if of_default { Vec::new() } else { vault::addresses(&env) };
        for alias in &self.aliases {
            addresses.push(Address::parse(alias).ok_or_else(|| {
                error("aliases", alias, "not an address of HTTP; write https://HOST:PORT")
            })?);
        }
        if addresses.is_empty() && !of_default {
            return Err(error_without_value(
                "aliases",
                "not set, and workloads cannot name a Unix socket; write the address that they name",
            ));
        }
        let namespace = vault::namespace(&env, "NAMESPACE")?;
        Ok(VaultServer { name: self.name.as_str().into(), addresses, namespace })
    }

    fn connection(
        &self,
        threshold: Duration,
        of_process: &dyn Fn(&str) -> Option<String>,
        warnings: &mut Vec<String>,
    ) -> Result<Connection, ConfigError> {
        let used = RefCell::new(BTreeSet::new());
        let look_up = |name: &str| {
            let value = self.look_up(name)?;
            used.borrow_mut().insert(name.to_owned());
            Some(value)
        };
        let mut of_server = Vec::new();
        let env = Environment::of_server(&look_up, of_process);
        let connection = vault::connection(&self.name, &env, threshold, &mut of_server)?;
        let used = used.borrow();
        if let Some(name) = self.env.keys().find(|name| !used.contains(*name)) {
            return Err(error_without_value(
                name,
                "is not used for this server: it is misspelt, has no effect here, or does not go with \
                 the others; remove it",
            ));
        }
        let of_server = of_server.into_iter();
        warnings.extend(of_server.map(|warning| format!("server {}: {warning}", self.name)));
        Ok(connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_too_long_is_refused_with_its_name_and_the_limit() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "#".repeat(LONGEST_FILE + 1)).unwrap();
        let error = ServersFile::read(file.path()).unwrap_err().to_string();
        let name = file.path().to_string_lossy();
        let expected =
            format!("--vault-servers-file={name:?}: cannot be read: it is longer than 1024 KiB");
        assert_eq!(error, expected);
    }
}

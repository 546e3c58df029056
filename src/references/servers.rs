//! The declared Vault servers, their addresses, and the server that a workload means.
//!
//! All references of a workload must use the same Vault server. The webhook has one address for all
//! references of a scheme, and few workloads use both schemes. An address that only an annotation
//! names is never contacted, since a token would be sent along.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use url::Url;

use crate::model::annotation::{Annotations, Webhook};
use crate::model::scheme::Scheme;
use crate::model::secret::DEFAULT_CONNECTION;
use crate::references::path_rules::PathRules;
use crate::references::reason::Reason;

/// The longest address, in bytes. Real addresses are shorter.
const LONGEST_ADDRESS: usize = 2048;

/// The address of a server in canonical spelling: lower-case scheme and host, always a port, no
/// trailing slash. Equal addresses are equal texts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(String);

impl Address {
    /// Reads an address as written in the variables and annotations of Vault
    /// (`https://vault:8200`). Returns `None` if the address is not HTTP, or has a user or a query.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > LONGEST_ADDRESS {
            return None;
        }
        let url = Url::parse(text).ok()?;
        let is_plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        if !["http", "https"].contains(&url.scheme()) || !is_plain {
            return None;
        }
        // A host name with a trailing dot is the same host.
        let host = url.host_str()?.trim_end_matches('.');
        let (scheme, port) = (url.scheme(), url.port_or_known_default()?);
        Some(Self(format!("{scheme}://{host}:{port}{}", url.path().trim_end_matches('/'))))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A server that the operator has declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultServer {
    /// The name of the connection. [`DEFAULT_CONNECTION`] is the server that is used unless another
    /// one is meant. Records contain the name, so it must not change.
    pub name: Arc<str>,
    /// The addresses by which workloads name the server.
    pub addresses: Vec<Address>,
    /// The Vault namespace of its workloads that name none.
    pub namespace: Option<Arc<str>>,
}

impl Default for VaultServer {
    fn default() -> Self {
        Self { name: DEFAULT_CONNECTION.into(), addresses: Vec::new(), namespace: None }
    }
}

/// The treatment of a workload that names an undeclared address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UndeclaredAddress {
    /// The address counts as another name of the default server.
    #[default]
    Default,
    /// The references of the workload there are not watched.
    Refused,
}

/// One address was declared for two servers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the servers {} and {} both have the address {address}; leave it to one of them", .servers[0], .servers[1])]
pub struct AmbiguousAddress {
    /// The address.
    pub address: Address,
    /// The names of the servers.
    pub servers: [Arc<str>; 2],
}

/// All servers that are declared. The first one is the default.
#[derive(Clone, Debug)]
pub struct Servers {
    declared: Vec<VaultServer>,
    /// The place of a server in that list.
    by_address: HashMap<Address, usize>,
    undeclared: UndeclaredAddress,
    /// The addresses that the webhook accepts from annotations of a scheme, normalized for the
    /// comparison. A scheme without an entry accepts any.
    allowed: BTreeMap<Scheme, BTreeSet<String>>,
    path_rules: PathRules,
}

impl Default for Servers {
    /// One server, whose address is not known.
    fn default() -> Self {
        Self {
            declared: vec![VaultServer::default()],
            by_address: HashMap::new(),
            undeclared: UndeclaredAddress::Default,
            allowed: BTreeMap::new(),
            path_rules: PathRules::default(),
        }
    }
}

impl Servers {
    /// The servers that are declared, the default one first.
    pub fn new(
        declared: Vec<VaultServer>,
        undeclared: UndeclaredAddress,
    ) -> Result<Self, AmbiguousAddress> {
        let mut by_address = HashMap::new();
        for (place, server) in declared.iter().enumerate() {
            for address in &server.addresses {
                let known = *by_address.entry(address.clone()).or_insert(place);
                if known != place {
                    let servers = [known, place].map(|place| Arc::clone(&declared[place].name));
                    return Err(AmbiguousAddress { address: address.clone(), servers });
                }
            }
        }
        Ok(Self { declared, by_address, undeclared, ..Self::default() })
    }

    /// Returns the same servers with the webhook's allow-list for annotations of a scheme. `list`
    /// is separated by commas.
    #[must_use]
    pub fn with_allowed(mut self, scheme: Scheme, list: &str) -> Self {
        let addresses = list.split(',').map(str::trim).filter(|address| !address.is_empty());
        self.allowed.insert(scheme, addresses.map(normalize_as_webhook).collect());
        self
    }

    /// Returns the same servers with rules for the paths of namespaces.
    #[must_use]
    pub fn with_path_rules(self, path_rules: PathRules) -> Self {
        Self { path_rules, ..self }
    }

    /// Returns the rules about which namespaces may refer to which paths.
    #[must_use]
    pub fn path_rules(&self) -> &PathRules {
        &self.path_rules
    }

    /// The server that is asked unless another one is meant.
    fn default_server(&self) -> &VaultServer {
        // A list without a first server is never made.
        &self.declared[0]
    }

    /// Whether a server of this name is declared.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.declared.iter().any(|server| *server.name == *name)
    }

    /// Returns the server of a scheme's references by the annotations of their template, and a note
    /// on it. With [`Reason::AddressRefused`] and [`Reason::AddressNotAllowed`] the server must not
    /// be asked for these references.
    #[must_use]
    pub fn meant_by(
        &self,
        annotations: &Annotations,
        scheme: Scheme,
    ) -> (&VaultServer, Option<Reason>) {
        let text = annotations.webhook(Webhook::Addr(scheme)).filter(|text| !text.is_empty());
        let is_allowed = |text| {
            let allowed = self.allowed.get(&scheme);
            allowed.is_none_or(|allowed| allowed.contains(&normalize_as_webhook(text)))
        };
        if text.is_some_and(|text| !is_allowed(text)) {
            return (self.default_server(), Some(Reason::AddressNotAllowed));
        }
        self.at(text)
    }

    /// Returns the server at an address, or the default server without an address, and a note on
    /// it. With [`Reason::AddressRefused`] the server must not be asked.
    #[must_use]
    pub fn at(&self, address: Option<&str>) -> (&VaultServer, Option<Reason>) {
        let Some(text) = address else {
            return (self.default_server(), None);
        };
        let place = Address::parse(text).and_then(|address| self.by_address.get(&address));
        match (place, self.undeclared) {
            (Some(place), _) => (&self.declared[*place], None),
            // If no address is declared at all, the address of the default server is unknown, too.
            (None, UndeclaredAddress::Default) if self.by_address.is_empty() => {
                (self.default_server(), None)
            }
            (None, UndeclaredAddress::Default) => {
                (self.default_server(), Some(Reason::AddressNotDeclared))
            }
            (None, UndeclaredAddress::Refused) => {
                (self.default_server(), Some(Reason::AddressRefused))
            }
        }
    }
}

/// Normalizes an address like the webhook for its allow-list: the case of scheme and host does not
/// matter, a trailing slash is dropped, and the port stays as written.
fn normalize_as_webhook(address: &str) -> String {
    let address = address.trim();
    let Some((scheme, rest)) = address.split_once("://") else {
        return address.to_ascii_lowercase();
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = path.strip_suffix('/').unwrap_or(path);
    format!("{}://{}{path}", scheme.to_ascii_lowercase(), host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(name: &str, addresses: &[&str]) -> VaultServer {
        let addresses = addresses.iter().map(|text| Address::parse(text).unwrap()).collect();
        VaultServer { name: name.into(), addresses, namespace: None }
    }

    #[test]
    fn spellings_of_one_address_are_the_same() {
        let same = |a: &str, b: &str| Address::parse(a).unwrap() == Address::parse(b).unwrap();
        for other in [
            "https://vault.infra:443/",
            "HTTPS://Vault.Infra",
            "https://vault.infra.",
            " https://vault.infra\n",
        ] {
            assert!(same("https://vault.infra", other), "{other}");
        }
        assert!(same("http://[::1]:8200", "http://[0:0::1]:8200//"));
        assert!(same("https://vault/v", "https://vault:443/v/"));
        for other in ["http://vault.infra", "https://vault.infra:8200", "https://vault.infra/v"] {
            assert!(!same("https://vault.infra", other), "{other}");
        }
    }

    #[test]
    fn what_is_no_address_of_a_server_is_none() {
        for text in [
            "",
            "vault",
            "vault:8200",
            "unix:///run/vault.sock",
            "https://",
            "https://user@vault:8200",
            "https://:secret@vault:8200",
            "https://vault:8200?x",
            "https://vault:8200#x",
            "https://vault:99999",
            &format!("https://vault/{}", "x".repeat(LONGEST_ADDRESS)),
        ] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_address_means_the_server_that_has_it_and_any_other_the_default_one() {
        let default = declared("default", &["https://vault:8200", "https://vault.infra.svc:8200"]);
        let others = vec![declared("b", &["http://b:8200"]), declared("c", &["http://c"])];
        let meant = |undeclared, address: &[(&str, &str)]| {
            let servers =
                Servers::new([vec![default.clone()], others.clone()].concat(), undeclared).unwrap();
            let annotations = address.iter().copied().collect();
            let (server, reason) = servers.meant_by(&annotations, Scheme::Vault);
            (server.name.to_string(), reason)
        };
        let current = "secrets-webhook.security.bank-vaults.io/vault-addr";
        let older = "vault.security.banzaicloud.io/vault-addr";
        for undeclared in [UndeclaredAddress::Default, UndeclaredAddress::Refused] {
            let name = |address: &[(&str, &str)]| {
                let (name, reason) = meant(undeclared, address);
                assert_eq!(reason, None, "{address:?}");
                name
            };
            assert_eq!(name(&[]), "default");
            assert_eq!(name(&[(current, "")]), "default");
            assert_eq!(name(&[(current, "https://vault.infra.svc:8200/")]), "default");
            assert_eq!(name(&[(current, "http://B:8200/")]), "b");
            assert_eq!(name(&[(older, "http://c:80")]), "c");
            assert_eq!(name(&[(older, "http://c"), (current, "http://b:8200")]), "b");
            // The annotation is for the other injector.
            let of_bao = "secrets-webhook.security.bank-vaults.io/bao-addr";
            assert_eq!(name(&[(of_bao, "http://b:8200")]), "default");
        }
        for odd in ["https://b:8200", "http://evil", "vault:8200", "nonsense"] {
            let of = |undeclared| meant(undeclared, &[(current, odd)]);
            let default = || "default".to_owned();
            assert_eq!(
                of(UndeclaredAddress::Default),
                (default(), Some(Reason::AddressNotDeclared))
            );
            assert_eq!(of(UndeclaredAddress::Refused), (default(), Some(Reason::AddressRefused)));
        }
    }

    #[test]
    fn what_the_webhook_does_not_allow_is_not_asked_for() {
        let default = declared("default", &["https://vault:8200", "https://vault"]);
        let servers = Servers::new(vec![default], UndeclaredAddress::Default).unwrap();
        let servers = servers
            .with_allowed(Scheme::Vault, " https://Vault:8200/ , ,https://vault.other/v/")
            .with_allowed(Scheme::Bao, "");
        let doubt = |scheme: Scheme, address: &str| {
            let key = format!("secrets-webhook.security.bank-vaults.io/{}-addr", scheme.name());
            let annotations = [(key, address)].into_iter().collect();
            servers.meant_by(&annotations, scheme).1
        };
        for allowed in ["", "https://vault:8200", "HTTPS://VAULT:8200/", " https://vault:8200 "] {
            assert_eq!(doubt(Scheme::Vault, allowed), None, "{allowed}");
        }
        let not_declared = Some(Reason::AddressNotDeclared);
        assert_eq!(doubt(Scheme::Vault, "https://vault.other/v"), not_declared);
        for other in ["https://vault", "http://vault:8200", "https://vault:8200/v", "nonsense"] {
            assert_eq!(doubt(Scheme::Vault, other), Some(Reason::AddressNotAllowed), "{other}");
        }
        // An empty list allows no address.
        assert_eq!(doubt(Scheme::Bao, "https://vault:8200"), Some(Reason::AddressNotAllowed));
        assert_eq!(doubt(Scheme::Bao, ""), None);
        // The webhook does not see the settings of a container that starts its own injector.
        assert_eq!(servers.at(Some("https://vault")).1, None);
    }

    #[test]
    fn two_servers_cannot_have_one_address() {
        let twice = declared("b", &["http://b", "http://b/", "https://VAULT:8200"]);
        let default = declared("default", &["https://vault:8200"]);
        let error = Servers::new(vec![default, twice], UndeclaredAddress::Default).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the servers default and b both have the address https://vault:8200; leave it to one of \
             them"
        );
    }
}

//! Servers of the Vault API: by which addresses workloads know them, and which one a workload means.
//!
//! A workload is of one server: the webhook has one address for all references of a scheme, and hardly
//! anybody uses both. An address that only an annotation names leads nowhere, since a token would go
//! along.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use url::Url;

use crate::model::annotation::{Annotations, Webhook};
use crate::model::scheme::Scheme;
use crate::model::secret::DEFAULT_CONNECTION;
use crate::references::path_rules::PathRules;
use crate::references::reason::Reason;

/// The longest address, in bytes; nobody has a longer one.
const LONGEST_ADDRESS: usize = 2048;

/// The address of a server, spelt so that equal ones are the same text: the scheme and the host in small
/// letters, the port always, no slash at the end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(String);

impl Address {
    /// Reads an address as the variables and annotations of Vault hold it (`https://vault:8200`).
    /// `None` if it is none of HTTP, or holds what no address of a server does: a user, a query.
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
        // The dot at the end of a name that is complete tells no other host.
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
    /// The name of the connection, [`DEFAULT_CONNECTION`] for the server that is asked unless another
    /// one is meant. Records hold it, so that it must stay.
    pub name: Arc<str>,
    /// What workloads call it.
    pub addresses: Vec<Address>,
    /// The Vault namespace of its workloads that name none.
    pub namespace: Option<Arc<str>>,
}

impl Default for VaultServer {
    fn default() -> Self {
        Self { name: DEFAULT_CONNECTION.into(), addresses: Vec::new(), namespace: None }
    }
}

/// What becomes of a workload that names an address which is not declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UndeclaredAddress {
    /// It is taken as another name of the default server.
    #[default]
    Default,
    /// Nothing of the workload is watched.
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
    /// The addresses that the webhook takes from annotations of a scheme, as it compares them; without
    /// an entry, any.
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

    /// The same, where the webhook takes no other addresses from annotations of a scheme than those of
    /// a list, which are separated by commas.
    #[must_use]
    pub fn with_allowed(mut self, scheme: Scheme, list: &str) -> Self {
        let addresses = list.split(',').map(str::trim).filter(|address| !address.is_empty());
        self.allowed.insert(scheme, addresses.map(normalize_as_webhook).collect());
        self
    }

    /// The same, where namespaces may refer to some paths only.
    #[must_use]
    pub fn with_path_rules(self, path_rules: PathRules) -> Self {
        Self { path_rules, ..self }
    }

    /// Which namespaces may refer to which paths.
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

    /// The server that references of a scheme mean by the annotations of their template, and what there
    /// is to say of that. With [`Reason::AddressRefused`] and [`Reason::AddressNotAllowed`] it is not to
    /// be asked for them.
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

    /// The server at an address, the default one at none, and what there is to say of that. With
    /// [`Reason::AddressRefused`] it is not to be asked.
    #[must_use]
    pub fn at(&self, address: Option<&str>) -> (&VaultServer, Option<Reason>) {
        let Some(text) = address else {
            return (self.default_server(), None);
        };
        let place = Address::parse(text).and_then(|address| self.by_address.get(&address));
        match (place, self.undeclared) {
            (Some(place), _) => (&self.declared[*place], None),
            // Where no address is known at all, that of the default server is not, either.
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

/// An address as the webhook compares it with its list: without regard to the case of scheme and host,
/// without a slash at its end, and with the port as it was written.
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
            // It is for the other injector.
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
        // A list that is empty allows none.
        assert_eq!(doubt(Scheme::Bao, "https://vault:8200"), Some(Reason::AddressNotAllowed));
        assert_eq!(doubt(Scheme::Bao, ""), None);
        // What a container says by itself passes no webhook.
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

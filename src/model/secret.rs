//! Secrets and their versions: how a secret and a version are identified.

use std::fmt;
use std::hash::Hasher;
use std::str::FromStr;
use std::sync::Arc;

use jiff::Timestamp;
use siphasher::sip::SipHasher13;

/// The name of the connection to the configured server.
///
/// A record names the connection, not the server's address. The address may change while the pods
/// of a workload keep their secrets.
pub const DEFAULT_CONNECTION: &str = "default";

/// The identity of a secret: connection, Vault namespace and API path.
///
/// Several references can name one secret, and one poll reads each secret once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretId {
    /// The name of the connection, [`DEFAULT_CONNECTION`] for the configured server.
    pub connection: Arc<str>,
    /// The Vault namespace, without slashes at its ends. `None` is the root namespace.
    pub namespace: Option<Arc<str>>,
    /// The API path of a reference (`secret/data/mysql`), cleaned like the injectors' client
    /// library does. So all spellings of a path are one secret.
    pub path: Arc<str>,
}

impl SecretId {
    /// Returns a 64-bit hash that is the same in every process and release. Records refer to
    /// secrets by this hash.
    #[must_use]
    pub fn hash64(&self) -> u64 {
        let mut hasher = SipHasher13::new();
        for part in [&*self.connection, self.namespace.as_deref().unwrap_or(""), &*self.path] {
            hasher.write(part.as_bytes());
            // No part holds a NUL, so that ("a", "b") and ("ab", "") differ.
            hasher.write_u8(0);
        }
        hasher.finish()
    }
}

impl fmt::Display for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if let Some(namespace) = &self.namespace {
            write!(f, " in Vault namespace {namespace}")?;
        }
        if *self.connection != *DEFAULT_CONNECTION {
            write!(f, " on server {}", self.connection)?;
        }
        Ok(())
    }
}

/// The identity of a version.
///
/// The number alone is not unique. A secret that was deleted and written again starts at 1, and a
/// restored storage uses numbers a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version {
    /// The number of the version, counted from 1.
    pub number: u64,
    /// When the server created the version, by the server's own clock.
    pub created: Timestamp,
}

impl Version {
    /// The entry of a record for a secret that was missing when the pods started.
    pub const MISSING: Self = Self { number: 0, created: Timestamp::UNIX_EPOCH };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number, self.created)
    }
}

/// Returns a number in base 36, the compact spelling of records.
pub(crate) fn to_base36(mut rest: u128) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = u32::try_from(rest % 36).unwrap_or(0);
        digits.push(char::from_digit(digit, 36).unwrap_or('0'));
        rest /= 36;
        if rest == 0 {
            return digits.iter().rev().collect();
        }
    }
}

impl FromStr for Version {
    type Err = ();

    /// Reads `<number>@<nanoseconds in base 36>`, as [`Version::compact`] writes it.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (number, created) = text.split_once('@').ok_or(())?;
        let nanos = i128::from_str_radix(created, 36).map_err(|_| ())?;
        Ok(Self {
            number: number.parse().map_err(|_| ())?,
            created: Timestamp::from_nanosecond(nanos).map_err(|_| ())?,
        })
    }
}

impl Version {
    /// Returns the spelling of records.
    #[must_use]
    pub fn compact(&self) -> String {
        let nanos = self.created.as_nanosecond();
        let sign = if nanos < 0 { "-" } else { "" };
        format!("{}@{sign}{}", self.number, to_base36(nanos.unsigned_abs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(namespace: Option<&str>, path: &str) -> SecretId {
        SecretId {
            connection: DEFAULT_CONNECTION.into(),
            namespace: namespace.map(Into::into),
            path: path.into(),
        }
    }

    #[test]
    fn the_hash_never_changes() {
        // Records in users' clusters contain these values. A changed value would look like a change
        // of the secret.
        assert_eq!(id(None, "secret/data/mysql").hash64(), 0x8f01_3e56_eb5b_58f6);
        assert_eq!(id(Some("team"), "secret/data/mysql").hash64(), 0x0d1c_7e84_cc38_fd83);
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(id(Some("a"), "b/c").hash64(), id(Some("ab"), "/c").hash64());
        assert_ne!(id(None, "a").hash64(), id(Some("a"), "").hash64());
    }

    #[test]
    fn versions_survive_their_compact_spelling() {
        for created in
            ["2026-11-22T05:51:00.123456789Z", "1970-01-01T00:00:00Z", "1969-12-31T23:59:59.5Z"]
        {
            let version = Version { number: 7, created: created.parse().unwrap() };
            assert_eq!(version.compact().parse(), Ok(version), "{created}");
        }
        for text in ["", "1", "@", "1@", "x@1", "1@!", "1@zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz", "-1@1"]
        {
            assert_eq!(text.parse::<Version>(), Err(()), "{text:?}");
        }
    }
}

//! The part of the configuration that says how replicas agree on who leads.

use std::time::Duration;

use super::error::{ConfigError, error};
use super::value;
use crate::election::lease::Terms;

/// Nobody else leads for so long after a crash: who asks for more has mistaken the unit.
const LONGEST_LEASE: Duration = Duration::from_hours(1);

/// A lease that is renewed more often than this costs the API server more than it is worth.
const SHORTEST_RETRY: Duration = Duration::from_millis(100);

/// Where Linux has the name of the machine, in a container that of the pod.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// How replicas agree on who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderElection {
    /// How long things take.
    pub terms: Terms,
    /// The name of the Lease.
    pub name: String,
    /// Its namespace; `None` means that of the client's configuration.
    pub namespace: Option<String>,
    /// The name of this replica; it may not be the only one of that name.
    pub replica: String,
}

/// The times of the leader election, which only work in this order.
pub(super) fn terms(duration: &str, deadline: &str, retry: &str) -> Result<Terms, ConfigError> {
    let names = [
        "--leader-elect-lease-duration",
        "--leader-elect-renew-deadline",
        "--leader-elect-retry-period",
    ];
    let lease = value::duration(names[0], duration)?;
    if !(Duration::from_secs(1)..=LONGEST_LEASE).contains(&lease) {
        return Err(error(names[0], duration, "must be between 1s and 1h"));
    }
    let terms = Terms {
        // What the object holds is whole seconds.
        duration: Duration::from_secs(lease.as_secs() + u64::from(lease.subsec_nanos() > 0)),
        renew_deadline: value::duration(names[1], deadline)?,
        retry_period: value::duration(names[2], retry)?,
    };
    if terms.retry_period < SHORTEST_RETRY {
        return Err(error(names[2], retry, "must be at least 100ms"));
    }
    if terms.renew_deadline <= terms.retry_period {
        let problem = format!("must be longer than {}={retry}", names[2]);
        return Err(error(names[1], deadline, &problem));
    }
    if terms.duration <= terms.renew_deadline {
        let problem = format!("must be longer than {}={deadline}", names[1]);
        return Err(error(names[0], duration, &problem));
    }
    Ok(terms)
}

/// A name that the API server takes for a Lease or a namespace.
pub(super) fn object_name(name: &str, text: String) -> Result<String, ConfigError> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let ends_well = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let is_name = text.len() <= 253
        && text.chars().all(is_plain)
        && ends_well(text.chars().next())
        && ends_well(text.chars().next_back());
    if is_name {
        return Ok(text);
    }
    Err(error(name, &text, "not a name of an object: lower case letters, digits, - and . are"))
}

/// The namespace of the lease, where it is set.
pub(super) fn namespace(
    flag: Option<String>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<String>, ConfigError> {
    let by_flag = flag.map(|text| ("--leader-elect-resource-namespace", text));
    let set = by_flag.or_else(|| {
        let text = environment("POD_NAMESPACE").filter(|text| !text.is_empty())?;
        Some(("POD_NAMESPACE", text))
    });
    set.map(|(name, text)| object_name(name, text)).transpose()
}

/// The pod's name; outside a cluster, the machine's.
pub(super) fn replica(environment: &dyn Fn(&str) -> Option<String>) -> String {
    let machine = || std::fs::read_to_string(HOST_NAME).ok().or_else(|| environment("HOSTNAME"));
    let name = environment("POD_NAME").filter(|name| !name.trim().is_empty()).or_else(machine);
    let name = name.as_deref().map(str::trim).filter(|name| !name.is_empty());
    name.unwrap_or("vault-secrets-reloader").to_owned()
}

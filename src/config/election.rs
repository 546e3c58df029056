//! The configuration of leader election.

use std::time::Duration;

use super::error::{ConfigError, error};
use super::value;
use crate::election::lease::Terms;

/// The longest lease duration. After a crash of the leader, no other replica leads for this time. A
/// longer duration is likely a mistake in the unit.
const LONGEST_LEASE: Duration = Duration::from_hours(1);

/// The shortest retry period. More frequent renewals cost the API server more than they are worth.
const SHORTEST_RETRY: Duration = Duration::from_millis(100);

/// The file in which Linux shows the name of the machine. In a container, it is the name of the
/// pod.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// The settings of leader election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderElection {
    /// The durations of the lease.
    pub terms: Terms,
    /// The name of the Lease.
    pub name: String,
    /// The namespace of the Lease; `None` means the namespace of the client's configuration.
    pub namespace: Option<String>,
    /// The name of this replica. Other replicas may have the same name.
    pub replica: String,
}

/// Returns the settings of leader election. The namespace may come from the environment.
pub(super) fn leader_election(
    terms: Terms,
    name: String,
    namespace: Option<String>,
    environment: &impl Fn(&str) -> Option<String>,
) -> Result<LeaderElection, ConfigError> {
    Ok(LeaderElection {
        terms,
        name: object_name("--leader-elect-resource-name", name)?,
        namespace: self::namespace(namespace, environment)?,
        replica: replica(environment),
    })
}

/// Returns the durations of leader election. The lease duration must be longer than the renew
/// deadline, and the renew deadline longer than the retry period.
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
        // The Lease object holds whole seconds.
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

/// Checks a name for a Lease or a namespace by the rules of the API server.
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
    Err(error(name, &text, "not a name of an object; use lower case letters, digits, - and ."))
}

/// Returns the namespace of the Lease, if it is set.
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

/// Returns the name of the pod, or outside a cluster the name of the machine.
pub(super) fn replica(environment: &dyn Fn(&str) -> Option<String>) -> String {
    let machine = || std::fs::read_to_string(HOST_NAME).ok().or_else(|| environment("HOSTNAME"));
    let name = environment("POD_NAME").filter(|name| !name.trim().is_empty()).or_else(machine);
    let name = name.as_deref().map(str::trim).filter(|name| !name.is_empty());
    name.unwrap_or("vault-secrets-reloader").to_owned()
}

//! Headers. Input: `Date` of Vault, `Date` of the API server, `Retry-After`, a line each.

use jiff::{SignedDuration, Timestamp};
use vault_secrets_reloader::core::clock::{ServerClock, skew};
use vault_secrets_reloader::vault::answer::retry_after;

use crate::{first_line, now};

/// Asserts what must hold of any headers.
pub fn check(data: &[u8]) {
    let (vault_date, rest) = first_line(data);
    let (cluster_date, rest) = first_line(rest);
    let (retry, _) = first_line(rest);
    let clock = |date: &str| {
        let clock = ServerClock::default();
        clock.observe(date, now());
        clock
    };
    let (vault, cluster) = (clock(&vault_date), clock(&cluster_date));
    for clock in [&vault, &cluster] {
        for time in [now(), Timestamp::MIN, Timestamp::MAX] {
            let _ = clock.at(time);
        }
        let read = clock.at(now());
        assert!(clock.ahead().is_none_or(|ahead| read.duration_since(now()) == ahead));
        // What is no date changes nothing.
        clock.observe("yesterday", Timestamp::MAX);
        assert_eq!(clock.at(now()), read);
    }
    let there = skew(&vault, &cluster);
    assert_eq!(there, -skew(&cluster, &vault));
    assert!(there == SignedDuration::ZERO || there.abs() >= SignedDuration::from_secs(2));
    let wait = retry_after(&retry);
    assert_eq!(wait.map(|wait| wait.as_secs()), retry.trim().parse().ok());
}

//! Headers. Input: `Date` of Vault, `Date` of the API server, `Retry-After`, a line each.

use std::time::Duration;

use jiff::Timestamp;
use vault_secrets_reloader::decide::clock::{ServerClock, skew};
use vault_secrets_reloader::vault::answer::retry_after;

use crate::input::{first_line, now};

/// Asserts the properties that hold for any headers.
pub fn check(data: &[u8]) {
    let (vault_date, rest) = first_line(data);
    let (cluster_date, rest) = first_line(rest);
    let (retry, _) = first_line(rest);
    let clock = |date: &str| {
        let clock = ServerClock::default();
        clock.observe_date(date, now(), now());
        clock
    };
    let (vault, cluster) = (clock(&vault_date), clock(&cluster_date));
    for clock in [&vault, &cluster] {
        for time in [now(), Timestamp::MIN, Timestamp::MAX] {
            assert!(clock.at_least(time) <= clock.at(time));
        }
        // A header that is no date changes nothing.
        let read = clock.at(now());
        clock.observe_date("yesterday", Timestamp::MIN, Timestamp::MAX);
        assert_eq!(clock.at(now()), read);
    }
    // Both directions give the same difference, since the answers took no time. A difference of one
    // second counts as none.
    let (there, back) = (skew(&vault, &cluster), skew(&cluster, &vault));
    assert_eq!(there, -back);
    assert!(there.is_zero() || there.unsigned_abs() > Duration::from_secs(1), "{there:?}");
    // The server's own time takes precedence over any header.
    for (clock, date) in [(&vault, &cluster_date), (&cluster, &vault_date)] {
        clock.observe_own_time(now(), now(), now());
        let own = clock.at(now());
        clock.observe_date(date, now(), now());
        assert_eq!(clock.at(now()), own);
    }
    assert!(skew(&vault, &cluster).is_zero());
    let seconds = retry.trim().parse().ok();
    assert_eq!(retry_after(&retry, None).map(|wait| wait.as_secs()), seconds);
    for date in [&vault_date, &cluster_date] {
        let wait = retry_after(&retry, Some(date));
        assert!(seconds.is_none() || wait.map(|wait| wait.as_secs()) == seconds, "{wait:?}");
    }
}

//! Headers. Input: `Date` of Vault, `Date` of the API server, `Retry-After`, a line each.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use vault_secrets_reloader::core::clock::{Ahead, ServerClock, Skew, skew, until_telling};
use vault_secrets_reloader::vault::answer::retry_after;

use crate::{first_line, now};

/// Asserts what must hold of any headers.
pub fn check(data: &[u8]) {
    let (vault_date, rest) = first_line(data);
    let (cluster_date, rest) = first_line(rest);
    let (retry, _) = first_line(rest);
    let clock = |date: &str| {
        let clock = ServerClock::default();
        clock.observe(date, now(), now());
        clock
    };
    let (vault, cluster) = (clock(&vault_date), clock(&cluster_date));
    for clock in [&vault, &cluster] {
        for time in [now(), Timestamp::MIN, Timestamp::MAX] {
            let _ = clock.at(time);
        }
        let read = clock.at(now());
        let ahead = clock.ahead();
        if let Some(Ahead { least, most }) = ahead {
            assert_eq!(most - least, SignedDuration::from_secs(1), "what a date leaves open");
            let by = read.duration_since(now());
            assert!((least <= by && by <= most) || by == SignedDuration::ZERO);
        }
        // What is no date changes nothing.
        clock.observe("yesterday", Timestamp::MIN, Timestamp::MAX);
        assert_eq!(clock.ahead(), ahead);
    }
    let (there, back) = (skew(&vault, &cluster), skew(&cluster, &vault));
    // Either way it is the same difference, and each date leaves a second open.
    let two_seconds = SignedDuration::from_secs(2);
    assert_eq!((back.least, back.most), (-there.most, -there.least));
    for skew in [there, back] {
        assert!(skew == Skew::default() || skew.most - skew.least == two_seconds, "{skew:?}");
        let may_agree = skew.least <= SignedDuration::ZERO && skew.most >= SignedDuration::ZERO;
        assert!(skew == Skew::default() || !may_agree, "{skew:?}");
    }
    for time in [now(), Timestamp::MIN, Timestamp::MAX] {
        let wait = until_telling(&vault, &cluster, time);
        assert!(!wait.is_zero() && wait <= Duration::from_secs(1), "{wait:?}");
    }
    let seconds = retry.trim().parse().ok();
    assert_eq!(retry_after(&retry, None).map(|wait| wait.as_secs()), seconds);
    for date in [&vault_date, &cluster_date] {
        let wait = retry_after(&retry, Some(date));
        assert!(seconds.is_none() || wait.map(|wait| wait.as_secs()) == seconds, "{wait:?}");
    }
}

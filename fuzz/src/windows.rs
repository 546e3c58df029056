//! Freezes and windows. Input: the text of a freeze and a present time, a line each; then the text of
//! windows.
//!
//! The time must be in proportion to the input: `fuzz/run` fails an input that takes over 10
//! seconds.

use jiff::{SignedDuration, Timestamp};
use vault_secrets_reloader::decide::hold::Hold;
use vault_secrets_reloader::model::time_rules::TimeRules;
use vault_secrets_reloader::rollouts::calendar::{Calendar, Levels};

use crate::input::{self, first_line};

/// The longest time from the present to the end of a freeze.
const LONGEST_AHEAD: SignedDuration = SignedDuration::from_hours(90 * 24);

/// Asserts the properties of any texts at any time.
pub fn check(data: &[u8]) {
    let (freeze, rest) = first_line(data);
    let (present, windows) = first_line(rest);
    let now: Timestamp = present.parse().unwrap_or_else(|_| input::now());
    let windows = String::from_utf8_lossy(windows);
    check_freeze(&TimeRules::new(Some(&freeze), None), now);
    check_windows(&TimeRules::new(None, Some(&windows)), now);
}

/// Returns what a calendar that has kept nothing says.
fn hold(rules: &TimeRules, now: Timestamp) -> Option<Hold> {
    hold_by(&Calendar::default(), rules, now)
}

fn hold_by(calendar: &Calendar, rules: &TimeRules, now: Timestamp) -> Option<Hold> {
    let operator = &TimeRules::default();
    calendar.hold(Levels { operator, namespace: None, workload: Some(rules) }, now)
}

fn check_freeze(rules: &TimeRules, now: Timestamp) {
    match hold(rules, now) {
        None | Some(Hold::InvalidTimeRule { .. }) => {}
        Some(Hold::Frozen { until, .. }) => {
            assert!(now < until && until.duration_since(now) <= LONGEST_AHEAD, "{until}");
            assert_eq!(hold(rules, until), None, "it has an end");
        }
        Some(other) => panic!("{other:?}"),
    }
}

fn check_windows(rules: &TimeRules, now: Timestamp) {
    let found = hold(rules, now);
    match found {
        None | Some(Hold::InvalidTimeRule { .. } | Hold::OutsideWindow { opens: None, .. }) => {}
        Some(Hold::OutsideWindow { opens: Some(opens), .. }) => {
            assert!(now < opens, "{opens}");
            assert_eq!(hold(rules, opens), None, "it opens");
        }
        Some(other) => panic!("{other:?}"),
    }
    // What is kept says the same as a new look.
    let calendar = Calendar::default();
    for minutes in [0, 1, 59, 60, 61, 24 * 60] {
        let Ok(time) = now.checked_add(SignedDuration::from_mins(minutes)) else { return };
        let (kept, new) = (hold_by(&calendar, rules, time), hold(rules, time));
        assert_eq!(kept.is_some(), new.is_some(), "{time}");
    }
}

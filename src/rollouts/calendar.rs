//! The calendar: the freezes and windows that hold reloads of a workload at a time.
//!
//! The operator, the namespace and the workload may each have time rules. All of them must let a
//! reload start, so that a tenant can hold reloads and cannot override the operator. A rule that
//! cannot be read holds reloads, and says so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::window::{Windows, next_opening};
use crate::decide::hold::Hold;
use crate::model::time_rules::{LONGEST_FREEZE, SetBy, TimeError, TimeRules};

/// A freeze ends within this time. A freeze with a later end would be a missed rotation that nobody
/// remembers.
const LONGEST_AHEAD: SignedDuration = SignedDuration::from_hours(90 * 24);

/// The most texts of windows whose state is kept. Tenants can write more.
const MOST_KEPT: usize = 1_024;

/// The longest time for which a state is kept.
const KEPT_FOR: SignedDuration = SignedDuration::from_hours(1);

/// The most changes of windows that are looked at to find the next opening: a month with one window
/// a day.
const MOST_CHANGES: u32 = 64;

/// The time rules that apply to a workload.
#[derive(Clone, Copy, Debug)]
pub struct Levels<'a> {
    /// The rules of the operator.
    pub operator: &'a TimeRules,
    /// The rules of the workload's namespace.
    pub namespace: Option<&'a TimeRules>,
    /// The rules of the workload.
    pub workload: Option<&'a TimeRules>,
}

impl<'a> Levels<'a> {
    fn all(self) -> [(SetBy, Option<&'a TimeRules>); 3] {
        [
            (SetBy::Operator, Some(self.operator)),
            (SetBy::Namespace, self.namespace),
            (SetBy::Workload, self.workload),
        ]
    }
}

/// Returns when a freeze ends: a time with its offset, or the beginning of a day in UTC.
pub fn freeze_end(text: &str) -> Result<Timestamp, TimeError> {
    if text.len() > LONGEST_FREEZE {
        return Err(TimeError::NoTime);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    // A date with a time and no offset is no date: its end would come too early.
    let date = Some(text).filter(|text| text.len() == "2026-12-24".len());
    let date = date.and_then(|text| text.parse::<Date>().ok()).ok_or(TimeError::NoTime)?;
    TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).map_err(|_| TimeError::NoTime)
}

/// Returns what is wrong with the texts of time rules.
pub fn errors(rules: &TimeRules) -> impl Iterator<Item = TimeError> {
    let freeze = rules.freeze_until.as_deref().and_then(|text| freeze_end(text).err());
    let windows = rules.windows.as_deref().and_then(|text| Windows::parse(text).err());
    [freeze, windows].into_iter().flatten()
}

/// Returns the freeze that lasts, if one does. Of several, the last one to end counts.
fn frozen(levels: Levels<'_>, now: Timestamp) -> Option<Hold> {
    let mut last: Option<(Timestamp, SetBy)> = None;
    for (by, rules) in levels.all() {
        let Some(text) = rules.and_then(|rules| rules.freeze_until.as_deref()) else { continue };
        match freeze_end(text) {
            Err(error) => return Some(Hold::InvalidTimeRule { by, error }),
            Ok(end) if end <= now => {}
            Ok(end) if end.duration_since(now) > LONGEST_AHEAD => {
                return Some(Hold::InvalidTimeRule { by, error: TimeError::TooFar });
            }
            Ok(end) if last.is_some_and(|(last, _)| last >= end) => {}
            Ok(end) => last = Some((end, by)),
        }
    }
    last.map(|(until, by)| Hold::Frozen { by, until })
}

/// The texts of windows of the three levels.
type Texts = [Option<Arc<str>>; 3];

/// What the windows of three texts say from one time to another.
#[derive(Clone, Copy, Debug)]
struct Kept {
    from: Timestamp,
    until: Timestamp,
    hold: Option<Hold>,
}

/// The calendar of a controller. It keeps what windows say until that changes, since thousands of
/// workloads may share one text.
#[derive(Debug, Default)]
pub struct Calendar(Mutex<HashMap<Texts, Kept>>);

impl Calendar {
    /// Returns why no reload of a workload may start at a time, by its time rules.
    #[must_use]
    pub fn hold(&self, levels: Levels<'_>, now: Timestamp) -> Option<Hold> {
        frozen(levels, now).or_else(|| self.outside_window(levels, now))
    }

    fn outside_window(&self, levels: Levels<'_>, now: Timestamp) -> Option<Hold> {
        let texts: Texts =
            levels.all().map(|(_, rules)| rules.and_then(|rules| rules.windows.clone()));
        if texts.iter().all(Option::is_none) {
            return None;
        }
        // A panic under the lock ends the process.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Kept { from, until, hold }) = kept.get(&texts)
            && *from <= now
            && now < *until
        {
            return *hold;
        }
        let state = look_at(&texts, now);
        if kept.len() >= MOST_KEPT {
            kept.clear();
        }
        kept.insert(texts, state);
        state.hold
    }
}

/// Returns what the windows say, and until when.
fn look_at(texts: &Texts, now: Timestamp) -> Kept {
    let longest = now.checked_add(KEPT_FOR).unwrap_or(now);
    let mut windows = Vec::new();
    for (by, text) in [SetBy::Operator, SetBy::Namespace, SetBy::Workload].into_iter().zip(texts) {
        let Some(text) = text else { continue };
        match Windows::parse(text) {
            Ok(parsed) => windows.push((by, parsed)),
            Err(error) => {
                let hold = Some(Hold::InvalidTimeRule { by, error });
                return Kept { from: now, until: longest, hold };
            }
        }
    }
    let closed = windows.iter().find(|(_, windows)| !windows.is_open(now));
    let (hold, change) = match closed {
        None => (None, next_change(&windows, now)),
        Some((by, _)) => {
            let all = windows.iter().map(|(_, windows)| windows);
            let opens = next_opening(all, now, MOST_CHANGES);
            (Some(Hold::OutsideWindow { by: *by, opens }), opens)
        }
    };
    Kept { from: now, until: change.map_or(longest, |change| change.min(longest)), hold }
}

fn next_change(windows: &[(SetBy, Windows)], now: Timestamp) -> Option<Timestamp> {
    windows.iter().filter_map(|(_, windows)| windows.next_change(now)).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn rules(freeze: &str, windows: &str) -> TimeRules {
        TimeRules::new(Some(freeze), Some(windows))
    }

    const NOW: &str = "2026-12-01T12:00:00Z";

    /// Returns what the rules of operator, namespace and workload hold at noon.
    fn hold(operator: &TimeRules, namespace: &TimeRules, workload: &TimeRules) -> Option<Hold> {
        let (namespace, workload) = (Some(namespace), Some(workload));
        Calendar::default().hold(Levels { operator, namespace, workload }, time(NOW))
    }

    #[test]
    fn a_freeze_has_an_end_that_is_not_far() {
        let none = TimeRules::default();
        let frozen = |until: &str| Some(Hold::Frozen { by: SetBy::Workload, until: time(until) });
        let invalid = |error| Some(Hold::InvalidTimeRule { by: SetBy::Workload, error });
        for (text, expected) in [
            ("", None),
            ("2026-12-01", None),
            ("2026-12-01T12:00:00Z", None),
            ("2026-12-01T12:00:01Z", frozen("2026-12-01T12:00:01Z")),
            ("2026-12-01T14:00:00+01:00", frozen("2026-12-01T13:00:00Z")),
            ("2026-12-24", frozen("2026-12-24T00:00:00Z")),
            ("2027-03-01T12:00:00Z", frozen("2027-03-01T12:00:00Z")),
            ("2027-03-01T12:00:01Z", invalid(TimeError::TooFar)),
            ("2027-12-24", invalid(TimeError::TooFar)),
            ("2026-12-24T00:00:00", invalid(TimeError::NoTime)),
            ("2026-13-24", invalid(TimeError::NoTime)),
            ("tomorrow", invalid(TimeError::NoTime)),
            ("true", invalid(TimeError::NoTime)),
        ] {
            assert_eq!(hold(&none, &none, &rules(text, "")), expected, "{text}");
        }
        let long = "2026-12-24T00:00:00Z".repeat(1_000);
        assert_eq!(hold(&none, &none, &rules(&long, "")), invalid(TimeError::NoTime));
    }

    #[test]
    fn all_levels_must_let_a_reload_start() {
        let none = TimeRules::default();
        let frozen = |by, until: &str| Some(Hold::Frozen { by, until: time(until) });
        let (early, late) = (rules("2026-12-02", ""), rules("2026-12-03", ""));
        let until_late = "2026-12-03T00:00:00Z";
        assert_eq!(hold(&early, &late, &early), frozen(SetBy::Namespace, until_late));
        assert_eq!(hold(&late, &early, &none), frozen(SetBy::Operator, until_late));
        let closed = |by, opens: &str| Some(Hold::OutsideWindow { by, opens: Some(time(opens)) });
        let (noon, night) = (rules("", "allow 0 12 * * * 1h"), rules("", "allow 0 0 * * * 6h"));
        assert_eq!(hold(&noon, &none, &noon), None);
        let midnight = "2026-12-02T00:00:00Z";
        assert_eq!(hold(&noon, &none, &none), None);
        assert_eq!(hold(&none, &night, &none), closed(SetBy::Namespace, midnight));
        // The workload allows nothing that the operator does not, and the other way round.
        let early = rules("", "allow 30 5 * * * 1h");
        assert_eq!(hold(&night, &none, &early), closed(SetBy::Operator, "2026-12-02T05:30:00Z"));
        // Both are never open at once.
        let never = Some(Hold::OutsideWindow { by: SetBy::Operator, opens: None });
        assert_eq!(hold(&night, &noon, &none), never);
        let invalid = Some(Hold::InvalidTimeRule { by: SetBy::Workload, error: TimeError::NoKind });
        assert_eq!(hold(&noon, &none, &rules("", "never")), invalid);
        assert_eq!(hold(&night, &none, &rules("", "never")), invalid, "the cause comes first");
        let of_freeze = frozen(SetBy::Operator, until_late);
        assert_eq!(hold(&late, &none, &rules("", "never")), of_freeze, "its end is known");
    }

    #[test]
    fn a_state_is_kept_until_it_changes() {
        let calendar = Calendar::default();
        let night = rules("", "allow 0 22 * * * 8h");
        let none = TimeRules::default();
        let levels = Levels { operator: &none, namespace: None, workload: Some(&night) };
        let is_held = |now: &str| calendar.hold(levels, time(now)).is_some();
        assert!(is_held("2026-12-01T21:30:00Z"));
        assert!(is_held("2026-12-01T21:59:59Z"));
        assert!(!is_held("2026-12-01T22:00:00Z"));
        assert!(!is_held("2026-12-02T05:59:59Z"));
        assert!(is_held("2026-12-02T06:00:00Z"));
        assert!(!is_held("2026-12-01T23:00:00Z"), "a clock that was put back");
        for minute in 0..MOST_KEPT + 10 {
            let (minute, hours) = (minute % 60, minute / 60 + 1);
            let rules = rules("", &format!("allow {minute} 22 * * * {hours}h"));
            let levels = Levels { workload: Some(&rules), ..levels };
            let _ = calendar.hold(levels, time(NOW));
            assert!(calendar.0.lock().unwrap().len() <= MOST_KEPT);
        }
    }
}

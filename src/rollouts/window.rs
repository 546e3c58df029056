//! Windows: the times at which reloads may start, or may not, by cron fields in a time zone.
//!
//! A window begins whenever its cron fields match the clock on the wall of its zone, and lasts for
//! its duration. If the clocks skip a beginning, the window begins as they skip it. A beginning that
//! they show twice counts once, the first time.
//!
//! Architecture Invariant: time zones come from the binary. Each function takes a bounded time for
//! any text.

use cronexpr::{Crontab, FallbackTimezoneOption, ParseOptions, parse_crontab_with};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};

use crate::model::time_rules::{LONGEST_WINDOW, LONGEST_WINDOWS, MOST_WINDOWS, TimeError};

/// The durations that a window may have.
const SHORTEST: SignedDuration = SignedDuration::from_mins(1);
const LONGEST: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The most beginnings within a time that clocks show twice: a day of minutes.
const MOST_REPEATED: u32 = 24 * 60;

/// The most windows in a row that are joined for [`Window::next_change`].
const MOST_JOINED: u32 = 16;

/// The last second at which beginnings are looked for: the year 9000. Later times may overflow.
const LAST_SECOND: i64 = 221_845_392_000;

/// The times at which reloads may start, by all windows of one text.
#[derive(Clone, Debug)]
pub(super) struct Windows(Vec<Window>);

impl Windows {
    /// Reads windows, separated by semicolons or line breaks.
    pub(super) fn parse(text: &str) -> Result<Self, TimeError> {
        if text.len() > LONGEST_WINDOWS {
            return Err(TimeError::TooLong);
        }
        let texts = text.split([';', '\n']).map(str::trim).filter(|text| !text.is_empty());
        let texts: Vec<&str> = texts.collect();
        if texts.len() > MOST_WINDOWS || texts.iter().any(|text| text.len() > LONGEST_WINDOW) {
            return Err(TimeError::TooLong);
        }
        if texts.is_empty() {
            return Err(TimeError::Fields);
        }
        Ok(Self(texts.into_iter().map(Window::parse).collect::<Result<_, _>>()?))
    }

    /// Whether reloads may start: no deny window is active, and if there are allow windows, one of
    /// them is.
    #[must_use]
    pub(super) fn is_open(&self, now: Timestamp) -> bool {
        is_open(self.0.iter().map(|window| (window.is_allow, window.is_active(now))))
    }

    /// Returns a time after `now` until which nothing changes. Mostly, something changes then.
    /// Returns `None` if nothing is known to change.
    #[must_use]
    pub(super) fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        self.0.iter().filter_map(|window| window.next_change(now)).min()
    }
}

/// Whether reloads may start, by windows: whether each allows them, and whether it is active.
fn is_open(windows: impl IntoIterator<Item = (bool, bool)>) -> bool {
    let (mut has_allow, mut is_allowed) = (false, false);
    for (is_allow, is_active) in windows {
        if is_allow {
            has_allow = true;
            is_allowed |= is_active;
        } else if is_active {
            return false;
        }
    }
    is_allowed || !has_allow
}

/// Returns when the windows of all texts let reloads start next, after `now`. Looks at `most_changes`
/// changes at most. `None` if that is farther ahead.
///
/// A window is looked at again only when it may have changed: to find the next beginning of a rare
/// window takes long, and a tenant may write one beside another that changes each minute.
pub(super) fn next_opening<'a>(
    texts: impl IntoIterator<Item = &'a Windows>,
    now: Timestamp,
    most_changes: u32,
) -> Option<Timestamp> {
    struct State<'a> {
        window: &'a Window,
        is_active: bool,
        change: Option<Timestamp>,
    }
    let state = |window: &'a Window| State {
        window,
        is_active: window.is_active(now),
        change: window.next_change(now),
    };
    let of_text = |text: &'a Windows| text.0.iter().map(state).collect::<Vec<_>>();
    let mut texts: Vec<Vec<State<'_>>> = texts.into_iter().map(of_text).collect();
    for _ in 0..most_changes {
        let time = texts.iter().flatten().filter_map(|state| state.change).min()?;
        for state in texts.iter_mut().flatten().filter(|state| state.change == Some(time)) {
            state.is_active = state.window.is_active(time);
            state.change = state.window.next_change(time);
        }
        let is_open_text = |text: &Vec<State<'_>>| {
            is_open(text.iter().map(|state| (state.window.is_allow, state.is_active)))
        };
        if texts.iter().all(is_open_text) {
            return Some(time);
        }
    }
    None
}

/// One window.
#[derive(Clone, Debug)]
struct Window {
    is_allow: bool,
    /// The beginnings, by the clock on the wall. Its own time zone is UTC.
    schedule: Crontab,
    duration: SignedDuration,
    zone: TimeZone,
}

impl Window {
    /// Reads `allow|deny MINUTE HOUR DAY MONTH WEEKDAY DURATION [ZONE]`.
    fn parse(text: &str) -> Result<Self, TimeError> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let is_allow = match fields.first() {
            Some(&"allow") => true,
            Some(&"deny") => false,
            Some(_) | None => return Err(TimeError::NoKind),
        };
        let (cron, duration, zone) = match fields[1..] {
            [_, _, _, _, _, duration] => (&fields[1..6], duration, "UTC"),
            [_, _, _, _, _, duration, zone] => (&fields[1..6], duration, zone),
            _ => return Err(TimeError::Fields),
        };
        let duration = parse_duration(duration).ok_or(TimeError::Duration)?;
        let zone = TimeZoneDatabase::bundled().get(zone).map_err(|_| TimeError::Zone)?;
        let window = Self { is_allow, schedule: parse_cron(cron)?, duration, zone };
        // Days such as 30 February never come.
        let ever = window.civil_start_after(DateTime::constant(2024, 1, 1, 0, 0, 0, 0));
        ever.map(|_| window).ok_or(TimeError::Cron)
    }

    /// Whether the window lasts at a time: it began within its duration before.
    fn is_active(&self, now: Timestamp) -> bool {
        let began = now.checked_sub(self.duration).ok().and_then(|from| self.start_after(from));
        began.is_some_and(|start| start <= now)
    }

    /// Returns a time after `now` until which the window is as it is now.
    fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        // The window is active from `now` to `end`.
        let mut end = now;
        for _ in 0..MOST_JOINED {
            match self.start_after(end.checked_sub(self.duration).ok()?) {
                Some(start) if start <= end => end = start.checked_add(self.duration).ok()?,
                _ if end > now => break,
                start => return start,
            }
        }
        Some(end)
    }

    /// Returns the first beginning after a time.
    fn start_after(&self, time: Timestamp) -> Option<Timestamp> {
        let mut civil = self.zone.to_datetime(time);
        for _ in 0..MOST_REPEATED {
            civil = self.civil_start_after(civil)?;
            let start = self.time_of(civil)?;
            // Within a time that clocks show again, the beginnings were before.
            if start > time {
                return Some(start);
            }
        }
        None
    }

    /// Returns the first beginning after a time, by the clock on the wall.
    fn civil_start_after(&self, civil: DateTime) -> Option<DateTime> {
        let as_utc = TimeZone::UTC.to_timestamp(civil).ok()?;
        if as_utc.as_second() > LAST_SECOND {
            return None;
        }
        Some(self.schedule.find_next(as_utc).ok()?.datetime())
    }

    /// Returns when the clock on the wall shows a time, or skips it.
    fn time_of(&self, civil: DateTime) -> Option<Timestamp> {
        let found = self.zone.to_ambiguous_timestamp(civil);
        let earlier = found.earlier().ok()?;
        if let AmbiguousOffset::Gap { .. } = found.offset() {
            return self.zone.following(earlier).next().map(|change| change.timestamp());
        }
        Some(earlier)
    }
}

/// Reads the five fields of cron. The extensions that few implementations share are refused.
fn parse_cron(fields: &[&str]) -> Result<Crontab, TimeError> {
    let [_, _, day, _, weekday] = fields else { return Err(TimeError::Cron) };
    let is_sign = |byte: u8| b"*/,-".contains(&byte);
    let is_plain_day = day.bytes().all(|byte| byte.is_ascii_digit() || is_sign(byte));
    let is_last_weekday = weekday.split(',').any(|weekday| weekday.ends_with(['l', 'L']));
    let mut bytes = fields.iter().flat_map(|field| field.bytes());
    let is_plain = bytes.all(|byte| byte.is_ascii_alphanumeric() || is_sign(byte));
    if !is_plain || !is_plain_day || is_last_weekday {
        return Err(TimeError::Cron);
    }
    let mut options = ParseOptions::default();
    options.fallback_timezone_option = FallbackTimezoneOption::UTC;
    parse_crontab_with(&fields.join(" "), options).map_err(|_| TimeError::Cron)
}

/// Reads a duration such as `30m`, `8h` or `1d12h`, from a minute to a week.
fn parse_duration(text: &str) -> Option<SignedDuration> {
    let mut minutes: i64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at_checked(digits)?;
        let mut units = after.chars();
        let unit = match units.next()? {
            'm' => 1,
            'h' => 60,
            'd' => 24 * 60,
            _ => return None,
        };
        minutes = minutes.checked_add(number.parse::<i64>().ok()?.checked_mul(unit)?)?;
        rest = units.as_str();
    }
    // More minutes than a week are refused before they overflow as seconds.
    let duration = SignedDuration::from_mins(minutes.min(LONGEST.as_mins() + 1));
    (SHORTEST..=LONGEST).contains(&duration).then_some(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn windows(text: &str) -> Windows {
        Windows::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_window_has_all_its_fields() {
        for text in [
            "allow 0 22 * * 1-5 8h",
            "deny 0 0 24-26 DEC * 1d Europe/Berlin",
            " allow */15 * * * MON,WED 5m UTC ;\n\n deny 0 0 29 2 * 7d asia/tokyo\n;",
            "allow 0 3 * * 0,7 1d12h30m America/New_York",
        ] {
            windows(text);
        }
        for (text, error) in [
            ("", TimeError::Fields),
            (" ; \n", TimeError::Fields),
            ("0 22 * * * 8h", TimeError::NoKind),
            ("Allow 0 22 * * * 8h", TimeError::NoKind),
            ("allow", TimeError::Fields),
            ("allow 0 22 * * 8h", TimeError::Fields),
            ("allow 0 22 * * * 8h Europe/Berlin now", TimeError::Fields),
            ("allow 0 22 * * * 8h; deny", TimeError::Fields),
            ("allow 60 22 * * * 8h", TimeError::Cron),
            ("allow 0 22 * * 5-1 8h", TimeError::Cron),
            ("allow H 22 * * * 8h", TimeError::Cron),
            ("allow 0 22 L * * 8h", TimeError::Cron),
            ("allow 0 22 1W * * 8h", TimeError::Cron),
            ("allow 0 22 * * 5#1 8h", TimeError::Cron),
            ("allow 0 22 * * 5L 8h", TimeError::Cron),
            ("allow 0 22 * * é 8h", TimeError::Cron),
            ("allow 0 0 30 2 * 8h", TimeError::Cron),
            ("allow 0 22 * * * 8", TimeError::Duration),
            ("allow 0 22 * * * h", TimeError::Duration),
            ("allow 0 22 * * * 8x", TimeError::Duration),
            ("allow 0 22 * * * 0m", TimeError::Duration),
            ("allow 0 22 * * * 7d1m", TimeError::Duration),
            ("allow 0 22 * * * 153722867280912931m", TimeError::Duration),
            ("allow 0 22 * * * 99999999999999999999h", TimeError::Duration),
            ("allow 0 22 * * * 8h Mars/Base", TimeError::Zone),
            ("allow 0 22 * * * 8h ../etc/passwd", TimeError::Zone),
        ] {
            assert_eq!(Windows::parse(text).err(), Some(error), "{text}");
        }
        let many = |count: usize| vec!["deny * * * * * 1m"; count].join(";");
        assert!(Windows::parse(&many(16)).is_ok());
        assert_eq!(Windows::parse(&many(17)).err(), Some(TimeError::TooLong));
        let long = format!("allow {}0 22 * * * 8h", " ".repeat(LONGEST_WINDOW));
        assert_eq!(Windows::parse(&long).err(), Some(TimeError::TooLong));
        assert_eq!(Windows::parse(&"x".repeat(1 << 20)).err(), Some(TimeError::TooLong));
    }

    #[test]
    fn a_deny_window_wins_and_one_allow_window_is_enough() {
        let at = |text: &str, time_of_day: &str| {
            windows(text).is_open(time(&format!("2026-11-30T{time_of_day}Z")))
        };
        let night = "allow 0 22 * * * 8h";
        for (now, is_open) in
            [("21:59:59", false), ("22:00:00", true), ("05:59:59", true), ("06:00:00", false)]
        {
            assert_eq!(at(night, now), is_open, "{now}");
            assert_eq!(at("deny 0 22 * * * 8h", now), !is_open, "{now}");
        }
        // Monday, the 30th.
        assert!(at("allow 0 9 * * 2 8h; allow 0 9 * * 1 8h", "12:00:00"));
        assert!(!at("allow 0 9 * * 1 8h; deny 0 12 * * * 1h", "12:00:00"));
        assert!(at("allow 0 9 * * 1 8h; deny 0 12 * * * 1h", "13:00:00"));
        // A duration longer than the time between two beginnings.
        assert!(at("allow 0 * * * * 7d", "12:34:56"));
    }

    #[test]
    fn clocks_that_skip_or_repeat_an_hour_move_a_window() {
        let night = windows("allow 30 2 * * * 30m Europe/Berlin");
        // On 28 March 2027, 02:00 is followed by 03:00, which is 01:00 UTC.
        for (now, is_open) in [
            ("2027-03-27T01:29:59Z", false),
            ("2027-03-27T01:30:00Z", true),
            ("2027-03-28T00:59:59Z", false),
            ("2027-03-28T01:00:00Z", true),
            ("2027-03-28T01:29:59Z", true),
            ("2027-03-28T01:30:00Z", false),
            ("2027-03-29T00:30:00Z", true),
        ] {
            assert_eq!(night.is_open(time(now)), is_open, "{now}");
        }
        // On 31 October 2027, 03:00 is followed by 02:00, which is 01:00 UTC.
        for (now, is_open) in [
            ("2027-10-31T00:30:00Z", true),
            ("2027-10-31T01:00:00Z", false),
            ("2027-10-31T01:30:00Z", false),
            ("2027-11-01T01:30:00Z", true),
        ] {
            assert_eq!(night.is_open(time(now)), is_open, "{now}");
        }
        let change = night.next_change(time("2027-10-31T01:10:00Z"));
        assert_eq!(change, Some(time("2027-11-01T01:30:00Z")));
        // A beginning after the skipped ones.
        let often = windows("allow 0,30 2,3 * * * 10m Europe/Berlin");
        let change = often.next_change(time("2027-03-28T01:10:00Z"));
        assert_eq!(change, Some(time("2027-03-28T01:30:00Z")));
    }

    #[test]
    fn the_next_change_joins_windows_and_has_an_end() {
        let next = |text: &str, now: &str| windows(text).next_change(time(now));
        let night = "allow 0 22 * * * 8h";
        for (now, change) in [
            ("2026-11-30T12:00:00Z", "2026-11-30T22:00:00Z"),
            ("2026-11-30T22:00:00Z", "2026-12-01T06:00:00Z"),
            ("2026-12-01T06:00:00Z", "2026-12-01T22:00:00Z"),
        ] {
            assert_eq!(next(night, now), Some(time(change)), "{now}");
        }
        let joined = next("allow 0 8,9 * * * 1h", "2026-11-30T08:30:00Z");
        assert_eq!(joined, Some(time("2026-11-30T10:00:00Z")));
        let leap = next("allow 0 0 29 2 * 1d", "2026-11-30T00:00:00Z");
        assert_eq!(leap, Some(time("2028-02-29T00:00:00Z")));
        // It never ends. The time is one until which nothing changes.
        let always = next("allow * * * * * 1h", "2026-11-30T08:30:00Z");
        assert!(always > Some(time("2026-11-30T08:30:00Z")), "{always:?}");
        for far in [Timestamp::MIN, Timestamp::MAX] {
            let windows = windows("allow * * * * * 1h Europe/Berlin");
            assert!(!windows.is_open(far) || windows.next_change(far).is_some());
        }
    }
}

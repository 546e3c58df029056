//! The shortest time between two reloads of a workload. It doubles for each reload in a row that
//! comes as soon as it may, so that a secret that changes all the time costs a few rollouts an hour.
//!
//! Both the time of the last reload and the length of the row are in the record of the workload.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::model::record::Recorded;

/// The longest time between two reloads.
const LONGEST: SignedDuration = SignedDuration::from_hours(1);

/// Returns how long a workload rests after the reload of a record. `shortest` is the time after a
/// reload that is the first of its row.
fn rest(shortest: Duration, streak: u32) -> SignedDuration {
    let shortest = SignedDuration::try_from(shortest).unwrap_or(LONGEST);
    let factor = 1_i32.checked_shl(streak.min(30)).unwrap_or(i32::MAX);
    shortest.saturating_mul(factor).min(LONGEST.max(shortest))
}

/// Returns the time left until a workload may be reloaded again; `None` if it may. For urgent reloads
/// the time does not double. `now` is the present by the API server's clock.
#[must_use]
pub fn time_left(
    recorded: Option<&Recorded>,
    shortest: Duration,
    is_urgent: bool,
    now: Timestamp,
) -> Option<SignedDuration> {
    let recorded = recorded?;
    let at = recorded.at?;
    let rest = rest(shortest, if is_urgent { 0 } else { recorded.streak });
    let since = now.duration_since(at);
    // A time in the future was written by somebody else, or the clock was set back.
    (since < rest && since >= -LONGEST).then(|| (rest - since).min(rest))
}

/// Returns the number of reloads in a row before this one, for the record of a reload at `now`.
#[must_use]
pub fn next_streak(recorded: Option<&Recorded>, shortest: Duration, now: Timestamp) -> u32 {
    let Some((recorded, at)) = recorded.and_then(|recorded| Some((recorded, recorded.at?))) else {
        return 0;
    };
    let rest = rest(shortest, recorded.streak);
    let is_in_row = now.duration_since(at) < rest.saturating_mul(2);
    if is_in_row { recorded.streak.saturating_add(1) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::{recorded, second};

    const MINUTE: Duration = Duration::from_mins(1);

    fn record(at: i64, streak: u32) -> Recorded {
        Recorded { at: Some(second(at)), streak, ..recorded(true, &[]) }
    }

    #[test]
    fn a_secret_that_changes_all_the_time_costs_a_few_rollouts_an_hour() {
        let mut reloads = vec![0];
        let mut last = record(0, 0);
        for now in 1..3 * 3_600 {
            if time_left(Some(&last), MINUTE, false, second(now)).is_none() {
                last = record(now, next_streak(Some(&last), MINUTE, second(now)));
                reloads.push(now / 60);
            }
        }
        assert_eq!(reloads, [0, 1, 3, 7, 15, 31, 63, 123]);
    }

    #[test]
    fn a_rest_forgets_the_row() {
        assert_eq!(next_streak(Some(&record(0, 3)), MINUTE, second(8 * 60)), 4);
        assert_eq!(next_streak(Some(&record(0, 3)), MINUTE, second(16 * 60)), 0);
        assert_eq!(next_streak(None, MINUTE, second(0)), 0);
        assert_eq!(next_streak(Some(&Recorded { at: None, ..record(0, 3) }), MINUTE, second(0)), 0);
    }

    #[test]
    fn no_record_holds_a_workload_for_ever() {
        let left = |at, streak| time_left(Some(&record(at, streak)), MINUTE, false, second(10_000));
        assert_eq!(left(9_990, 0), Some(SignedDuration::from_secs(50)));
        assert_eq!(left(9_990, u32::MAX), Some(LONGEST - SignedDuration::from_secs(10)));
        // The clock was set back, or a tenant wrote this.
        assert_eq!(left(10_030, 0), Some(SignedDuration::from_secs(60)));
        assert_eq!(left(90_000, u32::MAX), None);
        assert_eq!(time_left(None, MINUTE, false, second(0)), None);
        let urgent = time_left(Some(&record(9_900, 9)), MINUTE, true, second(10_000));
        assert_eq!(urgent, None, "it waits a minute at most");
        // Without an interval there is none.
        assert_eq!(
            time_left(Some(&record(10_000, 9)), Duration::ZERO, false, second(10_000)),
            None
        );
    }
}

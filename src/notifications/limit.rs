//! The rate limit of notifications: how many messages a minute, in all and about one group.
//!
//! A tenant can cause many events. A group is a namespace, or all rotations. Each group gets half of
//! the limit at most, so that one tenant cannot keep all other messages out.

use std::collections::{BTreeMap, HashMap};

use crate::model::notification::NotificationKind;

/// The rate limit, and what it left out.
#[derive(Debug)]
pub(super) struct RateLimit {
    per_minute: u32,
    /// The present minute, counted from any time.
    minute: i64,
    /// The messages of this minute.
    admitted: u32,
    /// The messages of this minute by group. A group is in the map once a message of it was
    /// admitted, so the map is no longer than the limit.
    by_group: HashMap<Box<str>, u32>,
    left_out: BTreeMap<&'static str, u64>,
}

/// Whether a message may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// The message may be sent.
    Admitted,
    /// The message is left out, and it is the first one since [`RateLimit::take_left_out`].
    FirstLeftOut,
    /// The message is left out, like others before it.
    LeftOut,
}

impl RateLimit {
    /// Returns a limit of so many messages a minute.
    pub(super) fn new(per_minute: u32) -> Self {
        Self {
            per_minute,
            minute: i64::MIN,
            admitted: 0,
            by_group: HashMap::new(),
            left_out: BTreeMap::new(),
        }
    }

    /// Decides about a message. A clock that is set back begins another minute.
    pub(super) fn admit(&mut self, minute: i64, group: &str, kind: NotificationKind) -> Admission {
        if minute != self.minute {
            self.minute = minute;
            self.admitted = 0;
            self.by_group.clear();
        }
        let of_group = self.by_group.get(group).copied().unwrap_or_default();
        if self.admitted < self.per_minute && of_group < self.per_minute.div_ceil(2) {
            self.admitted += 1;
            self.by_group.insert(group.into(), of_group + 1);
            return Admission::Admitted;
        }
        let is_first = self.left_out.is_empty();
        let count = self.left_out.entry(kind.name()).or_default();
        *count = count.saturating_add(1);
        if is_first { Admission::FirstLeftOut } else { Admission::LeftOut }
    }

    /// Returns how many messages were left out since the last call, by kind.
    pub(super) fn take_left_out(&mut self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_group_gets_half_and_what_is_left_out_is_counted() {
        let kind = NotificationKind::ReloadFailed;
        let mut limit = RateLimit::new(5);
        let mut admitted = |minute, group: &str, times| {
            let all = (0..times).map(|_| limit.admit(minute, group, kind));
            all.filter(|admission| *admission == Admission::Admitted).count()
        };
        assert_eq!(admitted(7, "noisy", 1_000), 3);
        assert_eq!(admitted(7, "quiet", 1), 1);
        assert_eq!(admitted(7, "other", 9), 1, "the limit in all");
        assert_eq!(admitted(8, "noisy", 1), 1, "the next minute");
        assert_eq!(admitted(2, "noisy", 9), 3, "the clock was set back");
        assert_eq!(limit.take_left_out(), BTreeMap::from([("reload-failed", 997 + 8 + 6)]));
        assert!(limit.take_left_out().is_empty());
        for number in 0..1_000 {
            limit.admit(9, &number.to_string(), kind);
        }
        assert_eq!(limit.by_group.len(), 5, "bounded");
    }

    #[test]
    fn the_first_of_those_left_out_is_known() {
        let kind = NotificationKind::RotationStopped;
        let mut limit = RateLimit::new(1);
        let mut next = || limit.admit(1, "a", kind);
        assert_eq!(
            [next(), next(), next()],
            [Admission::Admitted, Admission::FirstLeftOut, Admission::LeftOut]
        );
        limit.take_left_out();
        assert_eq!(limit.admit(1, "a", kind), Admission::FirstLeftOut);
    }
}

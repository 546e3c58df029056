//! The reload policy of a secret: what its owner says about reloads, in the `custom_metadata` of the
//! secret.
//!
//! Polls read `custom_metadata` together with the versions. Only those who may write the metadata of
//! the secret can set the policy.

use std::num::{NonZeroU8, NonZeroU32};

/// A key of `custom_metadata`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKey {
    /// [`ReloadPolicy::mode`].
    Mode,
    /// [`ReloadPolicy::first`].
    First,
    /// [`ReloadPolicy::step`].
    Step,
}

impl PolicyKey {
    /// All keys.
    pub const ALL: [Self; 3] = [Self::Mode, Self::First, Self::Step];

    /// Returns the name of the key.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mode => "reload",
            Self::First => "reload-first",
            Self::Step => "reload-step",
        }
    }

    /// Returns what to write as the value of the key.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Mode => "urgent or hold",
            Self::First => "a whole number above zero",
            Self::Step => "a percentage such as 25%",
        }
    }
}

/// What the owner of a secret says about reloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReloadPolicy {
    /// Whether reloads are urgent or held.
    pub mode: ReloadMode,
    /// The number of workloads that a new version goes to first. `None` for the operator's setting.
    pub first: Option<NonZeroU32>,
    /// The share of workloads that are rolled out at a time. `None` for the operator's setting.
    pub step: Option<Percent>,
    /// A key whose value cannot be read. The other keys count.
    pub unreadable: Option<PolicyKey>,
}

/// Whether reloads for a secret are urgent or held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReloadMode {
    /// Reloads follow the operator's rules.
    #[default]
    Normal,
    /// The former credential is dead already: no waves and no windows.
    Urgent,
    /// No workload is reloaded for a new version.
    Hold,
}

/// A share from 1 % to 100 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(NonZeroU8);

impl Percent {
    /// One in four.
    pub const QUARTER: Self = match NonZeroU8::new(25) {
        Some(number) => Self(number),
        None => Self(NonZeroU8::MIN),
    };

    /// Returns a share; `None` unless it is from 1 to 100.
    #[must_use]
    pub const fn new(percent: u8) -> Option<Self> {
        match NonZeroU8::new(percent) {
            Some(number) if percent <= 100 => Some(Self(number)),
            _ => None,
        }
    }

    /// Reads `25%` or `25`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.trim();
        Self::new(number.strip_suffix('%').unwrap_or(number).trim_end().parse().ok()?)
    }

    /// Returns the share as a number of percent.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0.get()
    }

    /// Returns this share of a number of things, rounded up.
    #[must_use]
    pub fn of(self, number: usize) -> usize {
        number.saturating_mul(usize::from(self.get())).div_ceil(100)
    }
}

impl ReloadPolicy {
    /// The owner says nothing.
    pub const NONE: Self =
        Self { mode: ReloadMode::Normal, first: None, step: None, unreadable: None };

    /// Reads the entries of `custom_metadata`. Other keys are ignored. A value that cannot be read
    /// counts as absent: the key may serve somebody else, and no rotation must be missed for it.
    #[must_use]
    pub fn of<'a>(entries: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut policy = Self::default();
        for (key, value) in entries {
            let Some(key) = PolicyKey::ALL.into_iter().find(|known| known.name() == key) else {
                continue;
            };
            let value = value.trim();
            let is_read = match key {
                PolicyKey::Mode => {
                    policy.mode = match value {
                        "urgent" => ReloadMode::Urgent,
                        "hold" => ReloadMode::Hold,
                        _ => ReloadMode::Normal,
                    };
                    policy.mode != ReloadMode::Normal
                }
                PolicyKey::First => {
                    policy.first = value.parse().ok();
                    policy.first.is_some()
                }
                PolicyKey::Step => {
                    policy.step = Percent::parse(value);
                    policy.step.is_some()
                }
            };
            if !is_read {
                policy.unreadable = policy.unreadable.or(Some(key));
            }
        }
        policy
    }

    /// Whether the owner says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_cannot_be_read_is_named_and_does_not_count() {
        let of =
            |entries: &[(&'static str, &'static str)]| ReloadPolicy::of(entries.iter().copied());
        assert!(of(&[("owner", "team-db")]).is_empty());
        assert_eq!(of(&[("reload", " urgent ")]).mode, ReloadMode::Urgent);
        assert_eq!(of(&[("reload", "hold")]).mode, ReloadMode::Hold);
        let all = of(&[("reload-first", "3"), ("reload-step", "10%")]);
        assert_eq!(
            (all.first, all.step, all.unreadable),
            (NonZeroU32::new(3), Percent::new(10), None)
        );
        let odd = of(&[("reload", "Hold!"), ("reload-first", "0")]);
        assert_eq!((odd.mode, odd.unreadable), (ReloadMode::Normal, Some(PolicyKey::Mode)));
        let odd = of(&[("reload-first", "-1"), ("reload-step", "50")]);
        assert_eq!((odd.first, odd.step), (None, Percent::new(50)));
        assert_eq!(odd.unreadable, Some(PolicyKey::First));
    }

    #[test]
    fn a_share_is_rounded_up() {
        let quarter = Percent::new(25).unwrap();
        let of = [0, 1, 4, 5, 120].map(|number| quarter.of(number));
        assert_eq!(of, [0, 1, 1, 2, 30]);
        assert_eq!(Percent::new(100).unwrap().of(7), 7);
        assert_eq!(size_of::<ReloadPolicy>(), 8);
        for (text, percent) in [("25%", 25), ("1", 1), (" 100 % ", 100)] {
            assert_eq!(Percent::parse(text), Percent::new(percent), "{text:?}");
        }
        for text in ["", "0", "101", "-1", "25 percent", "%"] {
            assert_eq!(Percent::parse(text), None, "{text:?}");
        }
    }
}

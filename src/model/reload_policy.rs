//! The reload policy of a secret: what its owner says about reloads, in the `custom_metadata` of the
//! secret.
//!
//! Polls read `custom_metadata` together with the versions. Only those who may write the metadata of
//! the secret can set the policy.

/// The key of `custom_metadata` for [`ReloadPolicy::mode`]: `urgent` or `hold`.
pub const MODE_KEY: &str = "reload";

/// The key of `custom_metadata` for [`ReloadPolicy::first`]: a number from 1 on.
pub const FIRST_KEY: &str = "reload-first";

/// The key of `custom_metadata` for [`ReloadPolicy::step`]: a percentage such as `25%` or `25`.
pub const STEP_KEY: &str = "reload-step";

/// What the owner of a secret says about reloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReloadPolicy {
    /// Whether reloads are urgent or held.
    pub mode: ReloadMode,
    /// The number of workloads that a new version goes to first. `None` for the operator's setting.
    pub first: Option<u32>,
    /// The share of workloads that are rolled out at a time. `None` for the operator's setting.
    pub step: Option<Percent>,
    /// A key whose value cannot be read. The other keys count.
    pub unreadable: Option<&'static str>,
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
pub struct Percent(u8);

impl Percent {
    /// All of them.
    pub const ALL: Self = Self(100);
    /// One in four.
    pub const QUARTER: Self = Self(25);

    /// Returns a share; `None` unless it is from 1 to 100.
    #[must_use]
    pub const fn new(percent: u8) -> Option<Self> {
        match percent {
            1..=100 => Some(Self(percent)),
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
        self.0
    }

    /// Returns this share of a number of things, rounded up.
    #[must_use]
    pub fn of(self, number: usize) -> usize {
        number.saturating_mul(usize::from(self.0)).div_ceil(100)
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
            let value = value.trim();
            match key {
                MODE_KEY => match value {
                    "urgent" => policy.mode = ReloadMode::Urgent,
                    "hold" => policy.mode = ReloadMode::Hold,
                    _ => policy.unreadable = Some(MODE_KEY),
                },
                FIRST_KEY => match value.parse() {
                    Ok(first @ 1..) => policy.first = Some(first),
                    _ => policy.unreadable = policy.unreadable.or(Some(FIRST_KEY)),
                },
                STEP_KEY => match Percent::parse(value) {
                    Some(step) => policy.step = Some(step),
                    None => policy.unreadable = policy.unreadable.or(Some(STEP_KEY)),
                },
                _ => {}
            }
        }
        policy
    }

    /// Returns what to write as the value of a key.
    #[must_use]
    pub fn remedy(key: &str) -> &'static str {
        match key {
            MODE_KEY => "urgent or hold",
            FIRST_KEY => "a whole number above zero",
            _ => "a percentage such as 25%",
        }
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
        let of = |entries: &[(&'static str, &'static str)]| ReloadPolicy::of(entries.iter().copied());
        assert!(of(&[("owner", "team-db")]).is_empty());
        assert_eq!(of(&[("reload", " urgent ")]).mode, ReloadMode::Urgent);
        assert_eq!(of(&[("reload", "hold")]).mode, ReloadMode::Hold);
        let all = of(&[("reload-first", "3"), ("reload-step", "10%")]);
        assert_eq!((all.first, all.step, all.unreadable), (Some(3), Percent::new(10), None));
        let odd = of(&[("reload", "Hold!"), ("reload-first", "0")]);
        assert_eq!((odd.mode, odd.unreadable), (ReloadMode::Normal, Some(MODE_KEY)));
        let odd = of(&[("reload-first", "-1"), ("reload-step", "50")]);
        assert_eq!((odd.first, odd.step), (None, Percent::new(50)));
        assert_eq!(odd.unreadable, Some(FIRST_KEY));
    }

    #[test]
    fn a_share_is_rounded_up() {
        let quarter = Percent::new(25).unwrap();
        let of = [0, 1, 4, 5, 120].map(|number| quarter.of(number));
        assert_eq!(of, [0, 1, 1, 2, 30]);
        assert_eq!(Percent::ALL.of(7), 7);
        for (text, percent) in [("25%", 25), ("1", 1), (" 100 % ", 100)] {
            assert_eq!(Percent::parse(text), Percent::new(percent), "{text:?}");
        }
        for text in ["", "0", "101", "-1", "25 percent", "%"] {
            assert_eq!(Percent::parse(text), None, "{text:?}");
        }
    }
}

//! The reasons why a due reload is held.

use jiff::Timestamp;

use crate::model::time_rules::{SetBy, TimeError};

/// The reason why a reload is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// The workload is being deleted, and its controller rolls out nothing any more.
    Deleting,
    /// A secret of the workload is gone, and new pods would fail.
    SecretGone,
    /// The same versions were already PATCHed, and the record was stripped.
    Stripped,
    /// The last PATCH failed a short while ago.
    BackOff,
    /// Too many workloads were found changed at once. The plan never says so; the budget does.
    Budget,
    /// Reloads are only reported (`--dry-run`). The plan never says so.
    DryRun,
    /// Other workloads get the new version first. This and the following reasons come from the
    /// rules of `crate::rollouts`.
    Wave,
    /// A workload failed after its reload for the same version.
    RotationStopped,
    /// Too many rollouts of reloads are under way.
    RolloutLimit,
    /// The workload was reloaded a short while ago.
    Interval,
    /// The owner of a secret holds its reloads.
    SecretOwner,
    /// A freeze lasts. The plan never says so; [`crate::rollouts::calendar`] does, as for the next
    /// two.
    Frozen {
        /// Who set the freeze that ends last.
        by: SetBy,
        /// When this freeze ends.
        until: Timestamp,
    },
    /// The windows of somebody allow no reload at present.
    OutsideWindow {
        /// The first whose windows allow none.
        by: SetBy,
        /// When all windows allow reloads. `None` if that is far ahead.
        opens: Option<Timestamp>,
    },
    /// A freeze or windows cannot be read, so nothing is known of their end.
    InvalidTimeRule {
        /// Who wrote the text.
        by: SetBy,
        /// What is wrong with it.
        error: TimeError,
    },
    /// The webhook that injects secrets into new pods is away. The plan never says so; the check of
    /// the injector does.
    InjectorAway,
    /// An injector is required, and none is known to cover the namespace. The plan never says so.
    InjectorMissing,
}

impl Hold {
    /// Returns the reason code of the status, metrics and notifications.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Deleting => "Deleting",
            Self::SecretGone => "SecretMissing",
            Self::Stripped => "AnnotationsRemoved",
            Self::BackOff => "ReloadFailed",
            Self::Budget => "RateLimited",
            Self::DryRun => "DryRun",
            Self::Wave => "WaitsForTurn",
            Self::RotationStopped => "RotationStopped",
            Self::RolloutLimit => "TooManyRollouts",
            Self::Interval => "ReloadedRecently",
            Self::SecretOwner => "HeldBySecretOwner",
            Self::Frozen { .. } => "Frozen",
            Self::OutsideWindow { .. } => "OutsideWindow",
            Self::InvalidTimeRule { .. } => "InvalidTimeRule",
            Self::InjectorAway => "InjectorAway",
            Self::InjectorMissing => "InjectorMissing",
        }
    }

    /// Returns when the hold ends by itself, if that time is known.
    #[must_use]
    pub fn end(self) -> Option<Timestamp> {
        match self {
            Self::Frozen { until, .. } => Some(until),
            Self::OutsideWindow { opens, .. } => opens,
            _ => None,
        }
    }

    /// Whether the hold can end before the next poll: other rollouts end, or time passes. The secrets
    /// of the workload need not be read for that.
    #[must_use]
    pub fn ends_by_itself(self) -> bool {
        matches!(self, Self::Wave | Self::RotationStopped | Self::RolloutLimit | Self::Interval)
    }
}

//! The kinds of notifications: what the webhook can be told.

/// What a notification tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotificationKind {
    /// Each workload that gives a signal runs with the new version of a secret.
    RotationComplete,
    /// A rollout for a new version failed, or its reload was taken back.
    RotationStopped,
    /// The reloads for a new version are held.
    RotationHeld,
    /// A workload was reloaded.
    Reloaded,
    /// The reload of a workload is held.
    ReloadHeld,
    /// The reload of a workload is no longer held.
    ReloadReleased,
    /// The reload of a workload was taken back.
    ReloadTakenBack,
    /// The PATCH of a reload failed.
    ReloadFailed,
    /// The pods of a reload are replaced.
    RolloutComplete,
    /// The rollout of a reload failed.
    RolloutFailed,
    /// The rate limit left notifications out.
    LeftOut,
}

impl NotificationKind {
    /// The kinds that the operator can choose. [`Self::LeftOut`] is always sent.
    pub const CHOICES: [Self; 10] = [
        Self::RotationComplete,
        Self::RotationStopped,
        Self::RotationHeld,
        Self::Reloaded,
        Self::ReloadHeld,
        Self::ReloadReleased,
        Self::ReloadTakenBack,
        Self::ReloadFailed,
        Self::RolloutComplete,
        Self::RolloutFailed,
    ];

    /// Returns the name in flags and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RotationComplete => "rotation-complete",
            Self::RotationStopped => "rotation-stopped",
            Self::RotationHeld => "rotation-held",
            Self::Reloaded => "reloaded",
            Self::ReloadHeld => "reload-held",
            Self::ReloadReleased => "reload-released",
            Self::ReloadTakenBack => "reload-taken-back",
            Self::ReloadFailed => "reload-failed",
            Self::RolloutComplete => "rollout-complete",
            Self::RolloutFailed => "rollout-failed",
            Self::LeftOut => "left-out",
        }
    }

    /// Returns the kind with this name, if the operator can choose it.
    #[must_use]
    pub fn choice(name: &str) -> Option<Self> {
        Self::CHOICES.into_iter().find(|kind| kind.name() == name)
    }

    /// Returns the headline of a message.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::RotationComplete => "Rotation complete",
            Self::RotationStopped => "Rotation stopped",
            Self::RotationHeld => "Rotation held",
            Self::Reloaded => "Reloaded",
            Self::ReloadHeld => "Reload held",
            Self::ReloadReleased => "Reload no longer held",
            Self::ReloadTakenBack => "Reload taken back",
            Self::ReloadFailed => "Reload failed",
            Self::RolloutComplete => "Rollout complete",
            Self::RolloutFailed => "Rollout failed",
            Self::LeftOut => "Notifications left out",
        }
    }

    /// Whether somebody should look.
    #[must_use]
    pub fn is_warning(self) -> bool {
        match self {
            Self::RotationComplete
            | Self::Reloaded
            | Self::ReloadReleased
            | Self::RolloutComplete => false,
            Self::RotationStopped
            | Self::RotationHeld
            | Self::ReloadHeld
            | Self::ReloadTakenBack
            | Self::ReloadFailed
            | Self::RolloutFailed
            | Self::LeftOut => true,
        }
    }
}

//! The effect of a reload: when the pods of a workload are replaced after a change of its template.
//!
//! Architecture Invariant: this module informs users, and decides nothing. A reload is one new
//! template whatever the strategy, and is never repeated because pods were not replaced yet.

use std::fmt;

/// How the controller of a workload treats a new pod template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rollout {
    /// The controller replaces all pods.
    #[default]
    Automatic,
    /// The controller replaces no pods while the Deployment is paused.
    Paused,
    /// A new pod is made from the template when somebody deletes an old one.
    OnDelete,
    /// The controller replaces the pods of a `StatefulSet` with this ordinal or a higher one.
    Partition(u32),
}

impl Rollout {
    /// Returns the rollout of a `StatefulSet` with this partition.
    #[must_use]
    pub fn partition(ordinal: u64) -> Self {
        match u32::try_from(ordinal) {
            Ok(0) => Self::Automatic,
            ordinal => Self::Partition(ordinal.unwrap_or(u32::MAX)),
        }
    }

    /// Returns this rollout, or `other` if this one is automatic.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        match self {
            Self::Automatic => other,
            Self::Paused | Self::OnDelete | Self::Partition(_) => self,
        }
    }

    /// Returns a note on a reload, as the end of a sentence about the workload. Returns `None` if
    /// the pods are replaced automatically.
    #[must_use]
    pub fn caveat(self) -> Option<impl fmt::Display> {
        (self != Self::Automatic).then_some(Caveat(self))
    }
}

struct Caveat(Rollout);

impl fmt::Display for Caveat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Rollout::Automatic => Ok(()),
            Rollout::Paused => f.write_str(
                "which is paused: its pods get the new version once it is resumed \
                 (kubectl rollout resume)",
            ),
            Rollout::OnDelete => f.write_str(
                "which has the update strategy OnDelete: its pods get the new version as they are \
                 deleted",
            ),
            Rollout::Partition(ordinal) => write!(
                f,
                "which has the partition {ordinal}: pods with a lower ordinal get the new version \
                 once the partition is lowered, or as they are deleted"
            ),
        }
    }
}

/// Returns the advice on an owner that removes the annotations of this controller.
#[must_use]
pub fn how_to_keep(owner: Option<&str>) -> String {
    let owner = owner.map(|owner| format!(" {owner}")).unwrap_or_default();
    format!("let its owner{owner} keep the annotations of this controller")
}

/// Returns the advice on a reload that was taken back.
#[must_use]
pub fn how_to_renew(owner: Option<&str>) -> String {
    match owner {
        None => "roll it out again (kubectl rollout restart)".to_owned(),
        // The owner would take back any change of the template, too.
        Some(_) => format!("{}, or recreate its pods", how_to_keep(owner)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_simply_rolled_out_is_told() {
        let caveat = |rollout: Rollout| rollout.caveat().map(|caveat| caveat.to_string());
        assert_eq!(caveat(Rollout::Automatic), None);
        assert_eq!(caveat(Rollout::partition(0)), None);
        let table = [
            (Rollout::Paused, "is paused"),
            (Rollout::OnDelete, "OnDelete"),
            (Rollout::partition(3), "the partition 3:"),
            (Rollout::partition(u64::MAX), "the partition 4294967295:"),
        ];
        for (rollout, part) in table {
            let text = caveat(rollout).unwrap();
            assert!(text.contains(part) && text.contains("get the new version"), "{text}");
        }
    }

    #[test]
    fn the_owner_is_named_where_there_is_one() {
        let owner = Some("Database/orders");
        assert!(how_to_keep(None).starts_with("let its owner keep the annotations"));
        assert!(how_to_keep(owner).starts_with("let its owner Database/orders keep"));
        assert!(how_to_renew(None).contains("kubectl rollout restart"));
        assert!(how_to_renew(owner).starts_with(&how_to_keep(owner)));
    }
}

//! Sentences that both log lines and Events contain.

use std::sync::Arc;

use super::event::Held;
use crate::decide::hold::Hold;
use crate::model::secret::SecretId;
use crate::model::strategy;
use crate::model::workload::WorkloadId;

/// The most secrets that a sentence names. A workload may refer to thousands.
const MOST_NAMES: usize = 10;

/// Formats secrets.
pub(crate) fn list(secrets: &[Arc<SecretId>]) -> String {
    join(secrets.iter().map(ToString::to_string))
}

/// Joins names with commas, and counts those over the limit.
pub(crate) fn join(mut names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(MOST_NAMES);
    let first: Vec<_> = names.by_ref().take(MOST_NAMES).collect();
    let first = first.join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

/// Says why a changed workload is not reloaded. `None` for holds that have other sentences.
pub(crate) fn held(
    workload: &WorkloadId,
    hold: Held<'_>,
    changed: &[Arc<SecretId>],
    gone: &[Arc<SecretId>],
) -> Option<String> {
    Some(match hold {
        Held::For(Hold::Deleting) => format!(
            "{workload} is being deleted, so it is not reloaded though {} changed",
            list(changed)
        ),
        Held::For(Hold::SecretGone) => format!(
            "Not reloading {workload}, though {} changed: {} is gone, and new pods would fail. It is \
             reloaded when that secret is back or no longer referred to",
            list(changed),
            list(gone)
        ),
        Held::Stripped { hours, by, owner } => {
            let by = by.map(|name| format!(" by {name}")).unwrap_or_default();
            format!(
                "Not reloading {workload} for {}: it was reloaded for this version already, and what \
                 was written was removed{by}. Next attempt in {hours} h; {}",
                list(changed),
                strategy::how_to_keep(owner)
            )
        }
        Held::Injector(advice) => format!(
            "Not reloading {workload}, though {} changed: {advice}. It is reloaded by itself once new \
             pods get their secrets",
            list(changed)
        ),
        Held::For(Hold::DryRun) => format!(
            "Would reload {workload} for {} (--dry-run, or the annotation dry-run of the workload or its \
             namespace)",
            list(changed)
        ),
        Held::For(Hold::Frozen { by, until }) => format!(
            "Not reloading {workload} for {} before {until}: {} freezes reloads",
            list(changed),
            by.freeze()
        ),
        Held::For(Hold::OutsideWindow { by, opens: Some(opens) }) => format!(
            "Not reloading {workload} for {} before {opens}: {} lets no reload begin at present",
            list(changed),
            by.windows()
        ),
        Held::For(Hold::OutsideWindow { by, opens: None }) => format!(
            "Not reloading {workload} for {}: {} lets no reload begin, and no opening is near. Check \
             the windows",
            list(changed),
            by.windows()
        ),
        Held::For(Hold::InvalidTimeRule { by, error }) => format!(
            "Not reloading {workload}, though {} changed: {} {error}",
            list(changed),
            error.place(by)
        ),
        Held::For(Hold::RotationStopped) => format!(
            "Not reloading {workload}, though {} changed: another workload failed after its reload. \
             This workload keeps running as it is. `status secret` names the one that failed",
            list(changed)
        ),
        Held::For(Hold::Interval) => format!(
            "Not reloading {workload} yet, though {} changed: it was reloaded a short while ago \
             (--reload-min-interval)",
            list(changed)
        ),
        Held::For(Hold::SecretOwner) => format!(
            "Not reloading {workload}, though {} changed: the owner of the secret holds its reloads \
             (custom_metadata reload=hold)",
            list(changed)
        ),
        // A failed PATCH has its own sentence. The others have one for all workloads that wait.
        Held::For(
            Hold::Stripped
            | Hold::BackOff
            | Hold::Budget
            | Hold::Wave
            | Hold::RolloutLimit
            | Hold::InjectorAway
            | Hold::InjectorMissing,
        ) => return None,
    })
}

/// Says that a reload was taken back, and what to do.
pub(crate) fn taken_back(
    workload: &WorkloadId,
    secrets: &[Arc<SecretId>],
    owner: Option<&str>,
) -> String {
    format!(
        "The reload of {workload} was taken back: an older revision was restored, and its pods may \
         run with an earlier version of {}. This is left as it is; to have the new version, {}",
        list(secrets),
        strategy::how_to_renew(owner)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::secret;

    #[test]
    fn a_sentence_names_a_few_secrets_and_counts_the_others() {
        let secrets: Vec<_> = (0..12).map(|number| secret(&format!("s{number}"))).collect();
        assert_eq!(list(&secrets[..2]), "s0, s1");
        assert_eq!(list(&secrets[..10]), "s0, s1, s2, s3, s4, s5, s6, s7, s8, s9");
        assert_eq!(list(&secrets), "s0, s1, s2, s3, s4, s5, s6, s7, s8, s9 and 2 more");
    }
}

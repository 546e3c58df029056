//! What the reloader tells of workloads: each thing once, when it begins.
//!
//! A report is a value, so that whoever listens need not read log lines: [`Log`] writes the lines
//! that operators read.
//!
//! Architecture Invariant: nothing is decided here, and nothing that is reported holds a value of a
//! secret.

use std::sync::Arc;

use tracing::{debug, error, info, warn};

use crate::decide::plan::{Cause, Hold};
use crate::engine::ports::WriteError;
use crate::model::secret::SecretId;
use crate::model::strategy::{self, Rollout};
use crate::model::workload::{Workload, WorkloadId};

/// The worker that log lines name.
pub(crate) const WORKER: &str = "reloader";

/// Something to tell of one workload.
#[derive(Debug)]
pub enum Report<'a> {
    /// A reload begins.
    Reloading {
        /// The secrets that changed.
        changed: &'a [Arc<SecretId>],
        /// Why they are taken as changed.
        cause: Cause,
    },
    /// The PATCH was answered.
    Reloaded {
        /// The reload count that it wrote.
        count: u64,
        /// What the workload's controller does with it.
        rollout: Rollout,
    },
    /// Read anew after a conflict, there was nothing to reload any more.
    NotNeeded,
    /// The PATCH failed, and is tried again.
    Failed {
        /// Why.
        error: &'a WriteError,
        /// Whether the same was told before.
        again: bool,
    },
    /// Something changed, and this stands in the way.
    Held {
        /// What.
        hold: Held<'a>,
        /// The secrets that changed.
        changed: &'a [Arc<SecretId>],
        /// The secrets that are gone.
        gone: &'a [Arc<SecretId>],
    },
    /// What stood in the way does so no more.
    Released,
    /// A reload was taken back by somebody.
    Reverted {
        /// For these secrets; for none: not any more.
        secrets: &'a [Arc<SecretId>],
        /// Whether all of it was told before.
        again: bool,
        /// The controller that owns the workload.
        owner: Option<&'a str>,
    },
    /// A secret may have changed, and its controller has yet to make a revision that tells.
    Waiting {
        /// Whether it has waited for so long that somebody should look.
        long: bool,
    },
}

/// What stands in the way of a reload, with what there is to say of it.
#[derive(Debug)]
pub enum Held<'a> {
    /// See [`Hold::Stripped`].
    Stripped {
        /// How long until the next attempt, in hours.
        hours: i64,
        /// Who wrote the workload last.
        by: Option<String>,
        /// The controller that owns the workload.
        owner: Option<&'a str>,
    },
    /// Another hold.
    For(Hold),
}

/// A workload from which what was written is removed again and again.
pub(crate) struct Stripped {
    pub(crate) workload: Arc<Workload>,
    /// Until the next attempt.
    pub(crate) hours: i64,
    pub(crate) changed: Vec<Arc<SecretId>>,
    pub(crate) gone: Vec<Arc<SecretId>>,
}

/// Where reports go.
pub trait Reporter: Send + Sync {
    /// Takes in a report of a workload.
    fn report(&self, id: &WorkloadId, report: &Report<'_>);

    /// Takes in that all is well: Vault has answered, and nothing was to be reloaded. Once a period.
    fn nothing_to_reload(&self) {}
}

/// Writes reports as log lines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Log;

impl Reporter for Log {
    fn nothing_to_reload(&self) {
        info!(worker = WORKER, "No workloads to reload");
    }

    fn report(&self, id: &WorkloadId, report: &Report<'_>) {
        match report {
            Report::Reloading { changed, cause } => info!(
                worker = WORKER,
                secrets = list(changed),
                cause = cause.name(),
                "Reloading workload: {id}"
            ),
            Report::Reloaded { count, rollout } => {
                debug!(worker = WORKER, "Reloaded {id}, count {count}");
                if let Some(caveat) = rollout.caveat() {
                    info!(worker = WORKER, "Reloaded {id}, {caveat}");
                }
            }
            Report::NotNeeded => debug!(worker = WORKER, "{id} needs no reload any more"),
            Report::Failed { error, again: true } => {
                debug!(worker = WORKER, "failed reloading workload: {id}: {error}");
            }
            Report::Failed { error, again: false } => {
                error!(worker = WORKER, "failed reloading workload: {id}: {error}. Retrying");
            }
            Report::Held { hold: Held::For(Hold::Deleting), changed, .. } => info!(
                worker = WORKER,
                "{id} is being deleted, and not reloaded though {} changed",
                list(changed)
            ),
            Report::Held { hold: Held::For(Hold::SecretGone), changed, gone } => warn!(
                worker = WORKER,
                "Not reloading {id}, though {} changed: {} is gone, and new pods would fail. It is \
                 reloaded once that is back, or is no longer referred to",
                list(changed),
                list(gone)
            ),
            Report::Held { hold: Held::Stripped { hours, by, owner }, changed, .. } => {
                let by = by.as_deref().map(|name| format!(" by {name}")).unwrap_or_default();
                warn!(
                    worker = WORKER,
                    "Not reloading {id} for {}: it was reloaded for this version already, and what \
                     was written was removed{by}. Next attempt in {hours} h; {}",
                    list(changed),
                    strategy::how_to_keep(*owner)
                );
            }
            // A failed PATCH was told of, and so is the budget, for all that wait for it at once.
            Report::Held { hold: Held::For(_), .. }
            | Report::Released
            | Report::Reverted { again: true, .. } => {}
            Report::Reverted { secrets, again: false, owner } => warn!(
                worker = WORKER,
                "The reload of {id} was taken back: an older revision was restored, and its pods may \
                 run with an earlier version of {}. This is left as it is; to have the new version, \
                 {}",
                list(secrets),
                strategy::how_to_renew(*owner)
            ),
            Report::Waiting { long: false } => {
                debug!(worker = WORKER, "{id} waits for its controller to make a revision");
            }
            Report::Waiting { long: true } => warn!(
                worker = WORKER,
                "{id} waits: a secret may have changed since it was deployed, and there is no \
                 revision of its present template to tell. Is it paused, or its controller not \
                 running?"
            ),
        }
    }
}

/// The most secrets that a line names: a workload may refer to thousands.
const MOST_NAMES: usize = 10;

/// Secrets for a log line.
fn list(secrets: &[Arc<SecretId>]) -> String {
    let names: Vec<_> = secrets.iter().take(MOST_NAMES).map(ToString::to_string).collect();
    let names = names.join(", ");
    match secrets.len().saturating_sub(MOST_NAMES) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fixtures::secret;

    #[test]
    fn a_line_names_a_few_secrets_and_counts_the_others() {
        let secrets: Vec<_> = (0..12).map(|number| secret(&format!("s{number}"))).collect();
        assert_eq!(list(&secrets[..2]), "s0, s1");
        assert_eq!(list(&secrets[..10]), "s0, s1, s2, s3, s4, s5, s6, s7, s8, s9");
        assert_eq!(list(&secrets), "s0, s1, s2, s3, s4, s5, s6, s7, s8, s9 and 2 more");
    }
}

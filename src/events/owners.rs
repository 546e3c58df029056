//! What the owners of workloads are told of reloads: findings that become Events on the workload.
//!
//! A state, such as a hold, is a finding while it lasts, so its Event is renewed. News, such as a
//! reload, are told once.

use std::sync::{Arc, OnceLock};

use super::event::{Change, Event, Held};
use super::text;
use crate::decide::hold::Hold;
use crate::election::leadership::Leadership;
use crate::events::sink::Sink;
use crate::index::Index;
use crate::index::findings::{Finding, FindingSource};
use crate::model::secret::Version;
use crate::model::workload::WorkloadId;

/// The reasons of these Events, each with its type.
pub const REASONS: [(&str, &str); 7] = [
    ("Reloaded", "Normal"),
    ("RolloutComplete", "Normal"),
    ("RolloutFailed", "Warning"),
    ("ReloadHeld", "Warning"),
    ("ReloadReleased", "Normal"),
    ("ReloadTakenBack", "Warning"),
    ("ReloadFailed", "Warning"),
];

/// Sets the findings about reloads while this replica leads.
#[derive(Debug)]
pub struct OwnerEvents {
    index: Arc<Index>,
    leadership: Arc<OnceLock<Leadership>>,
}

impl OwnerEvents {
    /// Returns a sink that writes to the findings of `index`.
    #[must_use]
    pub fn new(index: Arc<Index>, leadership: Arc<OnceLock<Leadership>>) -> Self {
        Self { index, leadership }
    }

    /// Sets the finding of a source. An empty reason removes it.
    fn set(&self, id: &WorkloadId, source: FindingSource, reason: &str, message: String) {
        let Some(uid) = self.index.uid(id) else { return };
        let known = REASONS.iter().find(|(known, _)| *known == reason);
        let finding = known.map(|(reason, kind)| Finding::new(reason, *kind == "Warning", message));
        self.index.findings().set(id, &uid, source, finding.into_iter().collect());
    }

    fn remove(&self, id: &WorkloadId, source: FindingSource) {
        self.index.findings().take_back(id, source);
    }
}

impl Sink for OwnerEvents {
    fn on(&self, event: &Event<'_>) {
        // Each replica sees how rollouts end.
        if !self.leadership.get().is_some_and(Leadership::holds) {
            return;
        }
        match *event {
            Event::Reloaded { workload, changes, .. } => {
                for source in
                    [FindingSource::Hold, FindingSource::TakenBack, FindingSource::Failure]
                {
                    self.remove(workload, source);
                }
                self.set(workload, FindingSource::Reload, "Reloaded", reloaded(changes));
            }
            Event::RolloutEnded { workload, failure: None } => {
                let message = "All pods run with the versions of the last reload".to_owned();
                self.set(workload, FindingSource::Rollout, "RolloutComplete", message);
            }
            Event::RolloutEnded { workload, failure: Some(failure) } => {
                let message = failure.advice().to_owned();
                self.set(workload, FindingSource::Rollout, "RolloutFailed", message);
            }
            Event::Held { workload, hold, changed, gone } => {
                if let Some(message) = text::held(workload, hold, changed, gone) {
                    self.set(workload, FindingSource::Hold, "ReloadHeld", message);
                } else if let Held::For(Hold::Budget | Hold::Wave | Hold::RolloutLimit) = hold {
                    self.remove(workload, FindingSource::Hold);
                }
            }
            Event::Released { workload }
                if self.index.findings().has(workload, FindingSource::Hold) =>
            {
                self.remove(workload, FindingSource::Hold);
                let message = "The reload is no longer held".to_owned();
                self.set(workload, FindingSource::Release, "ReloadReleased", message);
            }
            Event::Decided { decided, decision, .. } => {
                let workload = &decided.workload.id;
                let is_tried = decision.action.is_tried();
                if !is_tried && self.index.findings().has(workload, FindingSource::Failure) {
                    self.remove(workload, FindingSource::Failure);
                }
            }
            // What was not told belongs to an earlier term.
            Event::PollingBegan { .. } => self.index.findings().forget_news(),
            Event::TakenBack { workload, secrets: [], .. } => {
                self.remove(workload, FindingSource::TakenBack);
            }
            Event::TakenBack { workload, secrets, owner, .. } => {
                let message = text::taken_back(workload, secrets, owner);
                self.set(workload, FindingSource::TakenBack, "ReloadTakenBack", message);
            }
            Event::ReloadFailed { workload, error, .. } => {
                let message = format!("The reload failed, and is tried again: {error}");
                self.set(workload, FindingSource::Failure, "ReloadFailed", message);
            }
            Event::NotNeeded { workload } => self.remove(workload, FindingSource::Failure),
            _ => {}
        }
    }
}

/// Says for which secrets a workload was reloaded, from which version to which.
pub(crate) fn reloaded(changes: &[Change]) -> String {
    let number = |version: Option<Version>| match version {
        None => "an unknown version".to_owned(),
        Some(version) if version == Version::MISSING => "no version".to_owned(),
        Some(version) => format!("version {}", version.number),
    };
    let change = |change: &Change| {
        let Change { secret, from, to } = change;
        format!("{secret} from {} to {}", number(*from), number(*to))
    };
    format!("Reloaded for {}", text::join(changes.iter().map(change)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::plan::Cause;
    use crate::election::leadership::{Claim, election_channel};
    use crate::model::annotation::OptIn;
    use crate::model::fixtures::{secret, version};
    use crate::model::kind::Kind;
    use crate::model::progress::RolloutFailure;
    use crate::model::strategy::Rollout;
    use crate::references::environment::{Container, EnvVar};
    use crate::references::manifest::Manifest;

    /// A sink whose index has the workload `shop/Deployment/web`.
    fn bench(claim: Claim) -> (OwnerEvents, Arc<Index>, WorkloadId) {
        let mut manifest = Manifest {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: "u".to_owned(),
            ..Manifest::default()
        };
        manifest.annotations.push(OptIn::Current.key().to_owned(), "true".to_owned());
        let variables = vec![EnvVar::literal("A".to_owned(), "vault:secret/data/a#k".to_owned())];
        manifest.containers.push(Container { variables, ..Container::default() });
        let index = Arc::new(Index::default());
        let id = manifest.id(Kind::DEPLOYMENT);
        index.apply(manifest, Kind::DEPLOYMENT);
        let (candidate, leadership) = election_channel();
        candidate.say(claim);
        let led = Arc::new(OnceLock::new());
        assert!(led.set(leadership).is_ok());
        (OwnerEvents::new(Arc::clone(&index), led), index, id)
    }

    fn told(index: &Index) -> Vec<(&'static str, String)> {
        let next = || {
            let finding = index.findings().next()?;
            index.findings().told(&finding);
            Some((finding.notice.reason, finding.notice.message))
        };
        std::iter::from_fn(next).collect()
    }

    fn reasons(index: &Index) -> Vec<&'static str> {
        told(index).into_iter().map(|(reason, _)| reason).collect()
    }

    #[test]
    fn news_are_told_once_and_states_while_they_last() {
        let (sink, index, id) = bench(Claim::Always);
        let (a, workload) = (&[secret("a")][..], &id);
        let held = Event::Held { workload, hold: Held::For(Hold::SecretGone), changed: a, gone: a };
        sink.on(&held);
        sink.on(&held);
        assert_eq!(reasons(&index), ["ReloadHeld"]);
        assert!(index.findings().has(&id, FindingSource::Hold), "it lasts");
        sink.on(&Event::Released { workload });
        assert_eq!(reasons(&index), ["ReloadReleased"]);
        sink.on(&Event::Released { workload });
        assert_eq!(reasons(&index), [""; 0], "nothing was held");
        let (from, to) = (Some(version(1, 1)), Some(version(2, 2)));
        let changes = &[Change { secret: secret("a"), from, to }];
        let (cause, rollout, delay) = (Cause::Witnessed, Rollout::Automatic, None);
        let reloaded = Event::Reloaded { workload, count: 1, cause, rollout, changes, delay };
        sink.on(&reloaded);
        let message = "Reloaded for a from version 1 to version 2".to_owned();
        assert_eq!(told(&index), [("Reloaded", message)]);
        sink.on(&Event::RolloutEnded { workload, failure: Some(RolloutFailure::FailedCreate) });
        sink.on(&Event::RolloutEnded { workload, failure: None });
        assert_eq!(reasons(&index), ["RolloutComplete"], "the last one counts");
        sink.on(&Event::TakenBack { workload, secrets: a, again: false, owner: None });
        assert_eq!(reasons(&index), ["ReloadTakenBack"]);
        sink.on(&Event::ReloadFailed { workload, cause, error: "refused", again: false });
        assert_eq!(reasons(&index), ["ReloadFailed"]);
        assert!(index.findings().has(&id, FindingSource::Failure));
        // The back-off is over, and the same error comes again.
        sink.on(&Event::Released { workload });
        sink.on(&Event::ReloadFailed { workload, cause, error: "refused", again: true });
        assert!(index.findings().has(&id, FindingSource::Failure));
        sink.on(&reloaded);
        assert!(!index.findings().has(&id, FindingSource::Failure));
        // These are no findings about references.
        assert!(index.findings().counts().is_empty() && index.findings().of(&id).is_empty());
    }

    #[test]
    fn a_replica_that_does_not_lead_tells_nothing() {
        let (sink, index, id) = bench(Claim::No);
        sink.on(&Event::RolloutEnded { workload: &id, failure: None });
        assert_eq!(reasons(&index), [""; 0]);
    }

    #[test]
    fn each_reason_has_a_type() {
        let (sink, index, id) = bench(Claim::Always);
        let error = &"x".repeat(5_000);
        let cause = Cause::Found;
        sink.on(&Event::ReloadFailed { workload: &id, cause, error, again: false });
        let finding = index.findings().next().unwrap();
        assert!(finding.notice.is_warning && finding.notice.message.len() < 1_024);
        assert_eq!(finding.source.action(), "Reloading");
    }
}

//! Carries out the effects of changes of the index.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::events::event::Event;
use crate::events::sink::Events;
use crate::index::effect::Effect;
use crate::model::scope::ListScope;

/// Carries out effects: wakes the tasks that have something to read, and emits events. Clones share
/// their state.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    events: Events,
    tasks: Arc<Mutex<Tasks>>,
}

/// The tasks to wake.
#[derive(Debug, Default)]
struct Tasks {
    source_readers: Vec<Arc<Notify>>,
    collectors: Vec<(ListScope, Arc<Notify>)>,
}

impl Effects {
    /// Makes effects that are reported to `events`.
    #[must_use]
    pub fn new(events: Events) -> Self {
        Self { events, ..Self::default() }
    }

    /// Emits an event that is no effect.
    pub(super) fn emit(&self, event: &Event<'_>) {
        self.events.emit(event);
    }

    /// Carries out the effects of one change.
    pub fn carry_out(&self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::ReadSources => {
                    for reader in &self.tasks().source_readers {
                        reader.notify_one();
                    }
                }
                Effect::ListAgain(workload) => {
                    self.emit(&Event::ListAgain { workload });
                    self.list_again(|scope| scope.contains(workload));
                }
                Effect::Collected { id: workload, is_of_first_list } => {
                    let is_of_first_list = *is_of_first_list;
                    self.emit(&Event::Collected { workload, is_of_first_list });
                }
                Effect::RolloutEnded { id: workload, failure } => {
                    self.emit(&Event::RolloutEnded { workload, failure: *failure });
                }
                Effect::Removed(workload) => self.emit(&Event::Removed { workload }),
                Effect::Noted { id: workload, notes, record_error, .. } => {
                    let record_error = record_error.as_ref();
                    self.emit(&Event::Noted { workload, notes, record_error });
                }
                Effect::FirstListEnded { kind, workloads, secrets, waiting } => {
                    let (kind, workloads, secrets) = (*kind, *workloads, *secrets);
                    self.emit(&Event::FirstListEnded {
                        kind,
                        workloads,
                        secrets,
                        waiting: *waiting,
                    });
                }
            }
        }
    }

    /// Makes all collectors list again.
    pub(super) fn list_all_again(&self) {
        self.list_again(|_| true);
    }

    /// Adds a reader of sources. It is notified when there may be sources to read.
    pub(super) fn add_source_reader(&self) -> Arc<Notify> {
        let reader = Arc::new(Notify::new());
        self.tasks().source_readers.push(Arc::clone(&reader));
        reader
    }

    /// Adds a collector. It is notified when its workloads are to be listed again.
    pub(super) fn add_collector(&self, scope: ListScope) -> Arc<Notify> {
        let collector = Arc::new(Notify::new());
        self.tasks().collectors.push((scope, Arc::clone(&collector)));
        collector
    }

    fn list_again(&self, is_wanted: impl Fn(&ListScope) -> bool) {
        for (_, collector) in self.tasks().collectors.iter().filter(|(scope, _)| is_wanted(scope)) {
            // A collector that does not wait at present finds the notification later.
            collector.notify_one();
        }
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        // A panic under the lock ends the process. Until then, its other tasks may still read.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::model::kind::Kind;
    use crate::model::workload::WorkloadId;

    #[test]
    fn only_the_collector_of_a_workload_lists_again() {
        let effects = Effects::default();
        let kind = Kind::DEPLOYMENT;
        let of = |name: &str| ListScope { kind, namespace: Some(name.into()) };
        let [shop, bank] = ["shop", "bank"].map(|name| effects.add_collector(of(name)));
        let id = WorkloadId { kind, namespace: "shop".into(), name: "web".into() };
        effects.carry_out(&[Effect::ListAgain(id)]);
        let is_notified = |collector: &Notify| collector.notified().now_or_never().is_some();
        assert!(is_notified(&shop) && !is_notified(&bank));
        effects.list_all_again();
        assert!(is_notified(&shop) && is_notified(&bank));
        assert!(!is_notified(&shop), "once");
    }
}

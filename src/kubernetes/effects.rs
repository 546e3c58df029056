//! Carries out the effects of changes of the index.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::events::event::Event;
use crate::events::sink::Events;
use crate::index::effect::Effect;
use crate::model::kind::Kind;
use crate::references::environment::SourceKind;

/// Carries out effects: wakes the tasks that have something to read, and emits events. Clones share
/// their state.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    events: Events,
    source_readers: Arc<[Notify; SourceKind::ALL.len()]>,
    collectors: Arc<[Notify; Kind::ALL.len()]>,
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
                    for reader in &*self.source_readers {
                        reader.notify_one();
                    }
                }
                Effect::ListAgain(workload) => {
                    self.emit(&Event::ListAgain { workload });
                    self.collectors[workload.kind.place()].notify_one();
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

    /// Waits until there are sources of a kind to read.
    pub(super) async fn sources_to_read(&self, kind: SourceKind) {
        let place = match kind {
            SourceKind::ConfigMap => 0,
            SourceKind::Secret => 1,
        };
        self.source_readers[place].notified().await;
    }

    /// Waits until a kind is to be listed again.
    pub(super) async fn list_again(&self, kind: Kind) {
        self.collectors[kind.place()].notified().await;
    }
}

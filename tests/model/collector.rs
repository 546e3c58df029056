//! The collector of the model: the list of all workloads, the watch after the list, and the
//! ConfigMaps that workloads name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use vault_secrets_reloader::decide::clock::ServerClock;
use vault_secrets_reloader::engine::wake::Wake;
use vault_secrets_reloader::events::event::Event;
use vault_secrets_reloader::events::sink::Sink;
use vault_secrets_reloader::index::Index;
use vault_secrets_reloader::index::effect::Effect;
use vault_secrets_reloader::model::kind::Kind;
use vault_secrets_reloader::references::environment::SourceKind;
use vault_secrets_reloader::references::source::SourceId;

use crate::ports::{Shared, date, lock};
use crate::time;
use crate::world::{Seen, process_of, source_id};

/// The longest duration of a read of a ConfigMap, in milliseconds.
const LONGEST_READ: u64 = 2_000;

/// The collector of one life of a process.
pub(crate) struct Collector {
    pub(crate) world: Shared,
    pub(crate) life: u64,
    pub(crate) index: Arc<Index>,
    pub(crate) cluster_clock: Arc<ServerClock>,
    /// Wakes the engines when a rollout ends, in some processes.
    pub(crate) wake: Option<Wake>,
    /// The reads under way, with the time of their answers.
    pub(crate) reads: BTreeMap<(Instant, usize), SourceId>,
}

impl Collector {
    /// Lists all workloads, and then follows the events of the watch.
    pub(crate) async fn run(
        mut self,
        synced: CancellationToken,
        mut events: UnboundedReceiver<(Instant, Seen)>,
    ) {
        while !lock(&self.world).api_answers() {
            sleep(Duration::from_millis(500)).await;
        }
        self.list();
        synced.cancel();
        let mut next: Option<(Instant, Seen)> = None;
        loop {
            let due = next
                .as_ref()
                .map(|(time, _)| *time + lock(&self.world).watch_delay(process_of(self.life)));
            let read = self.reads.keys().next().map(|(time, _)| *time);
            tokio::select! {
                biased;
                () = at(due) => {
                    if let Some((_, event)) = next.take() {
                        self.handle(event);
                    }
                }
                () = at(read) => self.end_read(),
                event = events.recv(), if next.is_none() => match event {
                    Some(event) => next = Some(event),
                    None => return,
                },
            }
        }
    }

    fn list(&mut self) {
        let manifests: Vec<_> = lock(&self.world).manifests().collect();
        // This is the first request of the process, so no event is lost between the list and the
        // watch.
        self.cluster_clock.observe_date(&date(time::now()), time::own(), time::own());
        for kind in Kind::ALL {
            self.index.begin_list(kind);
            for (manifest, _) in manifests.iter().filter(|(_, of)| *of == kind) {
                self.handle(Seen::Applied(Box::new(manifest.clone()), kind));
            }
            self.index.end_list(kind);
        }
        let namespace = lock(&self.world).namespace.clone();
        self.handle(Seen::Namespace(namespace));
        lock(&self.world).synced.insert(self.life, Instant::now());
    }

    fn handle(&mut self, event: Seen) {
        match event {
            Seen::Applied(manifest, kind) => {
                let effects = self.index.apply(*manifest, kind);
                self.wake_engines(&effects);
                for source in self.index.take_unread_sources(SourceKind::ConfigMap, None) {
                    self.begin_read(source);
                }
            }
            Seen::Deleted(id) => {
                self.index.delete(&id);
            }
            Seen::Namespace(rules) => {
                self.index.namespaces().apply("shop", rules);
            }
            Seen::Source(source) => {
                let id = source_id(&"shop".into(), source);
                if self.index.names_source(&id) {
                    self.begin_read(id);
                }
            }
        }
    }

    fn wake_engines(&self, effects: &[Effect]) {
        let Some(wake) = &self.wake else { return };
        for effect in effects {
            if let Effect::RolloutEnded { id, failure } = effect {
                wake.on(&Event::RolloutEnded { workload: id, failure: *failure });
            }
        }
    }

    fn begin_read(&mut self, source: SourceId) {
        let delay = lock(&self.world).below(LONGEST_READ);
        let mut time = Instant::now() + Duration::from_millis(delay);
        // Reads of one ConfigMap end in their order.
        let of_same = self.reads.iter().filter(|(_, other)| **other == source);
        let last = of_same.map(|((time, _), _)| *time).max();
        time = last.map_or(time, |last| last.max(time));
        let number = self.reads.keys().map(|(_, number)| number + 1).max().unwrap_or(0);
        self.reads.insert((time, number), source);
    }

    fn end_read(&mut self) {
        let Some((_, source)) = self.reads.pop_first() else { return };
        let found = lock(&self.world).read_source(&source);
        self.index.put_source(&source, found);
        while self.index.read_next_changed().is_some() {}
    }
}

/// Waits until a time. Without a time, waits for ever.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

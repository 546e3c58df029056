//! Wakes engines when the cluster has changed in a way that lets waiting reloads start.

use tokio::sync::watch;

use crate::events::event::Event;
use crate::events::sink::Sink;

/// A sink of events that wakes engines when a rollout has ended. Clones share the engines.
#[derive(Clone, Debug)]
pub struct Wake(watch::Sender<()>);

impl Default for Wake {
    fn default() -> Self {
        Self(watch::channel(()).0)
    }
}

impl Wake {
    /// Returns a receiver for one engine. Several events before the engine looks are one.
    #[must_use]
    pub fn receiver(&self) -> WakeReceiver {
        WakeReceiver(self.0.subscribe())
    }
}

impl Sink for Wake {
    fn on(&self, event: &Event<'_>) {
        if let Event::RolloutEnded { .. } = event {
            self.0.send_replace(());
        }
    }
}

/// The end that an engine waits at.
#[derive(Debug)]
pub struct WakeReceiver(watch::Receiver<()>);

impl WakeReceiver {
    /// Waits for the next event. Without a sender there is none.
    pub(super) async fn wait(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Default for WakeReceiver {
    /// Returns a receiver that nobody wakes.
    fn default() -> Self {
        Wake::default().receiver()
    }
}

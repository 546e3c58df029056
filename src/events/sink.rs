//! The sinks that take events.

use std::fmt;
use std::sync::Arc;

use super::event::Event;

/// A sink takes events. It must not wait, because events come from loops that process workloads.
pub trait Sink: Send + Sync {
    /// Takes an event.
    fn on(&self, event: &Event<'_>);
}

impl<S: Sink> Sink for Arc<S> {
    fn on(&self, event: &Event<'_>) {
        (**self).on(event);
    }
}

/// Sends each event to all sinks. Clones share the sinks.
#[derive(Clone, Default)]
pub struct Events(Arc<[Box<dyn Sink>]>);

impl Events {
    /// Returns a sender for these sinks. Each event goes to the sinks in this order.
    #[must_use]
    pub fn new(sinks: Vec<Box<dyn Sink>>) -> Self {
        Self(sinks.into())
    }

    /// Sends an event to all sinks.
    pub fn emit(&self, event: &Event<'_>) {
        for sink in &*self.0 {
            sink.on(event);
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Events for {} sinks", self.0.len())
    }
}

//! Where events go.

use std::fmt;
use std::sync::Arc;

use super::event::Event;

/// Takes in events. It must not wait: events come from loops that move workloads.
pub trait Sink: Send + Sync {
    /// Takes in an event.
    fn on(&self, event: &Event<'_>);
}

impl<S: Sink> Sink for Arc<S> {
    fn on(&self, event: &Event<'_>) {
        (**self).on(event);
    }
}

/// Where events go: to each of some sinks. Clones share them.
#[derive(Clone, Default)]
pub struct Events(Arc<[Box<dyn Sink>]>);

impl Events {
    /// Events for some sinks, which are told in this order.
    #[must_use]
    pub fn new(sinks: Vec<Box<dyn Sink>>) -> Self {
        Self(sinks.into())
    }

    /// Tells all sinks of an event.
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

//! Notifications: chosen events become messages, which are sent to one webhook.
//!
//! [`notifier`] is a sink of events. It makes messages, leaves out those over the rate limit, and puts
//! the others into a queue. [`sender`] takes them from the queue and sends them.
//!
//! Architecture Invariant: nothing here delays a reload. The sink never waits, and the queue has a
//! bound. A webhook that hangs or fails costs messages, and nothing else. The address of the webhook
//! and the headers are secrets: they are in no log line and no error.

pub mod client;
mod limit;
#[cfg(test)]
mod listener;
pub mod message;
pub mod metrics;
pub mod notifier;
mod retry;
pub mod sender;
pub mod template;
mod told;

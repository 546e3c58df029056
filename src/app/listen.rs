//! The sockets that the process listens on.

use anyhow::Context as _;
use tokio::net::TcpListener;

use crate::config::Listen;

/// Listens at an address. `name` is its flag or variable, for the error.
pub(super) async fn bind(name: &str, listen: &Listen) -> anyhow::Result<TcpListener> {
    let Listen { host, port } = listen;
    let context = || format!("{name}: cannot listen at {host:?}, port {port}");
    match host {
        Some(host) => TcpListener::bind((host.as_str(), *port)).await.with_context(context),
        None => match TcpListener::bind(("::", *port)).await {
            Ok(listener) => Ok(listener),
            // The machine may have no IPv6.
            Err(_) => TcpListener::bind(("0.0.0.0", *port)).await.with_context(context),
        },
    }
}

//! The name of a server in TLS, if its certificate has another name than its address.

use http::header::{HOST, HeaderValue};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Puts the name that the certificate must have into the URL of a request, because TLS takes the
/// expected name from the URL. The address of the connection and the `Host` header stay the same.
pub(super) fn name_server(request: &mut reqwest::Request, name: &str) {
    let url = request.url();
    let host = url.host_str().unwrap_or_default();
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    if let Ok(host) = HeaderValue::from_str(&host) {
        request.headers_mut().insert(HOST, host);
    }
    // The configuration refuses names that no URL can have.
    let _ = request.url_mut().set_host(Some(name));
}

/// A resolver that returns the addresses of one host for every name.
pub(super) struct AddressesOf(pub(super) String);

impl Resolve for AddressesOf {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((host, 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

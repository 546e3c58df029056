//! The configuration of the status API.

use std::net::IpAddr;
use std::path::PathBuf;

use super::error::{ConfigError, error};
use super::value::{self, Listen, boolean};

/// The address of the status by default.
pub(super) const DEFAULT_ADDRESS: &str = "127.0.0.1:9180";

/// Where the status is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusApi {
    /// The address.
    pub listen: Listen,
    /// Whether the address is the default one. The controller then goes on without the status if
    /// another process has the port.
    pub is_default: bool,
    /// The file with the token that callers must send.
    pub token_file: Option<PathBuf>,
    /// Whether the page at `/ui` is served, too.
    pub page: bool,
}

/// Returns the settings of the status API. `None` if the address is empty.
pub(super) fn api(
    address: &str,
    token_file: Option<String>,
    page: &str,
) -> Result<Option<StatusApi>, ConfigError> {
    let token_file = token_file
        .map(|file| value::secret_path("--status-token-file", &file).map(PathBuf::from))
        .transpose()?;
    let has_page = boolean("--status-page", page)?;
    if address.is_empty() {
        if has_page {
            let problem = "the page is served at --status-address, which is empty";
            return Err(error("--status-page", page, problem));
        }
        return Ok(None);
    }
    let listen = value::listen("--status-address", address)?;
    let host = listen.host.as_deref().unwrap_or_default();
    let is_loopback =
        host == "localhost" || host.parse().is_ok_and(|host: IpAddr| host.is_loopback());
    if !is_loopback && token_file.is_none() {
        let problem = "not a loopback address; set --status-token-file as well, so that only \
                       callers with its token see the status";
        return Err(error("--status-address", address, problem));
    }
    let is_default = address == DEFAULT_ADDRESS;
    Ok(Some(StatusApi { listen, is_default, token_file, page: has_page }))
}

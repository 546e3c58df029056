//! The configuration of the status API.

use std::net::IpAddr;
use std::path::PathBuf;

use super::error::{ConfigError, error};
use super::value::{self, Listen};

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
}

/// Returns the settings of the status API. `None` if the address is empty.
pub(super) fn api(
    address: &str,
    token_file: Option<String>,
) -> Result<Option<StatusApi>, ConfigError> {
    let token_file = token_file
        .map(|file| value::secret_path("--status-token-file", &file).map(PathBuf::from))
        .transpose()?;
    if address.is_empty() {
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
    Ok(Some(StatusApi { listen, is_default: address == DEFAULT_ADDRESS, token_file }))
}

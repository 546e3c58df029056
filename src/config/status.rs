//! The configuration of the status API.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::error::{ConfigError, error};
use super::value::{self, Listen};

/// The address of the status by default.
pub(super) const DEFAULT_ADDRESS: &str = "127.0.0.1:9180";

/// The audience of tokens by default.
pub(super) const DEFAULT_AUDIENCE: &str = "vault-secrets-reloader";

/// The longest audience, in bytes.
const LONGEST_AUDIENCE: usize = 253;

/// Where the status is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusApi {
    /// The address.
    pub listen: Listen,
    /// Whether the address is the default one. The controller then goes on without the status if
    /// another process has the port.
    pub is_default: bool,
    /// Whether only this machine reaches the address.
    pub is_loopback: bool,
    /// The file with the token that callers may send.
    pub token_file: Option<PathBuf>,
    /// The audience of the tokens of the cluster that callers may send; `None` if the cluster is not
    /// asked about callers.
    pub audience: Option<String>,
    /// Whether the page at `/ui` is served, too.
    pub page: bool,
}

impl StatusApi {
    /// Whether callers must send a token.
    #[must_use]
    pub fn needs_token(&self) -> bool {
        self.token_file.is_some() || self.audience.is_some()
    }
}

// The flags of the status API. A doc comment would become the text of --help of the program.
#[derive(Debug, Args)]
#[expect(clippy::doc_markdown, reason = "the comments are the text of --help")]
pub(super) struct StatusFlags {
    /// Where the status of rotations is served. Anything but a loopback address needs
    /// --status-kubernetes-auth or --status-token-file. All replicas need the same address. An empty
    /// address switches the status off
    #[arg(long = "status-address", value_name = "ADDRESS", default_value = DEFAULT_ADDRESS)]
    pub(super) address: String,
    /// A file with a token that callers of the status must send, as `Authorization: Bearer TOKEN`.
    /// The file is read for each request
    #[arg(long = "status-token-file", value_name = "FILE")]
    pub(super) token_file: Option<String>,
    /// Let in callers of the status whose token the cluster knows, and who may get its paths:
    /// by TokenReview and SubjectAccessReview. Beside --status-token-file, either is enough
    #[arg(
        long = "status-kubernetes-auth",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true"
    )]
    pub(super) kubernetes_auth: String,
    /// The audience that tokens for --status-kubernetes-auth must have
    #[arg(long = "status-audience", value_name = "NAME", default_value = DEFAULT_AUDIENCE)]
    pub(super) audience: String,
    /// Serve a page for browsers at `/ui` of --status-address
    #[arg(
        long = "status-page",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true"
    )]
    pub(super) page: String,
}

/// Returns the settings of the status API. `None` if the address is empty.
pub(super) fn api(flags: StatusFlags) -> Result<Option<StatusApi>, ConfigError> {
    let StatusFlags { address, token_file, kubernetes_auth, audience, page } = flags;
    let address = address.as_str();
    let token_file = token_file
        .map(|file| value::secret_path("--status-token-file", &file).map(PathBuf::from))
        .transpose()?;
    let audience = audience_if(&kubernetes_auth, audience)?;
    let has_page = value::boolean("--status-page", &page)?;
    if address.is_empty() {
        if has_page {
            let problem = "the page is served at --status-address, which is empty";
            return Err(error("--status-page", &page, problem));
        }
        return Ok(None);
    }
    let listen = value::listen("--status-address", address)?;
    let host = listen.host.as_deref().unwrap_or_default();
    let is_loopback =
        host == "localhost" || host.parse().is_ok_and(|host: IpAddr| host.is_loopback());
    let is_default = address == DEFAULT_ADDRESS;
    let api = StatusApi { listen, is_default, is_loopback, token_file, audience, page: has_page };
    if !is_loopback && !api.needs_token() {
        let problem = "not a loopback address; set --status-kubernetes-auth or \
                       --status-token-file as well, so that only callers with a token see the \
                       status";
        return Err(error("--status-address", address, problem));
    }
    Ok(Some(api))
}

/// Returns the audience of tokens of the cluster, if the cluster is asked about callers.
fn audience_if(is_on: &str, audience: String) -> Result<Option<String>, ConfigError> {
    let is_on = value::boolean("--status-kubernetes-auth", is_on)?;
    let is_plain = |c: char| c.is_ascii_graphic();
    let is_usable = (1..=LONGEST_AUDIENCE).contains(&audience.len());
    if !is_usable || !audience.chars().all(is_plain) {
        let problem = "not an audience; write a name or a URL without spaces";
        return Err(error("--status-audience", &audience, problem));
    }
    Ok(is_on.then_some(audience))
}

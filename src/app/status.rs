//! The server of the status: who may read it, and what it asks the API server.

use std::sync::{Arc, OnceLock};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::listen::bind;
use crate::config::StatusApi;
use crate::election::leadership::Leadership;
use crate::kubernetes::access::StatusRequests;
use crate::kubernetes::callers::CallerReviewer;
use crate::kubernetes::client::Client;
use crate::kubernetes::leader;
use crate::kubernetes::leader_pod::LeaderPodReader;
use crate::status::report::Sources;
use crate::web::access::Access;
use crate::web::api::{self, Api};
use crate::web::standby::Standby;
use crate::web::{page, serve};

/// The server of the status, before it listens.
pub(super) struct StatusServer<'a> {
    client: &'a Client,
    sources: Sources,
    leadership: Arc<OnceLock<Leadership>>,
    /// The settings of leader election; `None` if it is off.
    election: Option<&'a leader::Settings>,
}

impl<'a> StatusServer<'a> {
    pub(super) fn new(
        client: &'a Client,
        sources: Sources,
        leadership: Arc<OnceLock<Leadership>>,
        election: Option<&'a leader::Settings>,
    ) -> Self {
        Self { client, sources, leadership, election }
    }

    /// Spawns the server, and returns what it asks the API server. If another process has the default
    /// port, the controller goes on without the status.
    pub(super) async fn spawn(
        self,
        status: Option<StatusApi>,
        tasks: &mut JoinSet<&'static str>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<StatusRequests> {
        let Some(status) = status else { return Ok(StatusRequests::default()) };
        let listener = match bind("--status-address", &status.listen).await {
            Ok(listener) => listener,
            Err(error) if status.is_default => {
                warn!(
                    "The status is not served: {error:#}. Set --status-address to another address"
                );
                return Ok(StatusRequests::default());
            }
            Err(error) => return Err(error),
        };
        let address = listener.local_addr()?;
        info!("Serving the status at {address}");
        // At the default address, and without a token, only this machine may ask.
        let is_forwarding = status.needs_token() && !status.is_default && self.election.is_some();
        let requests =
            StatusRequests { reviews: status.audience.is_some(), leader_pod: is_forwarding };
        let standby = self.standby(address.port(), is_forwarding.then_some(status.is_loopback));
        let (has_page, is_open) = (status.page, status.needs_token());
        let access = self.access(status);
        let mut router = api::router(Api::new(self.sources, self.leadership, access, standby));
        if has_page {
            router = router.merge(page::router(is_open));
        }
        tasks.spawn(async move {
            serve(listener, router, shutdown).await;
            "server of the status"
        });
        Ok(requests)
    }

    fn access(&self, status: StatusApi) -> Access {
        let access = Access::of_this_machine().with_token_file(status.token_file);
        match status.audience {
            Some(audience) => {
                let reviewer = CallerReviewer::new(self.client.clone(), audience.clone());
                access.with_cluster(Arc::new(reviewer), audience)
            }
            None => access,
        }
    }

    /// Returns what answers while this replica does not lead. With `forwarding`, requests are
    /// forwarded to the leader; its value tells whether this replica listens on a loopback address.
    fn standby(&self, port: u16, forwarding: Option<bool>) -> Standby {
        // Without leader election, each replica leads.
        let namespace = self.election.map(|settings| settings.namespace.clone());
        let namespace = namespace.unwrap_or_default();
        let standby = Standby::new(self.sources.replica.to_string(), namespace.clone(), port);
        match forwarding {
            Some(is_loopback) => {
                let pods = LeaderPodReader::new(self.client.clone(), namespace);
                standby.with_route(Arc::new(pods), is_loopback)
            }
            None => standby,
        }
    }
}

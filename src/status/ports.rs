//! The traits through which the API asks the cluster: who calls, and where the leader's pod is.
//! `kubernetes/` implements them.

use std::net::IpAddr;
use std::sync::Arc;

use futures::future::BoxFuture;

/// What the cluster says about a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Review {
    /// The caller may read the path.
    Allowed,
    /// The token is wrong, has expired, or is for another audience.
    Unknown,
    /// The token is right, and its user may not read the path.
    Denied {
        /// The name of the user.
        user: Arc<str>,
    },
}

/// Why the cluster says nothing about a caller. No text repeats a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// The service account of the controller lacks a permission.
    #[error(
        "the controller may not create {0}. Grant its service account create on it; the chart does \
         so with status.kubernetesAuth"
    )]
    Forbidden(&'static str),
    /// The API server failed, or could not be reached.
    #[error("the API server does not answer for {resource}: {cause}. Try again in a moment")]
    Failed {
        /// What was requested.
        resource: &'static str,
        /// The cause.
        cause: String,
    },
    /// There was no answer in time.
    #[error("the API server did not answer in time. Try again in a moment")]
    TimedOut,
}

/// Asks the cluster about callers.
pub trait Callers: Send + Sync {
    /// Returns whether the user of a token may `get` a path.
    fn review<'a>(
        &'a self,
        token: &'a str,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Review, ReviewError>>;
}

/// Why the address of the leader's pod is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaderPodError {
    /// The service account of the controller lacks a permission.
    #[error(
        "the controller may not read the pod {0}. Grant its service account get on pods in this \
         namespace"
    )]
    Forbidden(String),
    /// There is no such pod.
    #[error("the pod {0} does not exist. Does the leader run outside the cluster?")]
    Missing(String),
    /// The pod does not run, so its address may be that of another pod by now.
    #[error("the pod {0} does not run. Another replica leads soon")]
    NotRunning(String),
    /// The API server failed, or could not be reached.
    #[error("the pod {pod} cannot be read: {cause}")]
    Failed {
        /// The namespace and the name of the pod.
        pod: String,
        /// The cause.
        cause: String,
    },
}

/// Finds the address of the leader's pod.
pub trait LeaderPods: Send + Sync {
    /// Returns the address of a running pod in the namespace of the Lease.
    fn address<'a>(&'a self, pod: &'a str) -> BoxFuture<'a, Result<IpAddr, LeaderPodError>>;
}

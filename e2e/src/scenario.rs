//! The steps that many scenarios share: write and rotate secrets, deploy workloads, compare counts,
//! and check that a controller sent no forbidden request.
//!
//! The controller compares times of whole seconds, so a workload that is deployed in the same
//! second as a rotation may be reloaded once more. Scenarios that are not about that second write
//! secrets by [`Bed::write_secrets`], which waits for the second to pass.
//!
//! If a revision is made after a rotation, its pods have the new version, and the workload is
//! rightly not reloaded. Scenarios that rotate right after a change of a template or a reload first
//! wait for the revision or the rollout.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use crate::bed::Bed;
use crate::controller::{Controller, ControllerOptions};
use crate::counts::{ApiRequest, Mark};
use crate::state::State;
use crate::vault::Version;
use crate::wait::eventually;
use crate::workload::{Workload, WorkloadName};

/// The time-out of steps that take a second or two. It is long, because a machine may be under
/// heavy load.
pub const SOON: Duration = Duration::from_secs(30);

/// The number of objects that are written at once. More requests would only wait in line.
pub const AT_ONCE: usize = 16;

/// The start of the user agent in the controller's requests to the API server.
pub const USER_AGENT: &str = "vault-secrets-reloader/";

/// The line at the end of a poll that found nothing to reload.
pub const HEARTBEAT: &str = "No workloads to reload";

/// Returns the defaults with two polls a second.
#[must_use]
pub fn polling_fast() -> ControllerOptions {
    ControllerOptions::new().flag("--reloader-run-period", "500ms")
}

/// Returns the defaults with four polls a second. They are for scenarios that wait for many polls,
/// and in which the number of changes between two polls does not matter.
#[must_use]
pub fn polling_faster() -> ControllerOptions {
    ControllerOptions::new().flag("--reloader-run-period", "250ms")
}

/// Returns an opted-in Deployment without pods that refers to the key `k` of a secret of the mount
/// `secret`, for scenarios that are not about pods.
#[must_use]
pub fn deployment_without_pods(name: &str, secret: &str) -> Workload {
    Workload::deployment("default", name)
        .replicas(0)
        .opted_in()
        .env("A", &format!("vault:secret/data/{secret}#k"))
}

/// Waits until the clock's second is over, and a hundredth more. Earlier events are then older,
/// also by times of whole seconds.
pub async fn next_second() -> Result<()> {
    let hundredths = || {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        time.map_or(0, |time| time.as_millis() / 10)
    };
    let end = hundredths() / 100 * 100 + 101;
    eventually("the next second", Duration::from_secs(5), || async {
        Ok((hundredths() >= end).then_some(()))
    })
    .await
}

/// Waits until a poll has just ended with nothing to reload. The next poll then sees all changes
/// made now.
pub async fn just_after_a_poll(controller: &Controller) -> Result<()> {
    let seen = controller.lines().len();
    controller.wait_for_after(seen, HEARTBEAT, SOON).await.map(drop)
}

impl Bed {
    /// Writes secrets of the mount `secret` for workloads that are deployed after this.
    pub async fn write_secrets(&self, paths: &[&str]) -> Result<()> {
        for path in paths {
            self.rotate(path).await?;
        }
        next_second().await
    }

    /// Gives a secret of the mount `secret` a new version with a new value of its key `k`.
    pub async fn rotate(&self, path: &str) -> Result<Version> {
        let value = format!("{:032x}", fastrand::u128(..));
        self.vault.kv("secret").put(path, json!({ "k": value })).await
    }

    /// Applies workloads, and waits until all are rolled out.
    pub async fn deploy_all(&self, workloads: &[&Workload]) -> Result<()> {
        stream::iter(workloads)
            .map(|workload| self.cluster.apply(workload))
            .buffer_unordered(AT_ONCE)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        for workload in workloads {
            self.cluster.wait_rolled_out(workload).await?;
        }
        Ok(())
    }

    /// Returns the reload count of each workload; `None` for a workload without a count.
    pub async fn counts(&self, workloads: &[&Workload]) -> Result<Vec<Option<i64>>> {
        Ok(self.states(workloads).await?.iter().map(State::count).collect())
    }

    async fn states(&self, workloads: &[&Workload]) -> Result<Vec<State>> {
        let names: Vec<&WorkloadName> = workloads.iter().map(|workload| workload.name()).collect();
        self.cluster.get_all(&names).await
    }

    /// Returns all Deployments at one moment: one LIST is one state of the cluster.
    pub async fn deployments(&self) -> Result<Vec<State>> {
        let mut list = self.cluster.get_path("/apis/apps/v1/deployments").await?;
        let items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
        Ok(items.into_iter().map(|object| State { object }).collect())
    }

    /// Lets two polls pass, and checks that each workload still has its expected count.
    ///
    /// # Errors
    /// When a count differs: with the controller's last lines.
    pub async fn expect_no_roll<W: AsRef<WorkloadName>>(
        &self,
        controller: &Controller,
        expected: &[(W, Option<i64>)],
    ) -> Result<()> {
        controller.wait_for_polls(2, SOON).await?;
        let names: Vec<&WorkloadName> =
            expected.iter().map(|(workload, _)| workload.as_ref()).collect();
        let states = self.cluster.get_all(&names).await?;
        for ((workload, wanted), state) in expected.iter().zip(states) {
            let count = state.count();
            ensure!(
                count == *wanted,
                "{}: its reload count is {count:?} instead of {wanted:?}; {}",
                workload.as_ref(),
                controller.last_lines()
            );
        }
        Ok(())
    }

    /// Waits until each workload has its expected count and its controller has made the revision.
    /// Then checks for two more polls that no workload is reloaded once more.
    ///
    /// # Errors
    /// When a workload was reloaded less or more often: with the controller's last lines.
    pub async fn expect_rolls(
        &self,
        controller: &Controller,
        workloads: &[&Workload],
        times: i64,
    ) -> Result<()> {
        let wanted = vec![Some(times); workloads.len()];
        let reached = eventually("every workload to be reloaded", SOON, || async {
            let states = self.states(workloads).await?;
            let is_so = |state: &State| state.count() == Some(times) && state.is_observed();
            Ok(states.iter().all(is_so).then_some(()))
        });
        if reached.await.is_ok() {
            controller.wait_for_polls(2, SOON).await?;
        }
        let counts = self.counts(workloads).await?;
        let names: Vec<_> = workloads.iter().map(|workload| workload.name().to_string()).collect();
        ensure!(
            counts == wanted,
            "each of {names:?} was to be reloaded {times} times; counts: {counts:?}; {}",
            controller.last_lines()
        );
        Ok(())
    }

    /// Returns the number of reloads of a workload since a mark: the PATCHes of controllers that
    /// the API server accepted, even if their result was removed.
    pub async fn reloads_since(
        &self,
        mark: &Mark,
        workload: impl AsRef<WorkloadName>,
    ) -> Result<usize> {
        let workload = workload.as_ref();
        let requests = self.api_requests_of(USER_AGENT, mark).await?;
        let is_one = |request: &&ApiRequest| {
            request.verb == "patch"
                && request.code == 200
                && request.resource == workload.kind.plural()
                && request.namespace == workload.namespace
                && request.name == workload.name
        };
        Ok(requests.iter().filter(is_one).count())
    }

    /// Returns the requests of controllers to the API server since a mark, without the requests of
    /// each start. The requests of a start are the LISTs and watches of the three kinds, of namespaces,
    /// and of the webhooks that may inject secrets, and the check of their own permissions. The Events
    /// about workloads are left out, too.
    pub async fn requests_beyond_the_start(&self, mark: &Mark) -> Result<Vec<ApiRequest>> {
        let mut requests = self.api_requests_of(USER_AGENT, mark).await?;
        requests.retain(|request| {
            let kinds = [
                "deployments",
                "daemonsets",
                "statefulsets",
                "namespaces",
                "mutatingwebhookconfigurations",
            ];
            match request.verb.as_str() {
                "list" | "watch" => !kinds.contains(&request.resource.as_str()),
                "create" => {
                    !["selfsubjectaccessreviews", "events"].contains(&request.resource.as_str())
                }
                "patch" => request.patches_workload(),
                _ => true,
            }
        });
        Ok(requests)
    }

    /// Returns type and reason of each Event that controllers wrote in a namespace, by the name of
    /// the workload.
    pub async fn events(&self, namespace: &str) -> Result<BTreeMap<String, Vec<String>>> {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        let list = self.cluster.get_path(&path).await?;
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for event in list["items"].as_array().into_iter().flatten() {
            let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or("");
            if text("/reportingController") == "vault-secrets-reloader" {
                let reason = format!("{} {}", text("/type"), text("/reason"));
                found.entry(text("/regarding/name").to_owned()).or_default().push(reason);
            }
        }
        for reasons in found.values_mut() {
            reasons.sort();
        }
        Ok(found)
    }

    /// Checks that controllers have touched no value since a mark.
    ///
    /// # Errors
    /// When a controller has touched a value: with the request.
    pub fn expect_no_value_touched(&self, mark: &Mark) -> Result<()> {
        let requests = self.vault_requests_since(mark)?;
        let touching = requests.iter().find(|request| request.touches_a_value());
        ensure!(touching.is_none(), "{touching:?}");
        Ok(())
    }
}

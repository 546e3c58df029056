//! Steps that many scenarios have in common: secrets put and rotated, workloads deployed, counts
//! compared, and what a controller must never have asked for.
//!
//! The controller compares times of whole seconds with each other, so a workload that is deployed
//! in the very second of a rotation may be rolled once more. Scenarios that are not about that
//! second write secrets by [`Bed::write_secrets`], which waits for it to pass.
//!
//! The pods of a revision that is made only after a rotation have the new version, and are rightly
//! left alone. Scenarios that rotate right after a change of a template, or a reload, wait for its
//! revision, or its rollout, first.

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

/// What takes a second or two; long, because a machine may be under far more load.
pub const SOON: Duration = Duration::from_secs(30);

/// How many objects are written at once: more would only wait in line.
pub const AT_ONCE: usize = 16;

/// How the user agent of the controller's requests to the API server begins.
pub const USER_AGENT: &str = "vault-secrets-reloader/";

/// The line with which a poll ends that found nothing to be done.
pub const HEARTBEAT: &str = "No workloads to reload";

/// The defaults, with two polls a second.
#[must_use]
pub fn polling_fast() -> ControllerOptions {
    ControllerOptions::new().flag("--reloader-run-period", "500ms")
}

/// The defaults, with four polls a second: for scenarios that wait for many polls, and in which it
/// does not matter how many changes come between two.
#[must_use]
pub fn polling_faster() -> ControllerOptions {
    ControllerOptions::new().flag("--reloader-run-period", "250ms")
}

/// A Deployment without pods that opted in and refers to the key `k` of a secret of the mount
/// `secret`: for scenarios that are not about pods.
#[must_use]
pub fn deployment_without_pods(name: &str, secret: &str) -> Workload {
    Workload::deployment("default", name)
        .replicas(0)
        .opted_in()
        .env("A", &format!("vault:secret/data/{secret}#k"))
}

/// Waits until the clock's second is over, and a hundredth more: what happened before is then
/// older, also by times of whole seconds.
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

/// Waits until a poll has just ended with nothing to be done: what is done now is seen by one poll,
/// the next.
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

    /// How often each workload was reloaded; none where it has no count.
    pub async fn counts(&self, workloads: &[&Workload]) -> Result<Vec<Option<i64>>> {
        Ok(self.states(workloads).await?.iter().map(State::count).collect())
    }

    async fn states(&self, workloads: &[&Workload]) -> Result<Vec<State>> {
        let names: Vec<&WorkloadName> = workloads.iter().map(|workload| workload.name()).collect();
        self.cluster.get_all(&names).await
    }

    /// Lets two polls pass, and sees that each workload still has the count beside it.
    ///
    /// # Errors
    /// When a count is another one: with the controller's last lines.
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

    /// Waits until each workload was reloaded that often and its controller has made the revision, and
    /// then, for two more polls, that none is reloaded once more.
    ///
    /// # Errors
    /// When they were not, or more often: with the controller's last lines.
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

    /// How often a workload was reloaded since, whatever was left of it: the PATCHes of controllers
    /// that the API server took.
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

    /// What controllers asked the API server since, without what belongs to each start: the LISTs
    /// and watches of the three kinds, the look at their own permissions, and the Events about
    /// references that are not watched.
    pub async fn requests_beyond_the_start(&self, mark: &Mark) -> Result<Vec<ApiRequest>> {
        let mut requests = self.api_requests_of(USER_AGENT, mark).await?;
        requests.retain(|request| {
            let kinds = ["deployments", "daemonsets", "statefulsets"];
            match request.verb.as_str() {
                "list" | "watch" => !kinds.contains(&request.resource.as_str()),
                "create" => {
                    !["selfsubjectaccessreviews", "events"].contains(&request.resource.as_str())
                }
                _ => true,
            }
        });
        Ok(requests)
    }

    /// Types and reasons of the Events that controllers wrote in a namespace, as often as there are, by
    /// the name of the workload.
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

    /// Sees that controllers have touched no value since.
    ///
    /// # Errors
    /// When one has: with the request.
    pub fn expect_no_value_touched(&self, mark: &Mark) -> Result<()> {
        let requests = self.vault_requests_since(mark)?;
        let touching = requests.iter().find(|request| request.touches_a_value());
        ensure!(touching.is_none(), "{touching:?}");
        Ok(())
    }
}

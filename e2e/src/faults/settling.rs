//! The steps after a fault: wait until everything has settled, and compare the workloads with the
//! ledger.
//!
//! Invariant: a workload that was not reached in time counts as missed. No wait is endless.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use tokio::time::sleep;

use super::arena::{Arena, SETTLE_WITHIN};
use super::ledger::Live;
use crate::controller::Controller;
use crate::scenario::HEARTBEAT;
use crate::state::State;
use crate::wait::eventually;
use crate::workload::WorkloadName;

/// The number of workloads whose details each comparison shows.
const SHOWN: usize = 5;

/// The pause between two reads of all workloads.
const BETWEEN_LOOKS: Duration = Duration::from_millis(150);

impl Arena {
    /// Waits until every rotation has reached every workload and two polls have found nothing more
    /// to reload. Then compares.
    pub(super) async fn settle(&mut self, controllers: &[Controller]) -> Result<()> {
        if self.wait_until_reached().await
            && let Err(error) = quiet(controllers).await
        {
            self.find(format!("it does not come to rest: {error:#}"));
        }
        self.compare(controllers).await
    }

    /// Waits until every rotation has reached every workload. Returns whether that happened in
    /// time. The comparison finds the workloads that were not reached.
    pub(super) async fn wait_until_reached(&self) -> bool {
        let before = Cell::new(usize::MAX);
        let reached = eventually("all to be reached", SETTLE_WITHIN, || async {
            // Each pass reads all workloads from the API server, which has other work to do.
            sleep(BETWEEN_LOOKS).await;
            let states = self.states().await?;
            let unrecorded = self.unrecorded(&states)?;
            // While the number falls each time, revisions need not be read.
            if before.replace(unrecorded.len()) != unrecorded.len() {
                return Ok(None);
            }
            Ok(self.unreached(unrecorded, &states).await?.is_empty().then_some(()))
        });
        reached.await.is_ok()
    }

    /// Returns the workloads whose record lacks a version, with the missing versions.
    fn unrecorded(
        &self,
        states: &HashMap<WorkloadName, State>,
    ) -> Result<Vec<(usize, Vec<&Live>)>> {
        let mut unrecorded = Vec::new();
        for (number, subject) in self.subjects.iter().enumerate() {
            let name = subject.workload.name();
            let state = states.get(name).with_context(|| format!("{name} is gone"))?;
            let missing = subject.unrecorded(&self.secrets, state);
            if !missing.is_empty() {
                unrecorded.push((number, missing));
            }
        }
        Ok(unrecorded)
    }

    /// Returns the unrecorded workloads whose present revision is not younger than the versions
    /// either.
    async fn unreached(
        &self,
        unrecorded: Vec<(usize, Vec<&Live>)>,
        states: &HashMap<WorkloadName, State>,
    ) -> Result<Vec<(usize, String)>> {
        if unrecorded.is_empty() {
            return Ok(Vec::new());
        }
        let revisions = self.revisions().await?;
        let mut unreached = Vec::new();
        for (number, mut missing) in unrecorded {
            let state = states.get(self.subjects[number].workload.name());
            if let Some((_, made)) = state.and_then(|state| revisions.get(state.uid())) {
                missing.retain(|live| !live.is_older_than(*made));
            }
            if !missing.is_empty() {
                let versions: Vec<&str> = missing.iter().map(|live| live.spelling()).collect();
                unreached.push((number, versions.join(", ")));
            }
        }
        Ok(unreached)
    }

    /// Returns the number and the creation time of the present revisions, by the uid of their
    /// workload.
    async fn revisions(&self) -> Result<HashMap<String, (i64, Timestamp)>> {
        let mut revisions: HashMap<String, (i64, Timestamp)> = HashMap::new();
        for resource in ["replicasets", "controllerrevisions"] {
            let list = self.bed.cluster.get_path(&format!("/apis/apps/v1/{resource}")).await?;
            for object in list["items"].as_array().into_iter().flatten() {
                let metadata = &object["metadata"];
                let of_a_deployment = &metadata["annotations"]["deployment.kubernetes.io/revision"];
                let of_a_deployment = of_a_deployment.as_str().and_then(|text| text.parse().ok());
                let number = of_a_deployment.or(object["revision"].as_i64()).unwrap_or_default();
                let owner = metadata["ownerReferences"][0]["uid"].as_str().unwrap_or_default();
                let made =
                    metadata["creationTimestamp"].as_str().context("a revision of no time")?;
                let present = (number, made.parse()?);
                let known = revisions.entry(owner.to_owned()).or_insert(present);
                *known = present.max(*known);
            }
        }
        Ok(revisions)
    }

    /// Compares the workloads with the ledger, adds up the differences, and starts counting from
    /// here.
    async fn compare(&mut self, controllers: &[Controller]) -> Result<()> {
        let states = self.states().await?;
        let unreached = self.unreached(self.unrecorded(&states)?, &states).await?;
        let patches = self.patches().await?;
        let mut findings = Vec::new();
        let revisions =
            if unreached.is_empty() { HashMap::new() } else { self.revisions().await? };
        for (number, missing) in &unreached {
            let subject = &self.subjects[*number];
            let state = states.get(subject.workload.name()).context("a workload is gone")?;
            let record = state.record().unwrap_or_default();
            let revision = revisions.get(state.uid()).map(|(_, made)| *made);
            findings.push(format!(
                "MISSED: {} was not reloaded for {missing}; count {:?}, record {record}; created {}, \
                 revision {revision:?}, versions created {:?}; of it was said:\n{}",
                subject.workload.name(),
                state.count(),
                state.object["metadata"]["creationTimestamp"],
                subject.created(&self.secrets),
                said_of(subject.workload.name(), controllers)
            ));
        }
        self.row.missed += unreached.len();
        let mut shown = 0;
        for subject in &self.subjects {
            let name = subject.workload.name();
            let state = states.get(name).with_context(|| format!("{name} is gone"))?;
            let reloads = subject.reloads(state);
            self.row.concerned += usize::from(subject.allowed > 0);
            self.row.allowed += subject.allowed;
            self.row.reloads += reloads.number();
            self.row.doubled += reloads.doubled();
            let its = patches.iter().filter(|patch| {
                patch.code == 200
                    && patch.resource == name.kind.plural()
                    && patch.namespace == name.namespace
                    && patch.name == name.name
            });
            let applied = i64::try_from(its.count())?;
            if reloads.doubled() > 0 {
                shown += 1;
                findings.push(format!(
                    "DOUBLED: {name}: {reloads:?}, {applied} PATCHes; versions created {:?}, \
                     record {}; of it was said:\n{}",
                    subject.created(&self.secrets),
                    state.record().unwrap_or_default(),
                    said_of(name, controllers)
                ));
            } else if applied > reloads.number() || (self.is_audited && applied < reloads.number())
            {
                findings.push(format!("UNEXPLAINED: {name}: {reloads:?}, {applied} PATCHes"));
                shown += 1;
            }
        }
        let all = findings.len();
        for finding in findings.into_iter().take(SHOWN) {
            self.find(finding);
        }
        if all > SHOWN {
            self.find(format!("and {} more, {shown} of all doubled", all - SHOWN));
        }
        for (number, _) in unreached {
            self.subjects[number].deployed = self.turn;
        }
        let all: Vec<usize> = (0..self.subjects.len()).collect();
        self.compare_from_here(&all).await
    }
}

/// Returns the lines of the controllers about a workload.
fn said_of(name: &WorkloadName, controllers: &[Controller]) -> String {
    let name = name.to_string();
    // The name of another workload may begin with this name.
    let goes_on = |rest: &str| rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
    let lines = controllers.iter().flat_map(|it| it.lines_with(&name)).map(|line| line.text);
    let its = lines.filter(|text| text.split(&name).skip(1).any(|rest| !goes_on(rest)));
    its.collect::<Vec<_>>().join("\n")
}

/// Waits for two full polls of each controller that found nothing to reload.
pub(super) async fn quiet(controllers: &[Controller]) -> Result<()> {
    let beats = || controllers.iter().map(|it| it.lines_with(HEARTBEAT).len()).sum::<usize>();
    // One poll may be under way. With leader election, only the leader polls.
    let wanted = beats() + 3 * controllers.len();
    eventually("polls that find nothing to be done", SETTLE_WITHIN, || async {
        Ok((beats() >= wanted).then_some(()))
    })
    .await
    .with_context(|| controllers.first().map(Controller::last_lines).unwrap_or_default())
}

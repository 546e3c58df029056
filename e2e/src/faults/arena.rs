//! The arena: a bed with hundreds of known workloads that share dozens of secrets, and the steps of
//! each fault: rotate, settle, compare.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fastrand::Rng;
use futures::future::try_join_all;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::SignedDuration;
use serde_json::json;

use super::ledger::{Live, Moment, Secret, Subject};
use super::report::Row;
use crate::bed::Bed;
use crate::controller::Controller;
use crate::counts::{ApiRequest, Mark};
use crate::options::Options;
use crate::scenario::{USER_AGENT, next_second};
use crate::state::State;
use crate::wait::eventually;
use crate::workload::{Kind, Workload, WorkloadName};

/// The longest time of any wait, above all for rotations to reach all workloads after the fault. It
/// is long, because a machine may be under heavy load, and a workload whose PATCHes failed for a
/// while waits up to half a minute for its next attempt.
pub(super) const SETTLE_WITHIN: Duration = Duration::from_mins(2);

/// The number of concurrent requests while workloads are deployed.
const AT_ONCE: usize = 16;

/// The number of namespaces of the workloads.
const NAMESPACES: usize = 5;

/// Of this many secrets, workloads refer to two through ConfigMaps: by `envFrom`, and by a key.
const CONFIG_MAPS: usize = 4;

/// Returns the name of the ConfigMap that refers to a secret.
fn config_map(secret: usize) -> String {
    format!("refs-{secret}")
}

/// The label of the workloads that an admission policy can freeze. Each fifth workload has it.
pub(super) const FREEZE: &str = "e2e/freeze";

/// The function that reports progress.
pub(super) type Say = Box<dyn FnMut(&str)>;

/// A bed full of workloads.
pub(super) struct Arena {
    pub(super) bed: Bed,
    pub(super) rng: Rng,
    pub(super) secrets: Vec<Secret>,
    pub(super) subjects: Vec<Subject>,
    /// The number of workloads that belong to all faults. The others belong to the present fault.
    lasting: usize,
    pub(super) turn: u64,
    shift: SignedDuration,
    /// The moment of the last comparison of counts.
    mark: Mark,
    /// Whether each applied PATCH since then has its line in the API server's audit log.
    pub(super) is_audited: bool,
    pub(super) row: Row,
    began: Instant,
    say: Say,
}

impl Arena {
    /// Starts a bed and fills it.
    pub(super) async fn start(
        workloads: usize,
        secrets: usize,
        rng: Rng,
        say: Say,
    ) -> Result<Self> {
        let bed = Bed::start(Options::new().without_pods().nodes(0)).await?;
        let secret = |number| Secret { path: format!("arena/{number}"), live: None };
        let mut arena = Self {
            bed,
            rng,
            secrets: (0..secrets).map(secret).collect(),
            subjects: Vec::new(),
            lasting: 0,
            turn: 0,
            shift: SignedDuration::ZERO,
            mark: Mark::default(),
            is_audited: true,
            row: Row::default(),
            began: Instant::now(),
            say,
        };
        let all: Vec<usize> = (0..secrets).collect();
        arena.rotate(&all, Moment::One).await?;
        for number in 0..NAMESPACES {
            arena.make_namespace(&format!("arena-{number}")).await?;
        }
        for number in 0..workloads {
            let namespace = format!("arena-{}", number % NAMESPACES);
            let subject = arena.subject(&namespace, number, true);
            arena.subjects.push(subject);
        }
        arena.lasting = workloads;
        next_second().await?;
        arena.deploy(0..workloads).await?;
        Ok(arena)
    }

    /// Returns a workload of one of the three kinds. It uses one to four secrets, most of which
    /// other workloads use too. With enough workloads, each secret is used by at least one.
    fn subject(&mut self, namespace: &str, number: usize, opted_in: bool) -> Subject {
        let kind = match number % 4 {
            0 | 1 => Kind::Deployment,
            2 => Kind::StatefulSet,
            _ => Kind::DaemonSet,
        };
        let mut secrets = vec![number % self.secrets.len()];
        for _ in 0..self.rng.usize(..4) {
            secrets.push(self.rng.usize(..self.secrets.len()));
        }
        secrets.sort_unstable();
        secrets.dedup();
        let workload = Workload::new(kind, namespace, &format!("w-{number}"))
            .replicas(0)
            .spec("revisionHistoryLimit", json!(2));
        let workload =
            if number.is_multiple_of(5) { workload.label(FREEZE, "true") } else { workload };
        let workload = if opted_in { workload.opted_in() } else { workload };
        let workload = self.referring_to(workload, &secrets);
        Subject::new(workload, secrets, opted_in)
    }

    fn referring_to(&self, workload: Workload, secrets: &[usize]) -> Workload {
        secrets.iter().enumerate().fold(workload.without_env(), |workload, (index, secret)| {
            let variable = format!("SECRET_{index}");
            let reference = self.reference(*secret);
            match secret % CONFIG_MAPS {
                0 => {
                    let name = config_map(*secret);
                    let source = json!({"prefix": variable, "configMapRef": {"name": name}});
                    workload.env_from(&source)
                }
                1 => {
                    let source = json!({"name": config_map(*secret), "key": "REF"});
                    workload.env_value_from(&variable, &json!({"configMapKeyRef": source}))
                }
                _ => workload.env(&variable, &reference),
            }
        })
    }

    fn reference(&self, secret: usize) -> String {
        format!("vault:secret/data/{}#k", self.secrets[secret].path)
    }

    /// Creates a namespace with the ConfigMaps that its workloads take references from.
    pub(super) async fn make_namespace(&self, namespace: &str) -> Result<()> {
        self.bed.cluster.create_namespace(namespace).await?;
        for secret in (0..self.secrets.len()).filter(|secret| secret % CONFIG_MAPS < 2) {
            let object = json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"namespace": namespace, "name": config_map(secret)},
                "data": {"REF": self.reference(secret)},
            });
            self.bed.cluster.apply_object(&object, "configmaps").await?;
        }
        Ok(())
    }

    /// Begins a fault.
    pub(super) fn begin(&mut self, fault: &'static str) {
        self.row = Row { fault, workloads: self.subjects.len(), ..Row::default() };
        self.began = Instant::now();
        (self.say)(&format!("{fault}..."));
    }

    /// Ends a fault and returns its row. If the row is not clean, the arena must be filled again.
    pub(super) fn end(&mut self, outcome: Result<()>) -> Row {
        if let Err(error) = outcome {
            self.note(&format!("FAILED: {error:#}"));
            self.row.error = Some(format!("{error:#}"));
        }
        self.row.took = self.began.elapsed();
        self.forget_beyond_lasting();
        std::mem::take(&mut self.row)
    }

    /// Forgets the workloads that were added for the present fault.
    pub(super) fn forget_beyond_lasting(&mut self) {
        self.subjects.truncate(self.lasting);
    }

    /// Forgets the workloads from this number on.
    pub(super) fn forget_from(&mut self, number: usize) {
        self.subjects.truncate(number);
    }

    /// Deletes the workloads of a namespace.
    pub(super) async fn delete_workloads_of(&self, namespace: &str) -> Result<()> {
        for name in self.states().await?.keys().filter(|name| name.namespace == namespace) {
            self.bed.cluster.delete(name).await?;
        }
        Ok(())
    }

    /// Counts one more strike of the fault.
    pub(super) fn strike(&mut self) {
        self.row.times += 1;
    }

    /// Reports progress.
    pub(super) fn note(&mut self, text: &str) {
        (self.say)(&format!("  {:5.1} s: {text}", self.began.elapsed().as_secs_f32()));
    }

    /// Notes a violation.
    pub(super) fn find(&mut self, finding: String) {
        self.note(&format!("FOUND: {finding}"));
        self.row.findings.push(finding);
    }

    /// Returns a number of random secrets.
    pub(super) fn some_secrets(&mut self, number: usize) -> Vec<usize> {
        let all = 0..self.secrets.len();
        self.rng.choose_multiple(all, number)
    }

    /// The number of secrets.
    pub(super) fn secrets(&self) -> usize {
        self.secrets.len()
    }

    /// The number of workloads.
    pub(super) fn len(&self) -> usize {
        self.subjects.len()
    }

    /// The workload with this number.
    pub(super) fn workload(&self, number: usize) -> &Workload {
        &self.subjects[number].workload
    }

    /// Whether the workload with this number uses one of some secrets.
    pub(super) fn uses(&self, number: usize, secrets: &[usize]) -> bool {
        self.subjects[number].secrets.iter().any(|secret| secrets.contains(secret))
    }

    /// The workloads that an admission policy can freeze.
    pub(super) fn freezable(&self) -> Vec<usize> {
        (0..self.subjects.len()).filter(|number| number.is_multiple_of(5)).collect()
    }

    /// Limits the reloads of some workloads that count as right, whatever is rotated.
    pub(super) fn allow_at_most(&mut self, numbers: &[usize], reloads: i64) {
        for number in numbers {
            let allowed = &mut self.subjects[*number].allowed;
            *allowed = (*allowed).min(reloads);
        }
    }

    /// Rotates random secrets at a moment that no poll divides, if possible.
    pub(super) async fn rotate_at_once(&mut self, number: usize) -> Result<Vec<usize>> {
        let secrets = self.some_secrets(number);
        self.rotate(&secrets, Moment::One).await?;
        Ok(secrets)
    }

    /// Rotates random secrets. Polls may see a part of the rotations.
    pub(super) async fn rotate_loosely(&mut self, number: usize) -> Result<Vec<usize>> {
        let secrets = self.some_secrets(number);
        self.rotate(&secrets, Moment::Several).await?;
        Ok(secrets)
    }

    /// Rotates secrets.
    pub(super) async fn rotate(&mut self, secrets: &[usize], moment: Moment) -> Result<()> {
        let mark = self.bed.vault_mark();
        let paths = secrets.iter().map(|secret| self.bed.rotate(&self.secrets[*secret].path));
        let versions = try_join_all(paths).await?;
        let reads = self.bed.vault_requests_since(&mark)?;
        // A read of one secret, or the LIST of a folder.
        let was_divided = reads.iter().any(|request| request.path.contains("metadata/"));
        let moment = if was_divided { Moment::Several } else { moment };
        self.turn += 1;
        for (secret, version) in secrets.iter().zip(&versions) {
            let live = Live::new(version, self.turn, self.shift)?;
            self.secrets[*secret].live = Some(live);
        }
        for subject in &mut self.subjects {
            subject.rotated(secrets, moment);
        }
        self.row.rotations += secrets.len();
        Ok(())
    }

    /// Adds workloads to a namespace without deploying them.
    pub(super) fn add(&mut self, namespace: &str, number: usize, opted_in: bool) -> Range<usize> {
        let first = self.subjects.len();
        for number in first..first + number {
            let subject = self.subject(namespace, number, opted_in);
            self.subjects.push(subject);
        }
        self.row.workloads = self.row.workloads.max(self.subjects.len());
        first..self.subjects.len()
    }

    /// Changes the secrets that a workload refers to. The caller must deploy it then.
    pub(super) fn refer(&mut self, number: usize, secrets: Vec<usize>) {
        let workload = self.subjects[number].workload.clone();
        let workload = self.referring_to(workload, &secrets);
        self.subjects[number].workload = workload;
        self.subjects[number].secrets = secrets;
    }

    /// Opts a workload in. The caller must deploy it then.
    pub(super) fn opt_in(&mut self, number: usize) {
        let subject = &mut self.subjects[number];
        subject.workload = subject.workload.clone().opted_in();
        subject.opted_in = true;
    }

    /// Changes the pod template of a workload without a change of references. The caller must
    /// deploy it then.
    pub(super) fn touch(&mut self, number: usize) {
        let subject = &mut self.subjects[number];
        let text = format!("{:x}", self.rng.u64(..));
        subject.workload = subject.workload.clone().template_annotation("e2e/touched", &text);
    }

    /// Deploys new workloads, and starts counting from here.
    pub(super) async fn deploy(&mut self, numbers: Range<usize>) -> Result<()> {
        let all: Vec<usize> = numbers.collect();
        self.redeploy(&all).await?;
        self.wait_until_observed().await?;
        self.compare_from_here(&all).await
    }

    /// Deploys workloads in their present state. Their pods have the versions of earlier rotations.
    /// Does not wait for their controllers.
    pub(super) async fn redeploy(&mut self, numbers: &[usize]) -> Result<()> {
        stream::iter(numbers)
            .map(|number| self.bed.cluster.apply(&self.subjects[*number].workload))
            .buffer_unordered(AT_ONCE)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        for number in numbers {
            self.subjects[*number].redeployed(self.turn);
        }
        Ok(())
    }

    /// Deletes all workloads and deploys them again.
    pub(super) async fn deploy_everything_anew(&mut self) -> Result<()> {
        for kind in [Kind::Deployment, Kind::StatefulSet, Kind::DaemonSet] {
            self.bed.cluster.delete_all(kind).await?;
        }
        next_second().await?;
        self.deploy(0..self.subjects.len()).await
    }

    /// Sets the shift that something before Vault adds to Vault's times. Deploys everything again,
    /// since all records were written with other times.
    pub(super) async fn shift_clock(&mut self, shift: SignedDuration) -> Result<()> {
        self.shift = shift;
        self.deploy_everything_anew().await
    }

    /// Waits until the controllers of all workloads have seen their present state.
    pub(super) async fn wait_until_observed(&self) -> Result<()> {
        eventually("the workloads to be observed", SETTLE_WITHIN, || async {
            let states = self.states().await?;
            let is_observed = |subject: &Subject| {
                let state = states.get(subject.workload.name())?;
                let observed = state.object["status"]["observedGeneration"].as_i64();
                (observed? >= state.generation()).then_some(())
            };
            Ok(self.subjects.iter().all(|subject| is_observed(subject).is_some()).then_some(()))
        })
        .await
    }

    /// Returns all workloads from the API server.
    pub(super) async fn states(&self) -> Result<HashMap<WorkloadName, State>> {
        let mut states = HashMap::new();
        for kind in [Kind::Deployment, Kind::StatefulSet, Kind::DaemonSet] {
            let path = format!("/apis/apps/v1/{}", kind.plural());
            let mut list = self.bed.cluster.get_path(&path).await?;
            let items = list["items"].as_array_mut().map(std::mem::take);
            for object in items.unwrap_or_default() {
                let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
                let name = WorkloadName::new(kind, field("namespace"), field("name"));
                states.insert(name, State { object });
            }
        }
        Ok(states)
    }

    /// Notes that PATCHes may have been applied without a line of success in the audit log, because
    /// the client or the API server was gone by then.
    pub(super) fn audit_is_incomplete(&mut self) {
        self.is_audited = false;
    }

    /// Restarts the controller manager. After an outage of the API server, its controllers wait up
    /// to half a minute before their next request.
    pub(super) async fn renew_controllers(&self) -> Result<()> {
        self.bed.controller_manager.kill();
        self.bed.controller_manager.start().await
    }

    /// Returns the PATCHes of our controllers since the last comparison of counts.
    pub(super) async fn patches(&self) -> Result<Vec<ApiRequest>> {
        let mut requests = self.bed.api_requests_of(USER_AGENT, &self.mark).await?;
        requests.retain(ApiRequest::patches_workload);
        Ok(requests)
    }

    /// Starts counting from here.
    pub(super) async fn compare_from_here(&mut self, numbers: &[usize]) -> Result<()> {
        let states = self.states().await?;
        for number in numbers {
            let subject = &mut self.subjects[*number];
            if let Some(state) = states.get(subject.workload.name()) {
                subject.rebase(state);
            }
        }
        self.mark = self.bed.mark().await?;
        self.is_audited = true;
        Ok(())
    }
}

/// Waits until a controller has begun a number of reloads after its first `seen` lines.
pub(super) async fn reloads_begun(
    controller: &Controller,
    seen: usize,
    number: usize,
) -> Result<()> {
    eventually("reloads to begin", SETTLE_WITHIN, || async {
        let begun = controller.lines_with("Reloading workload: ").len();
        Ok((begun >= seen + number).then_some(()))
    })
    .await
    .with_context(|| controller.last_lines())
}

/// The number of reloads that a controller has begun.
pub(super) fn begun(controller: &Controller) -> usize {
    controller.lines_with("Reloading workload: ").len()
}

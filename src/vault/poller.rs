//! The poller: asks the server once for each secret, and returns what was observed.
//!
//! Architecture Invariant: a poll ends whatever the server answers, and a secret whose state is not
//! certain is unknown. A server that is sealed or out of reach costs one request per poll, not one
//! per secret.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HeaderValue;
use tracing::{error, info, warn};

use super::client::Server;
use super::failure::Failure;
use super::folders::Folders;
use super::login::Method;
use super::mounts::Mounts;
use super::pace::{Pace, Spread};
use super::read_error::ReadError;
use super::reads::{Outcome, PollRun, Turns, Witnesses};
use super::session::Session;
use crate::decide::observation::{Observation, PollResult, ReadRequest};
use crate::engine::ports::Vault;
use crate::index::findings::Finding;
use crate::model::reload_policy::{PolicyKey, ReloadPolicy};
use crate::model::secret::SecretId;

/// The value of the log key `worker`.
const WORKER: &str = "reloader";

/// The back-off after a poll in which a request failed: a random time up to the first value, which
/// doubles up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));

/// The pause after a poll in which nothing failed, but the time was too short for all secrets.
const GO_ON: Duration = Duration::from_millis(200);

/// The most log lines about outages in one poll. Each line is about a Vault namespace, and tenants
/// can name any number of namespaces.
const MOST_OUTAGES: usize = 20;

/// The most log lines about secrets in one poll, because tenants can name any number of secrets.
/// The next polls log the rest.
const MOST_LINES: usize = 100;

/// Polls one server.
pub struct Poller {
    server: Arc<Server>,
    session: Arc<Session>,
    spread: Spread,
    mounts: Mounts,
    folders: Folders,
    /// The error of each secret. An error is logged only when it changes.
    errors: HashMap<Arc<SecretId>, ReadError>,
    /// Secrets whose error is not logged yet.
    unreported: HashSet<Arc<SecretId>>,
    /// How many log lines about secrets this poll may still write.
    lines_left: usize,
    /// How many secrets can be read again without a log line of their own.
    recovered: usize,
    /// Paths that the server answered.
    witnesses: Witnesses,
    /// The latest known state of the server's storage.
    index: Option<HeaderValue>,
    /// Why the server or a Vault namespace is out of reach. An outage is logged only when it
    /// changes.
    outages: BTreeSet<String>,
    /// The secrets that could not be read because of these outages.
    unreachable: HashSet<Arc<SecretId>>,
    /// The secrets for which the last poll had no time.
    late: HashSet<Arc<SecretId>>,
    /// The secrets whose own requests failed in the last poll.
    failed: HashSet<Arc<SecretId>>,
    /// The secrets whose owners say something about reloads that cannot be read, with the key.
    unreadable_policies: HashMap<Arc<SecretId>, PolicyKey>,
    /// Whether all requests of the last poll met a sealed server, so that the server as a whole is
    /// probably sealed.
    is_sealed: bool,
    /// Whether the next poll reads all secrets.
    is_full: bool,
    failed_polls: u32,
    ignore_missing: bool,
}

impl Poller {
    /// Creates a poller of one server, which is polled every `period`. The token is renewed once no
    /// more than `threshold` of its lifetime is left. With `ignore_missing`, a missing secret is a
    /// warning and not an error.
    #[must_use]
    pub fn new(
        server: Arc<Server>,
        method: Method,
        threshold: Duration,
        period: Duration,
        pace: Pace,
        ignore_missing: bool,
    ) -> Self {
        let session = Arc::new(Session::new(Arc::clone(&server), method, threshold, period));
        Self {
            server,
            session,
            spread: Spread::new(pace, period),
            mounts: Mounts::default(),
            folders: Folders::default(),
            errors: HashMap::new(),
            unreported: HashSet::new(),
            lines_left: 0,
            recovered: 0,
            witnesses: Witnesses::default(),
            index: None,
            outages: BTreeSet::new(),
            unreachable: HashSet::new(),
            late: HashSet::new(),
            failed: HashSet::new(),
            unreadable_policies: HashMap::new(),
            is_sealed: false,
            is_full: true,
            failed_polls: 0,
            ignore_missing,
        }
    }

    /// Keeps a given token alive between polls. The future never ends, and must run beside the
    /// polls.
    pub fn keep_alive(&self) -> impl Future<Output = ()> + Send + use<> {
        let session = Arc::clone(&self.session);
        async move { session.keep_alive().await }
    }

    async fn poll(&mut self, requests: &[ReadRequest]) -> PollResult {
        if requests.is_empty() {
            self.session.without_poll().await;
            return PollResult::default();
        }
        if let Some(time) = self.server.resumes_at() {
            let retry_in = time.saturating_duration_since(tokio::time::Instant::now());
            return unstarted_poll(requests, retry_in);
        }
        self.server.refresh().await;
        if let Some(failure) = self.probe().await {
            self.report_outage(format!("Vault {failure}"), requests);
            return unstarted_poll(requests, self.back_off());
        }
        let lease = match self.session.before_poll().await {
            Ok(lease) => lease,
            Err(refused) => {
                self.report_outage(refused.error.to_string(), requests);
                let retry_in = refused.retry_in.unwrap_or_else(|| self.back_off());
                return unstarted_poll(requests, retry_in);
            }
        };
        // If the poll is cancelled, the next poll asks for mounts and folders again.
        let mut mounts = std::mem::take(&mut self.mounts);
        let mut folders = std::mem::take(&mut self.folders);
        let has_turn = |request: &&ReadRequest| !self.spread.had().contains(&request.secret);
        let waiting = requests.iter().filter(has_turn).count();
        let pace = self.spread.pace(waiting, Instant::now());
        let turns = Turns { late: &self.late, had: self.spread.had(), failed: &self.failed };
        let index = self.index.take();
        let witnesses = std::mem::take(&mut self.witnesses);
        let reads = PollRun::new(&self.server, &self.session, lease, pace, index, witnesses, turns);
        let outcomes = reads.read_all(&mut mounts, &mut folders, requests).await;
        let (has_answered, goes_on_at) = (reads.has_answered(), reads.goes_on_at());
        (self.index, self.witnesses) = reads.into_parts();
        self.spread.goes_on(goes_on_at);
        self.mounts = mounts;
        for (namespace, mount) in folders.take_denied() {
            let namespace = namespace.as_deref();
            info!(
                worker = WORKER,
                namespace,
                "The secrets of {mount} are read one by one, which costs Vault more. To have them read \
                 by the folder, which OpenBao can, add to the policy: \
                 path \"{mount}detailed-metadata/*\" {{ capabilities = [\"list\"] }}, and no \
                 pagination_limit below 1000"
            );
        }
        self.folders = folders;
        self.session.after_poll(has_answered).await;
        let polled = self.conclude(requests, outcomes, has_answered);
        self.is_full = false;
        polled
    }

    /// Returns why no request can succeed. If everything was sealed before, one request checks
    /// this.
    async fn probe(&self) -> Option<Failure> {
        if !self.is_sealed {
            return None;
        }
        match self.server.is_sealed().await {
            Ok(true) => Some(Failure::Sealed),
            Err(
                failure @ (Failure::Sealed
                | Failure::Unreachable(_)
                | Failure::Timeout
                | Failure::RateLimited),
            ) => Some(failure),
            // Not every proxy lets this request through.
            Ok(false) | Err(_) => None,
        }
    }

    /// Prepares the next poll to read all secrets.
    fn plan_full_poll(&mut self) {
        self.is_full = true;
        self.spread.end_round();
    }

    /// Returns how long to wait after a failed poll.
    fn back_off(&mut self) -> Duration {
        let (first, last) = RETRY;
        let most = first.saturating_mul(1 << self.failed_polls.min(9)).min(last);
        self.failed_polls = self.failed_polls.saturating_add(1);
        most.mul_f64(fastrand::f64()).max(Duration::from_millis(200))
    }

    /// Turns outcomes into observations, and logs what changed.
    fn conclude(
        &mut self,
        requests: &[ReadRequest],
        outcomes: Vec<Outcome>,
        has_answered: bool,
    ) -> PollResult {
        let may_be_missing: HashMap<&SecretId, bool> =
            requests.iter().map(|request| (&*request.secret, request.may_be_missing)).collect();
        let mut polled = PollResult::default();
        let mut outages = BTreeSet::new();
        let (mut failures, mut unreachable) = (HashMap::new(), HashSet::new());
        let (mut late, mut limited) = (HashSet::new(), HashSet::new());
        self.lines_left = MOST_LINES;
        for (secret, outcome) in outcomes {
            let observation = match &outcome {
                Ok((version, policy)) => {
                    self.take_in_policy(&secret, *policy, &mut polled);
                    Observation::Live(*version)
                }
                Err(ReadError::Missing | ReadError::Deleted | ReadError::Destroyed) => {
                    Observation::Gone
                }
                Err(_) => Observation::Unknown,
            };
            match &outcome {
                Err(ReadError::Out { failure, .. }) => {
                    failures.entry(secret.namespace.clone()).or_insert_with(|| failure.clone());
                }
                Err(ReadError::NoToken(error)) => drop(outages.insert(error.to_string())),
                Err(ReadError::Late) => drop(late.insert(Arc::clone(&secret))),
                Err(ReadError::Limited) => {
                    outages.insert(format!("Vault {}", Failure::RateLimited));
                    limited.insert(Arc::clone(&secret));
                }
                _ => {}
            }
            match outcome {
                Err(ReadError::Out { .. } | ReadError::NoToken(_) | ReadError::Limited) => {
                    unreachable.insert(Arc::clone(&secret));
                }
                Err(ReadError::Late) => {}
                _ => self.spread.served(&secret),
            }
            self.take_in_failure(&secret, outcome.as_ref().err(), &mut polled);
            let missing_is_fine = may_be_missing.get(&*secret).copied().unwrap_or_default();
            self.report(&secret, outcome.err(), missing_is_fine);
            polled.observations.insert(secret, observation);
        }
        self.report_line_limit();
        // If nothing was answered and all Vault namespaces failed alike, the server as a whole is
        // out of reach. A later poll of the remaining secrets that fails alike belongs to the same
        // outage.
        let whole = failures
            .values()
            .next()
            .filter(|failure| !has_answered && failures.values().all(|other| other == *failure));
        let whole = whole.map(|failure| (failure, format!("Vault {failure}")));
        self.is_sealed = whole.as_ref().is_some_and(|(failure, _)| **failure == Failure::Sealed);
        let whole = whole.filter(|(failure, line)| {
            matches!(failure, Failure::Unreachable(_) | Failure::Timeout)
                || (self.is_full && failures.len() > 1)
                || self.outages.contains(line)
        });
        if let Some((_, line)) = whole {
            outages.insert(line);
        } else {
            outages.extend(failures.iter().map(|(namespace, failure)| {
                let within = namespace.as_ref().map(|name| format!(", Vault namespace {name},"));
                format!("Vault{} {failure}", within.unwrap_or_default())
            }));
        }
        // A poll that asked for none of these secrets says nothing about their outages.
        let is_conclusive = self.unreachable.is_empty()
            || requests.iter().any(|request| self.unreachable.contains(&request.secret));
        if !outages.is_empty() || is_conclusive {
            self.report_outages(outages, unreachable);
        }
        if !late.is_empty() && self.late.is_empty() && !self.spread.is_on() {
            warn!(
                worker = WORKER,
                "There was no time to ask for {} of {} secrets; they are next",
                late.len(),
                requests.len()
            );
        }
        let is_only_late = late.len() == polled.failed.len();
        late.extend(limited);
        polled.late.clone_from(&late);
        // Secrets that are still late keep their priority over secrets that became late since.
        let answered = &polled.observations;
        self.late.retain(|secret| late.contains(secret) || !answered.contains_key(secret));
        if self.late.is_empty() {
            self.late = late;
        }
        if polled.failed.is_empty() {
            self.failed_polls = 0;
        } else if is_only_late {
            // Nothing failed: the next poll continues where this one had to stop.
            self.failed_polls = 0;
            polled.retry_in = Some(GO_ON);
        } else {
            polled.retry_in = Some(self.back_off());
        }
        polled
    }

    /// Notes whether a secret is read again soon, and whether its own request failed.
    fn take_in_failure(
        &mut self,
        secret: &Arc<SecretId>,
        error: Option<&ReadError>,
        polled: &mut PollResult,
    ) {
        let is_retryable = error.is_some_and(is_retryable);
        if is_retryable {
            polled.failed.push(Arc::clone(secret));
        }
        let is_own =
            matches!(error, Some(ReadError::Failed(_) | ReadError::Out { is_own: true, .. }));
        if is_retryable && is_own {
            self.failed.insert(Arc::clone(secret));
        } else {
            self.failed.remove(secret);
        }
    }

    /// Takes in what the owner of a secret says about reloads. A value that cannot be read is logged
    /// once.
    fn take_in_policy(
        &mut self,
        secret: &Arc<SecretId>,
        policy: ReloadPolicy,
        polled: &mut PollResult,
    ) {
        if !policy.is_empty() {
            polled.policies.insert(Arc::clone(secret), policy);
        }
        let Some(key) = policy.unreadable else {
            self.unreadable_policies.remove(secret);
            return;
        };
        let is_new = self.unreadable_policies.insert(Arc::clone(secret), key) != Some(key);
        if is_new && let Some(left) = self.lines_left.checked_sub(1) {
            self.lines_left = left;
            warn!(
                worker = WORKER,
                "{secret}: the custom_metadata key {} is ignored: its value cannot be read. Write {}",
                key.name(),
                key.remedy()
            );
        }
    }

    /// Logs an outage that affects all secrets.
    fn report_outage(&mut self, outage: String, requests: &[ReadRequest]) {
        let secrets = requests.iter().map(|request| Arc::clone(&request.secret)).collect();
        self.report_outages(BTreeSet::from([outage]), secrets);
    }

    fn report_outages(&mut self, outages: BTreeSet<String>, secrets: HashSet<Arc<SecretId>>) {
        let new: Vec<_> = outages.difference(&self.outages).collect();
        for why in new.iter().take(MOST_OUTAGES) {
            error!(
                worker = WORKER,
                "failed to get secret version: {}: {why}. Nothing is lost; retrying",
                self.server.address()
            );
        }
        if let more @ 1.. = new.len().saturating_sub(MOST_OUTAGES) {
            error!(
                worker = WORKER,
                "failed to get secret version: {more} more Vault namespaces cannot be read"
            );
        }
        if outages.is_empty() && !self.outages.is_empty() {
            info!(worker = WORKER, "Vault at {} answers again", self.server.address());
        }
        self.outages = outages;
        self.unreachable = secrets;
    }

    /// Logs the number of secrets for which no log line was left.
    fn report_line_limit(&mut self) {
        if let more @ 1.. = std::mem::take(&mut self.recovered) {
            info!(worker = WORKER, "{more} more secrets can be read again");
        }
        if self.unreported.is_empty() || self.lines_left > 0 {
            return;
        }
        warn!(
            worker = WORKER,
            "The errors of {} more secrets are not logged yet. The next polls log {MOST_LINES} \
             each. The Events of the workloads (kubectl describe) show all errors now",
            self.unreported.len()
        );
    }

    fn report(&mut self, secret: &Arc<SecretId>, error: Option<ReadError>, missing_is_fine: bool) {
        let Some(error) = error else {
            if self.errors.remove(secret).is_some() && !self.unreported.remove(secret) {
                if let Some(left) = self.lines_left.checked_sub(1) {
                    self.lines_left = left;
                    info!(worker = WORKER, "Vault secret path {secret} can be read again");
                } else {
                    self.recovered += 1;
                }
            }
            return;
        };
        if concerns_server(&error) {
            // The outage is logged for the server as a whole. The earlier error of the secret
            // remains.
            return;
        }
        if self.errors.get(secret) == Some(&error) && !self.unreported.contains(secret) {
            return;
        }
        if self.lines_left == 0 {
            self.unreported.insert(Arc::clone(secret));
            self.errors.insert(Arc::clone(secret), error);
            return;
        }
        self.lines_left -= 1;
        self.unreported.remove(secret);
        let reason = error.code();
        match &error {
            ReadError::Missing | ReadError::Deleted | ReadError::Destroyed => {
                let why = match error {
                    ReadError::Deleted => ": its latest version is deleted",
                    ReadError::Destroyed => ": its latest version is destroyed",
                    _ => "",
                };
                // Users search the log for these words, so the namespace is a key of its own.
                let SecretId { path, namespace, .. } = &**secret;
                let namespace = namespace.as_deref();
                if self.ignore_missing || missing_is_fine {
                    warn!(
                        worker = WORKER,
                        namespace, "Vault secret path {path} not found{why}; it may be missing"
                    );
                } else {
                    error!(worker = WORKER, namespace, "Vault secret path {path} not found{why}");
                }
            }
            ReadError::Denied { .. } | ReadError::NoMount { .. } => error!(
                worker = WORKER,
                reason,
                "failed to get secret version: {secret}: {}",
                error.meaning()
            ),
            ReadError::NoDataPrefix { .. } | ReadError::NotKvV2(_) => {
                warn!(worker = WORKER, reason, "{secret} is not watched: {}", error.meaning());
            }
            ReadError::Failed(failure) => {
                error!(worker = WORKER, "failed to get secret version: {secret}: Vault {failure}");
            }
            ReadError::Out { .. }
            | ReadError::NoToken(_)
            | ReadError::Late
            | ReadError::Limited => {}
        }
        self.errors.insert(Arc::clone(secret), error);
    }
}

impl Vault for Poller {
    async fn poll(&mut self, requests: &[ReadRequest]) -> PollResult {
        let polled = self.poll(requests).await;
        PollResult { token_left: self.session.given_token_left().await, ..polled }
    }

    fn notices(&self) -> HashMap<Arc<SecretId>, Finding> {
        let notice = |(secret, error): (&Arc<SecretId>, &ReadError)| {
            Some((Arc::clone(secret), error.notice(secret)?))
        };
        self.errors.iter().filter_map(notice).collect()
    }

    async fn read_clock(&mut self) {
        self.server.read_clock().await;
    }

    async fn rest(&mut self) {
        self.plan_full_poll();
        self.session.rest().await;
    }

    fn forget(&mut self, is_used: impl Fn(&SecretId) -> bool) {
        self.errors.retain(|secret, _| is_used(secret));
        self.unreported.retain(|secret| is_used(secret));
        self.witnesses.retain(&is_used);
        self.failed.retain(|secret| is_used(secret));
        self.unreadable_policies.retain(|secret, _| is_used(secret));
        self.unreachable.retain(|secret| is_used(secret));
        self.late.retain(|secret| is_used(secret));
    }

    async fn close(&mut self) {
        self.plan_full_poll();
        self.session.close().await;
    }
}

/// Returns whether an error is logged for the server as a whole, and not for a secret.
fn concerns_server(error: &ReadError) -> bool {
    matches!(
        error,
        ReadError::Out { .. } | ReadError::NoToken(_) | ReadError::Late | ReadError::Limited
    )
}

/// Returns whether a request is worth repeating before the next poll of all secrets.
fn is_retryable(error: &ReadError) -> bool {
    match error {
        ReadError::Failed(failure) => {
            !matches!(failure, Failure::Refused { .. } | Failure::Unaskable(_))
        }
        ReadError::Out { .. } | ReadError::NoToken(_) | ReadError::Late | ReadError::Limited => {
            true
        }
        ReadError::Missing
        | ReadError::Deleted
        | ReadError::Destroyed
        | ReadError::Denied { .. }
        | ReadError::NoMount { .. }
        | ReadError::NoDataPrefix { .. }
        | ReadError::NotKvV2(_) => false,
    }
}

/// The result of a poll that could not begin.
fn unstarted_poll(requests: &[ReadRequest], retry_in: Duration) -> PollResult {
    PollResult {
        observations: HashMap::new(),
        failed: requests.iter().map(|request| Arc::clone(&request.secret)).collect(),
        retry_in: Some(retry_in),
        ..PollResult::default()
    }
}

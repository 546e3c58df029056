//! The secrets in Vault, and what processes and pods read of them.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;
use vault_secrets_reloader::model::secret::Version;

use super::{Secret, State, World, process_of};

impl World {
    pub(super) fn secret(&self, secret: usize) -> usize {
        secret % self.secrets.len()
    }

    /// The server that has a secret.
    pub(crate) fn server_of(&self, secret: usize) -> usize {
        secret / self.setup.secrets
    }

    pub(super) fn set(&mut self, secret: usize, state: State) {
        let old = self.secrets[secret].state;
        if old == state {
            return;
        }
        self.secrets[secret] = Secret { state, before: old, since: Instant::now() };
        if let Some(live) = state.live() {
            // The version is live again. A workload that was reloaded for it before may have had
            // another version since.
            for object in self.objects.iter_mut().flatten() {
                object.covered.remove(&(secret, live.number, live.created));
            }
        }
        self.say(|| format!("secret {secret}: {old:?} -> {state:?}"));
    }

    /// Whether a server answers at all.
    pub(crate) fn vault_answers(&self, server: usize) -> bool {
        self.faults.vault.get(&server).is_none_or(|until| Instant::now() >= *until)
    }

    /// Returns the answer to a read of a secret by a life of a process; `None` for an error.
    pub(crate) fn read(&mut self, life: u64, secret: usize, is_on_standby: bool) -> Option<State> {
        let now = Instant::now();
        let is_out = self.faults.unreadable.get(&secret).is_some_and(|until| now < *until);
        if is_out || !self.vault_answers(self.server_of(secret)) {
            return None;
        }
        self.reads += 1;
        let Secret { state, before, since } = self.secrets[secret];
        // A restored storage is the same on the standby.
        let is_on_standby = is_on_standby
            && before
                .live()
                .zip(state.live())
                .is_some_and(|(then, now)| then.created < now.created);
        if is_on_standby {
            self.misled.insert((life, secret));
        }
        let lag = self.faults.standby.filter(|(until, _)| now < *until).map(|(_, lag)| lag);
        let is_behind = is_on_standby
            || self.reads.is_multiple_of(2) && lag.is_some_and(|lag| now < since + lag);
        let answer = if is_behind { before } else { state };
        self.told[process_of(life)].insert(secret, (answer, state, Instant::now()));
        if let Some(version) = answer.live() {
            self.reads_of.entry((life, secret)).or_default().insert(version, now);
        } else {
            self.gone_reads.insert((life, secret), now);
        }
        Some(answer)
    }

    /// Returns the live versions of some secrets.
    pub(super) fn live_of(&self, secrets: &BTreeSet<usize>) -> BTreeMap<usize, Version> {
        let live = |secret: &usize| Some((*secret, self.secrets[*secret].state.live()?));
        secrets.iter().filter_map(live).collect()
    }

    /// Returns the versions that pods read if they start at this moment.
    pub(super) fn read_by_pods(&self, secrets: &BTreeSet<usize>) -> BTreeMap<usize, Version> {
        let now = Instant::now();
        let lag = self.faults.pods_lag.filter(|(until, _)| now < *until).map(|(_, lag)| lag);
        let read = |secret: &usize| {
            let Secret { state, before, since } = self.secrets[*secret];
            // A restored storage is the same on all nodes.
            let is_behind = lag.is_some_and(|lag| now < since + lag)
                && before
                    .live()
                    .zip(state.live())
                    .is_some_and(|(then, now)| then.created < now.created);
            let state = if is_behind { before } else { state };
            Some((*secret, state.live()?))
        };
        secrets.iter().filter_map(read).collect()
    }
}

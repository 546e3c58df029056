//! Applies the events of a history to the world.

use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::Instant;
use vault_secrets_reloader::index::namespaces::NamespaceRules;
use vault_secrets_reloader::model::secret::Version;

use super::{Reaction, Seen, State, World, frozen_until};
use crate::history::Event;
use crate::time;

impl World {
    /// Applies an event. Events of processes are handled elsewhere.
    pub(crate) fn happen(&mut self, event: &Event) {
        match *event {
            Event::Rotate(s) => self.change_secret(s, |world, server, state| {
                let created = world.vault_time(server);
                State::Live(Version { number: state.number() + 1, created })
            }),
            Event::RotateAtPoll(s) => {
                let secret = self.secret(s);
                self.faults.rotations.push(secret);
            }
            Event::Delete(s) => self.change_secret(s, |_, _, state| match state {
                State::Live(version) => State::Deleted(version),
                state => state,
            }),
            Event::Undelete(s) => self.change_secret(s, |_, _, state| match state {
                State::Deleted(version) => State::Live(version),
                state => state,
            }),
            Event::Destroy(s) => self.change_secret(s, |_, _, state| match state {
                State::Live(version) | State::Deleted(version) => State::Destroyed(version),
                state => state,
            }),
            Event::DeleteMetadata(s) => self.change_secret(s, |_, _, _| State::Missing),
            Event::Snapshot => {
                self.snapshot = Some(self.secrets.iter().map(|secret| secret.state).collect());
            }
            Event::Restore => {
                for secret in 0..self.secrets.len() {
                    self.restore(secret);
                }
            }
            Event::RestoreMount(s) => self.restore(self.secret(s)),
            Event::Redeploy(w)
            | Event::AddReference(w, _)
            | Event::RemoveReference(w, _)
            | Event::OptOut(w)
            | Event::OptIn(w)
            | Event::MoveServer(w) => self.by_owner(self.slot(w), event),
            Event::Undo(w)
            | Event::Revert(w)
            | Event::Strip(w)
            | Event::RevertNext(w)
            | Event::StripNext(w)
            | Event::RemoveRecord(w)
            | Event::Prune(w) => self.tamper(self.slot(w), event),
            Event::EditSource(source, bits) => self.edit_source(source, bits),
            Event::Touch(w) => self.written(self.slot(w)),
            Event::RenewPods(w) => self.make_pods(self.slot(w), true),
            Event::RotateBadly(..)
            | Event::Break(_)
            | Event::Heal(_)
            | Event::Continue(_)
            | Event::SetPolicy(..) => self.affect_rollouts(event),
            Event::StartDeletion(w) => {
                let slot = self.slot(w);
                if let Some(object) = &mut self.objects[slot] {
                    object.deleting = true;
                }
                self.say(|| format!("w{slot}: its deletion begins"));
                self.written(slot);
            }
            Event::Freeze(w, ms) => self.freeze(self.slot(w), ms),
            Event::FreezeNamespace(ms) => {
                let end = time::now() + SignedDuration::from_millis(ms.try_into().unwrap());
                self.say(|| format!("the namespace is frozen until {end}"));
                let time_rules = frozen_until(Some(end));
                self.namespace = NamespaceRules { dry_run: false, time_rules };
                self.tell(&Seen::Namespace(self.namespace.clone()));
            }
            Event::Recreate(w) => self.recreate(self.slot(w), false),
            Event::Clone(w) => self.recreate(self.slot(w), true),
            Event::Adopt(w) => self.adopt(self.slot(w)),
            Event::Patch(_)
            | Event::Unreadable(..)
            | Event::VaultDown(..)
            | Event::ApiDown(_)
            | Event::NoRevisions(_)
            | Event::Standby(_)
            | Event::PodsLag(_)
            | Event::OnStandby(_)
            | Event::ControllersDown(_)
            | Event::SlowWatch(..) => self.fail(event),
            Event::Kill(_)
            | Event::KillAll
            | Event::Stop(_)
            | Event::Start(_)
            | Event::Demote(..) => {}
        }
    }

    /// Rotates the secrets of a server that are to be rotated just before its next poll.
    pub(crate) fn rotate_at_poll(&mut self, server: usize) {
        let all = std::mem::take(&mut self.faults.rotations);
        let (now, later) = all.into_iter().partition(|secret| self.server_of(*secret) == server);
        self.faults.rotations = later;
        let now: Vec<usize> = now;
        for secret in now {
            self.happen(&Event::Rotate(secret));
        }
    }

    /// Freezes a workload for a time.
    fn freeze(&mut self, slot: usize, ms: u64) {
        let end = time::now() + SignedDuration::from_millis(ms.try_into().unwrap());
        if let Some(object) = &mut self.objects[slot] {
            object.freeze = Some(end);
        }
        self.say(|| format!("w{slot}: frozen until {end}"));
        self.written(slot);
    }

    fn change_secret(
        &mut self,
        secret: usize,
        after: impl FnOnce(&mut Self, usize, State) -> State,
    ) {
        let secret = self.secret(secret);
        let state = self.secrets[secret].state;
        let state = after(self, self.server_of(secret), state);
        self.set(secret, state);
    }

    fn restore(&mut self, secret: usize) {
        let Some(state) = self.snapshot.as_ref().map(|states| states[secret]) else { return };
        self.was_restored = true;
        self.set(secret, state);
    }

    /// Applies a change of the template by its owner.
    fn by_owner(&mut self, slot: usize, event: &Event) {
        let number = self.next();
        match *event {
            Event::AddReference(_, s) => {
                let s = s % self.setup.secrets;
                self.deploy(slot, |template| {
                    if !template.refs.contains(&s) {
                        template.refs.push(s);
                    }
                });
            }
            Event::RemoveReference(_, s) => {
                let s = s % self.setup.secrets;
                self.deploy(slot, |template| template.refs.retain(|other| *other != s));
            }
            Event::OptOut(_) => self.deploy(slot, |template| template.opted_in = false),
            Event::OptIn(_) => self.deploy(slot, |template| template.opted_in = true),
            Event::MoveServer(_) => {
                let servers = self.setup.servers;
                self.deploy(slot, |template| template.server = (template.server + 1) % servers);
            }
            _ => {
                self.say(|| format!("w{slot}: deployed"));
                self.deploy(slot, |template| template.content = number);
            }
        }
    }

    /// Applies a change of the controller's annotations by others.
    fn tamper(&mut self, slot: usize, event: &Event) {
        match event {
            Event::Undo(_) => return self.undo(slot),
            Event::Revert(_) => return self.take_back(slot, Reaction::Revert),
            Event::Strip(_) => return self.take_back(slot, Reaction::Strip),
            _ => {}
        }
        let Some(object) = &mut self.objects[slot] else { return };
        match event {
            Event::RevertNext(_) => object.reaction = Reaction::Revert,
            Event::StripNext(_) => object.reaction = Reaction::Strip,
            Event::RemoveRecord(_) => {
                object.record = None;
                object.was_tampered_with = true;
                self.churned = Some(Instant::now());
                self.say(|| format!("w{slot}: its record is removed"));
                self.written(slot);
            }
            _ => {
                let last = object.revisions.iter().map(|rev| rev.number).max();
                // A revision that has pods is never removed.
                let pods = &object.pods.template;
                object.revisions.retain(|rev| Some(rev.number) == last || rev.template == *pods);
                self.say(|| format!("w{slot}: its old revisions are removed"));
            }
        }
    }

    /// Starts a fault.
    fn fail(&mut self, event: &Event) {
        let now = Instant::now();
        let until = |ms: u64| now + Duration::from_millis(ms);
        match *event {
            Event::Patch(fault) => self.faults.patches.push(fault),
            Event::Unreadable(s, ms) => {
                let s = self.secret(s);
                self.faults.unreadable.insert(s, until(ms));
            }
            Event::VaultDown(server, ms) => {
                let server = server % self.setup.servers;
                self.faults.vault.insert(server, until(ms));
            }
            Event::ApiDown(ms) => self.faults.api = Some(until(ms)),
            Event::NoRevisions(ms) => self.faults.revisions = Some(until(ms)),
            Event::Standby(ms) => {
                self.standby_ms = self.standby_ms.max(ms);
                self.faults.standby = Some((until(60_000), Duration::from_millis(ms)));
            }
            Event::PodsLag(ms) => {
                self.faults.pods_lag = Some((until(60_000), Duration::from_millis(ms)));
            }
            Event::OnStandby(p) => {
                let process = p % self.setup.processes;
                self.faults.on_standby.extend((0..self.setup.servers).map(|s| (process, s)));
            }
            Event::ControllersDown(ms) => self.faults.controllers = Some(until(ms)),
            Event::SlowWatch(p, ms) => {
                let process = p % self.setup.processes;
                let slow = (until(60_000), Duration::from_millis(ms));
                self.slowest_watch = self.slowest_watch.max(slow.1);
                self.faults.watches.insert(process, slow);
            }
            _ => {}
        }
    }
}

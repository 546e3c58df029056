//! Judges whether a reload follows the rules for rollouts, by the true state of the world.
//!
//! The judge allows only for what the sender could not know:
//!
//! - A process knows what happened before its decision by more than the longest delay of a watch and
//!   [`READING`]. It knows its own reloads at once, if they were answered. Of the reloads by other
//!   processes, only those that it must know count. With one process, each answered reload counts.
//! - While others change templates, records, ConfigMaps or the set of workloads, the number of users
//!   is not known to all. Widths are not judged from such a change until each process knows it.
//! - A version that was healthy somewhere once may be rolled out as wide as one that still is.
//! - A PATCH that arrives after its sender gave up counts for no width and no limit.
//!
//! A PATCH is accepted only for the state of the workload that its sender knows. So the interval, and
//! what the record says of the workload, are judged without any allowance but for clocks.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::Instant;
use vault_secrets_reloader::decide::plan::Reload;
use vault_secrets_reloader::model::record::Record;
use vault_secrets_reloader::model::reload_policy::{ReloadMode, ReloadPolicy};
use vault_secrets_reloader::model::secret::Version;
use vault_secrets_reloader::model::strategy::Rollout;
use vault_secrets_reloader::model::workload::WorkloadId;
use vault_secrets_reloader::rollouts::limits::RolloutLimits;
use vault_secrets_reloader::rollouts::wave::WaveRules;

use super::{LastReload, Object, Sent, Template, World};
use crate::history::{SECRETS, SERVERS};
use crate::time;

/// The most by which the time since a record may seem longer than it is.
const RECORD_ERROR: SignedDuration = SignedDuration::from_secs(3);

/// The longest time from an event of the watch until a process knows the workload: the read of a
/// ConfigMap.
const READING: Duration = Duration::from_secs(3);

/// The longest time from the list of all workloads until a process has read their ConfigMaps.
const FIRST_READS: Duration = Duration::from_secs(5);

/// After this time, each process that polls has decided about a template.
const KNOWN_AFTER: Duration = Duration::from_mins(1);

/// The longest time between two reloads of a workload.
const LONGEST_REST: SignedDuration = SignedDuration::from_hours(1);

/// A decision to reload a workload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Basis {
    at: Instant,
    /// The policies that the process read last, by secret.
    policies: [ReloadPolicy; SECRETS * SERVERS],
}

impl World {
    /// Notes that a life of a process reads the policy of a secret.
    pub(crate) fn read_policy(&mut self, life: u64, secret: usize) -> ReloadPolicy {
        let policy = self.policies[secret];
        if self.setup.rollouts.is_on {
            self.policies_read.insert((life, secret), policy);
        }
        policy
    }

    /// Notes that a life of a process decided to reload a workload.
    pub(crate) fn note_decision(&mut self, life: u64, id: &WorkloadId) {
        if !self.setup.rollouts.is_on {
            return;
        }
        let policies = std::array::from_fn(|secret| {
            self.policies_read.get(&(life, secret)).copied().unwrap_or_default()
        });
        self.decisions.insert((life, id.clone()), Basis { at: Instant::now(), policies });
    }

    /// Returns the last decision of a life of a process to reload a workload.
    pub(crate) fn basis(&self, life: u64, id: &WorkloadId) -> Option<Basis> {
        self.decisions.get(&(life, id.clone())).copied()
    }

    /// Notes the versions that a workload is healthy with after a reload.
    pub(super) fn note_proven(&mut self, slot: usize) {
        let Some(object) = &self.objects[slot] else { return };
        if !self.setup.rollouts.is_on || !object.is_complete() {
            return;
        }
        let Some(record) = object.record_of_template() else { return };
        for (hash, version) in record.versions.iter() {
            let secrets = (0..self.hashes.len()).filter(|secret| self.hashes[*secret] == hash);
            self.proven.extend(secrets.map(|secret| (secret, version)));
        }
    }

    /// Returns what is kept of a reload that is applied at this moment.
    pub(super) fn last_reload(&self, slot: usize, reload: &Reload, sent: &Sent) -> LastReload {
        let Sent { life, is_answered, .. } = *sent;
        // Urgent reloads take no room: they may begin at the same time as one that has room.
        let is_urgent = self.objects[slot].as_ref().zip(sent.basis);
        let is_urgent = is_urgent.is_some_and(|(object, basis)| self.is_urgent(object, &basis));
        let is_judged = self.setup.rollouts.is_on && !is_urgent;
        let reasons = if is_judged { self.reasons(slot, &reload.record, life) } else { Vec::new() };
        LastReload { at: Instant::now(), life, is_answered, reasons }
    }

    /// Returns the versions that a workload is certainly reloaded for. Other secrets may have changed,
    /// too: no process can tell about some of them, and each reload brings all versions.
    ///
    /// A secret has certainly changed if the process saw an earlier version under the present
    /// template, or if nothing else in the record changes.
    fn reasons(&self, slot: usize, record: &Record, life: u64) -> Vec<(usize, Version)> {
        let Some(object) = &self.objects[slot] else { return Vec::new() };
        if object.was_tampered_with {
            return Vec::new();
        }
        let former = object.record_of_template();
        let own = object.own_record();
        let uses = self.uses(&object.template);
        let of = |record: Option<&Record>, secret: usize| {
            record.and_then(|record| record.versions.get(self.hashes[secret]))
        };
        let is_kept = |secret: usize| {
            let after = of(Some(record), secret);
            after.is_some() && of(former, secret) == after
        };
        let is_alone = |secret: usize| {
            let mut may_count = self.may_seem_to_use(&object.template);
            may_count.extend(&object.may_seem_former);
            let mut others = may_count.iter().filter(|other| **other != secret);
            // Such a process may reload the workload for a secret that is the same as before.
            let may_repeat = self.setup.may_be_missing || self.was_restored;
            object.former.is_empty() && !may_repeat && others.all(|other| is_kept(*other))
        };
        let is_witnessed = |secret: usize, version: Version| {
            let known = object.deployed_at + KNOWN_AFTER;
            let reads = self.reads_of.get(&(life, secret));
            let mut earlier = reads.into_iter().flatten();
            // An answer of a standby may be disbelieved.
            let is_certain = self.standby_ms == 0 && !self.misled.contains(&(life, secret));
            object.is_stayer
                && is_certain
                && !self.demoted.contains(&life)
                && object.names(secret, self.setup.secrets)
                && of(own, secret) != Some(version)
                && earlier.any(|(read, at)| read.created < version.created && *at > known)
        };
        let changed = uses.iter().filter_map(|secret| {
            let version =
                of(Some(record), *secret).filter(|version| *version != Version::MISSING)?;
            let is_certain =
                !is_kept(*secret) && (is_witnessed(*secret, version) || is_alone(*secret));
            is_certain.then_some((*secret, version))
        });
        changed.collect()
    }

    /// Returns the rules that a PATCH breaks which is applied at this moment.
    pub(super) fn broken_rules(&self, slot: usize, reload: &Reload, sent: &Sent) -> Vec<String> {
        let Some((object, basis)) = self.objects[slot].as_ref().zip(sent.basis) else {
            return Vec::new();
        };
        if !self.setup.rollouts.is_on {
            return Vec::new();
        }
        let policy = |secret: usize| basis.policies[secret];
        let is_urgent = self.is_urgent(object, &basis);
        let mut broken = self.broken_in_record(object, &reload.record, is_urgent);
        let reasons = self.reasons(slot, &reload.record, sent.life);
        if let Some((secret, _)) =
            reasons.iter().find(|(secret, _)| policy(*secret).mode == ReloadMode::Hold)
        {
            broken.push(format!("the owner of secret {secret} holds its reloads"));
        }
        let Some(surely) = self.surely_known(sent.life, basis.at) else { return broken };
        if object.is_on_delete() {
            return broken;
        }
        let sender = Sender { slot, life: sent.life, server: object.template.server, surely };
        if !sent.is_late {
            broken.extend(self.broken_limits(object, &sender));
        }
        if is_urgent {
            return broken;
        }
        let Some(waves) = self.setup.rollouts.rules.waves else { return broken };
        for (secret, version) in reasons {
            let (least, most) = self.users(secret);
            if least < number(waves.from) {
                continue;
            }
            if let Some(failed) = self.stopped_by(secret, version, surely) {
                broken.push(format!(
                    "{} failed with {version:?} of secret {secret}",
                    self.objects[failed].as_ref().map_or("", |object| object.name.as_str())
                ));
            }
            let running = 1 + self.running_for(secret, version, &sender);
            let is_proven = self.proven.contains(&(secret, version));
            let width = width(&waves, policy(secret), most, is_proven);
            if running > width && !sent.is_late {
                broken.push(format!(
                    "{running} rollouts at a time for {version:?} of secret {secret}, and its width \
                     is {width}"
                ));
            }
        }
        broken
    }

    /// Whether the owner of a secret of a workload may say that its reloads are urgent.
    fn is_urgent(&self, object: &Object, basis: &Basis) -> bool {
        let seemingly = self.may_seem_to_use(&object.template);
        let mut uses = seemingly.into_iter().chain(object.former.keys().copied());
        uses.any(|secret| basis.policies[secret].mode == ReloadMode::Urgent)
    }

    /// Returns what is wrong in a record, or with its time.
    fn broken_in_record(&self, object: &Object, record: &Record, is_urgent: bool) -> Vec<String> {
        let mut broken = Vec::new();
        if record.was_unhealthy && object.is_complete() {
            broken.push("its record says that it was not healthy".to_owned());
        }
        let shortest = self.setup.rollouts.rules.shortest_interval;
        let Some((own, at)) = object.own_record().and_then(|own| Some((own, own.at?))) else {
            return broken;
        };
        let since = time::now().duration_since(at);
        let rested = rest(shortest, own.streak);
        if shortest > Duration::ZERO {
            // The time does not double for urgent reloads.
            let least = if is_urgent { rest(shortest, 0) } else { rested };
            if since < least - RECORD_ERROR {
                broken.push(format!("it was reloaded {since:?} ago, and rests for {least:?}"));
            }
            let is_in_row = since < rested.saturating_mul(2) - RECORD_ERROR;
            if is_in_row && record.streak <= own.streak {
                broken.push("its reload counts as the first of a row".to_owned());
            }
        }
        broken
    }

    /// Returns a limit on rollouts at a time that one more rollout breaks.
    fn broken_limits(&self, object: &Object, sender: &Sender) -> Option<String> {
        let RolloutLimits { in_all, per_namespace } = self.setup.rollouts.rules.limits;
        let mut running: BTreeMap<&str, usize> = BTreeMap::new();
        for other in self.others(sender.slot) {
            if other.record_of_template().is_some() && self.knows_running(other, sender) {
                *running.entry(&*other.namespace).or_default() += 1;
            }
        }
        let per_namespace = per_namespace.unwrap_or(usize::MAX);
        let here = running.get(&*object.namespace).copied().unwrap_or(0);
        // The namespaces that want rollouts share the limit in all.
        let namespaces = self.setup.rollouts.namespaces.max(1);
        let share = in_all.map_or(usize::MAX, |most| (most / namespaces).max(1));
        let counted = |running: &usize| (*running).min(per_namespace).min(share);
        let all: usize = running.values().map(counted).sum();
        let is_broken = here >= per_namespace || in_all.is_some_and(|most| all >= most);
        is_broken.then(|| format!("too many rollouts at a time: {running:?}"))
    }

    /// Returns the time up to which a process knew all that had happened when it decided. `None` if
    /// it may not have known all users of a secret.
    fn surely_known(&self, life: u64, decided: Instant) -> Option<Instant> {
        let surely = decided.checked_sub(self.slowest_watch + READING)?;
        let has_read_all = self.synced.get(&life).is_some_and(|synced| {
            let has_source = |object: &Object| object.template.source.is_some();
            decided >= *synced + FIRST_READS || !self.objects.iter().flatten().any(has_source)
        });
        let is_calm = self.churned.is_none_or(|churned| churned <= surely);
        (has_read_all && is_calm).then_some(surely)
    }

    /// Returns all workloads but one.
    fn others(&self, slot: usize) -> impl Iterator<Item = &Object> {
        let others = self.objects.iter().enumerate().filter(move |(other, _)| *other != slot);
        others.filter_map(|(_, object)| object.as_ref())
    }

    /// Returns the least and the largest number of users of a secret that a process may know of.
    fn users(&self, secret: usize) -> (usize, usize) {
        let opted_in = || self.objects.iter().flatten().filter(|object| object.template.opted_in);
        let uses = |object: &&Object| self.uses(&object.template).contains(&secret);
        let may_use = |object: &&Object| uses(object) || object.former.contains_key(&secret);
        (opted_in().filter(uses).count(), opted_in().filter(may_use).count())
    }

    /// Whether a workload was reloaded for a version, and nothing else was deployed since.
    fn is_member(&self, object: &Object, secret: usize, version: Version) -> bool {
        let record = object.record_of_template();
        object.template.opted_in
            && record.and_then(|record| record.versions.get(self.hashes[secret])) == Some(version)
            && self.uses(&object.template).contains(&secret)
    }

    /// Returns a member that had failed before a time. `None` if there is none, or if its failure
    /// tells nothing about the version.
    fn stopped_by(&self, secret: usize, version: Version, before: Instant) -> Option<usize> {
        let timeout = self.setup.rollouts.rules.timeout;
        self.objects.iter().position(|object| {
            object.as_ref().is_some_and(|object| {
                self.is_member(object, secret, version)
                    && object.failed_since(timeout).is_some_and(|since| since <= before)
                    && !object.is_excused()
            })
        })
    }

    /// Returns the number of rollouts for a version that the sender of a PATCH knows to be under way.
    fn running_for(&self, secret: usize, version: Version, sender: &Sender) -> usize {
        let counts = |object: &Object| {
            let last = object.last_reload.as_ref();
            last.is_some_and(|last| last.reasons.contains(&(secret, version)))
                && self.is_member(object, secret, version)
                && self.knows_running(object, sender)
        };
        self.others(sender.slot).filter(|object| counts(object)).count()
    }

    /// Whether the rollout of a reload is under way, and the sender of a PATCH knows it.
    fn knows_running(&self, object: &Object, sender: &Sender) -> bool {
        let is_known = object.last_reload.as_ref().is_some_and(|last| {
            let is_own = last.life == sender.life
                && last.is_answered
                && object.template.server == sender.server
                && !self.demoted.contains(&sender.life);
            is_own || last.at <= sender.surely
        });
        is_known && object.template.opted_in && object.is_running(self.setup.rollouts.rules.timeout)
    }

    /// Whether a rotation of one of the secrets of a workload is stopped by a failure, at the end of a
    /// history: each rollout that has not ended by then takes too long.
    pub(crate) fn is_stopped(&self, slot: usize) -> bool {
        let Some((object, waves)) =
            self.objects[slot].as_ref().zip(self.setup.rollouts.rules.waves)
        else {
            return false;
        };
        let mut secrets = self.uses(&object.template);
        secrets.extend(object.former.keys());
        secrets.into_iter().any(|secret| {
            let Some(live) = self.secrets[secret].state.live() else { return false };
            let has_failed = |object: &Object| {
                self.is_member(object, secret, live)
                    && object.has_not_ended()
                    && !object.is_excused()
            };
            self.users(secret).1 >= number(waves.from)
                && self.objects.iter().flatten().any(has_failed)
        })
    }

    /// Whether the owner of one of the secrets of a workload holds its reloads. The policy of a secret
    /// that is gone is the last one that was read.
    pub(crate) fn is_held_by_owner(&self, slot: usize) -> bool {
        let Some(object) = &self.objects[slot] else { return false };
        let mut secrets = self.uses(&object.template);
        secrets.extend(object.former.keys());
        secrets.into_iter().any(|secret| {
            let is_gone = self.secrets[secret].state.live().is_none();
            self.policies[secret].mode == ReloadMode::Hold
                || is_gone && self.ever_on_hold.contains(&secret)
        })
    }

    /// Returns the longest time that any workload still rests after its last reload.
    pub(crate) fn longest_rest(&self) -> Duration {
        let shortest = self.setup.rollouts.rules.shortest_interval;
        let left = |object: &Object| {
            let record = object.own_record()?;
            let since = time::now().duration_since(record.at?);
            Duration::try_from(rest(shortest, record.streak) - since).ok()
        };
        self.objects.iter().flatten().filter_map(left).max().unwrap_or_default()
    }
}

/// The sender of a PATCH, and what it knew.
struct Sender {
    /// The workload that is reloaded.
    slot: usize,
    life: u64,
    server: usize,
    /// The sender knew all that happened up to this time.
    surely: Instant,
}

impl Object {
    pub(super) fn is_on_delete(&self) -> bool {
        self.rollout == Rollout::OnDelete
    }

    /// Returns the record, if it belongs to the present template.
    fn record_of_template(&self) -> Option<&Record> {
        self.own_record().filter(|record| self.template.mark.as_ref() == Some(&record.mark))
    }

    /// Whether the template itself names a secret.
    fn names(&self, secret: usize, of_server: usize) -> bool {
        let Template { server, refs, .. } = &self.template;
        secret / of_server == *server && refs.contains(&(secret % of_server))
    }

    /// Whether a failure tells nothing about the version: the workload was not healthy before, or
    /// somebody said to go on.
    fn is_excused(&self) -> bool {
        self.own_record().is_some_and(|record| record.was_unhealthy)
            || self.continue_after == Some(self.template.count)
    }
}

fn number(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Returns how many workloads may be rolled out at a time.
fn width(waves: &WaveRules, policy: ReloadPolicy, users: usize, is_proven: bool) -> usize {
    let first = number(policy.first.map_or(waves.first, NonZeroU32::get)).max(1);
    let step = usize::from(policy.step.unwrap_or(waves.step).get());
    if is_proven { first.max((users * step).div_ceil(100)) } else { first }
}

/// Returns how long a workload rests after a reload.
fn rest(shortest: Duration, streak: u32) -> SignedDuration {
    let shortest = SignedDuration::try_from(shortest).unwrap_or(LONGEST_REST);
    (0..streak.min(12)).fold(shortest, |rest, _| rest.saturating_mul(2)).min(LONGEST_REST)
}

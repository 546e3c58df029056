//! Judges whether a reload was right, and which versions have not reached the pods. The judge uses
//! the true state of the world, not the belief of any process.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use vault_secrets_reloader::index::namespaces::NamespaceRules;
use vault_secrets_reloader::model::secret::Version;
use vault_secrets_reloader::model::workload::WorkloadId;

use super::{Object, Rev, SETTLE, Secret, State, World, process_of};
use crate::time;

/// The most by which a version may seem newer than it is, beyond the settle time: a second for the
/// whole seconds of both clocks, and both round trips.
const CLOCK_ERROR: SignedDuration = SignedDuration::from_millis(2_500);

/// The longest time from an answer to the PATCH that rests on it.
const MOMENT: Duration = Duration::from_secs(5);

/// Whether a freeze surely lasts, by any clock.
fn lasts(end: Timestamp) -> bool {
    time::now() + CLOCK_ERROR < end
}

impl World {
    /// Judges that a PATCH is sent by a process that knows these rules of the namespace.
    pub(crate) fn sends(&mut self, id: &WorkloadId, life: u64, known: Option<&NamespaceRules>) {
        let text = known.and_then(|rules| rules.time_rules.freeze_until.as_deref());
        if text.and_then(|text| text.parse::<Timestamp>().ok()).is_some_and(lasts) {
            self.is_wrong(format!("process {life} reloads {id} within a freeze of its namespace"));
        }
    }

    /// Whether a PATCH that is sent at this moment is right.
    pub(crate) fn is_right_now(&self, id: &WorkloadId, life: u64) -> bool {
        self.find(id).is_some_and(|slot| self.complaints(slot, life).is_empty())
    }

    /// Returns the reasons why a reload of a workload at this moment would be wrong.
    pub(super) fn complaints(&self, slot: usize, life: u64) -> Vec<String> {
        let Some(object) = &self.objects[slot] else { return Vec::new() };
        let mut complaints = Vec::new();
        if object.deleting {
            complaints.push("it is being deleted".to_owned());
        }
        if object.freeze.is_some_and(lasts) {
            complaints.push("it is frozen".to_owned());
        }
        if !object.template.opted_in {
            complaints.push("it has not opted in".to_owned());
        }
        let told = &self.told[process_of(life)];
        let uses = self.surely_uses(&object.template);
        let gone = uses.iter().filter(|secret| {
            // The process got this answer a moment ago, mostly in the poll of this reload, and the
            // answer is still true.
            let is_told = told
                .get(secret)
                .is_some_and(|(answer, _, at)| answer.live().is_none() && at.elapsed() < MOMENT);
            is_told && self.secrets[**secret].state.live().is_none()
        });
        if gone.count() > 0 && !self.setup.may_be_missing {
            complaints.push("a secret of it is gone".to_owned());
        }
        // The secrets that the workload uses now, or used a moment ago, when they were read.
        let mut may_count = self.may_seem_to_use(&object.template);
        may_count.extend(object.former.keys());
        may_count.extend(&object.may_seem_former);
        let is_right = may_count.iter().any(|secret| {
            // A standby need not know yet that the secret was deleted. An older version is no
            // excuse.
            let then = told
                .get(secret)
                .map(|(answer, state, _)| if state.live().is_some() { *state } else { *answer });
            let states = [Some(self.secrets[*secret].state), then];
            let mut live = states.into_iter().flatten().filter_map(State::live);
            live.any(|live| self.is_right(object, *secret, live, life))
        });
        if !is_right {
            complaints.push(format!(
                "its pods have what is live, or were reloaded for it already; live {:?}, pods {:?}, \
                 covered {:?}",
                self.live_of(&may_count),
                object.pods.have,
                object.covered
            ));
        }
        complaints
    }

    /// Whether a reload for this secret is right: it is needed, or no process can tell that it is
    /// needless; and it is the first such reload.
    fn is_right(&self, object: &Object, secret: usize, live: Version, life: u64) -> bool {
        let present = object.revisions.iter().max_by_key(|rev| rev.number);
        let entry = self.entry(object, secret);
        let is_needed = self.will_have(object, secret) != Some(live);
        // The version was created in the same second as the template, or later: pods of the
        // template may have started before it. A standby that was behind may have shown the version
        // before.
        let behind = SignedDuration::from_millis(self.standby_ms.try_into().unwrap_or_default());
        let created = self.created(secret, live) + behind + SETTLE + CLOCK_ERROR;
        let seems_newer =
            created >= object.deployed || present.is_none_or(|rev| created >= rev.created);
        // The version came back since, and a process that saw the version in between cannot know
        // when pods were made.
        let Secret { state, since, .. } = self.secrets[secret];
        let age = SignedDuration::try_from(since.elapsed()).unwrap_or_default();
        let came_back = state.live() == Some(live) && time::now() - age >= object.deployed;
        // No process knows the time of a restore.
        let seems_restored = entry.is_some_and(|entry| live.created < entry.created);
        // A process that read another version as live has to believe it, unless the record of the
        // workload contradicts it.
        let is_misled = self.misled.contains(&(life, secret)) && entry != Some(live);
        // The secret was gone when the last reload was decided, and may have been back before the
        // pods were made.
        let was_missing = entry == Some(Version::MISSING);
        // A process that read the secret as gone cannot know which pods were replaced meanwhile.
        let read_as_gone = self.gone_reads.get(&(life, secret));
        let was_gone =
            self.setup.may_be_missing && read_as_gone.is_some_and(|at| *at >= object.deployed_at);
        let may_be_right =
            is_needed || seems_newer || came_back || seems_restored || was_missing || was_gone;
        is_misled || may_be_right && !self.is_again(object, secret, live, life)
    }

    /// Whether the pods will use a secret after all pending pods are made. Pods that were made
    /// before a ConfigMap named the secret do not use it.
    fn will_use(&self, object: &Object, secret: usize) -> bool {
        if object.pods.template == object.template {
            object.pods.uses.contains(&secret)
        } else {
            self.uses(&object.template).contains(&secret)
        }
    }

    /// Returns the version of a secret in the workload's own record.
    fn entry(&self, object: &Object, secret: usize) -> Option<Version> {
        object.own_record()?.versions.get(self.hashes[secret])
    }

    /// Returns the version of a secret that the pods will have after all pending pods are made.
    /// `None` for pods that were made without the secret.
    fn will_have(&self, object: &Object, secret: usize) -> Option<Version> {
        if object.pods.template == object.template {
            object.pods.have.get(&secret).copied()
        } else {
            self.secrets[secret].state.live()
        }
    }

    /// Returns the secrets of a workload whose live version has not reached its pods although a
    /// process can know that, and the secrets that are gone. `None` if the workload must not be
    /// reloaded at all.
    pub(crate) fn lacking(&self, slot: usize) -> Option<(Vec<usize>, Vec<usize>)> {
        let object = self.objects[slot].as_ref()?;
        if object.deleting || !object.template.opted_in {
            return None;
        }
        let (mut lacking, mut gone) = (Vec::new(), Vec::new());
        let uses = self.uses(&object.template);
        for secret in &uses {
            match self.secrets[*secret].state.live() {
                None => gone.push(*secret),
                Some(live) => {
                    if self.will_use(object, *secret)
                        && self.will_have(object, *secret) != Some(live)
                        && !self.is_beyond_knowing(object, *secret, live)
                    {
                        lacking.push(*secret);
                    }
                }
            }
        }
        Some((lacking, gone))
    }

    /// Whether a workload may be reloaded at all.
    pub(crate) fn may_be_reloaded(&self, id: &WorkloadId) -> bool {
        self.find(id).is_some_and(|slot| self.lacking(slot).is_some())
    }

    /// Returns the former secrets whose live version has not reached the pods that still use them.
    /// A ConfigMap named these secrets before. Only secrets that this life of a process knows
    /// count.
    pub(crate) fn lacking_of_former(&self, slot: usize, life: u64) -> Vec<usize> {
        let Some(object) = &self.objects[slot] else { return Vec::new() };
        let is_lacking = |secret: &&usize| {
            // New pods start without the secret, so pods that were made without it lack nothing.
            let has = self.will_have(object, **secret).filter(|_| self.will_use(object, **secret));
            let live = self.secrets[**secret].state.live();
            has.zip(live).is_some_and(|(has, live)| {
                has != live
                    && self.knows_former(object, **secret, life)
                    && !self.is_beyond_knowing(object, **secret, live)
            })
        };
        object.former.keys().filter(is_lacking).copied().collect()
    }

    /// Whether no process can know that the pods have a newer version than the restored storage.
    /// The storage was restored to a version from before the revision, or to the recorded version.
    /// The newer version was never recorded, or the record was removed. And no living process has
    /// read another version since the present template was deployed.
    fn is_beyond_knowing(&self, object: &Object, secret: usize, live: Version) -> bool {
        if self.will_have(object, secret).is_none() {
            return self.lacks_unknowably(object, secret, live);
        }
        let present = object.revisions.iter().max_by_key(|rev| rev.number);
        let is_before = |rev: &Rev| self.created(secret, live) < rev.created;
        let seems_older =
            self.entry(object, secret) == Some(live) || present.is_some_and(is_before);
        let has = self.will_have(object, secret);
        let was_recorded = !object.was_tampered_with
            && has.is_some_and(|has| object.covered.contains(&(secret, has.number, has.created)));
        // After this time, each process that polls knows the template.
        let known = object.deployed_at + Duration::from_mins(1);
        // The recorded version is believed rather than an older version that was seen: that answer
        // counts as a standby's.
        let is_entry = self.entry(object, secret) == Some(live);
        let has_witness = object.is_stayer
            && self.living.iter().any(|life| {
                let reads = self.reads_of.get(&(*life, secret));
                let counts =
                    |read: &Version| *read != live && (!is_entry || read.created > live.created);
                let mut others = reads.into_iter().flatten().filter(|(read, _)| counts(read));
                others.any(|(_, time)| *time > known)
            });
        let is_recorded =
            self.entry(object, secret).is_some_and(|entry| entry.created > live.created);
        self.was_restored && seems_older && !was_recorded && !has_witness && !is_recorded
    }
}

impl World {
    /// Whether no process can know that pods were made without a secret that is back since. The
    /// secret was not created since. No living process has read it as gone since the present
    /// template was deployed. And no reload was recorded without it.
    fn lacks_unknowably(&self, object: &Object, secret: usize, live: Version) -> bool {
        let present = object.revisions.iter().max_by_key(|rev| rev.number);
        let is_before = present.is_some_and(|rev| self.created(secret, live) < rev.created);
        let known = object.deployed_at + Duration::from_mins(1);
        let has_witness = object.is_stayer
            && self.living.iter().any(|life| {
                self.gone_reads.get(&(*life, secret)).is_some_and(|time| *time > known)
            });
        let is_recorded =
            !object.was_tampered_with && self.entry(object, secret) == Some(Version::MISSING);
        is_before && !has_witness && !is_recorded
    }
}

impl World {
    /// Whether the workload was reloaded for this version before, and the process can know that.
    /// The process knows it by the annotations, or if all of them are gone, by its own memory for
    /// an hour.
    fn is_again(&self, object: &Object, secret: usize, live: Version, life: u64) -> bool {
        if !object.covered.contains(&(secret, live.number, live.created)) {
            return false;
        }
        let hash = self.hashes[secret];
        let entry = self.entry(object, secret);
        // If the present record shows that the storage was restored since, only a copy of the
        // record that is younger than the present revision proves that such a reload was taken
        // back.
        let is_restored = entry.is_some_and(|entry| live.created < entry.created);
        let present = object.revisions.iter().max_by_key(|rev| rev.number);
        // If the record shows that the secret was missing, the version may have existed before
        // that, unless it was created since.
        let created = self.created(secret, live) - SETTLE - CLOCK_ERROR;
        let is_before = entry == Some(Version::MISSING)
            && present.is_some_and(|present| created <= present.created);
        let counts = |rev: &&Rev| {
            !(is_restored || is_before)
                || present.is_some_and(|present| rev.created > present.created)
        };
        let mut copies = object.revisions.iter().filter(counts);
        let has_trace = entry == Some(live)
            || copies.any(|rev| {
                rev.versions(&object.uid).and_then(|versions| versions.get(hash)) == Some(live)
            });
        let hour = Duration::from_hours(1);
        // A process forgets a workload that leaves.
        let is_remembered = object.is_stayer
            && object.reloaded.as_ref().is_some_and(|(time, by, versions)| {
                *by == life && time.elapsed() < hour && versions.get(hash) == Some(live)
            });
        has_trace || is_remembered
    }
}

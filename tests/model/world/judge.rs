//! Whether a reload was right, and what has not reached the pods: by what is so, not by what anybody
//! believes.

use std::time::Duration;

use jiff::SignedDuration;
use vault_secrets_reloader::model::secret::Version;
use vault_secrets_reloader::model::workload::WorkloadId;

use super::{Object, Rev, SETTLE, Secret, State, World, process_of};
use crate::time;

/// How much longer than the settle time a version may be taken for newer than it is: a second for the
/// whole seconds of both clocks, and both round trips.
const CLOCK_ERROR: SignedDuration = SignedDuration::from_millis(2_500);

/// How long it takes to act on what was told.
const MOMENT: Duration = Duration::from_secs(5);

impl World {
    /// Whether a PATCH that is sent at this moment is right.
    pub(crate) fn is_right_now(&self, id: &WorkloadId, life: u64) -> bool {
        self.find(id).is_some_and(|slot| self.complaints(slot, life).is_empty())
    }

    /// What is wrong with reloading a workload at this moment.
    pub(super) fn complaints(&self, slot: usize, life: u64) -> Vec<String> {
        let Some(object) = &self.objects[slot] else { return Vec::new() };
        let mut complaints = Vec::new();
        if object.deleting {
            complaints.push("it is being deleted".to_owned());
        }
        if !object.template.opted_in {
            complaints.push("it has not opted in".to_owned());
        }
        let told = &self.told[process_of(life)];
        let uses = self.surely_uses(&object.template);
        let gone = uses.iter().filter(|secret| {
            // Told so a moment ago, mostly in the very poll that this reload is of, and it is so.
            let is_told = told
                .get(secret)
                .is_some_and(|(answer, _, at)| answer.live().is_none() && at.elapsed() < MOMENT);
            is_told && self.secrets[**secret].state.live().is_none()
        });
        if gone.count() > 0 && !self.setup.may_be_missing {
            complaints.push("a secret of it is gone".to_owned());
        }
        // By what is so now, or was a moment ago, when it was read.
        let mut may_count = self.may_seem_to_use(&object.template);
        may_count.extend(object.former.keys());
        may_count.extend(&object.may_seem_former);
        let is_right = may_count.iter().any(|secret| {
            // A standby need not know yet that it was deleted; an older version is another thing.
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

    /// Whether a reload for this secret is right: needed, or one of the needless ones that cannot be
    /// told from it; and in either case the first one.
    fn is_right(&self, object: &Object, secret: usize, live: Version, life: u64) -> bool {
        let present = object.revisions.iter().max_by_key(|rev| rev.number);
        let entry = self.entry(object, secret);
        let is_needed = self.will_have(object, secret) != Some(live);
        // Created in the same second as the template, or later: pods of it may have started before.
        // A standby may have shown the version before for as long as it was behind.
        let behind = SignedDuration::from_millis(self.standby_ms.try_into().unwrap_or_default());
        let created = self.created(secret, live) + behind + SETTLE + CLOCK_ERROR;
        let seems_newer =
            created >= object.deployed || present.is_none_or(|rev| created >= rev.created);
        // It came back since, and whoever saw the one in between cannot know when pods were made.
        let Secret { state, since, .. } = self.secrets[secret];
        let age = SignedDuration::try_from(since.elapsed()).unwrap_or_default();
        let came_back = state.live() == Some(live) && time::now() - age >= object.deployed;
        // When the storage was restored, nobody knows.
        let seems_restored = entry.is_some_and(|entry| live.created < entry.created);
        // Whoever was told that another version is live has to believe it, unless the record of the
        // workload knows better.
        let is_misled = self.misled.contains(&(life, secret)) && entry != Some(live);
        // It was gone when the last reload was decided, and may have been back before the pods were made.
        let was_missing = entry == Some(Version::MISSING);
        // Whoever read that it was gone cannot know which pods were renewed meanwhile.
        let read_as_gone = self.gone_reads.get(&(life, secret));
        let was_gone =
            self.setup.may_be_missing && read_as_gone.is_some_and(|at| *at >= object.deployed_at);
        let may_be_right =
            is_needed || seems_newer || came_back || seems_restored || was_missing || was_gone;
        is_misled || may_be_right && !self.is_again(object, secret, live, life)
    }

    /// Whether the pods use a secret, once those that are to be made are made: pods that were made before
    /// a ConfigMap named it do not.
    fn will_use(&self, object: &Object, secret: usize) -> bool {
        if object.pods.template == object.template {
            object.pods.uses.contains(&secret)
        } else {
            self.uses(&object.template).contains(&secret)
        }
    }

    /// What the own record of a workload says of a secret.
    fn entry(&self, object: &Object, secret: usize) -> Option<Version> {
        object.entry(&self.setup.secret_id(secret))
    }

    /// What the pods have of a secret, once those that are to be made are made. `None` for pods that were
    /// made without it.
    fn will_have(&self, object: &Object, secret: usize) -> Option<Version> {
        if object.pods.template == object.template {
            object.pods.have.get(&secret).copied()
        } else {
            self.secrets[secret].state.live()
        }
    }

    /// The secrets of a workload whose live version has not reached its pods, with whether anything
    /// can tell of that; and those that are gone. `None` where it is not to be reloaded at all.
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

    /// The secrets that a ConfigMap named before, whose live version has not reached the pods that still use
    /// them, as far as a life of a process knows of them.
    pub(crate) fn lacking_of_former(&self, slot: usize, life: u64) -> Vec<usize> {
        let Some(object) = &self.objects[slot] else { return Vec::new() };
        let is_lacking = |secret: &&usize| {
            // New pods do without it, so those that were made without it lack nothing.
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

    /// A storage that was restored to a version from before the revision, or to the one that was recorded,
    /// where nobody can tell that the pods have a newer one: it was never recorded, or the record was removed, and no process
    /// lives that has read another version while the present template was there.
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
        // Long enough for the template to be known to whoever polled then.
        let known = object.deployed_at + Duration::from_mins(1);
        // What is recorded is believed before an older version that was seen: that was a standby.
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
    /// Pods were made without a secret that is back since, and nobody can tell: it was not created since,
    /// no process lives that read that it was gone while the present template was there, and no reload
    /// was recorded without it.
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
    /// Whether the workload was reloaded for this version before, and that can be known: by what was
    /// written to it, or, where all of that is gone, by the process itself for an hour.
    fn is_again(&self, object: &Object, secret: usize, live: Version, life: u64) -> bool {
        if !object.covered.contains(&(secret, live.number, live.created)) {
            return false;
        }
        let hash = self.setup.secret_id(secret).hash64();
        let entry = self.entry(object, secret);
        // Where the record that is there says that the storage was restored since, only a copy that
        // is younger than the present revision proves that a reload for that was taken back.
        let is_restored = entry.is_some_and(|entry| live.created < entry.created);
        let present = object.revisions.iter().max_by_key(|rev| rev.number);
        // Where it says that the secret was missing, the version may have been there before that, unless it
        // was created since.
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
        // Whoever leaves is forgotten.
        let is_remembered = object.is_stayer
            && object.reloaded.as_ref().is_some_and(|(time, by, versions)| {
                *by == life && time.elapsed() < hour && versions.get(hash) == Some(live)
            });
        has_trace || is_remembered
    }
}

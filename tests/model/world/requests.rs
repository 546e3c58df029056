//! The answers of the API server.

use vault_secrets_reloader::decide::plan::{Copied, Revision};
use vault_secrets_reloader::engine::ports::WriteError;

use super::*;

impl World {
    /// Whether the API server answers at all.
    pub(crate) fn api_answers(&self) -> bool {
        self.faults.api.is_none_or(|until| Instant::now() >= until)
    }

    pub(crate) fn manifests(&self) -> impl Iterator<Item = (Manifest, Kind)> + '_ {
        self.objects.iter().flatten().map(|object| (object.manifest(), object.kind))
    }

    pub(super) fn find(&self, id: &WorkloadId) -> Option<usize> {
        self.objects.iter().position(|object| object.as_ref().is_some_and(|o| o.id() == *id))
    }

    pub(crate) fn get(&self, id: &WorkloadId) -> Result<Manifest, WriteError> {
        let object = self.find(id).and_then(|slot| self.objects[slot].as_ref());
        object.map(Object::manifest).ok_or(WriteError::NotFound)
    }

    /// Returns the revision of a workload that a LIST at this moment shows.
    pub(crate) fn revision(&self, workload: &Workload) -> Option<Revision> {
        if self.faults.revisions.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let object = self.objects[self.find(&workload.id)?].as_ref()?;
        if *object.uid != *workload.uid {
            return None;
        }
        let created = object.revisions.iter().max_by_key(|rev| rev.number)?.created;
        let mut copies = Vec::new();
        for rev in &object.revisions {
            let is_later = rev.created > created;
            let versions = rev.versions(&object.uid).unwrap_or_default();
            let copied =
                versions.iter().map(|(secret, version)| Copied { secret, version, is_later });
            copies.extend(copied);
        }
        Some(Revision { created, copies: copies.into() })
    }

    /// Applies a PATCH that arrives at this moment.
    pub(crate) fn write(
        &mut self,
        workload: &Workload,
        reload: &Reload,
        sent: Sent,
    ) -> Result<Manifest, WriteError> {
        let Sent { life, was_right, is_answered, .. } = sent;
        let slot = self.find(&workload.id).ok_or(WriteError::NotFound)?;
        let object = self.objects[slot].as_ref().ok_or(WriteError::NotFound)?;
        if object.resource_version.to_string() != *workload.resource_version {
            return Err(WriteError::Conflict);
        }
        if !was_right {
            for complaint in self.complaints(slot, life) {
                self.is_wrong(format!("reload {} of w{slot} by {life}: {complaint}", reload.count));
            }
        }
        for complaint in self.broken_rules(slot, reload, &sent) {
            self.is_wrong(format!("reload {} of w{slot} by {life}: {complaint}", reload.count));
        }
        let last_reload = self.last_reload(slot, reload, &sent);
        let Some(object) = &mut self.objects[slot] else { return Err(WriteError::NotFound) };
        object.record = Some(StoredRecord::new(&reload.record));
        for (hash, version) in reload.record.versions.iter() {
            let secrets = (0..self.hashes.len()).filter(|s| self.hashes[*s] == hash);
            object.covered.extend(secrets.map(|s| (s, version.number, version.created)));
        }
        object.reloaded =
            is_answered.then(|| (Instant::now(), life, reload.record.versions.clone()));
        let (reaction, uid) = (object.reaction, object.uid.clone());
        object.reaction = Reaction::None;
        self.say(|| format!("w{slot}: reloaded by process {life}, {:?}", reload.record.versions));
        let churned = self.churned;
        self.deploy(slot, |template| {
            template.count = reload.count;
            template.mark = Some(reload.record.mark.clone());
        });
        self.churned = churned;
        if let Some(object) = &mut self.objects[slot] {
            object.last_reload = Some(last_reload);
        }
        if reaction != Reaction::None {
            let delay = self.below(50);
            self.later(delay, Job::React(slot, uid, reaction));
        }
        self.get(&workload.id)
    }

    /// Lets a PATCH arrive after its sender gave up.
    pub(crate) fn write_late(&mut self, workload: Workload, reload: Reload, sent: Sent, ms: u64) {
        self.later(ms, Job::Late(Box::new((workload, reload, sent))));
    }

    /// Lets another client write an object first.
    pub(crate) fn interfere(&mut self, id: &WorkloadId, is_deploy: bool) {
        let number = self.next();
        let Some(slot) = self.find(id) else { return };
        if is_deploy {
            self.say(|| format!("w{slot}: deployed under the hands of a reload"));
            self.deploy(slot, |template| template.content = number);
        } else {
            self.written(slot);
        }
    }
}

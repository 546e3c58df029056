//! The jobs that the cluster does by itself: the controllers of workloads, the kubelets, and the
//! owners who put their own template back.

use super::*;

impl World {
    pub(super) fn later(&mut self, delay_ms: u64, job: Job) {
        let time = Instant::now() + Duration::from_millis(delay_ms);
        let number = self.next();
        self.jobs.insert((time, number), job);
        self.job_added.notify_one();
    }

    /// Returns the time of the next job.
    pub(crate) fn next_job(&self) -> Option<Instant> {
        self.jobs.keys().next().map(|(time, _)| *time)
    }

    /// Does the jobs that are due.
    pub(crate) fn work(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.jobs.first_entry()
            && entry.key().0 <= now
        {
            match entry.remove() {
                Job::MakeRevision(slot, uid) => self.make_revision(slot, &uid),
                Job::StartPods(slot, uid) => {
                    if self.is(slot, &uid) {
                        self.make_pods(slot, false);
                    }
                }
                Job::React(slot, uid, reaction) => {
                    if self.is(slot, &uid) {
                        self.take_back(slot, reaction);
                    }
                }
                Job::EndRollout(slot, uid, generation) => {
                    if self.is(slot, &uid) {
                        self.end_rollout(slot, generation);
                    }
                }
                Job::Heal(slot, uid) => {
                    if self.is(slot, &uid) {
                        self.heal(slot);
                    }
                }
                Job::Late(write) => {
                    let (workload, reload, sent) = *write;
                    self.say(|| format!("a PATCH of {} arrives late", workload.id));
                    // The sender no longer waits for the answer.
                    let _ = self.write(&workload, &reload, sent);
                }
            }
        }
    }

    pub(super) fn is(&self, slot: usize, uid: &str) -> bool {
        self.objects[slot].as_ref().is_some_and(|object| object.uid == uid)
    }

    pub(super) fn make_revision(&mut self, slot: usize, uid: &str) {
        if !self.is(slot, uid) {
            return;
        }
        if self.faults.controllers.is_some_and(|until| Instant::now() < until) {
            return self.later(1_000, Job::MakeRevision(slot, uid.to_owned()));
        }
        let now = time::floor(time::now());
        let Some(object) = &mut self.objects[slot] else { return };
        if object.observed == object.generation {
            return;
        }
        let number = object.revisions.iter().map(|rev| rev.number).max().unwrap_or(0) + 1;
        let record = object.record.clone();
        match object.revisions.iter_mut().find(|rev| rev.template == object.template) {
            Some(rev) => {
                rev.number = number;
                // Annotations are copied to a ReplicaSet each time, and to a ControllerRevision
                // once.
                if object.kind == Kind::DEPLOYMENT {
                    rev.record = record;
                }
            }
            None => object.revisions.push(Rev {
                template: object.template.clone(),
                created: now,
                number,
                record,
            }),
        }
        object.observed = object.generation;
        self.say(|| format!("w{slot}: revision {number}"));
        self.written(slot);
        let delay = self.below(self.setup.pods_ms);
        self.later(delay, Job::StartPods(slot, uid.to_owned()));
    }

    /// Makes the pods of the present revision as soon as all their secrets can be read. With
    /// `is_forced`, existing pods are replaced.
    pub(super) fn make_pods(&mut self, slot: usize, is_forced: bool) {
        let Some(object) = &self.objects[slot] else { return };
        let present = object.revisions.iter().max_by_key(|rev| rev.number);
        let Some(template) = present.map(|rev| rev.template.clone()) else { return };
        if object.pods.template == template && !is_forced {
            // Its pods were never replaced, or they were replaced early.
            if self.await_pods(slot) {
                self.written(slot);
            }
            return;
        }
        if object.rollout == Rollout::OnDelete && !is_forced {
            return;
        }
        let uid = object.uid.clone();
        let uses = self.uses(&template);
        let have = self.read_by_pods(&uses);
        if have.len() < uses.len() && !self.setup.may_be_missing {
            // The pods fail to start, and are started again later.
            return self.later(7_000, Job::StartPods(slot, uid));
        }
        if self.cannot_make_pods(slot, &template) {
            return;
        }
        let Some(object) = &mut self.objects[slot] else { return };
        object.pods = Pods { template, uses, have };
        self.say(|| format!("w{slot}: its pods are made"));
        self.await_pods(slot);
        // Its status tells that.
        self.written(slot);
    }

    /// Puts the owner's own template back.
    pub(super) fn take_back(&mut self, slot: usize, reaction: Reaction) {
        let Some(object) = &mut self.objects[slot] else { return };
        if object.template.mark.is_none()
            && (reaction == Reaction::Revert || object.record.is_none())
        {
            return;
        }
        object.was_tampered_with = true;
        if reaction == Reaction::Strip {
            object.record = None;
        }
        self.churned = Some(Instant::now());
        self.say(|| format!("w{slot}: {reaction:?}"));
        if self.objects[slot].as_ref().is_some_and(|object| object.template.mark.is_none()) {
            return self.written(slot);
        }
        self.deploy(slot, |template| {
            template.mark = None;
            template.count = 0;
        });
    }

    pub(super) fn undo(&mut self, slot: usize) {
        let Some(object) = &mut self.objects[slot] else { return };
        let mut revisions: Vec<&Rev> = object.revisions.iter().collect();
        revisions.sort_by_key(|rev| rev.number);
        let [.., before, _] = &revisions[..] else { return };
        let (template, record) = (before.template.clone(), before.record.clone());
        object.was_tampered_with = true;
        if object.kind == Kind::DEPLOYMENT {
            object.record = record;
        }
        self.say(|| format!("w{slot}: rollout undo"));
        self.deploy(slot, |current| *current = template);
    }

    /// Deletes a workload without its pods, and creates it again with the owner's own template. The
    /// new workload adopts the pods.
    pub(super) fn adopt(&mut self, slot: usize) {
        let Some(mut old) = self.objects[slot].take() else { return };
        self.tell(&Seen::Deleted(old.id()));
        let number = self.next();
        let before = std::mem::replace(&mut old.uid, format!("uid-{number}"));
        old.predecessor = Some(before);
        old.created = time::floor(time::now());
        // No process knows what a ConfigMap said under the former object.
        old.deployed_at = Instant::now();
        (old.deleting, old.record, old.reloaded) = (false, None, None);
        (old.last_reload, old.continue_after) = (None, None);
        old.pods_state.forget_help();
        self.churned = Some(Instant::now());
        (old.generation, old.observed) = (1, 0);
        // Observations of the former object do not count for the new one.
        old.is_stayer = false;
        old.covered.clear();
        old.former.clear();
        old.was_tampered_with |= old.template.mark.is_some();
        self.say(|| format!("w{slot}: made anew as {}, with its pods", old.uid));
        self.objects[slot] = Some(old);
        self.deploy(slot, |template| {
            template.mark = None;
            template.count = 0;
        });
        self.written(slot);
        let delay = self.below(self.setup.controller_ms);
        self.later(delay, Job::MakeRevision(slot, format!("uid-{number}")));
    }

    pub(super) fn recreate(&mut self, slot: usize, is_clone: bool) {
        let old = self.objects[slot].take();
        self.churned = Some(Instant::now());
        if let Some(old) = &old {
            self.tell(&Seen::Deleted(old.id()));
        }
        let mut object = self.fresh(slot, old.as_ref().filter(|_| is_clone));
        object.predecessor = old.map(|old| old.uid);
        self.say(|| format!("w{slot}: made anew as {}", object.uid));
        self.objects[slot] = Some(object);
        self.written(slot);
    }
}

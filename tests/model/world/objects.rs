//! What a workload looks like to the controller, and what a new one is like.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use tokio::time::Instant;
use vault_secrets_reloader::model::annotation::{MARK, OptIn};
use vault_secrets_reloader::model::kind::Kind;
use vault_secrets_reloader::model::progress::RolloutStatus;
use vault_secrets_reloader::model::record::{Record, Versions};
use vault_secrets_reloader::model::strategy::Rollout;
use vault_secrets_reloader::model::workload::WorkloadId;
use vault_secrets_reloader::references::environment::{
    Container, EnvFrom, EnvVar, SourceKind, SourceName,
};
use vault_secrets_reloader::references::manifest::Manifest;

use super::names::{ADDRESS, address, path};
use super::rollouts::PodsState;
use super::sources::source_name;
use super::{Job, Object, Pods, Reaction, Rev, StoredRecord, Template, World, frozen_until};
use crate::history::SOURCES;
use crate::time;

impl StoredRecord {
    pub(super) fn new(record: &Record) -> Arc<Self> {
        let text = record.encode();
        let content = Record::parse(&text).unwrap();
        Arc::new(Self { text, content })
    }
}

impl Rev {
    pub(super) fn versions(&self, uid: &str) -> Option<Versions> {
        let record = &self.record.as_ref()?.content;
        (record.uid == uid).then(|| record.versions.clone())
    }
}

impl Object {
    pub(super) fn id(&self) -> WorkloadId {
        let namespace = Arc::clone(&self.namespace);
        WorkloadId { kind: self.kind, namespace, name: self.name.as_str().into() }
    }

    /// Returns the object's record, if it was written for this object.
    pub(super) fn own_record(&self) -> Option<&Record> {
        let record = &self.record.as_ref()?.content;
        (record.uid == self.uid).then_some(record)
    }

    pub(super) fn manifest(&self) -> Manifest {
        let Template { opted_in, server, refs, source, count, mark, .. } = &self.template;
        let mut hasher = DefaultHasher::new();
        self.template.hash(&mut hasher);
        let mut annotations = Vec::new();
        if *opted_in {
            annotations.push((OptIn::Current.key(), "true".to_owned()));
        }
        if *count > 0 {
            annotations.push((OptIn::Current.count_key(), count.to_string()));
        }
        annotations.extend(mark.clone().map(|mark| (MARK, mark)));
        if *server > 0 {
            annotations.push((ADDRESS, address(*server)));
        }
        let variables = refs.iter().map(|secret| {
            let path = path(*secret);
            EnvVar::literal(format!("X{path}"), format!("vault:{path}#x"))
        });
        let from = source.map(|source| EnvFrom {
            prefix: String::new(),
            source: SourceName { kind: SourceKind::ConfigMap, name: source_name(source) },
            optional: false,
        });
        let container = Container {
            variables: variables.collect(),
            from: from.into_iter().collect(),
            ..Container::default()
        };
        let is_rolled_out = self.pods.template == self.template;
        // Until a new pod is made, the old one is available.
        let available = u32::from(!is_rolled_out || self.pods_state.is_healthy());
        let status = RolloutStatus {
            replicas_in_spec: Some(1),
            replicas: 1,
            updated: u32::from(is_rolled_out),
            ready: available,
            available,
            failure: self.pods_state.failure(),
            has_ended: self.pods_state.has_ended,
            ..RolloutStatus::default()
        };
        Manifest {
            namespace: self.namespace.to_string(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            resource_version: self.resource_version.to_string(),
            generation: self.generation,
            created: self.created,
            deleting: self.deleting,
            record: self.record.as_ref().map(|record| record.text.clone()),
            time_rules: frozen_until(self.freeze).boxed(),
            rollout: self.rollout,
            continue_after: self.continue_after,
            observed_generation: self.observed,
            status,
            template: hasher.finish(),
            annotations: annotations.into_iter().collect(),
            containers: vec![container],
            ..Manifest::default()
        }
    }
}

impl World {
    /// Returns the template that the setup has for a workload.
    fn fresh_template(&self, slot: usize, content: u64) -> Template {
        let bits = self.setup.workloads[slot];
        // One in four. The ConfigMaps are in the first namespace.
        let has_source =
            bits >> 3 & 3 == 3 && self.setup.namespace(slot) == self.setup.namespace(0);
        Template {
            content,
            opted_in: true,
            server: usize::from(bits >> 6 & 1) % self.setup.servers,
            refs: (0..self.setup.secrets).filter(|s| bits >> s & 1 == 1).collect(),
            source: has_source.then_some(usize::from(bits >> 5 & 1) % SOURCES),
            count: 0,
            mark: None,
        }
    }

    /// Returns a new workload: as the setup has it, or a copy of another.
    pub(super) fn fresh(&mut self, slot: usize, of: Option<&Object>) -> Object {
        let namespace = self.setup.namespace(slot);
        let number = self.next();
        let now = time::floor(time::now());
        let (template, record) = match of {
            Some(original) => (original.template.clone(), original.record.clone()),
            None => (self.fresh_template(slot, number), None),
        };
        let uses = self.uses(&template);
        let have = self.live_of(&uses);
        let mut pods = Pods { template: template.clone(), uses, have };
        let uid = format!("uid-{number}");
        let is_made = pods.have.len() == pods.uses.len() || self.setup.may_be_missing;
        if !is_made {
            // The pods fail to start, and are started again later. Until then the template has
            // none.
            pods.template.content = self.next();
            self.later(7_000, Job::StartPods(slot, uid.clone()));
        }
        // A process can see the object before it has read the latest content of its ConfigMap.
        let may_seem_former = self.may_seem_to_use(&template);
        let is_on_delete = self.setup.rollouts.on_delete >> slot & 1 == 1;
        let is_stateful = slot % 3 == 1 || is_on_delete;
        Object {
            kind: if is_stateful { Kind::STATEFUL_SET } else { Kind::DEPLOYMENT },
            namespace,
            name: format!("w{slot}"),
            uid,
            resource_version: number,
            generation: 1,
            observed: 1,
            created: now,
            deployed: now,
            deployed_at: Instant::now(),
            deleting: false,
            revisions: vec![Rev {
                template: template.clone(),
                created: now,
                number: 1,
                record: record.clone(),
            }],
            record,
            template,
            pods,
            reaction: Reaction::None,
            freeze: of.and_then(|original| original.freeze),
            was_tampered_with: false,
            covered: HashSet::new(),
            is_stayer: true,
            former: BTreeMap::new(),
            may_seem_former,
            predecessor: None,
            reloaded: None,
            rollout: if is_on_delete { Rollout::OnDelete } else { Rollout::Automatic },
            continue_after: None,
            pods_state: PodsState::new(is_made),
            last_reload: None,
        }
    }
}

//! The quota of a namespace: how many secrets its workloads may refer to.
//!
//! Each secret costs Vault a request a poll, and a tenant can make any number of workloads. Namespaces do not
//! share the quota, so one tenant cannot use up that of another.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::secret::SecretId;
use super::store::Stored;

/// How many different secrets of one server the workloads of one namespace may refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota(pub usize);

impl Default for Quota {
    /// Twice as many as a large cluster has in all.
    fn default() -> Self {
        Self(10_000)
    }
}

impl Quota {
    /// Splits the workloads of one server, which are in order, into those within the quota of their namespace and
    /// those over it. A workload is within the quota or over it with all of its secrets. The result does not
    /// depend on what was there before.
    #[must_use]
    pub fn split(self, workloads: Vec<Stored>) -> (Vec<Stored>, Vec<Stored>) {
        let mut references: HashMap<Arc<str>, usize> = HashMap::new();
        for Stored { workload, .. } in &workloads {
            let count = workload.watched().count();
            if let Some(references) = references.get_mut(&workload.id.namespace) {
                *references += count;
            } else {
                references.insert(Arc::clone(&workload.id.namespace), count);
            }
        }
        // References to one secret are counted apart here, so no other namespace can be over it.
        references.retain(|_, count| *count > self.0);
        if references.is_empty() {
            return (workloads, Vec::new());
        }
        let mut used: HashMap<Arc<str>, HashSet<Arc<SecretId>>> =
            references.into_keys().map(|namespace| (namespace, HashSet::new())).collect();
        workloads.into_iter().partition(|Stored { workload, .. }| {
            let Some(used) = used.get_mut(&workload.id.namespace) else { return true };
            let new = workload.watched().filter(|secret| !used.contains(*secret)).count();
            let is_within = used.len() + new <= self.0;
            if is_within {
                used.extend(workload.watched().cloned());
            }
            is_within
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::super::workload::{Workload, WorkloadId};
    use super::*;

    fn stored(namespace: &str, name: &str, paths: &[&str]) -> Stored {
        let workload = fixtures::workload(name, paths);
        let id = WorkloadId { namespace: namespace.into(), ..workload.id.clone() };
        Stored { workload: Arc::new(Workload { id, ..workload }), entered: 1 }
    }

    fn names(workloads: &[Stored]) -> Vec<String> {
        let name = |stored: &Stored| {
            let WorkloadId { namespace, name, .. } = &stored.workload.id;
            format!("{namespace}/{name}")
        };
        workloads.iter().map(name).collect()
    }

    #[test]
    fn each_namespace_has_a_quota_of_its_own() {
        let workloads = vec![
            stored("a", "one", &["1", "2"]),
            // No new secret.
            stored("a", "two", &["1"]),
            stored("a", "three", &["2", "3", "4"]),
            stored("a", "four", &["1", "3"]),
            stored("b", "one", &["1", "2", "3"]),
            stored("c", "one", &["1", "2", "3", "4"]),
        ];
        let (within, over) = Quota(3).split(workloads.clone());
        assert_eq!(names(&within), ["a/one", "a/two", "a/four", "b/one"]);
        assert_eq!(names(&over), ["a/three", "c/one"]);
        let (within, over) = Quota(4).split(workloads.clone());
        assert_eq!((within.len(), over.len()), (6, 0));
        assert_eq!(names(&Quota(0).split(workloads).1).len(), 6);
    }

    #[test]
    fn a_former_secret_counts() {
        let mut workload = stored("a", "one", &["1"]);
        let former = [Arc::clone(&stored("a", "x", &["2"]).workload.secrets[0])].into();
        workload.workload =
            Arc::new(Workload { former_secrets: former, ..(*workload.workload).clone() });
        assert_eq!(Quota(2).split(vec![workload.clone()]).1.len(), 0);
        assert_eq!(Quota(1).split(vec![workload]).1.len(), 1);
    }
}

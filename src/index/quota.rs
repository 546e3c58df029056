//! The quota of a namespace: the number of secrets that its workloads may refer to.
//!
//! Each secret costs Vault a request a poll, and a tenant can make any number of workloads.
//! Namespaces do not share the quota, so one tenant cannot use up the quota of another.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::model::secret::SecretId;
use crate::model::workload::Workload;

/// The number of different secrets of one server that the workloads of one namespace may refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota(pub usize);

impl Default for Quota {
    /// Twice as many as a large cluster has in all.
    fn default() -> Self {
        Self(10_000)
    }
}

impl Quota {
    /// Splits the workloads of one server into those within the quota of their namespace and those
    /// over it. The workloads must be in order. A workload is within or over the quota with all of
    /// its secrets. The result does not depend on the former workloads.
    #[must_use]
    pub fn split<T>(
        self,
        workloads: Vec<T>,
        workload_of: impl Fn(&T) -> &Workload,
    ) -> (Vec<T>, Vec<T>) {
        let mut references: HashMap<Arc<str>, usize> = HashMap::new();
        for workload in workloads.iter().map(&workload_of) {
            let count = workload.watched().count();
            if let Some(references) = references.get_mut(&workload.id.namespace) {
                *references += count;
            } else {
                references.insert(Arc::clone(&workload.id.namespace), count);
            }
        }
        // Several references to one secret count several times here. So a namespace that is not
        // over its quota by this count is within its quota.
        references.retain(|_, count| *count > self.0);
        if references.is_empty() {
            return (workloads, Vec::new());
        }
        let mut used: HashMap<Arc<str>, HashSet<Arc<SecretId>>> =
            references.into_keys().map(|namespace| (namespace, HashSet::new())).collect();
        workloads.into_iter().partition(|item| {
            let workload = workload_of(item);
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
    use super::*;
    use crate::model::fixtures;
    use crate::model::workload::WorkloadId;

    fn workload(namespace: &str, name: &str, paths: &[&str]) -> Workload {
        let workload = fixtures::workload(name, paths);
        let id = WorkloadId { namespace: namespace.into(), ..workload.id.clone() };
        Workload { id, ..workload }
    }

    fn split(quota: usize, workloads: &[Workload]) -> [Vec<String>; 2] {
        let (within, over) = Quota(quota).split(workloads.to_vec(), |workload| workload);
        let names = |workloads: Vec<Workload>| {
            let ids = workloads.into_iter().map(|workload| workload.id);
            ids.map(|WorkloadId { namespace, name, .. }| format!("{namespace}/{name}")).collect()
        };
        [names(within), names(over)]
    }

    #[test]
    fn each_namespace_has_a_quota_of_its_own() {
        let workloads = [
            workload("a", "one", &["1", "2"]),
            // No new secret.
            workload("a", "two", &["1"]),
            workload("a", "three", &["2", "3", "4"]),
            workload("a", "four", &["1", "3"]),
            workload("b", "one", &["1", "2", "3"]),
            workload("c", "one", &["1", "2", "3", "4"]),
        ];
        let [within, over] = split(3, &workloads);
        assert_eq!(within, ["a/one", "a/two", "a/four", "b/one"]);
        assert_eq!(over, ["a/three", "c/one"]);
        assert_eq!(split(4, &workloads)[1], [""; 0]);
        assert_eq!(split(0, &workloads)[1].len(), 6);
    }

    #[test]
    fn a_former_secret_counts() {
        let former_secrets = [fixtures::secret("2")].into();
        let workloads = [Workload { former_secrets, ..workload("a", "one", &["1"]) }];
        assert_eq!(split(2, &workloads)[1], [""; 0]);
        assert_eq!(split(1, &workloads)[1], ["a/one"]);
    }
}

//! A queue in which namespaces take turns, so that no namespace blocks the others.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::ops::Bound;
use std::sync::Arc;

use crate::model::workload::WorkloadId;

/// The name of an object in a namespace.
pub trait InNamespace: Clone + Eq + Hash {
    /// Returns the namespace.
    fn namespace(&self) -> &Arc<str>;
}

impl InNamespace for WorkloadId {
    fn namespace(&self) -> &Arc<str> {
        &self.namespace
    }
}

/// Waiting objects, each once.
#[derive(Debug)]
pub struct FairQueue<T> {
    /// The waiting objects of each namespace, in the order of arrival.
    waiting: BTreeMap<Arc<str>, BTreeMap<u64, T>>,
    /// The arrival number of each object.
    came: HashMap<T, u64>,
    coming: u64,
    /// The namespace that had the last turn.
    last: Option<Arc<str>>,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), came: HashMap::new(), coming: 0, last: None }
    }
}

impl<T: InNamespace> FairQueue<T> {
    /// Adds an object, unless the object already waits.
    pub fn join(&mut self, id: &T) {
        if self.came.contains_key(id) {
            return;
        }
        self.coming += 1;
        self.came.insert(id.clone(), self.coming);
        let of_namespace = self.waiting.entry(Arc::clone(id.namespace())).or_default();
        of_namespace.insert(self.coming, id.clone());
    }

    /// Removes an object.
    pub fn leave(&mut self, id: &T) {
        let Some(came) = self.came.remove(id) else { return };
        let Some(of_namespace) = self.waiting.get_mut(id.namespace()) else { return };
        of_namespace.remove(&came);
        if of_namespace.is_empty() {
            self.waiting.remove(id.namespace());
        }
    }

    /// Takes out the next object.
    pub fn take(&mut self) -> Option<T> {
        let after = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let following = self.waiting.range::<Arc<str>, _>((after, Bound::Unbounded)).next();
        let (namespace, of_namespace) = following.or_else(|| self.waiting.first_key_value())?;
        let id = of_namespace.values().next()?.clone();
        self.last = Some(Arc::clone(namespace));
        self.leave(&id);
        Some(id)
    }

    /// Whether an object waits.
    #[must_use]
    pub fn contains(&self, id: &T) -> bool {
        self.came.contains_key(id)
    }

    /// Whether no object waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kind::Kind;

    fn id(text: &str) -> WorkloadId {
        let (namespace, name) = text.split_once('/').unwrap();
        WorkloadId { kind: Kind::DEPLOYMENT, namespace: namespace.into(), name: name.into() }
    }

    #[test]
    fn one_of_each_namespace_after_the_other() {
        let mut turns = FairQueue::<WorkloadId>::default();
        for text in ["b/1", "b/2", "b/3", "b/1", "a/1", "c/1", "c/2"] {
            turns.join(&id(text));
        }
        turns.leave(&id("c/1"));
        turns.leave(&id("c/9"));
        let mut order = Vec::new();
        while let Some(WorkloadId { namespace, name, .. }) = turns.take() {
            order.push(format!("{namespace}/{name}"));
        }
        assert_eq!(order, ["a/1", "b/1", "c/2", "b/2", "b/3"]);
        assert!(turns.is_empty() && turns.came.is_empty());
    }

    #[test]
    fn whoever_comes_again_at_once_is_the_last_of_its_namespace() {
        let mut turns = FairQueue::<WorkloadId>::default();
        for text in ["a/busy", "a/quiet", "b/quiet"] {
            turns.join(&id(text));
        }
        let mut names = Vec::new();
        for _ in 0..4 {
            let next = turns.take().unwrap();
            if &*next.name == "busy" {
                turns.join(&next);
            }
            names.push(next.name.to_string());
        }
        assert_eq!(names, ["busy", "quiet", "quiet", "busy"]);
    }
}

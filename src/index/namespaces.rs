//! What the annotations of namespaces say about reloads of their workloads.
//!
//! Only namespaces with such annotations are kept, and their texts up to a length.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::time_rules::TimeRules;

/// The annotations of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceRules {
    /// Whether reloads are only reported.
    pub dry_run: bool,
    /// The time rules.
    pub time_rules: TimeRules,
}

/// The annotations of all namespaces.
#[derive(Debug, Default)]
pub struct Namespaces {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rules: HashMap<Box<str>, Arc<NamespaceRules>>,
    /// The namespaces with rules that the list in progress has shown so far.
    listed: HashSet<Box<str>>,
    /// Whether polls wait for the first list.
    is_awaited: bool,
}

impl Namespaces {
    /// Makes polls wait for the first list, until [`Namespaces::do_not_await`].
    pub fn await_list(&self) {
        self.state().is_awaited = true;
    }

    /// Lets polls begin without the first list.
    pub fn do_not_await(&self) {
        self.state().is_awaited = false;
    }

    /// Whether polls may begin.
    #[must_use]
    pub fn may_be_polled(&self) -> bool {
        !self.state().is_awaited
    }

    /// Begins a full list. At its end, the rules of namespaces that it did not contain are removed.
    pub fn begin_list(&self) {
        self.state().listed.clear();
    }

    /// Applies a namespace from a list or a watch. Returns whether its rules changed.
    pub fn apply(&self, name: &str, rules: NamespaceRules) -> bool {
        let mut state = self.state();
        if rules == NamespaceRules::default() {
            return state.rules.remove(name).is_some();
        }
        state.listed.insert(name.into());
        if state.rules.get(name).is_some_and(|known| **known == rules) {
            return false;
        }
        state.rules.insert(name.into(), Arc::new(rules));
        true
    }

    /// Ends a full list. Polls do not wait for it any more.
    pub fn end_list(&self) {
        let mut state = self.state();
        let listed = std::mem::take(&mut state.listed);
        state.rules.retain(|name, _| listed.contains(name));
        state.is_awaited = false;
    }

    /// Removes a namespace that was deleted.
    pub fn delete(&self, name: &str) {
        self.state().rules.remove(name);
    }

    /// Returns the rules of a namespace, if it has any.
    #[must_use]
    pub fn of(&self, name: &str) -> Option<Arc<NamespaceRules>> {
        self.state().rules.get(name).cloned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock ends the process. Until then, its other tasks may still read.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_replaces_what_was_known_and_polls_wait_for_the_first() {
        let namespaces = Namespaces::default();
        let frozen = |until: &str| NamespaceRules {
            dry_run: false,
            time_rules: TimeRules::new(Some(until), None),
        };
        let has = |name: &str| namespaces.of(name).is_some();
        assert!(namespaces.may_be_polled(), "nobody reads them");
        namespaces.await_list();
        assert!(!namespaces.may_be_polled());
        namespaces.begin_list();
        assert!(namespaces.apply("shop", frozen("2026-12-24")));
        assert!(!namespaces.apply("bank", NamespaceRules::default()));
        assert!(has("shop") && !has("bank"), "a freeze counts before the list ends");
        namespaces.end_list();
        assert!(has("shop") && namespaces.may_be_polled());
        assert!(!namespaces.apply("shop", frozen("2026-12-24")), "nothing changed");
        assert!(namespaces.apply("bank", frozen("2026-12-25")));
        // The next list is cut off, and the one after it does not contain a namespace.
        namespaces.begin_list();
        assert!(!namespaces.apply("shop", frozen("2026-12-24")));
        namespaces.begin_list();
        assert!(!namespaces.apply("bank", frozen("2026-12-25")));
        assert!(has("shop"));
        namespaces.end_list();
        assert!(!has("shop") && has("bank"));
        assert!(namespaces.apply("bank", NamespaceRules::default()), "its annotation was removed");
        assert!(!has("bank"));
        namespaces.apply("bank", frozen("2026-12-25"));
        namespaces.delete("bank");
        assert!(!has("bank"));
    }
}

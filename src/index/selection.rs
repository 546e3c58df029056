//! The namespaces that the operator's label selector selects. Only their workloads enter the index.
//!
//! The API server evaluates the selector, so a namespace that a list or a watch shows is selected.

use std::collections::HashSet;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The selected namespaces.
#[derive(Debug, Default)]
pub struct Selection {
    /// Whether there is a selector. Without one, each namespace is selected.
    is_on: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    selected: HashSet<Box<str>>,
    /// The namespaces that the list in progress has shown so far.
    listed: HashSet<Box<str>>,
}

impl Selection {
    /// Returns a selection that no namespace belongs to yet, if there is a selector.
    pub(super) fn new(is_on: bool) -> Self {
        Self { is_on, ..Self::default() }
    }

    /// Whether there is a selector.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether a namespace is selected.
    #[must_use]
    pub fn contains(&self, namespace: &str) -> bool {
        !self.is_on || self.state().selected.contains(namespace)
    }

    /// Begins a full list. At its end, the namespaces that it did not contain are removed.
    pub fn begin_list(&self) {
        self.state().listed.clear();
    }

    /// Adds a namespace that a list or a watch shows. Returns whether the namespace was not selected
    /// before.
    pub fn add(&self, namespace: &str) -> bool {
        if !self.is_on {
            return false;
        }
        let mut state = self.state();
        state.listed.insert(namespace.into());
        state.selected.insert(namespace.into())
    }

    /// Removes a namespace that was deleted, or that the selector does not match any more. Returns
    /// whether the namespace was selected before.
    pub fn remove(&self, namespace: &str) -> bool {
        self.state().selected.remove(namespace)
    }

    /// Ends a full list: removes and returns the namespaces that the list did not contain.
    pub fn end_list(&self) -> Vec<Box<str>> {
        let mut state = self.state();
        let listed = mem::take(&mut state.listed);
        state.selected.extract_if(|name| !listed.contains(name)).collect()
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
    fn without_a_selector_each_namespace_is_selected() {
        let selection = Selection::new(false);
        selection.begin_list();
        assert!(!selection.add("shop"), "nothing changes");
        assert!(selection.end_list().is_empty() && !selection.remove("shop"));
        assert!(selection.contains("shop") && selection.contains("bank"));
    }

    #[test]
    fn a_namespace_is_selected_while_lists_and_watches_show_it() {
        let selection = Selection::new(true);
        assert!(!selection.contains("shop"), "nothing was listed");
        selection.begin_list();
        assert!(selection.add("shop") && selection.add("bank"));
        assert!(selection.end_list().is_empty());
        assert!(!selection.add("shop"), "it was selected before");
        assert!(selection.remove("bank") && !selection.remove("bank"));
        assert!(selection.contains("shop") && !selection.contains("bank"));
        // A list that is cut off removes nothing.
        selection.begin_list();
        selection.begin_list();
        assert!(selection.contains("shop"));
        assert!(selection.add("bank"));
        assert_eq!(selection.end_list(), [Box::<str>::from("shop")]);
        assert!(!selection.contains("shop") && selection.contains("bank"));
    }
}

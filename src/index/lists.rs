//! The lists of workloads, and those that polls wait for: one for each kind, or one for each kind and
//! namespace if only named namespaces are watched.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::kind::Kind;
use crate::model::scope::ListScope;
use crate::model::workload::WorkloadId;

/// The lists of all kinds.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// The lists of all namespaces.
    everywhere: OfKinds,
    /// The lists of each named namespace. If there are any, there are no others.
    of_namespaces: HashMap<Arc<str>, OfKinds>,
}

/// One list for each kind.
type OfKinds = [List; Kind::ALL.len()];

/// The state of the lists of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct List {
    /// The number of lists that have begun.
    pub(super) number: u32,
    /// Whether the last list has not ended yet.
    pub(super) is_under_way: bool,
    /// Whether at least one list has ended.
    pub(super) is_complete: bool,
    /// Whether polls may begin without the first list.
    is_overdue: bool,
}

impl List {
    /// Whether polls may begin without the first list, and it has not ended yet.
    pub(super) fn is_late(self) -> bool {
        self.is_overdue && !self.is_complete
    }
}

impl Lists {
    /// Returns the lists of these namespaces, or of all namespaces if there are no names.
    pub(super) fn of_namespaces(names: &[Arc<str>]) -> Self {
        let of_namespaces = names.iter().map(|name| (Arc::clone(name), OfKinds::default()));
        Self { of_namespaces: of_namespaces.collect(), ..Self::default() }
    }

    /// Returns the list that shows a workload.
    pub(super) fn of(&self, id: &WorkloadId) -> List {
        let lists = self.of_namespaces.get(&id.namespace).unwrap_or(&self.everywhere);
        lists[id.kind.place()]
    }

    pub(super) fn begin(&mut self, scope: &ListScope) {
        let list = self.get(scope);
        list.number += 1;
        list.is_under_way = true;
    }

    /// Ends a list. Returns the state before.
    pub(super) fn end(&mut self, scope: &ListScope) -> List {
        let list = self.get(scope);
        let before = *list;
        list.is_complete = true;
        list.is_under_way = false;
        before
    }

    pub(super) fn do_not_await(&mut self, scope: &ListScope) {
        self.get(scope).is_overdue = true;
    }

    pub(super) fn is_any_late(&self) -> bool {
        self.all().any(|list| list.is_late())
    }

    pub(super) fn are_all_complete(&self) -> bool {
        self.all().all(|list| list.is_complete)
    }

    /// Whether all lists have ended. With named namespaces, polls may also have begun without some
    /// lists: a namespace that is gone, or has no Role, says nothing about the others.
    pub(super) fn are_ready(&self) -> bool {
        self.are_all_complete() || (!self.of_namespaces.is_empty() && self.may_be_polled())
    }

    /// Whether a kind was listed in full, in each namespace that is watched.
    pub(super) fn are_complete_of(&self, kind: Kind) -> bool {
        self.present().all(|lists| lists[kind.place()].is_complete)
    }

    /// Whether polls may begin: at least one list has ended, and each other list has ended or is
    /// overdue.
    pub(super) fn may_be_polled(&self) -> bool {
        self.all().all(|list| list.is_complete || list.is_overdue)
            && self.all().any(|list| list.is_complete)
    }

    fn get(&mut self, scope: &ListScope) -> &mut List {
        let lists = match &scope.namespace {
            Some(name) => self.of_namespaces.entry(Arc::clone(name)).or_default(),
            None => &mut self.everywhere,
        };
        &mut lists[scope.kind.place()]
    }

    fn all(&self) -> impl Iterator<Item = &List> {
        self.present().flatten()
    }

    fn present(&self) -> impl Iterator<Item = &OfKinds> {
        let everywhere = self.of_namespaces.is_empty().then_some(&self.everywhere);
        everywhere.into_iter().chain(self.of_namespaces.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_wait_for_the_lists_of_all_named_namespaces() {
        let mut lists = Lists::of_namespaces(&["a".into(), "b".into()]);
        let of = |kind, name: &str| ListScope { kind, namespace: Some(name.into()) };
        for kind in Kind::ALL {
            lists.begin(&of(kind, "a"));
            lists.end(&of(kind, "a"));
            assert!(!lists.are_complete_of(kind) && !lists.may_be_polled(), "{kind}");
        }
        for kind in Kind::ALL {
            lists.begin(&of(kind, "b"));
            assert!(!lists.may_be_polled());
            lists.end(&of(kind, "b"));
            assert!(lists.are_complete_of(kind));
        }
        assert!(lists.may_be_polled() && lists.are_all_complete());
    }

    #[test]
    fn without_names_the_lists_of_all_kinds_are_needed() {
        let mut lists = Lists::default();
        let [overdue, others @ ..] = Kind::ALL;
        lists.do_not_await(&overdue.into());
        for kind in others {
            lists.begin(&kind.into());
            lists.end(&kind.into());
        }
        assert!(lists.may_be_polled() && !lists.are_ready());
        lists.end(&overdue.into());
        assert!(lists.are_ready());
    }

    #[test]
    fn an_overdue_list_of_one_namespace_keeps_no_other_waiting() {
        let mut lists = Lists::of_namespaces(&["a".into(), "b".into()]);
        let of = |kind, name: &str| ListScope { kind, namespace: Some(name.into()) };
        for kind in Kind::ALL {
            lists.do_not_await(&of(kind, "b"));
        }
        assert!(!lists.may_be_polled() && !lists.are_ready());
        for kind in Kind::ALL {
            lists.begin(&of(kind, "a"));
            lists.end(&of(kind, "a"));
        }
        assert!(lists.may_be_polled() && lists.is_any_late() && !lists.are_all_complete());
        assert!(lists.are_ready());
        let id = |name: &str| WorkloadId {
            kind: Kind::DEPLOYMENT,
            namespace: name.into(),
            name: "web".into(),
        };
        assert!(lists.of(&id("a")).is_complete && lists.of(&id("b")).is_late());
    }
}

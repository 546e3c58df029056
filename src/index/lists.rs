//! The lists of each kind of workload, and the kinds that polls wait for.

use std::collections::HashMap;

use crate::model::kind::Kind;

/// The lists of all kinds.
#[derive(Debug, Default)]
pub(super) struct Lists(HashMap<Kind, List>);

/// The state of the lists of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct List {
    /// The number of lists that have begun.
    pub(super) number: u64,
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
    pub(super) fn of(&self, kind: Kind) -> List {
        self.0.get(&kind).copied().unwrap_or_default()
    }

    pub(super) fn begin(&mut self, kind: Kind) {
        let list = self.0.entry(kind).or_default();
        list.number += 1;
        list.is_under_way = true;
    }

    /// Ends a list. Returns the state before.
    pub(super) fn end(&mut self, kind: Kind) -> List {
        let list = self.0.entry(kind).or_default();
        let before = *list;
        list.is_complete = true;
        list.is_under_way = false;
        before
    }

    pub(super) fn do_not_await(&mut self, kind: Kind) {
        self.0.entry(kind).or_default().is_overdue = true;
    }

    pub(super) fn is_any_late(&self) -> bool {
        self.0.values().any(|list| list.is_late())
    }

    pub(super) fn are_all_complete(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.of(*kind).is_complete)
    }

    /// Whether polls may begin: at least one kind was listed in full, and each other kind was
    /// listed in full or is overdue.
    pub(super) fn may_be_polled(&self) -> bool {
        let mut lists = Kind::ALL.iter().map(|kind| self.of(*kind));
        lists.all(|list| list.is_complete || list.is_overdue)
            && Kind::ALL.iter().any(|kind| self.of(*kind).is_complete)
    }
}

//! The lists of each kind of workload, and the kinds that polls wait for.

use crate::model::kind::Kind;

/// The lists of all kinds.
#[derive(Debug, Default)]
pub(super) struct Lists([List; Kind::ALL.len()]);

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
    pub(super) fn of(&self, kind: Kind) -> List {
        self.0[kind.place()]
    }

    pub(super) fn begin(&mut self, kind: Kind) {
        let list = &mut self.0[kind.place()];
        list.number += 1;
        list.is_under_way = true;
    }

    /// Ends a list. Returns the state before.
    pub(super) fn end(&mut self, kind: Kind) -> List {
        let list = &mut self.0[kind.place()];
        let before = *list;
        list.is_complete = true;
        list.is_under_way = false;
        before
    }

    pub(super) fn do_not_await(&mut self, kind: Kind) {
        self.0[kind.place()].is_overdue = true;
    }

    pub(super) fn is_any_late(&self) -> bool {
        self.0.iter().any(|list| list.is_late())
    }

    pub(super) fn are_all_complete(&self) -> bool {
        self.0.iter().all(|list| list.is_complete)
    }

    /// Whether polls may begin: at least one kind was listed in full, and each other kind was
    /// listed in full or is overdue.
    pub(super) fn may_be_polled(&self) -> bool {
        self.0.iter().all(|list| list.is_complete || list.is_overdue)
            && self.0.iter().any(|list| list.is_complete)
    }
}

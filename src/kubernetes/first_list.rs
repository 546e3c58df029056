//! How long polls wait for the first list of a watch.

use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Polls do not wait longer than this for a first list. A list of ten thousand workloads takes
/// seconds. A refused list never ends.
pub(super) const LISTED_WITHIN: Duration = Duration::from_secs(30);

/// The wait for a first list.
#[derive(Debug, Default)]
pub(super) struct FirstList {
    /// When the list is overdue. `None` while it is not awaited.
    overdue_at: Option<Instant>,
}

impl FirstList {
    /// Begins the wait.
    pub(super) fn begin(&mut self) {
        self.overdue_at = Some(Instant::now() + LISTED_WITHIN);
    }

    /// Ends the wait: the list has ended, or polls go on without it.
    pub(super) fn end(&mut self) {
        self.overdue_at = None;
    }

    /// Whether the list is awaited.
    pub(super) fn is_awaited(&self) -> bool {
        self.overdue_at.is_some()
    }

    /// Waits until the list is overdue. The wait is endless if the list is not awaited.
    pub(super) async fn overdue(&self) {
        match self.overdue_at {
            Some(time) => sleep_until(time).await,
            None => pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_first_list_is_overdue_once_and_only_while_it_is_awaited() {
        let mut first_list = FirstList::default();
        let is_overdue = async |first_list: &FirstList, within: Duration| {
            timeout(within, first_list.overdue()).await.is_ok()
        };
        assert!(!is_overdue(&first_list, 2 * LISTED_WITHIN).await, "nobody waits");
        first_list.begin();
        assert!(first_list.is_awaited());
        assert!(!is_overdue(&first_list, LISTED_WITHIN / 2).await);
        assert!(is_overdue(&first_list, LISTED_WITHIN).await);
        first_list.end();
        assert!(!first_list.is_awaited());
        assert!(!is_overdue(&first_list, 2 * LISTED_WITHIN).await);
    }
}

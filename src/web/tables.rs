//! The table of the status that all requests share for a moment.
//!
//! Many browsers may show the page at once, and each reads the overview and a list every few seconds.
//! One walk over all workloads answers all of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::status::report::Sources;
use crate::status::table::Table;

/// How long a table is shown before another one is made.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// Makes tables, and keeps the last one.
#[derive(Debug)]
pub(crate) struct Tables {
    sources: Sources,
    /// The last table, with the time when it was made.
    last: Mutex<Option<(Instant, Arc<Table>)>>,
}

impl Tables {
    /// Returns the tables of some sources.
    pub(crate) fn new(sources: Sources) -> Self {
        Self { sources, last: Mutex::default() }
    }

    /// Returns a table that is at most [`KEPT_FOR`] old. Requests that come while a table is made wait
    /// for this table.
    pub(crate) async fn present(&self) -> Arc<Table> {
        let mut last = self.last.lock().await;
        match &*last {
            Some((time, table)) if time.elapsed() < KEPT_FOR => Arc::clone(table),
            _ => {
                let table = Arc::new(self.sources.report().table());
                *last = Some((Instant::now(), Arc::clone(&table)));
                table
            }
        }
    }
}

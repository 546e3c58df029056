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

/// A table is shown for at least this many times the time that it took to make. So viewers cost a fifth
/// of one core at most, whatever tenants refer to.
const TIMES_ITS_COST: u32 = 4;

/// Makes tables, and keeps the last one.
#[derive(Debug)]
pub(crate) struct Tables {
    sources: Sources,
    /// The last table, with the end of its time.
    last: Mutex<Option<(Instant, Arc<Table>)>>,
}

impl Tables {
    /// Returns the tables of some sources.
    pub(crate) fn new(sources: Sources) -> Self {
        Self { sources, last: Mutex::default() }
    }

    /// Returns a table that is at most [`KEPT_FOR`] old, or older if it took long to make. Requests
    /// that come while a table is made wait for this table.
    pub(crate) async fn present(&self) -> Arc<Table> {
        let mut last = self.last.lock().await;
        match &*last {
            Some((end, table)) if Instant::now() < *end => Arc::clone(table),
            _ => {
                // Two tables at a time would take twice the memory.
                *last = None;
                let began = Instant::now();
                let table = Arc::new(self.sources.report().table());
                let kept_for = KEPT_FOR.max(began.elapsed() * TIMES_ITS_COST);
                *last = Some((Instant::now() + kept_for, Arc::clone(&table)));
                table
            }
        }
    }
}

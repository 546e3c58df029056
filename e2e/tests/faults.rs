//! The fault suite, each fault once: `make faults` does more of the same.

use std::io::Write as _;

use anyhow::Result;
use e2e::faults::{Plan, run, seed};

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "how it went, for who reads a failure")]
async fn whatever_breaks_nothing_is_missed_and_nothing_doubled() -> Result<()> {
    let plan = Plan::short(seed());
    let report = run(&plan, |text| println!("{text}")).await?;
    // Past the test's capture: the table is shown also when all is well.
    writeln!(std::io::stdout().lock(), "\n{report}")?;
    assert!(report.is_clean(), "repeat with FAULTS_SEED={}\n{report}", plan.seed);
    Ok(())
}

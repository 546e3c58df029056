//! The fault suite, each fault once: `make faults` does more of the same.

use std::io::Write as _;

use anyhow::Result;
use e2e::faults::{Plan, run_side_by_side, seed};

e2e::scenarios! {
    whatever_breaks_nothing_is_missed_and_nothing_doubled: alone,
}

#[expect(clippy::print_stdout, reason = "how it went, for who reads a failure")]
async fn whatever_breaks_nothing_is_missed_and_nothing_doubled() -> Result<()> {
    let plan = Plan::short(seed());
    let report = run_side_by_side(&plan, |part, text| println!("{part:?}: {text}")).await?;
    // Past the test's capture: the table is shown also when all is well.
    writeln!(std::io::stdout().lock(), "\n{report}")?;
    assert!(report.is_clean(), "repeat with FAULTS_SEED={}\n{report}", plan.seed);
    Ok(())
}

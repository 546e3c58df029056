//! The fault suite, each fault once, in two halves side by side: `make faults` does more of the same.

use std::io::Write as _;

use anyhow::Result;
use e2e::faults::{Half, Plan, run, seed};

#[expect(clippy::print_stdout, reason = "how it went, for who reads a failure")]
async fn nothing_is_missed_and_nothing_doubled(half: Half) -> Result<()> {
    let plan = Plan::short(seed(), half);
    let report = run(&plan, |text| println!("{text}")).await?;
    // Past the test's capture: the table is shown also when all is well.
    writeln!(std::io::stdout().lock(), "\n{report}")?;
    assert!(report.is_clean(), "repeat with FAULTS_SEED={}\n{report}", plan.seed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_of_the_cluster_nothing_is_missed_and_nothing_doubled() -> Result<()> {
    nothing_is_missed_and_nothing_doubled(Half::Cluster).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_of_vault_nothing_is_missed_and_nothing_doubled() -> Result<()> {
    nothing_is_missed_and_nothing_doubled(Half::Vault).await
}

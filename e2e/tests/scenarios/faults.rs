//! The fault suite, most faults once: `make faults` does more of the same. Each part of the suite is a
//! scenario, since most of its time is spent waiting for time-outs.

use std::io::Write as _;

use anyhow::Result;
use e2e::faults::{Part, Plan, run_part, seed};

e2e::scenarios! {
    the_network_breaks_and_nothing_is_missed_or_doubled: long,
    others_interfere_and_nothing_is_missed_or_doubled: long,
    the_api_server_breaks_and_nothing_is_missed_or_doubled: long,
    the_clocks_differ_and_nothing_is_missed_or_doubled: long,
    vault_breaks_and_nothing_is_missed_or_doubled: long,
    the_controller_breaks_and_nothing_is_missed_or_doubled: long,
}

async fn the_network_breaks_and_nothing_is_missed_or_doubled() -> Result<()> {
    expect_clean(Part::Network).await
}

async fn others_interfere_and_nothing_is_missed_or_doubled() -> Result<()> {
    expect_clean(Part::Others).await
}

async fn the_api_server_breaks_and_nothing_is_missed_or_doubled() -> Result<()> {
    expect_clean(Part::ApiServer).await
}

async fn the_clocks_differ_and_nothing_is_missed_or_doubled() -> Result<()> {
    expect_clean(Part::Clocks).await
}

async fn vault_breaks_and_nothing_is_missed_or_doubled() -> Result<()> {
    expect_clean(Part::Vault).await
}

async fn the_controller_breaks_and_nothing_is_missed_or_doubled() -> Result<()> {
    expect_clean(Part::Controller).await
}

/// Runs a part of the suite and checks its report.
#[expect(clippy::print_stdout, reason = "how it went, for who reads a failure")]
async fn expect_clean(part: Part) -> Result<()> {
    let plan = Plan::short(seed());
    let report = run_part(part, &plan, move |text| println!("{part:?}: {text}")).await?;
    // Past the test's capture: the table is shown also when all is well.
    writeln!(std::io::stdout().lock(), "\n{report}")?;
    assert!(report.is_clean(), "repeat with FAULTS_SEED={}\n{report}", plan.seed);
    Ok(())
}

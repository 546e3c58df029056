//! The fault suite, each fault once or twice: `make faults` does more of the same.

use anyhow::Result;
use e2e::faults::{Plan, run};

/// Repeats the choices of a run that failed; it is printed at the start of each.
const SEED: &str = "FAULTS_SEED";

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "the table is what the suite is for")]
async fn whatever_breaks_nothing_is_missed_and_nothing_doubled() -> Result<()> {
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    let plan = Plan::short(seed.unwrap_or_else(|| fastrand::u64(..)));
    let report = run(&plan, |text| println!("{text}")).await?;
    println!("{report}");
    assert!(report.is_clean(), "repeat with {SEED}={}\n{report}", plan.seed);
    Ok(())
}

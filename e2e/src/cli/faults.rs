//! The fault suite for `make faults`.

use anyhow::{Result, ensure};
use e2e::faults::{Plan, run};

use super::say::Say;

/// Runs the suite, reports progress, and ends with the table.
pub(crate) async fn faults(plan: Plan, say: &mut Say) -> Result<()> {
    let mut progress = Say::to_stdout();
    let report = run(&plan, move |text| progress.line(text)).await?;
    say.line(&format!("\n{report}"));
    ensure!(report.is_clean(), "not all counts are 0; --seed {} repeats these choices", plan.seed);
    say.line("missed 0, doubled 0");
    Ok(())
}

//! The flags for the rules that decide when due reloads start.

use std::time::Duration;

use clap::Args;

use super::error::{ConfigError, error};
use super::value::{boolean, count, duration};
use crate::model::reload_policy::Percent;
use crate::rollouts::admission::RolloutRules;
use crate::rollouts::limits::RolloutLimits;
use crate::rollouts::wave::WaveRules;

/// The longest `--reload-min-interval`. A longer one would keep new credentials from pods for days.
const LONGEST_INTERVAL: Duration = Duration::from_hours(1);

/// The flags.
#[derive(Debug, Args)]
pub(crate) struct RolloutFlags {
    /// Roll a new secret version out in waves: to a few workloads first, and to the others as these
    /// become healthy. A failed rollout stops the others. Without waves, all workloads are reloaded
    /// at once
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "true",
        default_missing_value = "true"
    )]
    waves: String,
    /// How many workloads must use a secret for it to be rolled out in waves
    #[arg(long, value_name = "COUNT", default_value = "5")]
    waves_from: String,
    /// How many workloads get a new version first
    #[arg(long, value_name = "COUNT", default_value = "1")]
    wave_first: String,
    /// Which share of the workloads that use a secret may be rolled out at a time after that
    #[arg(long, value_name = "PERCENT", default_value = "25%")]
    wave_step: String,
    /// How many rollouts of reloads may be under way at a time; 0 for no limit
    #[arg(long, value_name = "COUNT", default_value = "200")]
    max_rollouts: String,
    /// How many rollouts of reloads may be under way at a time in one Kubernetes namespace; 0 for no
    /// limit
    #[arg(long, value_name = "COUNT", default_value = "50")]
    max_rollouts_per_namespace: String,
    /// How soon a workload may be reloaded again. The time doubles for each reload in a row, up to
    /// 1h; 0s for no interval
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    reload_min_interval: String,
    /// Let the owners of secrets control reloads by the `custom_metadata` of the secret: `reload`,
    /// `reload-first` and `reload-step`
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "true",
        default_missing_value = "true"
    )]
    secret_reload_policies: String,
    /// How long the rollout of a reload may take. After that it counts as failed
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    rollout_timeout: String,
}

impl RolloutFlags {
    /// Returns the rules, and whether the owners of secrets have a say.
    pub(super) fn rules(self) -> Result<(RolloutRules, bool), ConfigError> {
        let Self {
            waves,
            waves_from,
            wave_first,
            wave_step,
            max_rollouts,
            max_rollouts_per_namespace,
            reload_min_interval,
            secret_reload_policies,
            rollout_timeout,
        } = self;
        let step = Percent::parse(&wave_step).ok_or_else(|| {
            error("--wave-step", &wave_step, "not a percentage from 1% to 100%; write 25%")
        })?;
        let wave_rules = WaveRules {
            from: count("--waves-from", &waves_from)?,
            first: count("--wave-first", &wave_first)?,
            step,
        };
        let rules = RolloutRules {
            waves: boolean("--waves", &waves)?.then_some(wave_rules),
            limits: RolloutLimits {
                in_all: limit("--max-rollouts", &max_rollouts)?,
                per_namespace: limit("--max-rollouts-per-namespace", &max_rollouts_per_namespace)?,
            },
            shortest_interval: interval("--reload-min-interval", &reload_min_interval)?,
            timeout: duration("--rollout-timeout", &rollout_timeout)?,
        };
        Ok((rules, boolean("--secret-reload-policies", &secret_reload_policies)?))
    }
}

fn limit(name: &str, text: &str) -> Result<Option<usize>, ConfigError> {
    let limit: u32 =
        text.parse().map_err(|_| error(name, text, "not a whole number; write 0 for no limit"))?;
    Ok(usize::try_from(limit).ok().filter(|limit| *limit > 0))
}

fn interval(name: &str, text: &str) -> Result<Duration, ConfigError> {
    let interval = humantime::parse_duration(text)
        .map_err(|_| error(name, text, "not a duration; write 1m, or 0s for no interval"))?;
    if interval > LONGEST_INTERVAL {
        return Err(error(name, text, "must be 1h or less"));
    }
    Ok(interval)
}

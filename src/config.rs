//! The configuration: flags and environment variables, read once and validated.
//!
//! Architecture Invariant: only this module reads the environment. It returns a valid [`Config`].
//! It refuses a setting that cannot be used, with the name, the value and the remedy. An error
//! never repeats a value that is a secret.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use jiff::{SignedDuration, Timestamp};

use crate::engine::settings::SharedSettings;
use crate::index::quota::Quota;
use crate::model::scheme::Scheme;
use crate::model::scope::WatchScope;
use crate::model::secret::DEFAULT_CONNECTION;
use crate::model::time_rules::{SetBy, TimeRules};
use crate::references::servers::{Servers, UndeclaredAddress, VaultServer};
use crate::references::source::ReadableSources;
use crate::references::time_rules::first_error;
use crate::rollouts::injector::InjectorSettings;
use crate::telemetry;
use crate::vault::pace::Pace;

mod address;
mod auth;
mod cloud;
mod election;
mod environment;
mod error;
mod injector;
mod notifications;
mod proxy;
mod requests;
mod rollouts;
mod rules;
mod scope;
mod servers;
mod service_account;
mod status;
mod value;
pub mod variables;
mod vault;

pub use election::LeaderElection;
use environment::Environment;
pub use error::ConfigError;
use error::error;
use injector::InjectorFlags;
use notifications::NotificationFlags;
pub use notifications::Notifications;
use rollouts::RolloutFlags;
pub use rules::PathRulesFile;
use scope::ScopeFlags;
pub use servers::ServersFile;
pub use status::StatusApi;
use status::StatusFlags;
pub use value::{Listen, duration};
use value::{boolean, count};
pub use vault::{CaSecret, Connection};

/// The default renewal threshold of a Vault token, in reload periods.
const THRESHOLD_PERIODS: u32 = 3;

/// The first poll begins within this time, or within one period if that is shorter. Controllers
/// that start at once spread their first polls over this time.
const START_WITHIN: Duration = Duration::from_secs(10);

/// The most concurrent requests to Vault. More do not make a poll faster.
const MOST_AT_ONCE: u32 = 256;

/// Rolls out Kubernetes workloads when a secret they use changes in HashiCorp Vault or OpenBao.
///
/// The connection to Vault is configured by environment variables: VAULT_ADDR, VAULT_ROLE,
/// VAULT_PATH and others, or the same with the prefix BAO_; see docs/configuration.md.
#[derive(Debug, Parser)]
#[command(
    name = "vault-secrets-reloader",
    version,
    args_override_self = true,
    after_help = "Without a cluster: `check FILE...` reads manifests and says what would be watched; \
                  `explain VALUE` says how one value is read. `status` asks a running controller \
                  how far rotations are. Each has its own --help."
)]
#[expect(clippy::doc_markdown, reason = "the comments are the text of --help")]
pub struct Flags {
    /// The time between two polls of Vault. The chart's default is 1h
    #[arg(long, value_name = "DURATION", default_value = "60s", help_heading = "Polls")]
    reloader_run_period: String,
    /// How often all workloads are listed again, in pages, as a safety net beside the watches
    #[arg(long, value_name = "DURATION", default_value = "30m", help_heading = "Polls")]
    collector_sync_period: String,
    /// How long after a rotation new pods may still read the version before it, from a standby or a
    /// cache. Workloads deployed within that time count as deployed before the rotation, and no
    /// reload begins before it is over. At most 10m
    #[arg(long, value_name = "DURATION", default_value = "3s", help_heading = "Polls")]
    settle_time: String,
    /// Treat secret versions created before this time as known, unless a record says otherwise. Use
    /// it after a move to another Vault, where every version is new. RFC 3339, as in
    /// 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", help_heading = "Polls")]
    ignore_versions_before: Option<String>,
    /// Decide and report, and reload nothing. The status shows what would be reloaded
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        help_heading = "Polls"
    )]
    dry_run: String,
    /// Begin no reload before this time, at most 90 days ahead. RFC 3339 or a date, as in
    /// 2026-12-24T00:00:00Z or 2026-12-24
    #[arg(long, value_name = "TIME", help_heading = "Polls")]
    freeze_until: Option<String>,
    /// Begin reloads only while these windows let them, separated by semicolons. Each is `allow` or
    /// `deny`, a cron expression, a duration and perhaps a time zone, as in
    /// `allow 0 22 * * 1-5 8h Europe/Berlin`
    #[arg(long, value_name = "WINDOWS", help_heading = "Polls")]
    reload_windows: Option<String>,
    /// How many workloads may be reloaded at once whose secrets changed while no controller watched
    #[arg(long, value_name = "COUNT", default_value = "20", help_heading = "Polls")]
    found_reload_burst: String,
    /// How many more of these workloads may be reloaded each minute
    #[arg(long, value_name = "COUNT", default_value = "120", help_heading = "Polls")]
    found_reload_rate: String,
    #[command(flatten, next_help_heading = "Rollouts")]
    rollouts: RolloutFlags,
    /// The maximum number of concurrent requests about secrets to each Vault. At most 256
    #[arg(long, value_name = "COUNT", default_value = "8", help_heading = "Vault")]
    vault_concurrency: String,
    /// The maximum number of requests about secrets a second to each Vault; no limit unless set
    #[arg(long, value_name = "COUNT", help_heading = "Vault")]
    vault_rate: Option<String>,
    /// Spread the reads of single secrets over four fifths of the period, instead of sending them
    /// as fast as possible. LISTs of folders are not spread
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        help_heading = "Vault"
    )]
    vault_spread: String,
    /// Renew the Vault token when its remaining lifetime is no longer than this; three reloader run
    /// periods unless set here or by VAULT_TOKEN_RENEW_THRESHOLD
    #[arg(long, value_name = "DURATION", help_heading = "Vault")]
    vault_token_renew_threshold: Option<String>,
    /// A file that declares more Vault servers, in addition to that of VAULT_ADDR, for workloads
    /// that name one of them by vault-addr
    #[arg(long, value_name = "FILE", help_heading = "Vault")]
    vault_servers_file: Option<String>,
    /// Do not watch a workload whose vault-addr is not declared, instead of using the default
    /// server for it
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        help_heading = "Vault"
    )]
    refuse_undeclared_addresses: String,
    /// A file of rules that say which Kubernetes namespaces may refer to which paths; unless set,
    /// each namespace may refer to each path
    #[arg(long, value_name = "FILE", help_heading = "Vault")]
    path_rules_file: Option<String>,
    /// How many different secrets of one Vault the workloads of one Kubernetes namespace may refer
    /// to in total. Workloads over this limit are not watched: `TooManySecretsInNamespace`
    #[arg(long, value_name = "COUNT", default_value = "10000", help_heading = "Vault")]
    max_secrets_per_namespace: String,
    /// Watch references in ConfigMaps that workloads take variables from. The metadata of all
    /// ConfigMaps are watched; only those that an opted-in workload names are read
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "true",
        default_missing_value = "true",
        help_heading = "References"
    )]
    read_config_maps: String,
    /// Also watch references in Kubernetes Secrets that workloads take variables from. Only
    /// references and the names of keys are kept, and no value. The service account must be allowed
    /// to get, list and watch all Secrets
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        help_heading = "References"
    )]
    read_secrets: String,
    /// Write Events on workloads: about their reloads, and for each reason why a reference is not
    /// watched or looks like a mistake
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "true",
        default_missing_value = "true",
        help_heading = "References"
    )]
    record_events: String,
    #[command(flatten, next_help_heading = "Namespaces")]
    scope: ScopeFlags,
    #[command(flatten, next_help_heading = "The webhook that injects secrets")]
    injector: InjectorFlags,
    #[command(flatten, next_help_heading = "Status")]
    status: StatusFlags,
    #[command(flatten, next_help_heading = "Notifications")]
    notifications: NotificationFlags,
    /// `debug`, `info`, `warn` or `error`. Any other value means `info`, with a warning
    #[arg(long, value_name = "LEVEL", default_value = "info", help_heading = "Logs")]
    log_level: String,
    /// Write log lines as JSON instead of logfmt. The keys are the same
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        help_heading = "Logs"
    )]
    enable_json_log: String,
    /// Elect one replica as the leader, by a Lease; the other replicas wait. Without leader
    /// election, each replica does all the work
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value = "true",
        default_missing_value = "true",
        help_heading = "Leader election"
    )]
    leader_elect: String,
    /// How long the other replicas wait for a leader that does not renew its lease. In whole
    /// seconds, from 1s to 1h
    #[arg(long, value_name = "DURATION", default_value = "15s", help_heading = "Leader election")]
    leader_elect_lease_duration: String,
    /// How long a leader that cannot renew its lease goes on leading. Must be shorter than the
    /// lease duration
    #[arg(long, value_name = "DURATION", default_value = "10s", help_heading = "Leader election")]
    leader_elect_renew_deadline: String,
    /// How often the leader renews its lease. At least 100ms, and shorter than the renew deadline
    #[arg(long, value_name = "DURATION", default_value = "2s", help_heading = "Leader election")]
    leader_elect_retry_period: String,
    /// The name of the Lease. The chart sets the full name of the release
    #[arg(
        long,
        value_name = "NAME",
        default_value = "vault-secrets-reloader",
        help_heading = "Leader election"
    )]
    leader_elect_resource_name: String,
    /// The namespace of the Lease. Unless set here or by POD_NAMESPACE, the namespace of the
    /// service account or of the kubeconfig
    #[arg(long, value_name = "NAMESPACE", help_heading = "Leader election")]
    leader_elect_resource_namespace: Option<String>,
}

/// The configuration.
#[derive(Debug)]
pub struct Config {
    /// The time between two full lists of all workloads.
    pub collector_sync_period: Duration,
    /// The settings that the engines of all servers share.
    pub settings: SharedSettings,
    /// How many reloads that rest on the clock alone may start at once.
    pub found_burst: u32,
    /// How many more of these reloads may start each minute.
    pub found_per_minute: u32,
    /// How log lines are written.
    pub log: telemetry::Settings,
    /// The address of the probes and the metrics.
    pub listen: Listen,
    /// How each Vault server is used, the default server first.
    pub connections: Vec<Connection>,
    /// The addresses that workloads may name for each server, and which namespaces may refer to
    /// which paths.
    pub servers: Servers,
    /// How many secrets the workloads of a namespace may refer to.
    pub quota: Quota,
    /// How fast requests are sent to each Vault server.
    pub pace: Pace,
    /// Which kinds of sources of variables are read.
    pub readable: ReadableSources,
    /// Whether Events are written.
    pub events: bool,
    /// The namespaces that are watched.
    pub scope: WatchScope,
    /// When reloads wait for the webhook that injects secrets.
    pub injector: InjectorSettings,
    /// Where the status is served; `None` if it is off.
    pub status: Option<StatusApi>,
    /// The webhook that is told of events; `None` if there is none.
    pub notifications: Option<Notifications>,
    /// The name of this replica.
    pub replica: String,
    /// The settings of leader election; `None` if it is off.
    pub leader_election: Option<LeaderElection>,
    /// Warnings about settings that can be used, for the operator.
    pub warnings: Vec<String>,
}

impl Flags {
    /// Parses the command line. Flags may have one dash or two, as in Go programs.
    pub fn parse_from(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(args.into_iter().map(two_dashes))
    }
}

/// Turns `-log-level=debug` into `--log-level=debug`.
fn two_dashes(arg: OsString) -> OsString {
    match arg.to_str() {
        Some(text)
            if text.len() > 2
                && text.starts_with('-')
                && text[1..].starts_with(|c: char| c.is_ascii_alphabetic()) =>
        {
            format!("-{text}").into()
        }
        _ => arg,
    }
}

/// Looks up a variable of the process's environment, for [`Config::load`].
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Config {
    /// Validates the flags and the environment variables. `environment` looks up a variable.
    pub fn load(
        flags: Flags,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        // All flags are named, so that an unused flag does not compile.
        let Flags {
            collector_sync_period,
            reloader_run_period,
            log_level,
            enable_json_log,
            vault_token_renew_threshold,
            settle_time,
            ignore_versions_before,
            dry_run,
            freeze_until,
            reload_windows,
            found_reload_burst,
            found_reload_rate,
            vault_servers_file,
            refuse_undeclared_addresses,
            path_rules_file,
            max_secrets_per_namespace,
            vault_concurrency,
            vault_rate,
            vault_spread,
            read_config_maps,
            read_secrets,
            record_events,
            scope,
            injector,
            status,
            rollouts,
            notifications,
            leader_elect,
            leader_elect_lease_duration,
            leader_elect_renew_deadline,
            leader_elect_retry_period,
            leader_elect_resource_name,
            leader_elect_resource_namespace,
        } = flags;
        let environment = |name: &str| {
            debug_assert!(variables::may_be_read(name), "src/config/variables.rs lacks {name}");
            environment(name)
        };
        let env = Environment::of_process(&environment);
        let mut warnings = Vec::new();

        let period = duration("--reloader-run-period", &reloader_run_period)?;
        let threshold = vault_token_renew_threshold
            .map(|text| duration("--vault-token-renew-threshold", &text))
            .transpose()?;
        let usual_threshold = threshold.unwrap_or(period.saturating_mul(THRESHOLD_PERIODS));
        let level = level(&log_level, &mut warnings);
        let json = boolean("--enable-json-log", &enable_json_log)?;
        let mut default =
            vault::connection(DEFAULT_CONNECTION, &env, usual_threshold, &mut warnings)?;
        // For the default server, the flag takes precedence over the variable.
        default.threshold = threshold.unwrap_or(default.threshold);
        let file = vault_servers_file.map_or_else(
            || Ok(ServersFile::default()),
            |path| ServersFile::read(Path::new(&path)),
        )?;
        let others = file.connections(usual_threshold, &environment, &mut warnings)?;
        let connections = std::iter::once(default).chain(others);
        let undeclared = undeclared(&refuse_undeclared_addresses)?;
        let servers = file.declared(default_server(&env)?, undeclared)?;
        let terms = election::terms(
            &leader_elect_lease_duration,
            &leader_elect_renew_deadline,
            &leader_elect_retry_period,
        )?;
        let (name, namespace) = (leader_elect_resource_name, leader_elect_resource_namespace);
        let leader_election = election::leader_election(terms, name, namespace, &environment)?;
        let is_elected = boolean("--leader-elect", &leader_elect)?;
        let (rollouts, heeds_owners) = rollouts.rules()?;
        let (injector, status) = (injector.settings()?, status::api(status)?);
        Ok(Self {
            collector_sync_period: duration("--collector-sync-period", &collector_sync_period)?,
            settings: SharedSettings {
                period,
                start_within: period.min(START_WITHIN),
                settle: settle("--settle-time", &settle_time)?,
                ignore_versions_before: time("--ignore-versions-before", ignore_versions_before)?,
                dry_run: boolean("--dry-run", &dry_run)?,
                rollouts,
                heeds_owners,
                time_rules: time_rules(freeze_until.as_deref(), reload_windows.as_deref())?,
            },
            found_burst: count("--found-reload-burst", &found_reload_burst)?,
            found_per_minute: count("--found-reload-rate", &found_reload_rate)?,
            log: telemetry::Settings { level, json },
            listen: listen(environment("LISTEN_ADDRESS"))?,
            servers: with_path_rules(allowed(servers, &environment), path_rules_file)?,
            connections: connections.collect(),
            quota: quota(&max_secrets_per_namespace)?,
            pace: pace(&vault_concurrency, vault_rate.as_deref(), &vault_spread)?,
            readable: readable(&read_config_maps, &read_secrets)?,
            events: boolean("--record-events", &record_events)?,
            scope: scope.scope(&injector, status.as_ref())?,
            injector,
            status,
            notifications: notifications::notifications(notifications)?,
            replica: leader_election.replica.clone(),
            leader_election: is_elected.then_some(leader_election),
            warnings,
        })
    }
}

fn level(text: &str, warnings: &mut Vec<String>) -> telemetry::Level {
    text.parse().unwrap_or_else(|()| {
        let problem = "is not debug, info, warn or error; using info";
        warnings.push(format!("--log-level={text:?} {problem}"));
        telemetry::Level::Info
    })
}

/// Returns what workloads may name the default server by.
fn default_server(env: &Environment<'_>) -> Result<VaultServer, ConfigError> {
    Ok(VaultServer {
        addresses: vault::addresses(env),
        namespace: vault::namespace(env, "NAMESPACE")?,
        ..VaultServer::default()
    })
}

/// Returns the servers with the path rules of the file, if a file is given.
fn with_path_rules(servers: Servers, file: Option<String>) -> Result<Servers, ConfigError> {
    match file {
        Some(path) => PathRulesFile::read(Path::new(&path))?.apply(servers),
        None => Ok(servers),
    }
}

/// Returns the servers with the addresses that the webhook allows, if the webhook's variables are
/// set for this process too.
fn allowed(servers: Servers, environment: &impl Fn(&str) -> Option<String>) -> Servers {
    Scheme::ALL.into_iter().fold(servers, |servers, scheme| {
        let name = format!("{}_ADDR_ALLOWLIST", scheme.name().to_ascii_uppercase());
        match environment(&name).filter(|list| !list.trim().is_empty()) {
            Some(list) => servers.with_allowed(scheme, &list),
            None => servers,
        }
    })
}

/// Returns the address of the probes and the metrics.
fn listen(text: Option<String>) -> Result<Listen, ConfigError> {
    let text = text.filter(|text| !text.is_empty());
    value::listen("LISTEN_ADDRESS", text.as_deref().unwrap_or(":8080"))
}

/// The longest settle time. Each reload waits for the settle time after a rotation.
const LONGEST_SETTLE: SignedDuration = SignedDuration::from_mins(10);

fn settle(name: &str, text: &str) -> Result<SignedDuration, ConfigError> {
    let settle = humantime::parse_duration(text)
        .map_err(|_| error(name, text, "not a duration; write 3s or 1m"))?;
    SignedDuration::try_from(settle)
        .ok()
        .filter(|settle| *settle <= LONGEST_SETTLE)
        .ok_or_else(|| error(name, text, "must be 10m or less"))
}

/// Returns the operator's freeze and windows. Whether the freeze ends too far ahead is checked when
/// it matters.
fn time_rules(freeze: Option<&str>, windows: Option<&str>) -> Result<TimeRules, ConfigError> {
    let rules = TimeRules::new(freeze, windows);
    let Some(problem) = first_error(&rules) else { return Ok(rules) };
    let flag = problem.place(SetBy::Operator);
    let text = if flag == SetBy::Operator.freeze() { freeze } else { windows };
    Err(error(flag, text.unwrap_or_default(), &problem.to_string()))
}

fn time(name: &str, text: Option<String>) -> Result<Option<Timestamp>, ConfigError> {
    let problem = "not a time; write 2026-01-31T12:00:00Z";
    text.map(|text| text.parse::<Timestamp>().map_err(|_| error(name, &text, problem))).transpose()
}

fn pace(concurrency: &str, rate: Option<&str>, spread: &str) -> Result<Pace, ConfigError> {
    let at_once = count("--vault-concurrency", concurrency)?;
    if at_once > MOST_AT_ONCE {
        let problem = format!("must not be more than {MOST_AT_ONCE}");
        return Err(error("--vault-concurrency", concurrency, &problem));
    }
    let a_second = rate.map(|rate| count("--vault-rate", rate)).transpose()?;
    let interval = a_second.map_or(Duration::ZERO, |count| Duration::from_secs(1) / count);
    let is_spread = boolean("--vault-spread", spread)?;
    Ok(Pace { at_once: at_once as usize, interval, is_spread, ..Pace::default() })
}

fn undeclared(are_refused: &str) -> Result<UndeclaredAddress, ConfigError> {
    let are_refused = boolean("--refuse-undeclared-addresses", are_refused)?;
    Ok(if are_refused { UndeclaredAddress::Refused } else { UndeclaredAddress::Default })
}

fn readable(config_maps: &str, secrets: &str) -> Result<ReadableSources, ConfigError> {
    Ok(ReadableSources {
        config_maps: boolean("--read-config-maps", config_maps)?,
        secrets: boolean("--read-secrets", secrets)?,
    })
}

fn quota(text: &str) -> Result<Quota, ConfigError> {
    let most = count("--max-secrets-per-namespace", text)?;
    Ok(Quota(usize::try_from(most).unwrap_or(usize::MAX)))
}

#[cfg(test)]
mod tests;

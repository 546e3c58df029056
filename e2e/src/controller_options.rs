//! The flags and variables of a controller that a test starts.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How the controller logs in to Vault.
#[derive(Debug, Clone)]
enum Login {
    /// With a token that the bed makes with the controller's policy.
    Token,
    /// By the variables of the test; the bed sets none.
    Own,
}

/// The flag of the settle time.
pub const SETTLE_TIME: &str = "--settle-time";

/// The flag of the address of the status.
pub const STATUS_ADDRESS: &str = "--status-address";

/// The flag that switches leader election off.
const ALONE: &str = "--leader-elect=false";

/// The flag that reloads all workloads of a secret at once.
const WITHOUT_WAVES: &str = "--waves=false";

/// The flag of the shortest time between two reloads of a workload.
pub const MIN_INTERVAL: &str = "--reload-min-interval";

/// Flags and variables for a controller. The default: debug level, a poll each second, the bed's
/// servers, a Kubernetes user with the chart's permissions, and a Vault token with the controller's
/// policy. Leader election is off, since a test that kills a controller and starts another would
/// wait for the lease to end. Waves and the shortest interval are off, too: most scenarios are about
/// which workloads are reloaded, and reload one several times within seconds.
#[derive(Debug, Clone)]
pub struct ControllerOptions {
    flags: BTreeMap<String, Option<String>>,
    env: BTreeMap<String, OsString>,
    login: Login,
    program: Option<PathBuf>,
}

/// The durations of leader election.
#[derive(Debug, Clone, Copy)]
pub struct LeaseTimes {
    /// `--leader-elect-lease-duration`
    pub duration: Duration,
    /// `--leader-elect-renew-deadline`
    pub renew_deadline: Duration,
    /// `--leader-elect-retry-period`
    pub retry_period: Duration,
}

impl Default for ControllerOptions {
    fn default() -> Self {
        let (flags, env) = Default::default();
        let options = Self { flags, env, login: Login::Token, program: None };
        options
            .flag("--log-level", "debug")
            .flag("--reloader-run-period", "1s")
            // Pods of the bed never read an older version, and its servers share one clock.
            .flag(SETTLE_TIME, "0s")
            // Scenarios with hundreds of workloads are not about the first start.
            .flag("--found-reload-burst", "500")
            // Each controller has a port of its own.
            .flag(STATUS_ADDRESS, "127.0.0.1:0")
            .flag(MIN_INTERVAL, "0s")
            .switch(WITHOUT_WAVES)
            .switch(ALONE)
    }
}

impl ControllerOptions {
    /// Returns the defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a flag with a value, such as `--reloader-run-period`, `2s`. Replaces an earlier value.
    #[must_use]
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.insert(name.to_owned(), Some(value.to_owned()));
        self
    }

    /// Sets a flag without a value, such as `--enable-json-log`.
    #[must_use]
    pub fn switch(mut self, name: &str) -> Self {
        self.flags.insert(name.to_owned(), None);
        self
    }

    /// Removes a flag.
    #[must_use]
    pub fn without_flag(mut self, name: &str) -> Self {
        self.flags.remove(name);
        self
    }

    /// Switches waves on, with the program's defaults.
    #[must_use]
    pub fn in_waves(self) -> Self {
        self.without_flag(WITHOUT_WAVES)
    }

    /// Uses the program's defaults of the rules for rollouts: waves, and the shortest interval.
    #[must_use]
    pub fn usual_rollouts(self) -> Self {
        self.in_waves().without_flag(MIN_INTERVAL)
    }

    /// Switches leader election on, with the lease `vault-secrets-reloader` of a namespace, the
    /// name of the replica, and these times.
    #[must_use]
    pub fn leader_elect(self, namespace: &str, replica: &str, times: LeaseTimes) -> Self {
        let milliseconds = |time: Duration| format!("{}ms", time.as_millis());
        self.without_flag(ALONE)
            .flag("--leader-elect-lease-duration", &milliseconds(times.duration))
            .flag("--leader-elect-renew-deadline", &milliseconds(times.renew_deadline))
            .flag("--leader-elect-retry-period", &milliseconds(times.retry_period))
            .env("POD_NAMESPACE", namespace)
            .env("POD_NAME", replica)
    }

    /// Runs another binary.
    #[must_use]
    pub fn program(mut self, binary: &Path) -> Self {
        self.flags.remove(SETTLE_TIME);
        self.flags.remove(STATUS_ADDRESS);
        self.flags.remove("--found-reload-burst");
        self.flags.remove(MIN_INTERVAL);
        self.flags.remove(WITHOUT_WAVES);
        self.program = Some(binary.to_owned());
        self
    }

    /// Sets a variable. It takes precedence over the value that the bed would set.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// Uses this Vault token instead of a token that the bed makes.
    #[must_use]
    pub fn vault_token(mut self, token: &str) -> Self {
        self.login = Login::Own;
        self.env("VAULT_TOKEN", token)
    }

    /// Logs in by `auth/kubernetes` with a role and the file of the `ServiceAccount`'s token.
    #[must_use]
    pub fn kubernetes_login(mut self, role: &str, token_file: impl Into<PathBuf>) -> Self {
        self.login = Login::Own;
        self.env("VAULT_ROLE", role).env("KUBERNETES_SERVICE_ACCOUNT_TOKEN", token_file.into())
    }

    /// Sets no Vault token, for a test whose variables configure the login.
    #[must_use]
    pub fn without_vault_token(mut self) -> Self {
        self.login = Login::Own;
        self
    }

    /// Whether the bed makes a Vault token for the controller.
    pub(crate) fn wants_token(&self) -> bool {
        matches!(self.login, Login::Token) && !self.env.contains_key("VAULT_TOKEN")
    }

    /// The variables.
    pub(crate) fn variables(&self) -> &BTreeMap<String, OsString> {
        &self.env
    }

    /// The flags, as arguments of the program.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        for (name, value) in &self.flags {
            arguments.push(name.into());
            arguments.extend(value.iter().map(OsString::from));
        }
        arguments
    }

    /// The program, if it is another one.
    pub(crate) fn binary(&self) -> Option<PathBuf> {
        self.program.clone()
    }
}

//! The program of all scenarios: the list of scenarios, their requirements, and how they run side
//! by side.
//!
//! A scenario mostly waits, so several run at once, each on a bed of its own from the pool of
//! [`crate::shared`]. Long scenarios start first, so that the last ones to end are short.
//!
//! Invariant: each scenario ends. A scenario that takes longer than [`SCENARIO_WITHIN`] fails.

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use futures::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::bed::keep_folder;
use crate::binaries::Binaries;
use crate::command_lines::VaultFlavour;
use crate::wait::locked;

/// The longest scenario on a working machine. Parts of the fault suite take three minutes.
const SCENARIO_WITHIN: Duration = Duration::from_mins(10);

/// The number of concurrent scenarios without `--test-threads`. Each takes up to 1 GB and mostly
/// waits. This number keeps two cores busy.
const AT_ONCE: usize = 8;

/// The number of slowest scenarios that are listed at the end.
const SLOWEST: usize = 12;

/// A scenario and its marks.
#[derive(Debug)]
pub struct Scenario {
    name: String,
    run: fn() -> LocalBoxFuture<'static, Result<()>>,
    is_long: bool,
    is_alone: bool,
    openbao_feature: Option<&'static str>,
    vault_feature: Option<&'static str>,
}

impl Scenario {
    /// Returns a scenario. `module` is the value of `module_path!`.
    #[must_use]
    pub fn new(module: &str, name: &str, run: fn() -> LocalBoxFuture<'static, Result<()>>) -> Self {
        let file = module.rsplit("::").next().unwrap_or_default();
        let name = format!("{file}::{name}");
        let (openbao_feature, vault_feature) = (None, None);
        Self { name, run, is_long: false, is_alone: false, openbao_feature, vault_feature }
    }

    /// Marks a scenario that takes half a minute or more. It starts before the others.
    #[must_use]
    pub fn long(mut self) -> Self {
        self.is_long = true;
        self
    }

    /// Marks a scenario that needs the whole machine. It runs before the others, and alone.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.is_alone = true;
        self
    }

    /// Marks a scenario that needs LIST `detailed-metadata`, which `HashiCorp` Vault does not have.
    #[must_use]
    pub fn lists_metadata(mut self) -> Self {
        self.openbao_feature = Some("LIST detailed-metadata is a feature of OpenBao");
        self
    }

    /// Marks a scenario that needs Vault namespaces, which the free edition of `HashiCorp` Vault
    /// does not have.
    #[must_use]
    pub fn uses_namespaces(mut self) -> Self {
        self.openbao_feature = Some("namespaces are a feature of OpenBao and of Vault Enterprise");
        self
    }

    /// Marks a scenario that starts nodes of `OpenBao` with flags and variables that `HashiCorp`
    /// Vault does not have.
    #[must_use]
    pub fn needs_openbao(mut self) -> Self {
        self.openbao_feature = Some("it starts nodes by settings of OpenBao");
        self
    }

    /// Marks a scenario that needs the auth method `aws`, which `OpenBao` does not have.
    #[must_use]
    pub fn uses_aws_auth(mut self) -> Self {
        self.vault_feature = Some("the auth method aws is a feature of HashiCorp Vault");
        self
    }

    /// Returns why the scenario cannot run on a server.
    fn lacks(&self, flavour: VaultFlavour) -> Option<&'static str> {
        match flavour {
            VaultFlavour::Vault => self.openbao_feature,
            VaultFlavour::OpenBao => self.vault_feature,
        }
    }
}

/// Declares the scenarios of a file: functions that return `Result<()>`, each with its marks, which
/// are methods of [`Scenario`]. A function that is not declared is dead code and fails the lint.
#[macro_export]
macro_rules! scenarios {
    ($($name:ident $(: $($mark:ident)+)?),* $(,)?) => {
        pub(crate) fn scenarios() -> Vec<$crate::suite::Scenario> {
            vec![$(
                $crate::suite::Scenario::new(module_path!(), stringify!($name), || Box::pin($name()))
                    $($(.$mark())+)?
            ),*]
        }
    };
}

/// Runs the scenarios whose names contain one of the words in the variable `ONLY`, or all
/// scenarios. Takes the arguments of Rust's own test programs: a part of a name, `--exact`,
/// `--skip`, `--list`, `--test-threads`.
#[must_use]
pub fn main(mut scenarios: Vec<Scenario>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let only = std::env::var("ONLY").unwrap_or_default();
    let only: Vec<&str> = only.split_whitespace().collect();
    if !only.is_empty() {
        scenarios.retain(|scenario| only.iter().any(|word| scenario.name.contains(word)));
        if scenarios.is_empty() {
            say(&format!("scenarios: no name contains {}", only.join(" or ")));
            return ExitCode::FAILURE;
        }
    }
    scenarios.sort_by_key(|scenario| (!scenario.is_alone, !scenario.is_long));
    let flavour = match Binaries::find().and_then(|binaries| VaultFlavour::of(&binaries.vault())) {
        Ok(flavour) => flavour,
        Err(error) => {
            say(&format!("scenarios: {error:#}"));
            return ExitCode::FAILURE;
        }
    };
    for scenario in &scenarios {
        if let Some(reason) = scenario.lacks(flavour) {
            say(&format!("skipped: {}: {reason}", scenario.name));
        }
    }
    let trials = scenarios.into_iter().map(|scenario| {
        let is_skipped = scenario.lacks(flavour).is_some();
        let name = scenario.name.clone();
        Trial::test(name, move || run(&scenario)).with_ignored_flag(is_skipped)
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    say_slowest();
    conclusion.exit_code()
}

/// Runs one scenario on a runtime of its own. All its tasks end with the runtime.
fn run(scenario: &Scenario) -> Result<(), Failed> {
    // A failed scenario may poison this lock, which holds no data.
    static MACHINE: RwLock<()> = RwLock::new(());
    let (_alone, _beside) = if scenario.is_alone {
        (Some(MACHINE.write().unwrap_or_else(PoisonError::into_inner)), None)
    } else {
        (None, Some(MACHINE.read().unwrap_or_else(PoisonError::into_inner)))
    };
    let began = Instant::now();
    let mut beds = UsedBeds::none_yet();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(async {
        let late = |_| Err(anyhow!("not over after {SCENARIO_WITHIN:?}"));
        timeout(SCENARIO_WITHIN, (scenario.run)()).await.unwrap_or_else(late)
    });
    runtime.shutdown_background();
    locked(&TIMES).push((began.elapsed(), scenario.name.clone()));
    outcome.map_err(|error| Failed::from(format!("{error:#}")))?;
    beds.are_kept = false;
    Ok(())
}

thread_local! {
    static USED_BEDS: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
}

/// Notes that the scenario of this thread uses a bed of the pool.
pub(crate) fn note_bed(folder: PathBuf) {
    USED_BEDS.with_borrow_mut(|beds| beds.push(folder));
}

/// The beds that a scenario uses. Their folders are kept unless the scenario succeeds.
struct UsedBeds {
    are_kept: bool,
}

impl UsedBeds {
    fn none_yet() -> Self {
        USED_BEDS.take();
        Self { are_kept: true }
    }
}

impl Drop for UsedBeds {
    fn drop(&mut self) {
        for folder in USED_BEDS.take().iter().filter(|_| self.are_kept) {
            keep_folder(folder);
        }
    }
}

static TIMES: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

fn say_slowest() {
    let mut times = std::mem::take(&mut *locked(&TIMES));
    times.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    if times.len() > SLOWEST {
        say("the slowest:");
        for (time, name) in times.iter().take(SLOWEST) {
            say(&format!("{:6.1} s  {name}", time.as_secs_f64()));
        }
    }
}

#[expect(clippy::print_stdout, reason = "a test program talks to who runs it")]
fn say(line: &str) {
    println!("{line}");
}

//! The reloader in a simulated world: random histories of secrets, workloads, faults and crashes,
//! after each of which nothing was missed and nothing was doubled.
//!
//! The tests run the controller's loop with all its decisions. Several controllers run at a time,
//! and all of them lead. Vault and the cluster are simulated and follow the history. The world
//! knows the versions that pods really run with. [`world::World::write`] judges each PATCH, and
//! [`play::play`] judges the end.
//!
//! In one history of ten, many workloads use one secret, rollouts take time, fail or hang, and the
//! rules for rollouts are on. Each PATCH is then judged by these rules, too: see `world/rules.rs`.
//!
//! `MODEL_HISTORIES` sets the number of histories, `MODEL_SEED` the seed of the first one. A
//! history that fails is reduced until no step can be left out, and printed with all its events.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, says what it did, and is told how much to do"
)]

mod collector;
mod history;
mod play;
mod ports;
mod time;
mod world;

use std::time::Instant;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use tokio::runtime::{Builder, Runtime};

use history::ObservationHistory;

/// The number of histories of `make test`, and their seed. They are the same each time, so that
/// only a change of the code makes them fail. Other seeds are for longer runs.
const HISTORIES: u32 = 100_000;
const SEED: u64 = 1;

fn variable<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number"))
    })
}

/// Returns a runtime whose clock leaps to the next event.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn run(seed: u64, histories: u32) -> Result<(), String> {
    let config = Config {
        cases: histories,
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let mut bytes = [0x5a; 16];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    // The default generator takes longer to draw a history than the reloader takes to run it.
    let rng = TestRng::from_seed(RngAlgorithm::XorShift, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let runtime = runtime();
    let outcome = runner.run(&history::histories(), |history: ObservationHistory| {
        let (wrong, _) = runtime.block_on(play::play(&history, false));
        match wrong.first() {
            None => Ok(()),
            Some(wrong) => Err(TestCaseError::fail(wrong.clone())),
        }
    });
    match outcome {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, smallest)) => {
            let (_, journal) = runtime.block_on(play::play(&smallest, true));
            Err(format!(
                "{why}\n\nthe smallest history that shows it:\n{smallest:#?}\n\nwhat happened in it:\n{}\n",
                journal.join("\n")
            ))
        }
        Err(TestError::Abort(why)) => Err(format!("the model gave up: {why}")),
    }
}

#[test]
fn nothing_is_missed_and_nothing_is_doubled() {
    let histories: u32 = variable("MODEL_HISTORIES", HISTORIES);
    let seed: u64 = variable("MODEL_SEED", SEED);
    let threads =
        u32::try_from(std::thread::available_parallelism().map_or(1, usize::from)).unwrap();
    let each = histories.div_ceil(threads);
    println!("{histories} histories on {threads} threads; to repeat them: MODEL_SEED={seed}");
    let began = Instant::now();
    let failures: Vec<String> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || run(seed.wrapping_add(u64::from(thread) << 32), each))
            })
            .collect();
        runs.into_iter().filter_map(|run| run.join().unwrap().err()).collect()
    });
    assert!(failures.is_empty(), "MODEL_SEED={seed} MODEL_HISTORIES={histories}: {}", failures[0]);
    println!("{} histories in {:.0} s", each * threads, began.elapsed().as_secs_f32());
}

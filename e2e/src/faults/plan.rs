//! The extent of a run of the fault suite, and the seed of its random choices.

/// The extent of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed. The same seed makes the same workloads and the same choices.
    pub seed: u64,
    /// The number of workloads.
    pub workloads: usize,
    /// The number of secrets that they share.
    pub secrets: usize,
    /// The number of times that the controller is killed.
    pub kills: usize,
    /// The number of times that each other fault strikes.
    pub times: usize,
    /// Parts of names. Only faults whose name contains one of these run; all, if the list is empty.
    pub only: Vec<String>,
}

impl Plan {
    /// The plan of `make faults`.
    #[must_use]
    pub fn full(seed: u64) -> Self {
        Self { seed, workloads: 200, secrets: 50, kills: 60, times: 4, only: Vec::new() }
    }

    /// The plan of `make test`: the same faults, most of them once.
    #[must_use]
    pub fn short(seed: u64) -> Self {
        Self { workloads: 80, kills: 12, times: 1, ..Self::full(seed) }
    }

    /// Whether the fault of this name is part of the plan.
    pub(super) fn wants(&self, fault: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| fault.contains(only))
    }
}

/// Returns the seed in `FAULTS_SEED`, or else a random seed.
#[must_use]
pub fn seed() -> u64 {
    let named = std::env::var("FAULTS_SEED").ok().and_then(|seed| seed.parse().ok());
    named.unwrap_or_else(|| fastrand::u64(..))
}

//! How much of the fault suite is done, and by which random choices.

/// How much is done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The same seed makes the same workloads, and the same choices.
    pub seed: u64,
    /// How many workloads there are.
    pub workloads: usize,
    /// How many secrets they share.
    pub secrets: usize,
    /// How often the controller is killed.
    pub kills: usize,
    /// How often the other faults strike.
    pub times: usize,
    /// Only the faults whose name contains one of these; all, where there is none.
    pub only: Vec<String>,
}

impl Plan {
    /// What `make faults` does.
    #[must_use]
    pub fn full(seed: u64) -> Self {
        Self { seed, workloads: 200, secrets: 50, kills: 60, times: 4, only: Vec::new() }
    }

    /// The same faults, most of them once: what `make test` does.
    #[must_use]
    pub fn short(seed: u64) -> Self {
        Self { workloads: 80, kills: 12, times: 1, ..Self::full(seed) }
    }

    /// Whether the fault of this name is among those that are to strike.
    pub(super) fn wants(&self, fault: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| fault.contains(only))
    }
}

/// The seed that `FAULTS_SEED` names, or else a random one.
#[must_use]
pub fn seed() -> u64 {
    let named = std::env::var("FAULTS_SEED").ok().and_then(|seed| seed.parse().ok());
    named.unwrap_or_else(|| fastrand::u64(..))
}

//! Whether this process leads: the claim, and its two sides.
//!
//! Architecture Invariant: a claim that has ended never counts as one that holds, whatever happened
//! to the candidate. Leadership saves work, and nothing more. The PATCH itself makes sure that a
//! change is not acted on twice.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// A claim to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Another replica leads, or none.
    No,
    /// This process leads until this time.
    Until(Instant),
    /// This process leads, since there is no election.
    Always,
}

impl Claim {
    fn holds(self) -> bool {
        match self {
            Self::No => false,
            Self::Until(end) => Instant::now() < end,
            Self::Always => true,
        }
    }
}

/// The reloader's side.
#[derive(Clone, Debug)]
pub struct Leadership {
    claim: watch::Receiver<Claim>,
    /// The identity of another replica that holds the lease.
    holder: watch::Receiver<Option<Arc<str>>>,
    stands: CancellationToken,
}

/// The side of the leader election.
#[derive(Debug)]
pub struct Candidate {
    claim: watch::Sender<Claim>,
    holder: watch::Sender<Option<Arc<str>>>,
    stands: CancellationToken,
}

/// Makes the two sides of a contended leadership.
#[must_use]
pub fn election_channel() -> (Candidate, Leadership) {
    let (sender, receiver) = watch::channel(Claim::No);
    let (name, holder) = watch::channel(None);
    let stands = CancellationToken::new();
    let leadership = Leadership { claim: receiver, holder, stands: stands.clone() };
    (Candidate { claim: sender, holder: name, stands }, leadership)
}

impl Candidate {
    /// Waits until the reloader is ready to lead.
    pub async fn stands(&self) {
        self.stands.cancelled().await;
    }

    /// Publishes the claim that holds from now on.
    pub fn say(&self, claim: Claim) {
        self.claim.send_if_modified(|before| std::mem::replace(before, claim) != claim);
    }

    /// Publishes the identity of another replica that holds the lease; `None` if there is none.
    pub fn name_holder(&self, holder: Option<&str>) {
        self.holder.send_if_modified(|before| {
            let is_new = before.as_deref() != holder;
            if is_new {
                *before = holder.map(Arc::from);
            }
            is_new
        });
    }
}

impl Leadership {
    /// Returns the leadership of a process without election.
    #[must_use]
    pub fn always() -> Self {
        let (_, claim) = watch::channel(Claim::Always);
        let (_, holder) = watch::channel(None);
        Self { claim, holder, stands: CancellationToken::new() }
    }

    /// Whether this process leads now.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.claim.borrow().holds()
    }

    /// Returns the identity of another replica that holds the lease, as far as is known.
    #[must_use]
    pub fn holder(&self) -> Option<Arc<str>> {
        self.holder.borrow().clone()
    }

    /// Reports that this process is ready to lead.
    pub(crate) fn stand(&self) {
        self.stands.cancel();
    }

    /// Waits until this process leads.
    pub async fn gained(&self) {
        let mut claim = self.claim.clone();
        if claim.wait_for(|claim| claim.holds()).await.is_err() {
            // The candidate is gone, so no claim can follow.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until this process does not lead any more.
    pub(crate) async fn lost(&self) {
        let mut claim = self.claim.clone();
        loop {
            let now = *claim.borrow_and_update();
            match now {
                Claim::Until(end) if now.holds() => tokio::select! {
                    Ok(()) = claim.changed() => {}
                    () = sleep_until(end) => {}
                },
                Claim::No | Claim::Until(_) => return,
                Claim::Always => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_claim_ends_by_itself() {
        let (candidacy, leadership) = election_channel();
        assert!(!leadership.holds());
        assert!(leadership.gained().now_or_never().is_none());
        let start = Instant::now();
        candidacy.say(Claim::Until(start + Duration::from_secs(10)));
        leadership.gained().await;
        assert!(leadership.holds());
        // The claim is renewed once, and then the candidate is gone.
        let lost = leadership.lost();
        tokio::pin!(lost);
        assert!(lost.as_mut().now_or_never().is_none());
        candidacy.say(Claim::Until(start + Duration::from_secs(12)));
        drop(candidacy);
        lost.await;
        let took = start.elapsed();
        assert!((12_000..12_100).contains(&took.as_millis()), "{took:?}");
        assert!(!leadership.holds());
        assert!(leadership.gained().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_is_given_up_at_once() {
        let (candidacy, leadership) = election_channel();
        candidacy.say(Claim::Until(Instant::now() + Duration::from_secs(10)));
        assert!(leadership.lost().now_or_never().is_none());
        candidacy.say(Claim::No);
        assert!(leadership.lost().now_or_never().is_some() && !leadership.holds());
    }

    #[tokio::test]
    async fn another_holder_is_known() {
        let (candidacy, leadership) = election_channel();
        assert_eq!(leadership.holder(), None);
        candidacy.name_holder(Some("b_1"));
        assert_eq!(leadership.holder().as_deref(), Some("b_1"));
        candidacy.name_holder(None);
        assert_eq!(leadership.holder(), None);
        assert_eq!(Leadership::always().holder(), None);
    }

    #[tokio::test]
    async fn without_election_it_leads_for_ever() {
        let leadership = Leadership::always();
        assert!(leadership.holds());
        assert!(leadership.gained().now_or_never().is_some());
        assert!(leadership.lost().now_or_never().is_none());
    }

    #[tokio::test]
    async fn it_stands_once_the_reloader_says_so() {
        let (candidacy, leadership) = election_channel();
        assert!(candidacy.stands().now_or_never().is_none());
        leadership.clone().stand();
        assert!(candidacy.stands().now_or_never().is_some());
    }
}

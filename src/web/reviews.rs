//! What the cluster said about callers: each answer is kept for a while, callers with the same token
//! share one review, and the rate of reviews is limited.
//!
//! Architecture Invariant: whatever tokens are sent, the API server gets at most [`A_SECOND`] reviews
//! a second for known callers, and as many for all others, after [`AT_ONCE`] at the start. So nobody
//! who invents tokens keeps known callers out. No token is kept when its review has ended.

use std::collections::HashMap;
use std::hash::Hasher as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _, Shared};
use siphasher::sip128::{Hash128, Hasher128 as _, SipHasher24};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::status::ports::{Callers, Review, ReviewError};

/// How long an allowed caller is not reviewed again. A deleted binding has an effect after this time.
const ALLOWED_FOR: Duration = Duration::from_mins(1);

/// How long a refused caller is not reviewed again. A new binding has an effect after this time.
const REFUSED_FOR: Duration = Duration::from_secs(10);

/// How long a review that failed is not repeated.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// How long an allowed caller counts as known.
const KNOWN_FOR: Duration = Duration::from_mins(10);

/// The longest time of a review.
const WITHIN: Duration = Duration::from_secs(5);

/// The number of reviews a second, of known callers and again of all others. Each review is two
/// requests to the API server. A person or a pipeline needs one review a minute for each path.
const A_SECOND: u32 = 5;

/// The number of reviews that may begin at once after a pause: some pipelines that start together.
const AT_ONCE: u32 = 20;

/// The most answers that are kept. At the limits of the rate, a minute has fewer.
const MOST: usize = 1_000;

/// The longest token, in bytes. A token of the cluster has about 1,000.
const LONGEST_TOKEN: usize = 16 << 10;

/// Why the cluster was not asked, or did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unreviewed {
    /// There are too many reviews.
    TooMany,
    /// The review failed.
    Failed(ReviewError),
}

/// The answers about callers.
pub(super) struct Reviews {
    callers: Arc<dyn Callers>,
    /// The key of the hashes, so that nobody can guess tokens of the same hash.
    key: [u8; 16],
    state: Mutex<State>,
    is_failing: AtomicBool,
}

struct State {
    entries: HashMap<(u64, u64), Entry>,
    of_known: Budget,
    of_others: Budget,
}

/// A review under way, or its answer.
type Decision = Shared<BoxFuture<'static, Decided>>;

#[derive(Clone, Debug)]
struct Decided {
    result: Result<Review, ReviewError>,
    at: Instant,
}

struct Entry {
    began: Instant,
    decision: Decision,
    /// Until when the caller counts as known by an earlier answer.
    known_until: Option<Instant>,
}

impl Entry {
    /// Whether no other review is needed.
    fn counts(&self, now: Instant) -> bool {
        match self.decision.peek() {
            Some(decided) => now < decided.at + kept_for(&decided.result),
            // All who waited for it may have gone away.
            None => now < self.began + WITHIN,
        }
    }

    /// Until when the caller counts as known.
    fn known_until(&self) -> Option<Instant> {
        match self.decision.peek() {
            Some(Decided { result: Ok(Review::Allowed), at }) => Some(*at + KNOWN_FOR),
            Some(Decided { result: Ok(_), .. }) => None,
            Some(Decided { result: Err(_), .. }) | None => self.known_until,
        }
    }
}

fn kept_for(result: &Result<Review, ReviewError>) -> Duration {
    match result {
        Ok(Review::Allowed) => ALLOWED_FOR,
        Ok(Review::Unknown | Review::Denied { .. }) => REFUSED_FOR,
        Err(_) => FAILED_FOR,
    }
}

/// A limit on the rate of reviews.
#[derive(Debug)]
struct Budget {
    /// When the next review is due at an even rate.
    due: Instant,
}

impl Budget {
    /// Takes a review. Returns whether there was one left.
    fn take(&mut self, now: Instant) -> bool {
        let interval = Duration::from_secs(1) / A_SECOND;
        let due = self.due.max(now);
        let is_left = due <= now + interval * (AT_ONCE - 1);
        if is_left {
            self.due = due + interval;
        }
        is_left
    }
}

impl Reviews {
    pub(super) fn new(callers: Arc<dyn Callers>) -> Self {
        let budget = || Budget { due: Instant::now() };
        let (of_known, of_others) = (budget(), budget());
        Self {
            callers,
            key: *uuid::Uuid::new_v4().as_bytes(),
            state: Mutex::new(State { entries: HashMap::new(), of_known, of_others }),
            is_failing: AtomicBool::new(false),
        }
    }

    /// Returns what the cluster says about the sender of a token who asks for a path.
    pub(super) async fn review(
        &self,
        token: &str,
        path: &'static str,
    ) -> Result<Review, Unreviewed> {
        if !may_be_token(token) {
            return Ok(Review::Unknown);
        }
        let Decided { result, at: _ } = self.decision(token, path)?.await;
        self.note(&result);
        result.map_err(Unreviewed::Failed)
    }

    /// Returns the review of a caller: a kept one, or a new one.
    fn decision(&self, token: &str, path: &'static str) -> Result<Decision, Unreviewed> {
        let now = Instant::now();
        let key = self.key_of(token, path);
        // A panic under the lock ends the process.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { entries, of_known, of_others } = &mut *state;
        let mut known_until = None;
        if let Some(entry) = entries.get(&key) {
            if entry.counts(now) {
                return Ok(entry.decision.clone());
            }
            known_until = entry.known_until().filter(|end| now < *end);
        }
        let is_left = known_until.is_some() && of_known.take(now) || of_others.take(now);
        if !is_left {
            return Err(Unreviewed::TooMany);
        }
        make_room(entries, now);
        let decision = self.begin(token, path);
        let entry = Entry { began: now, decision: decision.clone(), known_until };
        entries.insert(key, entry);
        Ok(decision)
    }

    /// Begins a review. Whoever waits for it moves it on.
    fn begin(&self, token: &str, path: &'static str) -> Decision {
        let (callers, token) = (Arc::clone(&self.callers), token.to_owned());
        let review = async move {
            let result = timeout(WITHIN, callers.review(&token, path)).await;
            let result = result.unwrap_or(Err(ReviewError::TimedOut));
            Decided { result, at: Instant::now() }
        };
        review.boxed().shared()
    }

    /// Returns the key of an answer. It does not tell the token.
    fn key_of(&self, token: &str, path: &str) -> (u64, u64) {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(path.as_bytes());
        // No path has a NUL.
        hasher.write(&[0]);
        hasher.write(token.as_bytes());
        let Hash128 { h1, h2 } = hasher.finish128();
        (h1, h2)
    }

    /// Logs when reviews begin to fail, and when they succeed again.
    fn note(&self, result: &Result<Review, ReviewError>) {
        let was_failing = self.is_failing.swap(result.is_err(), Ordering::Relaxed);
        match result {
            Err(error) if !was_failing => warn!("Cannot review callers of the status: {error}"),
            Ok(_) if was_failing => info!("Callers of the status are reviewed again"),
            _ => {}
        }
    }
}

/// Removes answers that do not count any more, and at the limit the oldest one.
fn make_room(entries: &mut HashMap<(u64, u64), Entry>, now: Instant) {
    let is_known = |entry: &Entry| entry.known_until().is_some_and(|end| now < end);
    entries.retain(|_, entry| entry.counts(now) || is_known(entry));
    if entries.len() >= MOST {
        let oldest = entries.iter().min_by_key(|(_, entry)| entry.began).map(|(key, _)| *key);
        if let Some(key) = oldest {
            entries.remove(&key);
        }
    }
}

/// Whether a text can be a token: the characters of RFC 6750, section 2.1.
fn may_be_token(text: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    (1..=LONGEST_TOKEN).contains(&text.len()) && text.bytes().all(is_known)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures::future::join_all;
    use tokio::time::{advance, sleep};

    use super::*;

    const PATH: &str = "/v1/overview";

    /// A cluster that answers by the token, after a time.
    struct Script {
        asked: AtomicUsize,
        takes: Duration,
    }

    impl Callers for Script {
        fn review<'a>(
            &'a self,
            token: &'a str,
            _: &'a str,
        ) -> BoxFuture<'a, Result<Review, ReviewError>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let answer = match token {
                "allowed" => Ok(Review::Allowed),
                "denied" => Ok(Review::Denied { user: "ci".into() }),
                "failed" => Err(ReviewError::Forbidden("tokenreviews")),
                _ => Ok(Review::Unknown),
            };
            async move {
                sleep(self.takes).await;
                answer
            }
            .boxed()
        }
    }

    fn script(takes: Duration) -> (Arc<Script>, Reviews) {
        let script = Arc::new(Script { asked: AtomicUsize::new(0), takes });
        let callers: Arc<dyn Callers> = Arc::<Script>::clone(&script);
        (script, Reviews::new(callers))
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_kept_for_their_time() {
        let failed = Err(Unreviewed::Failed(ReviewError::Forbidden("tokenreviews")));
        for (token, expected, kept) in [
            ("allowed", Ok(Review::Allowed), ALLOWED_FOR),
            ("denied", Ok(Review::Denied { user: "ci".into() }), REFUSED_FOR),
            ("other", Ok(Review::Unknown), REFUSED_FOR),
            ("failed", failed, FAILED_FOR),
        ] {
            let (script, reviews) = script(Duration::from_millis(10));
            for (pause, asked) in
                [(Duration::ZERO, 1), (kept.mul_f64(0.9), 1), (kept.mul_f64(0.2), 2)]
            {
                advance(pause).await;
                assert_eq!(reviews.review(token, PATH).await, expected, "{token}");
                assert_eq!(script.asked.load(Ordering::Relaxed), asked, "{token} {pause:?}");
            }
            // Another path is another question.
            assert_eq!(reviews.review(token, "/v1/secret").await, expected);
            assert_eq!(script.asked.load(Ordering::Relaxed), 3, "{token}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn callers_with_one_token_share_a_review() {
        let (script, reviews) = script(Duration::from_secs(1));
        // The first one goes away before the answer.
        assert!(reviews.review("allowed", PATH).now_or_never().is_none());
        let all = join_all((0..50).map(|_| reviews.review("allowed", PATH))).await;
        assert!(all.iter().all(|found| *found == Ok(Review::Allowed)), "{all:?}");
        assert_eq!(script.asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_review_that_nobody_waits_for_is_begun_again() {
        let (script, reviews) = script(Duration::from_secs(1));
        assert!(reviews.review("allowed", PATH).now_or_never().is_none());
        advance(WITHIN).await;
        assert_eq!(reviews.review("allowed", PATH).await, Ok(Review::Allowed));
        assert_eq!(script.asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_review_has_a_time_out() {
        let (_, reviews) = script(Duration::from_hours(1));
        let began = Instant::now();
        let found = reviews.review("allowed", PATH).await;
        assert_eq!(found, Err(Unreviewed::Failed(ReviewError::TimedOut)));
        assert!(began.elapsed() < WITHIN * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn invented_tokens_keep_no_known_caller_out() {
        let (script, reviews) = script(Duration::ZERO);
        assert_eq!(reviews.review("allowed", PATH).await, Ok(Review::Allowed));
        advance(ALLOWED_FOR).await;
        for second in 0..30 {
            let before = script.asked.load(Ordering::Relaxed);
            let tokens: Vec<String> = (0..100).map(|number| format!("{second}-{number}")).collect();
            let all = join_all(tokens.iter().map(|token| reviews.review(token, PATH))).await;
            let refused = all.iter().filter(|found| **found == Err(Unreviewed::TooMany)).count();
            let asked = script.asked.load(Ordering::Relaxed) - before;
            let most = if second == 0 { 20 } else { 6 };
            assert!(asked <= most && asked + refused == 100, "{asked} {refused}");
            assert_eq!(reviews.review("allowed", PATH).await, Ok(Review::Allowed), "{second}");
            // Somebody without an earlier answer has to wait.
            assert_eq!(reviews.review("denied", PATH).await, Err(Unreviewed::TooMany));
            advance(Duration::from_secs(1)).await;
        }
        let kept = reviews.state.lock().unwrap().entries.len();
        assert!(kept < 100, "{kept}");
    }

    #[tokio::test(start_paused = true)]
    async fn answers_have_a_limit() {
        let (_, reviews) = script(Duration::ZERO);
        let mut state = reviews.state.lock().unwrap();
        for number in 0..u64::try_from(MOST).unwrap() + 10 {
            let now = Instant::now();
            make_room(&mut state.entries, now);
            let decision = reviews.begin("allowed", PATH);
            let entry = Entry { began: now, decision, known_until: None };
            state.entries.insert((number, 0), entry);
        }
        assert_eq!(state.entries.len(), MOST);
    }

    #[test]
    fn only_what_can_be_a_token_is_asked_about() {
        for (text, expected) in [
            ("eyJhbGciOi.eyJhdWQi.c2ln-_", true),
            ("opaque+/~=", true),
            ("", false),
            ("two words", false),
            ("näh", false),
            ("a\u{0}", false),
        ] {
            assert_eq!(may_be_token(text), expected, "{text:?}");
        }
        assert!(may_be_token(&"x".repeat(LONGEST_TOKEN)));
        assert!(!may_be_token(&"x".repeat(LONGEST_TOKEN + 1)));
    }
}

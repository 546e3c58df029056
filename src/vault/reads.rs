//! The requests of one poll: how many, in which order, and when to stop asking.
//!
//! Architecture Invariant: a poll ends by its deadline, and what one Vault namespace answers never
//! stands in the way of another.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use http::header::HeaderValue;
use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};

use super::answer::Answer;
use super::client::{Failure, Server};
use super::denials::Doubt;
use super::folders::{Folder, Folders, Learnt, Plan};
use super::listing::{self, Page};
use super::login::LoginError;
use super::metadata::{self, Metadata};
use super::mounts::{Classified, Engine, Mounts, Place};
use super::pace::Pace;
use super::session::{Pass, Session};
use crate::core::observation::Ask;
use crate::core::secret::{SecretId, Version};

/// The part of a poll's time in which folders may be listed, so that the rest is left to read what no
/// list shows.
const LISTING_PART: u32 = 3;

/// How many folders are listed at once: each page takes a few megabytes while it is read.
const MOST_LISTERS: usize = 8;

/// How often a request is sent again: after a rate limit, which says when, after an error, and after
/// a denial for which there is another token.
const RATE_LIMIT_RETRIES: u32 = 6;
const ERROR_RETRIES: u32 = 2;
const ERROR_PAUSE: Duration = Duration::from_millis(250);
const DENIAL_RETRIES: u32 = 2;

/// Whoever met a rate limit waits longer by a random part of this, so that not all come back as one.
const RATE_LIMIT_SPREAD: Duration = Duration::from_millis(500);

/// A standby lags behind by up to about 90 ms: an answer that is older than what is known is asked
/// for again so often, with this pause. What is older still is for [`History`] to judge.
///
/// [`History`]: crate::core::observation::History
const STALE_RETRIES: u32 = 3;
const STALE_PAUSE: Duration = Duration::from_millis(150);

/// Why nothing is known of a secret, or why a new pod could not read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    Missing,
    Deleted,
    Destroyed,
    Denied {
        metadata: String,
    },
    NoDataPrefix {
        correct: String,
    },
    NotKvV2(Engine),
    /// It concerns this secret alone.
    Failed(Failure),
    /// It concerns the server, or all of a Vault namespace.
    Out(Failure),
    /// The token was used up, and no other is to be had.
    NoToken(LoginError),
    /// There was no time left to ask.
    Late,
    /// Nor was there, since the server limits the rate of requests.
    Limited,
}

/// What a read brought.
pub(super) type Outcome = (Arc<SecretId>, Result<Version, Trouble>);

/// One poll.
pub(super) struct Reads<'a> {
    server: &'a Server,
    session: &'a Session,
    pass: Mutex<Pass>,
    pace: Pace,
    /// When the next request may be sent.
    next: Mutex<Instant>,
    /// The state of the storage that the latest answer was read from.
    index: Mutex<Option<HeaderValue>>,
    outages: Mutex<Outages>,
    /// Whether the server has answered anything sensible in this poll.
    has_answered: AtomicBool,
    /// Whether it has limited the rate of requests in this poll.
    has_limited: AtomicBool,
    /// How many secrets, or mounts, brought nothing but errors before that.
    errors: AtomicU32,
    deadline: Instant,
    /// No folder is begun after this: what cannot be listed by then has yet to be read.
    listing_deadline: Instant,
}

/// What is out of reach, by the first failure that said so.
#[derive(Default)]
struct Outages {
    server: Option<Failure>,
    namespaces: HashMap<Option<Arc<str>>, Failure>,
}

/// One secret to read.
struct Read<'a> {
    ask: &'a Ask,
    place: Place,
}

/// A folder to list, and the secrets that are wanted of it, by their keys.
struct Listing<'a> {
    folder: Folder,
    plan: Plan,
    wanted: HashMap<Box<str>, Read<'a>>,
}

/// What listing a folder brought.
struct Listed<'a> {
    folder: Folder,
    learnt: Option<Learnt>,
    outcomes: Vec<Outcome>,
    /// The secrets that are still to be read.
    rest: Vec<Read<'a>>,
}

/// What is yet to be done, for several who do it.
struct Queue<T>(Mutex<std::vec::IntoIter<T>>);

/// A request.
#[derive(Clone, Copy)]
struct Question<'q> {
    namespace: Option<&'q Arc<str>>,
    path: &'q str,
    query: &'q [(&'q str, &'q str)],
    /// Whether the answer must not be older than the latest of the answers before.
    is_consistent: bool,
    /// Whether nothing hangs on the answer: where it fails, that says nothing of the server or the
    /// token, and another way is gone.
    is_optional: bool,
}

impl<'a> Reads<'a> {
    pub(super) fn new(
        server: &'a Server,
        session: &'a Session,
        pass: Pass,
        pace: Pace,
        index: Option<HeaderValue>,
    ) -> Self {
        Self {
            server,
            session,
            pass: Mutex::new(pass),
            pace,
            next: Mutex::new(Instant::now()),
            index: Mutex::new(index),
            outages: Mutex::default(),
            has_answered: AtomicBool::new(false),
            has_limited: AtomicBool::new(false),
            errors: AtomicU32::new(0),
            deadline: Instant::now() + pace.longest_poll,
            listing_deadline: Instant::now() + pace.longest_poll / LISTING_PART,
        }
    }

    /// Reads each secret once. Those for which there was no time before come first, so that each has its
    /// turn; and of all, those whose mount is known: however many paths a tenant makes up that belong to
    /// no mount, they take no time from the others.
    pub(super) async fn read_all(
        &self,
        mounts: &mut Mounts,
        folders: &mut Folders,
        asks: &[Ask],
        late: &HashSet<Arc<SecretId>>,
    ) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(asks.len());
        let (known, unknown): (Vec<_>, Vec<_>) = asks.iter().partition(|ask| {
            let SecretId { namespace, path, .. } = &*ask.secret;
            mounts.classify(namespace.as_deref(), path).is_some()
        });
        let (late, known): (Vec<_>, Vec<_>) =
            known.into_iter().partition(|ask| late.contains(&ask.secret));
        // Those of a mount that is asked about anew keep their place.
        mounts.expire();
        for asks in [late, known, unknown] {
            self.read_some(mounts, folders, asks, &mut outcomes).await;
        }
        for (secret, outcome) in &outcomes {
            if let Err(Trouble::Failed(Failure::Refused { .. })) = outcome {
                // As no KV v2 engine answers: the mount may have been replaced.
                mounts.forget(secret.namespace.as_deref(), &secret.path);
            }
        }
        outcomes
    }

    async fn read_some(
        &self,
        mounts: &mut Mounts,
        folders: &mut Folders,
        asks: Vec<&Ask>,
        outcomes: &mut Vec<Outcome>,
    ) {
        let mut readable = Vec::with_capacity(asks.len());
        for ask in asks {
            match self.classify(mounts, &ask.secret).await {
                Ok(place) => readable.push(Read { ask, place }),
                Err(trouble) => outcomes.push((Arc::clone(&ask.secret), Err(trouble))),
            }
        }
        // Where a limit lets only a part of them through, it is another part each time.
        fastrand::shuffle(&mut readable);
        // The first goes alone: if the server is out of reach, one request is enough to know.
        if let Some(first) = readable.pop() {
            outcomes.push((Arc::clone(&first.ask.secret), self.read(&first).await));
        }
        let alone = self.list_some(folders, readable, outcomes).await;
        let queue = Queue::new(alone);
        let readers = (0..self.pace.at_once.min(queue.len())).map(|_| self.read_from(&queue));
        outcomes.extend(join_all(readers).await.into_iter().flatten());
    }

    /// The state of the storage that was seen last.
    pub(super) fn into_index(self) -> Option<HeaderValue> {
        self.index.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a secret is, once its mount is known to be KV v2.
    async fn classify(&self, mounts: &mut Mounts, secret: &SecretId) -> Result<Place, Trouble> {
        let SecretId { namespace, path, .. } = secret;
        if mounts.classify(namespace.as_deref(), path).is_none() {
            let question = Mounts::question(path);
            let question = Question::about(namespace.as_ref(), &question);
            let asked = self.ask(question, Mounts::read).await;
            match asked {
                Ok(answer) => mounts.learn(namespace.as_deref(), path, answer),
                Err(Trouble::Denied { .. }) => {
                    return Err(Trouble::Denied {
                        metadata: path.replacen("/data/", "/metadata/", 1),
                    });
                }
                Err(trouble) => return Err(trouble),
            }
        }
        match mounts.classify(namespace.as_deref(), path) {
            Some(Classified::Secret(place)) => Ok(place),
            Some(Classified::NoDataPrefix { correct }) => Err(Trouble::NoDataPrefix { correct }),
            Some(Classified::NotKvV2(engine)) => Err(Trouble::NotKvV2(engine)),
            // Auth methods and the like, which the server reports by other paths.
            None => Err(Trouble::NotKvV2(Engine::Other("unknown".to_owned()))),
        }
    }

    /// Reads one secret after the other, until there is none left.
    async fn read_from(&self, queue: &Queue<Read<'_>>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while let Some(read) = queue.next() {
            outcomes.push((Arc::clone(&read.ask.secret), self.read(&read).await));
        }
        outcomes
    }

    /// Lists one folder after the other, until there is none left.
    async fn list_from<'r>(&self, queue: &Queue<Listing<'r>>) -> Vec<Listed<'r>> {
        let mut listed = Vec::new();
        while let Some(listing) = queue.next() {
            listed.push(self.list(listing).await);
        }
        listed
    }

    /// Reads by the folder what costs less so. Answers what is left to be read alone.
    async fn list_some<'r>(
        &self,
        folders: &mut Folders,
        mut reads: Vec<Read<'r>>,
        outcomes: &mut Vec<Outcome>,
    ) -> Vec<Read<'r>> {
        let mut alone = Vec::new();
        // First one folder of each mount of which it is not known that it can be listed, then the rest:
        // where it cannot be, one request is enough to know.
        for is_scouting in [true, false] {
            let (listings, others) = listings(folders, std::mem::take(&mut reads));
            alone.extend(others);
            let (listings, others): (Vec<_>, Vec<_>) = if is_scouting {
                scouts(folders, listings)
            } else {
                listings.into_iter().partition(|listing| folders.is_granted(&listing.folder.mount))
            };
            let others = others.into_iter().flat_map(|listing| listing.wanted.into_values());
            let then = if is_scouting { &mut reads } else { &mut alone };
            then.extend(others);
            let queue = Queue::new(listings);
            let at_once = self.pace.at_once.min(MOST_LISTERS).min(queue.len());
            let listers = (0..at_once).map(|_| self.list_from(&queue));
            for listed in join_all(listers).await.into_iter().flatten() {
                let Listed { folder, learnt, outcomes: found, rest } = listed;
                if let Some(learnt) = learnt {
                    folders.learn(&folder, learnt, std::time::Instant::now());
                }
                outcomes.extend(found);
                alone.extend(rest);
            }
        }
        alone
    }

    /// Lists a folder page by page, until all that is wanted of it is found, or reading one by one
    /// costs less.
    async fn list<'r>(&self, listing: Listing<'r>) -> Listed<'r> {
        let Listing { folder, plan, mut wanted } = listing;
        let mut outcomes = Vec::new();
        let mut rest = Vec::new();
        let (mut keys, mut after) = (0, None);
        let learnt = loop {
            if Instant::now() >= self.listing_deadline {
                break None;
            }
            // One more than there may be, so that a folder of just so many is seen to have no more.
            let limit = plan.page.min(plan.most + 1 - keys);
            let page = match self.page(&folder, limit, after.as_deref(), &wanted).await {
                Ok(page) => page,
                Err(trouble) => break learnt_of(&trouble, limit),
            };
            for (key, metadata) in page.found {
                let Some(read) = wanted.remove(&key) else { continue };
                match metadata.live() {
                    Ok(version) if read.ask.may_be_stale(version) => rest.push(read),
                    outcome => outcomes.push((Arc::clone(&read.ask.secret), outcome)),
                }
            }
            keys += page.keys;
            // A page that is short need not be the last: a policy can set how long pages are.
            let is_last = page.keys == 0 || page.last <= after;
            if is_last || wanted.is_empty() {
                break Some(Learnt::Keys(keys));
            }
            if keys > plan.most {
                break Some(Learnt::MoreThan(plan.most));
            }
            after = page.last;
        };
        rest.extend(wanted.into_values());
        Listed { folder, learnt, outcomes, rest }
    }

    /// A page of a folder, of the keys behind `after`.
    async fn page(
        &self,
        folder: &Folder,
        limit: usize,
        after: Option<&str>,
        wanted: &HashMap<Box<str>, Read<'_>>,
    ) -> Result<Page, Trouble> {
        let limit = limit.to_string();
        let mut query = vec![("list", "true"), ("limit", limit.as_str())];
        query.extend(after.map(|key| ("after", key)));
        let (namespace, _) = &folder.mount;
        let listing = folder.listing();
        let question = Question {
            query: &query,
            is_optional: true,
            ..Question::about(namespace.as_ref(), &listing)
        };
        self.ask(question, |answer, now| listing::read(answer, now, |key| wanted.contains_key(key)))
            .await
    }

    async fn read(&self, read: &Read<'_>) -> Result<Version, Trouble> {
        let secret = &read.ask.secret;
        let path = read.place.metadata();
        for attempt in 0..=STALE_RETRIES {
            let question = Question {
                is_consistent: attempt > 0,
                ..Question::about(secret.namespace.as_ref(), &path)
            };
            let version = self.ask(question, metadata::read).await?.live()?;
            if !read.ask.may_be_stale(version) || attempt == STALE_RETRIES {
                return Ok(version);
            }
            sleep(STALE_PAUSE).await;
        }
        Err(Trouble::Late)
    }

    /// Asks until there is an answer that `understand` can read, or no more sense in asking.
    async fn ask<T>(
        &self,
        question: Question<'_>,
        understand: impl Fn(&Answer, Timestamp) -> Result<T, Failure>,
    ) -> Result<T, Trouble> {
        let Question { namespace, path, query, is_consistent, is_optional } = question;
        let (mut rate_limits, mut errors, mut denials) = (0, 0, 0);
        loop {
            if let Some(failure) = self.outage(namespace) {
                return Err(Trouble::Out(failure));
            }
            let deadline = if is_optional { self.listing_deadline } else { self.deadline };
            if let Some(turn) = self.turn() {
                sleep_until(turn.min(deadline)).await;
            }
            while let Some(time) = self.server.resumes_at()
                && Instant::now() < deadline
            {
                sleep_until(time.min(deadline)).await;
            }
            if Instant::now() >= deadline {
                let is_limited = self.has_limited.load(Ordering::Relaxed);
                return Err(if is_limited { Trouble::Limited } else { Trouble::Late });
            }
            let pass = self.pass_for_one().await?;
            let index = if is_consistent { lock(&self.index).clone() } else { None };
            let name = namespace.map(|name| &**name);
            let got = self.server.get(path, query, name, &pass.token, index.as_ref()).await;
            let now = self.server.clock().at(Timestamp::now());
            let understood = got.and_then(|answer| {
                let understood = understand(&answer, now)?;
                if answer.index.is_some() && !is_consistent {
                    *lock(&self.index) = answer.index;
                }
                Ok(understood)
            });
            let failure = match understood {
                Ok(understood) => {
                    self.has_answered.store(true, Ordering::Relaxed);
                    return Ok(understood);
                }
                Err(failure) => failure,
            };
            if let Some(doubt) = doubt_of(&failure)
                && (doubt == Doubt::Ended || !is_optional)
                && denials < DENIAL_RETRIES
                && let Some(anew) = self.session.after_denial(pass.number, doubt).await
            {
                denials += 1;
                *lock(&self.pass) = anew;
                continue;
            }
            match failure {
                Failure::RateLimited if rate_limits < RATE_LIMIT_RETRIES => {
                    rate_limits += 1;
                    self.has_limited.store(true, Ordering::Relaxed);
                    sleep(RATE_LIMIT_SPREAD.mul_f64(fastrand::f64())).await;
                }
                failure @ (Failure::Unreachable(_) | Failure::Sealed) => {
                    return Err(self.trouble(namespace, path, failure));
                }
                failure if is_optional => return Err(Trouble::Failed(failure)),
                Failure::RateLimited => return Err(Trouble::Limited),
                Failure::Server(_) | Failure::BadAnswer(_) if errors < ERROR_RETRIES => {
                    errors += 1;
                    sleep(ERROR_PAUSE).await;
                }
                failure => return Err(self.trouble(namespace, path, failure)),
            }
        }
    }

    /// When the next request may be sent, where they are not to come too fast.
    fn turn(&self) -> Option<Instant> {
        if self.pace.interval.is_zero() {
            return None;
        }
        let mut next = lock(&self.next);
        let turn = (*next).max(Instant::now());
        *next = turn + self.pace.interval;
        Some(turn)
    }

    /// The token for one request.
    async fn pass_for_one(&self) -> Result<Pass, Trouble> {
        loop {
            let pass = lock(&self.pass).clone();
            if pass.uses.take() {
                return Ok(pass);
            }
            let anew = self.session.after_last_use(pass.number).await;
            *lock(&self.pass) = anew.map_err(|refused| Trouble::NoToken(refused.error))?;
        }
    }

    /// What a failure means, and for whom.
    fn trouble(&self, namespace: Option<&Arc<str>>, path: &str, failure: Failure) -> Trouble {
        let mut outages = lock(&self.outages);
        match failure {
            Failure::Denied => {
                self.has_answered.store(true, Ordering::Relaxed);
                Trouble::Denied { metadata: path.to_owned() }
            }
            Failure::Unreachable(_) | Failure::Timeout => {
                outages.server.get_or_insert_with(|| failure.clone());
                Trouble::Out(failure)
            }
            // A namespace can be sealed or locked on its own.
            Failure::Sealed | Failure::TokenEnded | Failure::Redirected(_) => {
                outages.namespaces.entry(namespace.cloned()).or_insert_with(|| failure.clone());
                Trouble::Out(failure)
            }
            // A load balancer before a server that is gone answers so to everything. One alone may
            // be a secret that the server fails on.
            Failure::Server(_) | Failure::BadAnswer(_) | Failure::Endless
                if !self.has_answered.load(Ordering::Relaxed)
                    && self.errors.fetch_add(1, Ordering::Relaxed) > 0 =>
            {
                outages.namespaces.entry(namespace.cloned()).or_insert_with(|| failure.clone());
                Trouble::Out(failure)
            }
            failure => Trouble::Failed(failure),
        }
    }

    fn outage(&self, namespace: Option<&Arc<str>>) -> Option<Failure> {
        let outages = lock(&self.outages);
        outages.server.clone().or_else(|| outages.namespaces.get(&namespace.cloned()).cloned())
    }
}

impl<'q> Question<'q> {
    fn about(namespace: Option<&'q Arc<str>>, path: &'q str) -> Self {
        Self { namespace, path, query: &[], is_consistent: false, is_optional: false }
    }
}

impl<T> Queue<T> {
    fn new(items: Vec<T>) -> Self {
        Self(Mutex::new(items.into_iter()))
    }

    fn next(&self) -> Option<T> {
        lock(&self.0).next()
    }

    fn len(&self) -> usize {
        lock(&self.0).len()
    }
}

impl Metadata {
    /// The version that is live, or why there is none.
    fn live(self) -> Result<Version, Trouble> {
        match self {
            Self::Live(version) => Ok(version),
            Self::Missing => Err(Trouble::Missing),
            Self::Deleted => Err(Trouble::Deleted),
            Self::Destroyed => Err(Trouble::Destroyed),
        }
    }
}

/// What is learnt of a folder whose page of so many keys was not to be had; nothing where that is not
/// the folder's fault.
fn learnt_of(trouble: &Trouble, limit: usize) -> Option<Learnt> {
    let Trouble::Failed(failure) = trouble else { return None };
    match failure {
        Failure::Denied => Some(Learnt::Denied),
        Failure::Refused { .. } => Some(Learnt::Unsupported),
        // A server that answers GETs takes so long only over a page that is long.
        Failure::Endless | Failure::Timeout => Some(Learnt::PageTooLong(limit)),
        // While all others are let through.
        Failure::RateLimited => Some(Learnt::Limited),
        Failure::Server(_)
        | Failure::BadAnswer(_)
        | Failure::Redirected(_)
        | Failure::Unaskable(_) => Some(Learnt::Failed),
        Failure::Unreachable(_) | Failure::Sealed | Failure::TokenEnded => None,
    }
}

/// The folders that are to be listed, and what is to be read alone.
fn listings<'a>(folders: &Folders, reads: Vec<Read<'a>>) -> (Vec<Listing<'a>>, Vec<Read<'a>>) {
    let now = std::time::Instant::now();
    let mut alone = Vec::new();
    let mut by_folder: HashMap<Folder, HashMap<Box<str>, Read<'a>>> = HashMap::new();
    for read in reads {
        let Some((path, key)) = read.place.folder_and_key() else {
            alone.push(read);
            continue;
        };
        let mount = (read.ask.secret.namespace.clone(), read.place.mount.clone());
        let folder = Folder { mount, path: path.into() };
        let key = key.into();
        // Two spellings of one secret share a key.
        alone.extend(by_folder.entry(folder).or_default().insert(key, read));
    }
    let mut listings = Vec::new();
    for (folder, wanted) in by_folder {
        match folders.plan(&folder, wanted.len(), now) {
            Some(plan) => listings.push(Listing { folder, plan, wanted }),
            None => alone.extend(wanted.into_values()),
        }
    }
    (listings, alone)
}

/// One listing of each mount of which it is not known that it can be listed; and all others. That one
/// is of a folder that was not tried yet, or longest ago; of those, of one where the most is to gain.
fn scouts<'a>(
    folders: &Folders,
    mut listings: Vec<Listing<'a>>,
) -> (Vec<Listing<'a>>, Vec<Listing<'a>>) {
    let mut scouted = HashSet::new();
    listings.sort_by_cached_key(|Listing { folder, wanted, .. }| {
        (folders.last_try(folder), Reverse(wanted.len()))
    });
    listings.into_iter().partition(|Listing { folder, .. }| {
        !folders.is_granted(&folder.mount) && scouted.insert(folder.mount.clone())
    })
}

/// Whether a failure casts doubt on the token.
fn doubt_of(failure: &Failure) -> Option<Doubt> {
    match failure {
        Failure::TokenEnded => Some(Doubt::Ended),
        Failure::Denied => Some(Doubt::Forbidden),
        _ => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

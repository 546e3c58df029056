//! Secrets that are read by the folder: which folders, in which order, and what is left to be read alone.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::future::join_all;
use tokio::time::Instant;

use super::asking::Asker;
use super::request::{Outcome, Queue, Read, Request, RequestKind};
use crate::vault::failure::Failure;
use crate::vault::folders::{Folder, Folders, ListResult, Plan};
use crate::vault::listing::{self, Page};
use crate::vault::read_error::ReadError;

/// How many folders are listed at once: each page takes a few megabytes while it is read.
const MOST_LISTERS: usize = 8;

/// A folder to list, and the secrets that are wanted of it, by their keys.
struct Listing<'a> {
    folder: Folder,
    plan: Plan,
    wanted: HashMap<Box<str>, Read<'a>>,
}

/// What listing a folder brought.
struct Listed<'a> {
    folder: Folder,
    learnt: Option<ListResult>,
    outcomes: Vec<Outcome>,
    /// The secrets that are still to be read.
    rest: Vec<Read<'a>>,
}

impl Asker<'_> {
    /// Lists one folder after the other, until there is none left.
    async fn list_from<'r>(&self, queue: &Queue<Listing<'r>>) -> Vec<Listed<'r>> {
        let mut listed = Vec::new();
        while let Some(listing) = queue.next() {
            listed.push(self.list(listing).await);
        }
        listed
    }

    /// Reads by the folder what costs less so. Answers what is left to be read alone.
    pub(super) async fn list_some<'r>(
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
            let at_once = self.sender.pace.at_once.min(MOST_LISTERS).min(queue.len());
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
            if Instant::now() >= self.sender.listing_deadline {
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
                    outcome => {
                        self.evidence.was_answered(&read);
                        outcomes.push((Arc::clone(&read.ask.secret), outcome));
                    }
                }
            }
            keys += page.keys;
            // A page that is short need not be the last: a policy can set how long pages are.
            let is_last = page.keys == 0 || page.last <= after;
            if is_last || wanted.is_empty() {
                break Some(ListResult::Keys(keys));
            }
            if keys > plan.most {
                break Some(ListResult::MoreThan(plan.most));
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
    ) -> Result<Page, ReadError> {
        let limit = limit.to_string();
        let mut query = vec![("list", "true"), ("limit", limit.as_str())];
        query.extend(after.map(|key| ("after", key)));
        let (namespace, _) = &folder.mount;
        let listing = folder.listing();
        let question = Request {
            query: &query,
            ..Request::about(
                RequestKind::Folder,
                namespace.as_ref(),
                &listing,
                self.sender.listing_deadline,
            )
        };
        self.ask(question, |answer, now| listing::read(answer, now, |key| wanted.contains_key(key)))
            .await
    }
}

/// What is learnt of a folder whose page of so many keys was not to be had; nothing where that is not
/// the folder's fault.
fn learnt_of(trouble: &ReadError, limit: usize) -> Option<ListResult> {
    let ReadError::Failed(failure) = trouble else { return None };
    match failure {
        Failure::Denied | Failure::NoMount => Some(ListResult::Denied),
        Failure::Refused { .. } => Some(ListResult::Unsupported),
        // A server that answers GETs takes so long only over a page that is long.
        Failure::Endless => Some(ListResult::PageTooLong(limit)),
        Failure::Timeout => Some(ListResult::TimedOut(limit)),
        // While all others are let through.
        Failure::RateLimited => Some(ListResult::Limited),
        // Of this folder alone: other paths are answered.
        Failure::Unreachable(_)
        | Failure::Sealed
        | Failure::Server(_)
        | Failure::BadAnswer(_)
        | Failure::Redirected(_)
        | Failure::Unaskable(_) => Some(ListResult::Failed),
        Failure::TokenEnded => None,
    }
}

/// Puts a secret last that `may_lead` and that is read alone whatever else is, if there is one.
pub(super) fn put_lone_last(
    folders: &Folders,
    reads: &mut [Read<'_>],
    may_lead: impl Fn(&Read<'_>) -> bool,
) {
    let now = std::time::Instant::now();
    let mut wanted: HashMap<_, usize> = HashMap::new();
    for folder in reads.iter().filter_map(|read| folder_of(read)) {
        *wanted.entry(folder).or_default() += 1;
    }
    let is_listed = |((namespace, mount, path), wanted): (Borrowed<'_>, usize)| {
        let mount = (namespace.cloned(), mount.into());
        folders.plan(&Folder { mount, path: path.into() }, wanted, now).is_some()
    };
    let listed: HashMap<_, _> =
        wanted.into_iter().map(|entry| (entry.0, is_listed(entry))).collect();
    let is_lone =
        |read: &Read<'_>| folder_of(read).is_none_or(|folder| listed.get(&folder) != Some(&true));
    if let Some(lone) = reads.iter().rposition(|read| may_lead(read) && is_lone(read)) {
        reads[lone..].rotate_left(1);
    }
}

/// A folder by its Vault namespace, mount and path.
type Borrowed<'a> = (Option<&'a Arc<str>>, &'a str, &'a str);

fn folder_of<'a>(read: &'a Read<'_>) -> Option<Borrowed<'a>> {
    let (path, _) = read.place.folder_and_key()?;
    Some((read.ask.secret.namespace.as_ref(), &read.place.mount, path))
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

//! Reads secrets by listing their folders: which folders, in which order, and which secrets remain
//! to be read one by one.

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

/// How many folders are listed at once. Each page takes a few megabytes while it is read.
const MOST_LISTERS: usize = 8;

/// A folder to list, and the wanted secrets in it by their keys.
struct Listing<'a> {
    folder: Folder,
    plan: Plan,
    wanted: HashMap<Box<str>, Read<'a>>,
}

/// The result of listing a folder.
struct Listed<'a> {
    folder: Folder,
    result: Option<ListResult>,
    outcomes: Vec<Outcome>,
    /// The secrets that still have to be read.
    rest: Vec<Read<'a>>,
}

impl Asker<'_> {
    /// Lists folders from a queue until the queue is empty.
    async fn list_from<'r>(&self, queue: &Queue<Listing<'r>>) -> Vec<Listed<'r>> {
        let mut listed = Vec::new();
        while let Some(listing) = queue.next() {
            listed.push(self.list(listing).await);
        }
        listed
    }

    /// Reads secrets by listing folders if that costs less. Returns the secrets that remain to be
    /// read alone.
    pub(super) async fn list_some<'r>(
        &self,
        folders: &mut Folders,
        mut reads: Vec<Read<'r>>,
        outcomes: &mut Vec<Outcome>,
    ) -> Vec<Read<'r>> {
        let mut alone = Vec::new();
        // First list one folder of each mount that may not support lists, then the rest. If the
        // mount does not support lists, one request shows it.
        for is_scouting in [true, false] {
            let (listings, others) = listings(folders, std::mem::take(&mut reads));
            alone.extend(others);
            let (listings, others): (Vec<_>, Vec<_>) = if is_scouting {
                scouts(folders, listings)
            } else {
                listings.into_iter().partition(|listing| folders.is_granted(&listing.folder.mount))
            };
            let others = others.into_iter().flat_map(|listing| listing.wanted.into_values());
            let target = if is_scouting { &mut reads } else { &mut alone };
            target.extend(others);
            let queue = Queue::new(listings);
            let at_once = self.sender.pace.at_once.min(MOST_LISTERS).min(queue.len());
            let listers = (0..at_once).map(|_| self.list_from(&queue));
            for listed in join_all(listers).await.into_iter().flatten() {
                let Listed { folder, result, outcomes: found, rest } = listed;
                if let Some(result) = result {
                    folders.learn(&folder, result, std::time::Instant::now());
                }
                outcomes.extend(found);
                alone.extend(rest);
            }
        }
        alone
    }

    /// Lists a folder page by page until all wanted secrets are found, or until reading them one by
    /// one costs less.
    async fn list<'r>(&self, listing: Listing<'r>) -> Listed<'r> {
        let Listing { folder, plan, mut wanted } = listing;
        let mut outcomes = Vec::new();
        let mut rest = Vec::new();
        let (mut keys, mut after) = (0, None);
        let result = loop {
            if Instant::now() >= self.sender.listing_deadline {
                break None;
            }
            // Ask for one key more than the limit, to see whether the folder has exactly as many
            // keys.
            let limit = plan.page.min(plan.most + 1 - keys);
            let page = match self.page(&folder, limit, after.as_deref(), &wanted).await {
                Ok(page) => page,
                Err(error) => break list_result_of(&error, limit),
            };
            for (key, metadata) in page.found {
                let Some(read) = wanted.remove(&key) else { continue };
                match metadata.live() {
                    Ok((version, _)) if read.ask.may_be_stale(version) => rest.push(read),
                    outcome => {
                        self.evidence.was_answered(&read);
                        outcomes.push((Arc::clone(&read.ask.secret), outcome));
                    }
                }
            }
            keys += page.keys;
            // A short page need not be the last one, because a policy can limit the page length.
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
        Listed { folder, result, outcomes, rest }
    }

    /// Requests a page of a folder, with the keys that follow `after`.
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
        let request = Request {
            query: &query,
            ..Request::about(
                RequestKind::Folder,
                namespace.as_ref(),
                &listing,
                self.sender.listing_deadline,
            )
        };
        self.ask(request, |answer, now| listing::read(answer, now, |key| wanted.contains_key(key)))
            .await
    }
}

/// Returns what a failed page of `limit` keys shows about its folder; `None` if the folder is not
/// the cause.
fn list_result_of(error: &ReadError, limit: usize) -> Option<ListResult> {
    let ReadError::Failed(failure) = error else { return None };
    match failure {
        Failure::Denied | Failure::NoMount => Some(ListResult::Denied),
        Failure::Refused { .. } => Some(ListResult::Unsupported),
        // A server that answers GETs takes this long only for a page that is too long.
        Failure::Endless => Some(ListResult::PageTooLong(limit)),
        Failure::Timeout => Some(ListResult::TimedOut(limit)),
        // The limit applies to lists only: all other requests are admitted.
        Failure::RateLimited => Some(ListResult::Limited),
        // The failure concerns this folder alone: other paths are answered.
        Failure::Unreachable(_)
        | Failure::Sealed
        | Failure::NamespaceLocked
        | Failure::Server(_)
        | Failure::BadAnswer(_)
        | Failure::Redirected { .. }
        | Failure::Unaskable(_) => Some(ListResult::Failed),
        Failure::TokenEnded => None,
    }
}

/// Moves a secret to the end that satisfies `may_lead` and is read alone in any case, if there is
/// one.
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

/// Splits secrets into the folders to list and the secrets to read alone.
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

/// Selects one listing for each mount that may not support lists; returns the selected and the
/// remaining listings. Folders that were never tried come first, then those tried longest ago, then
/// those with the most wanted secrets.
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

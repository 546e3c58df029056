//! Decides which secrets are read by a LIST of their folder, and which one by one, by the cost for
//! the server.
//!
//! `LIST <mount>/detailed-metadata/<folder>` returns the metadata of all entries of a folder, in
//! pages. If the server does not support the request, or the policy does not grant it, each secret
//! is read alone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many keys of a page cost the server as much as one GET. Measured with `OpenBao` 2.7: a key
/// takes 0.03 ms and 0.6 kB of audit log, a GET 0.15 ms and 2.8 kB.
const KEYS_A_GET: usize = 4;

/// The fewest wanted secrets for which a folder is listed. For a single secret, a GET costs no
/// more.
const FEWEST: usize = 2;

/// The number of keys in a page. A page of secrets with ten versions each, the usual limit of
/// servers, takes 1.5 MB.
const PAGE: usize = 1000;

/// If even a page of this many keys is too long, the folder is not listed.
const SHORTEST_PAGE: usize = 15;

/// How long the controller remembers that a folder has too many keys. Folders change slowly, and
/// forgetting costs as much again as the GETs.
const SIZE_KEPT_FOR: Duration = Duration::from_hours(24);

/// How long a refusal is remembered. Either the server lacks LIST or the policy does not grant it.
/// Both can be corrected, and a new attempt costs one request.
const REFUSAL_KEPT_FOR: Duration = Duration::from_hours(1);

/// How many folders of a mount must be denied before the whole mount counts as refused, because a
/// policy may grant only some folders. The remaining folders are tried an hour later.
const DENIALS: usize = 4;

/// How long a failed LIST is remembered. GETs may still work.
const FAILURE_KEPT_FOR: Duration = Duration::from_mins(5);

/// The most folders that are remembered. With more folders, each costs an additional request now
/// and then.
const MOST: usize = 50_000;

/// A folder of secrets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Folder {
    /// The mount of the folder.
    pub mount: Mount,
    /// The path within the mount, with a trailing slash; empty for the mount as a whole.
    pub path: Box<str>,
}

/// A mount: its Vault namespace, and its path with a trailing slash.
pub type Mount = (Option<Arc<str>>, Box<str>);

/// The limits for listing a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The number of keys in a page.
    pub page: usize,
    /// The most keys to read in total. Beyond this number, GETs cost less.
    pub most: usize,
}

/// The result of listing a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListResult {
    /// All wanted secrets were found after this many keys.
    Keys(usize),
    /// The folder has more keys than this number, which is already too many.
    MoreThan(usize),
    /// A page of this many keys is too long.
    PageTooLong(usize),
    /// A page of this many keys was not answered in time. After the second time, the page counts as
    /// too long.
    TimedOut(usize),
    /// The policy does not grant the request.
    Denied,
    /// The server does not support the request.
    Unsupported,
    /// The server limits the rate of the request.
    Limited,
    /// The request failed in another way.
    Failed,
}

/// What is known about folders. Losing this state is harmless.
#[derive(Debug, Default)]
pub struct Folders {
    known: HashMap<Folder, Known>,
    /// Mounts that are not listed, and until when.
    refused: HashMap<Mount, Instant>,
    /// Mounts of which a folder was listed. A denial in such a mount concerns one folder only.
    granted: HashSet<Mount>,
    /// The number of denied folders, for mounts without a listed folder.
    denials: HashMap<Mount, usize>,
    /// Denied mounts that are not reported yet.
    denied: Vec<Mount>,
    /// Denied mounts that were reported.
    reported: HashSet<Mount>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    page: usize,
    /// The number of keys of the folder; a lower bound if `is_more`.
    keys: usize,
    is_more: bool,
    has_timed_out: bool,
    until: Instant,
}

impl Folder {
    /// The API path that lists the folder.
    #[must_use]
    pub fn listing(&self) -> String {
        format!("{}detailed-metadata/{}", self.mount.1, self.path)
    }
}

impl Folders {
    /// Returns how to list a folder that contains `wanted` wanted secrets. Returns `None` if GETs
    /// cost less or the folder cannot be listed.
    #[must_use]
    pub fn plan(&self, folder: &Folder, wanted: usize, now: Instant) -> Option<Plan> {
        let is_refused = self.refused.get(&folder.mount).is_some_and(|until| now < *until);
        if wanted < FEWEST || is_refused {
            return None;
        }
        let most = wanted.saturating_mul(KEYS_A_GET);
        let Some(known) = self.known.get(folder).filter(|known| now < known.until) else {
            return Some(Plan { page: PAGE, most });
        };
        // If only a lower bound is known, the folder is listed again once far more secrets are
        // wanted.
        let least = if known.is_more { known.keys.saturating_mul(2) } else { known.keys };
        (least <= most).then_some(Plan { page: known.page, most })
    }

    /// Returns whether a folder of this mount was listed before.
    #[must_use]
    pub fn is_granted(&self, mount: &Mount) -> bool {
        self.granted.contains(mount)
    }

    /// Returns until when the latest attempt to list a folder is or was remembered. A folder that
    /// was never tried has `None`, which sorts first.
    #[must_use]
    pub fn last_try(&self, folder: &Folder) -> Option<Instant> {
        self.known.get(folder).map(|known| known.until)
    }

    /// Stores the result of listing a folder.
    pub fn learn(&mut self, folder: &Folder, result: ListResult, now: Instant) {
        if self.known.len() >= MOST {
            self.known.clear();
        }
        let had_timed_out = self.known.get(folder).is_some_and(|known| known.has_timed_out);
        let result = match result {
            ListResult::TimedOut(keys) if had_timed_out => ListResult::PageTooLong(keys),
            result => result,
        };
        let known = self.known.get(folder).filter(|known| now < known.until);
        let page = known.map_or(PAGE, |known| known.page);
        // A shortened page is tried at full length again when the remembered size expires.
        let kept_until = known.filter(|_| page < PAGE).map_or(now + SIZE_KEPT_FOR, |it| it.until);
        let known = match result {
            ListResult::Keys(keys) => {
                self.grant(&folder.mount);
                Known { page, keys, is_more: false, has_timed_out: false, until: kept_until }
            }
            ListResult::MoreThan(keys) => {
                self.grant(&folder.mount);
                Known { page, keys, is_more: true, has_timed_out: false, until: kept_until }
            }
            ListResult::PageTooLong(keys) if keys > SHORTEST_PAGE => Known {
                page: keys / 2,
                keys: 0,
                is_more: false,
                has_timed_out: false,
                until: now + SIZE_KEPT_FOR,
            },
            // A server that hangs for a moment says nothing about the folder.
            ListResult::TimedOut(_) => {
                Known { has_timed_out: true, ..Known::unlisted(page, now + FAILURE_KEPT_FOR) }
            }
            ListResult::Denied if !self.granted.contains(&folder.mount) => {
                self.denied.push(folder.mount.clone());
                let denials = self.denials.entry(folder.mount.clone()).or_default();
                *denials += 1;
                if *denials == DENIALS {
                    self.denials.remove(&folder.mount);
                    self.refused.insert(folder.mount.clone(), now + REFUSAL_KEPT_FOR);
                }
                Known::unlisted(page, now + REFUSAL_KEPT_FOR)
            }
            ListResult::Unsupported if !self.granted.contains(&folder.mount) => {
                self.refused.insert(folder.mount.clone(), now + REFUSAL_KEPT_FOR);
                return;
            }
            ListResult::Denied | ListResult::Unsupported => {
                Known::unlisted(page, now + REFUSAL_KEPT_FOR)
            }
            ListResult::PageTooLong(_) => Known::unlisted(page, now + SIZE_KEPT_FOR),
            ListResult::Limited if !self.granted.contains(&folder.mount) => {
                self.refused.insert(folder.mount.clone(), now + FAILURE_KEPT_FOR);
                return;
            }
            ListResult::Limited => Known::unlisted(page, now + FAILURE_KEPT_FOR),
            ListResult::Failed => {
                // Other folders may fail alike, so one folder at a time is tried until one
                // succeeds.
                self.granted.remove(&folder.mount);
                Known::unlisted(page, now + FAILURE_KEPT_FOR)
            }
        };
        self.known.insert(folder.clone(), known);
    }

    fn grant(&mut self, mount: &Mount) {
        self.denials.remove(mount);
        self.granted.insert(mount.clone());
    }

    /// Returns the denied mounts that were not reported before, each once.
    pub fn take_denied(&mut self) -> Vec<Mount> {
        let mut denied = std::mem::take(&mut self.denied);
        denied.sort_unstable();
        denied.dedup();
        denied.retain(|mount| self.reported.insert(mount.clone()));
        denied
    }
}

impl Known {
    fn unlisted(page: usize, until: Instant) -> Self {
        Self { page, keys: usize::MAX, is_more: false, has_timed_out: false, until }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &str) -> Folder {
        Folder { mount: (None, "secret/".into()), path: path.into() }
    }

    fn after(result: ListResult, now: Instant) -> Folders {
        let mut folders = Folders::default();
        folders.learn(&folder("a/"), result, now);
        folders
    }

    #[test]
    fn what_costs_less_is_chosen() {
        let now = Instant::now();
        let is_listed = |keys, wanted| {
            after(ListResult::Keys(keys), now).plan(&folder("a/"), wanted, now).is_some()
        };
        assert!(is_listed(1_000, 800) && is_listed(1_000, 250) && !is_listed(1_000, 249));
        assert!(!is_listed(10_000, 3));
        assert!(!is_listed(1, 1), "a GET is as good");
        assert!(is_listed(2, 2));
    }

    #[test]
    fn an_unknown_folder_is_read_as_far_as_that_may_pay() {
        let now = Instant::now();
        let plan = Folders::default().plan(&folder("a/"), 3, now);
        assert_eq!(plan, Some(Plan { page: PAGE, most: 12 }));
        // The folder has more keys: it is not listed for a day, unless far more secrets are wanted.
        let folders = after(ListResult::MoreThan(12), now);
        assert_eq!(folders.plan(&folder("a/"), 3, now), None);
        assert_eq!(folders.plan(&folder("a/"), 5, now), None);
        assert_eq!(folders.plan(&folder("a/"), 6, now), Some(Plan { page: PAGE, most: 24 }));
        assert_eq!(folders.plan(&folder("a/"), 3, now + SIZE_KEPT_FOR), plan);
        assert!(folders.plan(&folder("b/"), 3, now).is_some());
    }

    #[test]
    fn where_the_server_has_no_list_it_is_asked_once_an_hour() {
        let now = Instant::now();
        let folders = after(ListResult::Unsupported, now);
        assert_eq!(folders.plan(&folder("b/"), 9, now), None);
        assert!(folders.plan(&folder("b/"), 9, now + REFUSAL_KEPT_FOR).is_some());
        let elsewhere = Folder { mount: (Some("team".into()), "secret/".into()), ..folder("b/") };
        assert!(folders.plan(&elsewhere, 9, now).is_some());
    }

    #[test]
    fn where_the_policy_grants_no_list_a_few_folders_are_asked_for_an_hour() {
        let mut now = Instant::now();
        let mut folders = Folders::default();
        let names: Vec<_> = (0..10).map(|number| folder(&format!("{number}/"))).collect();
        let mut tried = Vec::new();
        for _ in 0..3 {
            for _ in 0..60 {
                let mut open: Vec<_> = names.iter().collect();
                open.retain(|folder| folders.plan(folder, 9, now).is_some());
                open.sort_by_key(|folder| folders.last_try(folder));
                if let Some(folder) = open.first() {
                    tried.push((*folder).clone());
                    folders.learn(folder, ListResult::Denied, now);
                }
            }
            now += REFUSAL_KEPT_FOR;
        }
        // Each folder is tried once before any folder is tried again.
        assert_eq!(tried[..10], names[..]);
        assert_eq!(tried[10..], names[..2]);
    }

    #[test]
    fn a_folder_that_is_granted_among_others_is_found() {
        let now = Instant::now();
        let mut folders = after(ListResult::Denied, now);
        assert_eq!(folders.plan(&folder("a/"), 9, now), None);
        assert!(folders.plan(&folder("b/"), 9, now).is_some());
        folders.learn(&folder("b/"), ListResult::Keys(9), now);
        for number in 0..2 * DENIALS {
            folders.learn(&folder(&format!("{number}/")), ListResult::Denied, now);
        }
        assert!(folders.plan(&folder("b/"), 9, now).is_some());
        assert!(folders.plan(&folder("c/"), 9, now).is_some());
    }

    #[test]
    fn a_denial_is_told_once_and_is_of_one_folder_where_another_was_listed() {
        let now = Instant::now();
        let mut folders = after(ListResult::Denied, now);
        folders.learn(&folder("b/"), ListResult::Denied, now);
        assert_eq!(folders.take_denied(), [folder("a/").mount]);
        assert_eq!(folders.take_denied(), []);
        let mut folders = after(ListResult::Keys(2), now);
        folders.learn(&folder("b/"), ListResult::Denied, now);
        assert_eq!(folders.take_denied(), []);
        assert_eq!(folders.plan(&folder("b/"), 9, now), None);
        assert!(folders.plan(&folder("a/"), 9, now).is_some());
    }

    #[test]
    fn a_page_that_is_too_long_is_halved_until_that_makes_no_sense() {
        let now = Instant::now();
        let mut folders = Folders::default();
        let mut pages = Vec::new();
        while let Some(plan) = folders.plan(&folder("a/"), 9, now) {
            pages.push(plan.page);
            folders.learn(&folder("a/"), ListResult::PageTooLong(plan.page), now);
        }
        assert_eq!(pages, [1_000, 500, 250, 125, 62, 31, 15]);
        // Any other failure is tried again soon.
        let folders = after(ListResult::Failed, now);
        assert_eq!(folders.plan(&folder("a/"), 9, now), None);
        assert!(folders.plan(&folder("a/"), 9, now + FAILURE_KEPT_FOR).is_some());
    }

    #[test]
    fn a_page_that_was_not_answered_in_time_is_shorter_only_after_the_second_time() {
        let start = Instant::now();
        let mut folders = after(ListResult::TimedOut(PAGE), start);
        assert_eq!(folders.plan(&folder("a/"), 900, start), None);
        let then = start + FAILURE_KEPT_FOR;
        let page = |folders: &Folders| folders.plan(&folder("a/"), 900, then).unwrap().page;
        assert_eq!(page(&folders), PAGE);
        folders.learn(&folder("a/"), ListResult::TimedOut(PAGE), then);
        assert_eq!(page(&folders), PAGE / 2);
        // A successful answer in between resets the count.
        folders.learn(&folder("a/"), ListResult::Keys(900), then);
        folders.learn(&folder("a/"), ListResult::TimedOut(PAGE / 2), then);
        assert_eq!(folders.plan(&folder("a/"), 900, then), None);
    }

    #[test]
    fn a_page_that_had_to_be_shorter_is_tried_in_full_again_a_day_later() {
        let start = Instant::now();
        let mut folders = after(ListResult::PageTooLong(PAGE), start);
        let page = |folders: &Folders, now| folders.plan(&folder("a/"), 900, now).unwrap().page;
        for hour in 0..24 {
            let now = start + Duration::from_hours(1) * hour;
            assert_eq!(page(&folders, now), PAGE / 2);
            folders.learn(&folder("a/"), ListResult::Keys(900), now);
        }
        assert_eq!(page(&folders, start + SIZE_KEPT_FOR), PAGE);
    }

    #[test]
    fn a_limit_of_lists_is_of_the_folder_and_not_of_the_mount() {
        let now = Instant::now();
        let mut folders = after(ListResult::Keys(9), now);
        folders.learn(&folder("a/"), ListResult::Limited, now);
        assert_eq!(folders.plan(&folder("a/"), 9, now), None);
        assert!(folders.plan(&folder("b/"), 9, now).is_some());
        // If no folder of the mount was listed before, one limit is enough.
        let folders = after(ListResult::Limited, now);
        assert_eq!(folders.plan(&folder("b/"), 9, now), None);
        assert!(folders.plan(&folder("b/"), 9, now + FAILURE_KEPT_FOR).is_some());
    }

    #[test]
    fn what_is_remembered_has_an_end() {
        let now = Instant::now();
        let mut folders = Folders::default();
        for number in 0..=MOST {
            folders.learn(&folder(&format!("{number}/")), ListResult::Keys(1), now);
        }
        assert!(folders.known.len() <= MOST);
    }
}

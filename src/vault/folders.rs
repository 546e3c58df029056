//! Which secrets are read by a LIST of their folder, and which one by one: what costs the server less.
//!
//! `LIST <mount>/detailed-metadata/<folder>` answers in pages with the metadata of all that lies in a
//! folder. Not every server has it, and not every policy grants it: then each secret is read alone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many keys of a page cost the server as much as one GET. Measured with `OpenBao` 2.7: 0.03 ms and
/// 0.6 kB of audit log a key, beside 0.15 ms and 2.8 kB a GET.
const KEYS_A_GET: usize = 4;

/// The fewest secrets of a folder for which it may be listed: of one, a GET is as good.
const FEWEST: usize = 2;

/// Keys in a page: those with ten versions each, as servers keep them, make 1.5 MB.
const PAGE: usize = 1000;

/// Where a page of so few keys is too long an answer still, the folder is not listed.
const SHORTEST_PAGE: usize = 15;

/// How long it is remembered that a folder has too many keys: folders change slowly, and whoever
/// forgets pays as much again as the GETs cost.
const SIZE_KEPT_FOR: Duration = Duration::from_hours(24);

/// How long a refusal is remembered: the server lacks LIST, or the policy. Either may be mended, and
/// asking costs one request.
const REFUSAL_KEPT_FOR: Duration = Duration::from_hours(1);

/// How many folders of a mount are asked for before it counts as refused: a policy may grant some of
/// them. Others have their turn an hour later.
const DENIALS: usize = 4;

/// How long it is remembered that a LIST failed, while GETs may work.
const FAILURE_KEPT_FOR: Duration = Duration::from_mins(5);

/// The most folders of which anything is remembered. Whoever has more pays a request each now and then.
const MOST: usize = 50_000;

/// A folder of secrets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Folder {
    /// Where it is mounted.
    pub mount: Mount,
    /// Its path within the mount, with a slash at its end; empty for the mount as a whole.
    pub path: Box<str>,
}

/// A mount: its Vault namespace, and its path with a slash at its end.
pub type Mount = (Option<Arc<str>>, Box<str>);

/// How far to go in listing a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Keys in a page.
    pub page: usize,
    /// Keys in all: with more, GETs are cheaper.
    pub most: usize,
}

/// What came of listing a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListResult {
    /// So many keys had to be read for all that is wanted of it.
    Keys(usize),
    /// It has more keys than this, which were too many already.
    MoreThan(usize),
    /// A page of so many keys is too long an answer.
    PageTooLong(usize),
    /// A page of so many keys was not answered in time: too long an answer if that happens twice.
    TimedOut(usize),
    /// The policy does not grant it.
    Denied,
    /// The server does not have it.
    Unsupported,
    /// The server limits how often it may be asked for.
    Limited,
    /// It failed in another way.
    Failed,
}

/// What is remembered of folders. All of it may be lost.
#[derive(Debug, Default)]
pub struct Folders {
    known: HashMap<Folder, Known>,
    /// Mounts that are not listed, and until when.
    refused: HashMap<Mount, Instant>,
    /// Mounts of which a folder was listed: a denial there is about another folder alone.
    granted: HashSet<Mount>,
    /// How many folders were denied of mounts of which none was listed.
    denials: HashMap<Mount, usize>,
    /// Mounts that were denied, and of which nobody has heard yet.
    denied: Vec<Mount>,
    /// Mounts of which somebody has.
    told: HashSet<Mount>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    page: usize,
    /// How many keys it has, or at least has where `is_more`.
    keys: usize,
    is_more: bool,
    has_timed_out: bool,
    until: Instant,
}

impl Folder {
    /// The API path that lists it.
    #[must_use]
    pub fn listing(&self) -> String {
        format!("{}detailed-metadata/{}", self.mount.1, self.path)
    }
}

impl Folders {
    /// Whether, and how far, to list a folder of which so many secrets are wanted; `None` where GETs
    /// cost less, or are all there is.
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
        // Where only the least is known, it is tried again once far more are wanted.
        let least = if known.is_more { known.keys.saturating_mul(2) } else { known.keys };
        (least <= most).then_some(Plan { page: known.page, most })
    }

    /// Whether a folder of this mount was listed before.
    #[must_use]
    pub fn is_granted(&self, mount: &Mount) -> bool {
        self.granted.contains(mount)
    }

    /// Until when the latest attempt at a folder counted, or counts; nothing comes before any.
    #[must_use]
    pub fn last_try(&self, folder: &Folder) -> Option<Instant> {
        self.known.get(folder).map(|known| known.until)
    }

    /// Takes in what came of listing a folder.
    pub fn learn(&mut self, folder: &Folder, learnt: ListResult, now: Instant) {
        if self.known.len() >= MOST {
            self.known.clear();
        }
        let had_timed_out = self.known.get(folder).is_some_and(|known| known.has_timed_out);
        let learnt = match learnt {
            ListResult::TimedOut(keys) if had_timed_out => ListResult::PageTooLong(keys),
            learnt => learnt,
        };
        let known = self.known.get(folder).filter(|known| now < known.until);
        let page = known.map_or(PAGE, |known| known.page);
        // A page that had to be shorter is tried in full again, in time.
        let kept_until = known.filter(|_| page < PAGE).map_or(now + SIZE_KEPT_FOR, |it| it.until);
        let known = match learnt {
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
            // A server that hangs for a moment says nothing of the folder.
            ListResult::TimedOut(_) => Known {
                has_timed_out: true,
                ..Known::not_to_be_listed(page, now + FAILURE_KEPT_FOR)
            },
            ListResult::Denied if !self.granted.contains(&folder.mount) => {
                self.denied.push(folder.mount.clone());
                let denials = self.denials.entry(folder.mount.clone()).or_default();
                *denials += 1;
                if *denials == DENIALS {
                    self.denials.remove(&folder.mount);
                    self.refused.insert(folder.mount.clone(), now + REFUSAL_KEPT_FOR);
                }
                Known::not_to_be_listed(page, now + REFUSAL_KEPT_FOR)
            }
            ListResult::Unsupported if !self.granted.contains(&folder.mount) => {
                self.refused.insert(folder.mount.clone(), now + REFUSAL_KEPT_FOR);
                return;
            }
            ListResult::Denied | ListResult::Unsupported => {
                Known::not_to_be_listed(page, now + REFUSAL_KEPT_FOR)
            }
            ListResult::PageTooLong(_) => Known::not_to_be_listed(page, now + SIZE_KEPT_FOR),
            ListResult::Limited if !self.granted.contains(&folder.mount) => {
                self.refused.insert(folder.mount.clone(), now + FAILURE_KEPT_FOR);
                return;
            }
            ListResult::Limited => Known::not_to_be_listed(page, now + FAILURE_KEPT_FOR),
            ListResult::Failed => {
                // Others may fail just so: one at a time, until one does not.
                self.granted.remove(&folder.mount);
                Known::not_to_be_listed(page, now + FAILURE_KEPT_FOR)
            }
        };
        self.known.insert(folder.clone(), known);
    }

    fn grant(&mut self, mount: &Mount) {
        self.denials.remove(mount);
        self.granted.insert(mount.clone());
    }

    /// The mounts that were denied, each once.
    pub fn take_denied(&mut self) -> Vec<Mount> {
        let mut denied = std::mem::take(&mut self.denied);
        denied.sort_unstable();
        denied.dedup();
        denied.retain(|mount| self.told.insert(mount.clone()));
        denied
    }
}

impl Known {
    fn not_to_be_listed(page: usize, until: Instant) -> Self {
        Self { page, keys: usize::MAX, is_more: false, has_timed_out: false, until }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &str) -> Folder {
        Folder { mount: (None, "secret/".into()), path: path.into() }
    }

    fn after(learnt: ListResult, now: Instant) -> Folders {
        let mut folders = Folders::default();
        folders.learn(&folder("a/"), learnt, now);
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
        // It has more: not again for a day, unless far more are wanted.
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
        // Each has its turn before one has its second.
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
        // What failed otherwise is tried again soon.
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
        // One that was answered in between begins anew.
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
        // Where none was listed before, one is enough to know.
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

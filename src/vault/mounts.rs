//! Mounts: which secrets engine a path belongs to. The controller asks for the mount before it
//! reads anything below it, because a read of another engine can create a credential.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Deserialize;

use super::answer::{Answer, failure_of};
use super::failure::Failure;
use crate::model::text::shorten;

/// How long the answer about a mount is kept. Mounts can be replaced, and one small request in this
/// time is negligible beside the reads. The first poll after this time finds a mount that did not
/// exist before, or that the policy did not grant.
const KEPT_FOR: Duration = Duration::from_mins(5);

/// The most refusals that are kept. Tenants can name any number of mounts that do not exist. Each
/// refusal that is not kept costs one request per poll.
const MOST_REFUSED: usize = 50_000;

/// The secrets engine of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// KV v2, the only engine whose metadata are read.
    KvV2,
    /// KV v1, which has no versions.
    KvV1,
    /// Another engine, by its type.
    Other(String),
}

/// What a path is on its mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Classified {
    /// A KV v2 secret.
    Secret(KvLocation),
    /// A path on a KV v2 mount that lacks the `data/` of the API.
    NoDataPrefix {
        /// The correct path.
        correct: String,
    },
    /// A path of another engine.
    NotKvV2(Engine),
}

/// The location of a KV v2 secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvLocation {
    /// The path of the mount, with a trailing slash.
    pub mount: Box<str>,
    /// The path within the mount.
    pub secret: Box<str>,
}

#[derive(Clone, Debug)]
struct Mount {
    namespace: Option<String>,
    /// The path of the mount, with a trailing slash.
    path: String,
    engine: Engine,
    asked_at: Instant,
}

/// What is known of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The mount of the path is known.
    Known(Classified),
    /// The server did not return the mount of the path.
    Refused(Failure),
    /// The server must be asked about this path, by [`Mounts::question`].
    Unknown(Box<str>),
}

/// The mounts that the server returned, and the paths for which it returned none. Each known mount
/// covers a referenced secret and expires, so there are never more mounts than referenced secrets.
#[derive(Debug, Default)]
pub struct Mounts {
    known: Vec<Mount>,
    /// Vault namespaces and paths of mounts that were known before. Each of them exists or existed,
    /// so their number is bounded by the mounts of the server.
    former: HashSet<(Option<String>, String)>,
    /// The refusals, by a hash of the Vault namespace and the path of the request.
    refused: HashMap<u64, Refused>,
    digests: RandomState,
}

/// A request that returned no mount that covers the path.
#[derive(Clone, Debug)]
struct Refused {
    /// The failure; `None` if the server returned a mount that does not cover the path.
    failure: Option<Failure>,
    asked_at: Instant,
}

impl Mounts {
    /// Forgets mounts and refusals that are older than `KEPT_FOR`.
    pub fn expire(&mut self, now: Instant) {
        let is_kept = |asked_at: Instant| now.saturating_duration_since(asked_at) < KEPT_FOR;
        for mount in self.known.extract_if(.., |mount| !is_kept(mount.asked_at)) {
            self.former.insert((mount.namespace, mount.path));
        }
        self.refused.retain(|_, refused| is_kept(refused.asked_at));
    }

    /// Forgets the mount of a path, because the server answered as no KV v2 engine does.
    pub fn forget(&mut self, namespace: Option<&str>, path: &str) {
        self.known.retain(|mount| !mount.covers(namespace, path));
    }

    /// The number of known mounts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether no mount is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Returns what a path is, if its mount is known. Mounts are not nested, so the first mount
    /// that covers the path is the right one.
    #[must_use]
    pub fn classify(&self, namespace: Option<&str>, path: &str) -> Option<Classified> {
        let mount = self.known.iter().find(|mount| mount.covers(namespace, path))?;
        Some(mount.classify(path))
    }

    /// Returns what a path is, or which path to ask the server about.
    #[must_use]
    pub fn look_up(&self, namespace: Option<&str>, path: &str) -> Lookup {
        if let Some(classified) = self.classify(namespace, path) {
            return Lookup::Known(classified);
        }
        let mut refusal = None;
        for guess in guesses(path) {
            match self.refused.get(&self.digest(namespace, guess)) {
                None => return Lookup::Unknown(guess.into()),
                Some(refused) => refusal = refused.failure.as_ref(),
            }
        }
        // Auth methods and similar paths: the server reports their mounts by other paths.
        let other = || Classified::NotKvV2(Engine::Other("unknown".to_owned()));
        refusal.map_or_else(|| Lookup::Known(other()), |it| Lookup::Refused(it.clone()))
    }

    /// The API path that returns the mount of a path.
    #[must_use]
    pub fn question(path: &str) -> String {
        format!("sys/internal/ui/mounts/{path}")
    }

    /// Reads the answer to a request for [`Self::question`].
    pub fn read(answer: &Answer, _: Timestamp) -> Result<(String, Engine), Failure> {
        match failure_of(answer.status, &answer.body) {
            Some(failure) => Err(failure),
            None => read(&answer.body),
        }
    }

    /// Stores the mount that the server returned for a path. A mount that does not cover the path
    /// is stored as a refusal: the server returns the mounts of auth methods without their `auth/`.
    pub fn learn(
        &mut self,
        namespace: Option<&str>,
        path: &str,
        answer: (String, Engine),
        now: Instant,
    ) {
        let (reported, engine) = answer;
        // The server reports a mount of a child namespace by its path from the root namespace.
        let within = namespace.and_then(|name| reported.strip_prefix(name)?.strip_prefix('/'));
        let within = within.filter(|within| !within.is_empty());
        let is_mount = |mount: &&str| covers(mount, path);
        let Some(mount) = [Some(&*reported), within].into_iter().flatten().find(is_mount) else {
            self.keep_refused(namespace, path, Refused { failure: None, asked_at: now });
            return;
        };
        let namespace = namespace.map(str::to_owned);
        let mount = Mount { namespace, path: mount.to_owned(), engine, asked_at: now };
        self.known
            .retain(|known| (&known.namespace, &known.path) != (&mount.namespace, &mount.path));
        self.known.push(mount);
    }

    /// Stores that the server did not return the mount of a path. Returns whether the refusal is
    /// kept.
    ///
    ///
    /// Three kinds of refusals are not kept: an answer that is not from Vault, such as that of a
    /// proxy whose server is down; a refusal for a mount that was known before, because its policy
    /// may be granted again at any time; and any refusal beyond `MOST_REFUSED`.
    pub fn learn_refusal(
        &mut self,
        namespace: Option<&str>,
        path: &str,
        failure: &Failure,
        now: Instant,
    ) -> bool {
        let is_answer = match failure {
            Failure::Denied | Failure::NoMount => true,
            Failure::Refused { message, .. } => !message.is_empty(),
            _ => false,
        };
        let was_known =
            self.former.iter().any(|(of, mount)| of.as_deref() == namespace && covers(mount, path));
        let failure = Some(failure.clone());
        is_answer
            && !was_known
            && self.keep_refused(namespace, path, Refused { failure, asked_at: now })
    }

    fn keep_refused(&mut self, namespace: Option<&str>, path: &str, refused: Refused) -> bool {
        let has_room = self.refused.len() < MOST_REFUSED;
        if has_room {
            self.refused.insert(self.digest(namespace, path), refused);
        }
        has_room
    }

    fn digest(&self, namespace: Option<&str>, path: &str) -> u64 {
        self.digests.hash_one((namespace, path))
    }
}

/// The paths to ask about, in order, to find the mount of a path. The first one serves all paths of
/// a mount whose own path does not contain `data/`. The last one finds any mount.
fn guesses(path: &str) -> impl Iterator<Item = &str> {
    let split = path.split_once("/data/").filter(|(mount, secret)| ![mount, secret].contains(&&""));
    let (first, secret) = split.unwrap_or((path, ""));
    let is_last = !secret.starts_with("data/") && !secret.contains("/data/");
    std::iter::once(first).chain((!is_last).then_some(path))
}

impl KvLocation {
    /// The API path of the metadata of the secret.
    #[must_use]
    pub fn metadata(&self) -> String {
        format!("{}metadata/{}", self.mount, self.secret)
    }

    /// The folder within the mount, which is empty or has a trailing slash, and the key in that
    /// folder. Returns `None` for a path that a list would spell differently.
    #[must_use]
    pub fn folder_and_key(&self) -> Option<(&str, &str)> {
        let (folder, key) = self.secret.split_at(self.secret.rfind('/').map_or(0, |at| at + 1));
        let mut parts = self.secret.split('/');
        parts.all(|part| !["", ".", ".."].contains(&part)).then_some((folder, key))
    }
}

impl Mount {
    fn covers(&self, namespace: Option<&str>, path: &str) -> bool {
        covers(&self.path, path) && self.namespace.as_deref() == namespace
    }

    fn classify(&self, path: &str) -> Classified {
        if self.engine != Engine::KvV2 {
            return Classified::NotKvV2(self.engine.clone());
        }
        let mount = &self.path;
        let rest = path.strip_prefix(mount.as_str()).unwrap_or_default();
        match rest.strip_prefix("data/") {
            Some(secret) if !secret.is_empty() => Classified::Secret(KvLocation {
                mount: mount.as_str().into(),
                secret: secret.into(),
            }),
            _ => Classified::NoDataPrefix { correct: format!("{mount}data/{rest}") },
        }
    }
}

/// Returns whether a mount covers a path. `mount` is the path of the mount with a trailing slash.
fn covers(mount: &str, path: &str) -> bool {
    path.starts_with(mount) || mount.strip_suffix('/') == Some(path)
}

fn read(body: &[u8]) -> Result<(String, Engine), Failure> {
    #[derive(Deserialize)]
    struct Envelope {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        path: String,
        #[serde(rename = "type")]
        engine: String,
        options: Option<Options>,
    }
    #[derive(Default, Deserialize)]
    struct Options {
        version: Option<String>,
    }
    // The JSON decoder does not check the parts that it skips, so check that the whole body is
    // UTF-8.
    let text = std::str::from_utf8(body).unwrap_or_default();
    let Envelope { data } = serde_json::from_str(text)
        .map_err(|error| Failure::BadAnswer(shorten(&format!("mount: {error}"))))?;
    let version = data.options.unwrap_or_default().version;
    let engine = match (data.engine.as_str(), version.as_deref()) {
        ("kv", Some("2")) => Engine::KvV2,
        ("kv" | "generic", _) => Engine::KvV1,
        _ => Engine::Other(shorten(&data.engine)),
    };
    if data.path.trim_end_matches('/').is_empty() {
        return Err(Failure::BadAnswer("mount: the answer has no path".to_owned()));
    }
    Ok((format!("{}/", data.path.trim_end_matches('/')), engine))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(path: &str, engine: Engine) -> Mount {
        Mount { namespace: None, path: path.to_owned(), engine, asked_at: Instant::now() }
    }

    #[test]
    fn the_mount_decides_and_not_the_spelling_of_the_path() {
        let mounts = Mounts {
            known: vec![
                mount("secret/", Engine::KvV2),
                mount("team/kv/", Engine::KvV2),
                mount("kv1/", Engine::KvV1),
                mount("database/", Engine::Other("database".to_owned())),
            ],
            ..Mounts::default()
        };
        let secret = |mount: &str, secret: &str| {
            Some(Classified::Secret(KvLocation { mount: mount.into(), secret: secret.into() }))
        };
        let correct = |path: &str| Some(Classified::NoDataPrefix { correct: path.to_owned() });
        let table = [
            ("secret/data/mysql", secret("secret/", "mysql")),
            ("secret/data/a/b", secret("secret/", "a/b")),
            ("team/kv/data/a", secret("team/kv/", "a")),
            ("secret/mysql", correct("secret/data/mysql")),
            ("secret/metadata/mysql", correct("secret/data/metadata/mysql")),
            ("secret/database", correct("secret/data/database")),
            ("kv1/data/a", Some(Classified::NotKvV2(Engine::KvV1))),
            ("database/data/r", Some(Classified::NotKvV2(Engine::Other("database".to_owned())))),
            ("secrets/data/a", None),
            ("secret", correct("secret/data/")),
        ];
        for (path, expected) in table {
            assert_eq!(mounts.classify(None, path), expected, "{path}");
        }
        assert_eq!(mounts.classify(Some("team"), "secret/data/mysql"), None);
    }

    #[test]
    fn answers_of_servers_are_read() {
        let table = [
            (r#"{"data":{"path":"secret/","type":"kv","options":{"version":"2"}}}"#, Engine::KvV2),
            (r#"{"data":{"path":"secret","type":"kv","options":{"version":"1"}}}"#, Engine::KvV1),
            (r#"{"data":{"path":"secret/","type":"kv","options":{}}}"#, Engine::KvV1),
            (r#"{"data":{"path":"secret/","type":"kv","options":null}}"#, Engine::KvV1),
            (
                r#"{"data":{"path":"secret/","type":"pki","options":{"version":"2"}}}"#,
                Engine::Other("pki".to_owned()),
            ),
        ];
        for (body, engine) in table {
            assert_eq!(read(body.as_bytes()), Ok(("secret/".to_owned(), engine)), "{body}");
        }
        for body in ["", "{}", r#"{"data":{"path":"/","type":"kv"}}"#] {
            assert_eq!(read(body.as_bytes()).unwrap_err().reason(), "bad_answer", "{body}");
        }
    }

    fn at(mount: &str, secret: &str) -> Lookup {
        let place = KvLocation { mount: mount.into(), secret: secret.into() };
        Lookup::Known(Classified::Secret(place))
    }

    #[test]
    fn a_mount_that_does_not_cover_what_was_asked_for_is_not_learnt() {
        let mut mounts = Mounts::default();
        let now = Instant::now();
        let jwt = Engine::Other("jwt".to_owned());
        mounts.learn(None, "auth/secret/x", ("secret/".to_owned(), jwt), now);
        assert_eq!(mounts.classify(None, "secret/data/x"), None);
        let other = Classified::NotKvV2(Engine::Other("unknown".to_owned()));
        assert_eq!(
            mounts.look_up(None, "auth/secret/x"),
            Lookup::Known(other),
            "and not asked again"
        );
        mounts.learn(None, "secret/data/x", ("secret/".to_owned(), Engine::KvV2), now);
        assert!(mounts.classify(None, "secret/data/x").is_some());
    }

    #[test]
    fn a_mount_that_is_told_of_again_takes_the_place_of_what_was_told() {
        let mut mounts = Mounts::default();
        let now = Instant::now();
        for engine in [Engine::KvV1, Engine::KvV2] {
            mounts.learn(None, "secret/data/x", ("secret/".to_owned(), engine), now);
            let other = ("secret/".to_owned(), Engine::KvV1);
            mounts.learn(Some("team"), "secret/data/x", other, now);
        }
        assert_eq!(mounts.len(), 2);
        let place = KvLocation { mount: "secret/".into(), secret: "x".into() };
        assert_eq!(place.metadata(), "secret/metadata/x");
        assert_eq!(mounts.classify(None, "secret/data/x"), Some(Classified::Secret(place)));
    }

    #[test]
    fn a_mount_of_a_child_of_the_namespace_is_told_of_by_its_path_from_the_root() {
        let table = [
            // In the root namespace, both paths are the same.
            (None, "ns1/ns2/secret/data/foo", "ns1/ns2/secret/", Some("ns1/ns2/secret/")),
            (Some("ns1"), "ns2/secret/data/foo", "ns1/ns2/secret/", Some("ns2/secret/")),
            (Some("ns1/ns2"), "secret/data/foo", "secret/", Some("secret/")),
            (Some("ns1/ns2"), "ns3/secret/data/foo", "ns1/ns2/ns3/secret/", Some("ns3/secret/")),
            // A mount with the same name as the namespace.
            (Some("ns1"), "ns1/secret/data/foo", "ns1/secret/", Some("ns1/secret/")),
            (Some("ns1"), "ns1/secret/data/foo", "ns1/ns1/secret/", Some("ns1/secret/")),
            // Mounts that do not cover the path.
            (Some("ns"), "ns2/secret/data/foo", "ns1/ns2/secret/", None),
            (Some("ns1"), "secret/data/foo", "ns1/ns2/secret/", None),
        ];
        for (namespace, path, reported, mount) in table {
            let mut mounts = Mounts::default();
            let Lookup::Unknown(guess) = mounts.look_up(namespace, path) else { panic!("{path}") };
            mounts.learn(namespace, &guess, (reported.to_owned(), Engine::KvV2), Instant::now());
            let other = Classified::NotKvV2(Engine::Other("unknown".to_owned()));
            let expected = mount.map_or(Lookup::Known(other), |mount| at(mount, "foo"));
            assert_eq!(
                mounts.look_up(namespace, path),
                expected,
                "{namespace:?} {path} {reported}"
            );
        }
    }

    #[test]
    fn what_a_mount_may_be_is_asked_about_once_for_all_its_secrets() {
        let table: [(&str, &[&str]); 8] = [
            ("secret/data/mysql", &["secret"]),
            ("team/kv/data/a/b", &["team/kv"]),
            ("secret/mysql", &["secret/mysql"]),
            ("secret/data/", &["secret/data/"]),
            ("/data/x", &["/data/x"]),
            ("data/x", &["data/x"]),
            ("a/data/b/data/x", &["a", "a/data/b/data/x"]),
            ("a/data/data/x", &["a", "a/data/data/x"]),
        ];
        for (path, expected) in table {
            assert_eq!(guesses(path).collect::<Vec<_>>(), expected, "{path}");
        }
    }

    #[test]
    fn a_mount_that_did_not_exist_is_asked_about_again_after_a_while() {
        let mut mounts = Mounts::default();
        let start = Instant::now();
        assert!(mounts.learn_refusal(None, "none", &Failure::NoMount, start));
        let refused = Lookup::Refused(Failure::NoMount);
        for path in ["none/data/a", "none/data/b/c"] {
            assert_eq!(mounts.look_up(None, path), refused, "{path}");
        }
        // The refusal does not apply to a mount below the path, or to another Vault namespace.
        let whole = Lookup::Unknown("none/data/b/data/c".into());
        assert_eq!(mounts.look_up(None, "none/data/b/data/c"), whole);
        let unknown = Lookup::Unknown("none".into());
        assert_eq!(mounts.look_up(Some("team"), "none/data/a"), unknown);
        mounts.expire(start + KEPT_FOR.mul_f64(0.99));
        assert_eq!(mounts.look_up(None, "none/data/a"), refused);
        mounts.expire(start + KEPT_FOR);
        assert_eq!(mounts.look_up(None, "none/data/a"), unknown);
        mounts.learn(None, "none", ("none/".to_owned(), Engine::KvV2), start + KEPT_FOR);
        assert_eq!(mounts.look_up(None, "none/data/a"), at("none/", "a"));
    }

    #[test]
    fn what_is_refused_of_a_mount_that_was_known_is_not_kept() {
        let mut mounts = Mounts::default();
        let start = Instant::now();
        mounts.learn(None, "team/kv", ("team/kv/".to_owned(), Engine::KvV2), start);
        mounts.expire(start + KEPT_FOR);
        let unknown = Lookup::Unknown("team/kv".into());
        assert_eq!(mounts.look_up(None, "team/kv/data/a"), unknown);
        // The policy is withdrawn for a moment.
        assert!(!mounts.learn_refusal(None, "team/kv", &Failure::Denied, start + KEPT_FOR));
        assert_eq!(mounts.look_up(None, "team/kv/data/a"), unknown);
        assert!(mounts.learn_refusal(Some("ns"), "team/kv", &Failure::Denied, start + KEPT_FOR));
        assert!(mounts.learn_refusal(None, "team", &Failure::Denied, start + KEPT_FOR));
    }

    #[test]
    fn what_is_kept_of_refusals_has_an_end_and_says_nothing_of_a_server_that_is_away() {
        let mut mounts = Mounts::default();
        let now = Instant::now();
        let by_a_proxy = Failure::Refused { status: 404, message: String::new() };
        for failure in [by_a_proxy, Failure::Server(500), Failure::Timeout] {
            assert!(!mounts.learn_refusal(None, "none", &failure, now), "{failure}");
        }
        let kept = (0..=MOST_REFUSED).filter(|number| {
            mounts.learn_refusal(None, &number.to_string(), &Failure::NoMount, now)
        });
        assert_eq!(kept.count(), MOST_REFUSED);
    }

    #[test]
    fn a_secret_is_in_a_folder_unless_it_is_spelt_oddly() {
        let place = |secret: &str| KvLocation { mount: "secret/".into(), secret: secret.into() };
        assert_eq!(place("a").folder_and_key(), Some(("", "a")));
        assert_eq!(place("a/b/c").folder_and_key(), Some(("a/b/", "c")));
        for odd in ["a/", "/a", "a//b", "a/./b", "..", "a/.."] {
            assert_eq!(place(odd).folder_and_key(), None, "{odd}");
        }
    }

    #[test]
    fn the_name_of_an_engine_has_an_end() {
        let body = format!(r#"{{"data":{{"path":"x/","type":"{}"}}}}"#, "x".repeat(1 << 20));
        let Ok((_, Engine::Other(name))) = read(body.as_bytes()) else { panic!("another engine") };
        assert!(name.len() < 500);
    }
}

//! Mounts: which secrets engine a path belongs to. The server is asked before anything under a
//! mount is, because a read of another engine can mint a credential.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Deserialize;

use super::answer::{Answer, failure_of};
use super::failure::Failure;
use crate::model::text::shorten;

/// How long an answer is kept: mounts can be replaced, and one small request in this time is
/// nothing beside the reads. A mount that did not exist, or was not granted, is found by the first
/// poll after this time.
const KEPT_FOR: Duration = Duration::from_mins(5);

/// The most refusals that are kept. Tenants can name any number of mounts that do not exist; what
/// is not kept costs one request a poll.
const MOST_REFUSED: usize = 50_000;

/// The engine of a mount, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The one whose metadata are read.
    KvV2,
    /// KV without versions.
    KvV1,
    /// Anything else, by its type.
    Other(String),
}

/// What a path is on its mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Classified {
    /// A secret of KV v2.
    Secret(KvLocation),
    /// On a KV v2 mount, but without the `data/` that the API asks for.
    NoDataPrefix {
        /// The path as it should be.
        correct: String,
    },
    /// Of another engine.
    NotKvV2(Engine),
}

/// Where a secret of a KV v2 mount is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvLocation {
    /// The path of the mount, with a slash at its end.
    pub mount: Box<str>,
    /// The path within the mount.
    pub secret: Box<str>,
}

#[derive(Clone, Debug)]
struct Mount {
    namespace: Option<String>,
    /// With a slash at its end.
    path: String,
    engine: Engine,
    asked: Instant,
}

/// What is known of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Its mount is known.
    Known(Classified),
    /// The server did not tell of its mount.
    Refused(Failure),
    /// The server is to be asked about this path, by [`Mounts::question`].
    Unknown(Box<str>),
}

/// The mounts that the server told of, each once, and what it did not tell of. There are never more
/// mounts than secrets that are referred to, since each covers one of those, and is forgotten after a
/// while.
#[derive(Debug, Default)]
pub struct Mounts {
    known: Vec<Mount>,
    /// Those that were known before: their Vault namespaces and paths. They exist, or did, so there are
    /// no more than the server has mounts.
    former: HashSet<(Option<String>, String)>,
    /// By a digest of the Vault namespace and the path that was asked about.
    refused: HashMap<u64, Refused>,
    digests: RandomState,
}

/// A question that brought no mount of the path.
#[derive(Clone, Debug)]
struct Refused {
    /// Why; nothing where the answer tells of a mount that does not cover the path.
    failure: Option<Failure>,
    asked: Instant,
}

impl Mounts {
    /// Forgets what was told too long ago.
    pub fn expire(&mut self, now: Instant) {
        let is_kept = |asked: Instant| now.saturating_duration_since(asked) < KEPT_FOR;
        for mount in self.known.extract_if(.., |mount| !is_kept(mount.asked)) {
            self.former.insert((mount.namespace, mount.path));
        }
        self.refused.retain(|_, refused| is_kept(refused.asked));
    }

    /// Forgets the mount of a path, because the server answered as no KV v2 engine does.
    pub fn forget(&mut self, namespace: Option<&str>, path: &str) {
        self.known.retain(|mount| !mount.covers(namespace, path));
    }

    /// How many mounts are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether no mount is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// What a path is, if its mount is known. Mounts do not lie within each other, so the first
    /// that covers it is the one.
    #[must_use]
    pub fn classify(&self, namespace: Option<&str>, path: &str) -> Option<Classified> {
        let mount = self.known.iter().find(|mount| mount.covers(namespace, path))?;
        Some(mount.classify(path))
    }

    /// What a path is, or what to ask the server to know it.
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
        // Auth methods and the like, which the server reports by other paths.
        let other = || Classified::NotKvV2(Engine::Other("unknown".to_owned()));
        refusal.map_or_else(|| Lookup::Known(other()), |it| Lookup::Refused(it.clone()))
    }

    /// The API path that tells of the mount of a path.
    #[must_use]
    pub fn question(path: &str) -> String {
        format!("sys/internal/ui/mounts/{path}")
    }

    /// Reads the answer to the [`Self::question`].
    pub fn read(answer: &Answer, _: Timestamp) -> Result<(String, Engine), Failure> {
        match failure_of(answer.status, &answer.body) {
            Some(failure) => Err(failure),
            None => read(&answer.body),
        }
    }

    /// Takes in what was answered for a path. A mount that does not cover it is another thing than
    /// it seems: those of auth methods are told of without their `auth/`.
    pub fn learn(
        &mut self,
        namespace: Option<&str>,
        path: &str,
        answer: (String, Engine),
        now: Instant,
    ) {
        let (told, engine) = answer;
        // A mount of a child of the namespace is told of by its path from the root.
        let within = namespace.and_then(|name| told.strip_prefix(name)?.strip_prefix('/'));
        let within = within.filter(|within| !within.is_empty());
        let is_mount = |mount: &&str| covers(mount, path);
        let Some(mount) = [Some(&*told), within].into_iter().flatten().find(is_mount) else {
            self.keep_refused(namespace, path, Refused { failure: None, asked: now });
            return;
        };
        let namespace = namespace.map(str::to_owned);
        let mount = Mount { namespace, path: mount.to_owned(), engine, asked: now };
        self.known
            .retain(|known| (&known.namespace, &known.path) != (&mount.namespace, &mount.path));
        self.known.push(mount);
    }

    /// Takes in that the server did not tell of the mount of a path. Answers whether that is kept: not
    /// where it is no answer of this API, such as that of a proxy whose server is away, not of a mount
    /// that was known before, whose policy may be given back at any time, and not where too many are.
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
            && self.keep_refused(namespace, path, Refused { failure, asked: now })
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

/// What to ask about to find the mount of a path, first to last. One question is for all paths of a mount
/// whose path holds no `data/` itself; the last one finds any mount.
fn guesses(path: &str) -> impl Iterator<Item = &str> {
    let split = path.split_once("/data/").filter(|(mount, secret)| ![mount, secret].contains(&&""));
    let (first, secret) = split.unwrap_or((path, ""));
    let is_last = !secret.starts_with("data/") && !secret.contains("/data/");
    std::iter::once(first).chain((!is_last).then_some(path))
}

impl KvLocation {
    /// The API path of its metadata.
    #[must_use]
    pub fn metadata(&self) -> String {
        format!("{}metadata/{}", self.mount, self.secret)
    }

    /// Its folder within the mount, with a slash at its end or empty, and its key there; `None` where
    /// a list would spell it in another way.
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

/// Whether a path belongs to a mount, by the path of that, with a slash at its end.
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
    // What the decoder skips it does not look at: all of it is to be text.
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
        return Err(Failure::BadAnswer("mount: it has no path".to_owned()));
    }
    Ok((format!("{}/", data.path.trim_end_matches('/')), engine))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(path: &str, engine: Engine) -> Mount {
        Mount { namespace: None, path: path.to_owned(), engine, asked: Instant::now() }
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
            // Of the root, the two are the same.
            (None, "ns1/ns2/secret/data/foo", "ns1/ns2/secret/", Some("ns1/ns2/secret/")),
            (Some("ns1"), "ns2/secret/data/foo", "ns1/ns2/secret/", Some("ns2/secret/")),
            (Some("ns1/ns2"), "secret/data/foo", "secret/", Some("secret/")),
            (Some("ns1/ns2"), "ns3/secret/data/foo", "ns1/ns2/ns3/secret/", Some("ns3/secret/")),
            // A mount that is named like the namespace.
            (Some("ns1"), "ns1/secret/data/foo", "ns1/secret/", Some("ns1/secret/")),
            (Some("ns1"), "ns1/secret/data/foo", "ns1/ns1/secret/", Some("ns1/secret/")),
            // What covers nothing.
            (Some("ns"), "ns2/secret/data/foo", "ns1/ns2/secret/", None),
            (Some("ns1"), "secret/data/foo", "ns1/ns2/secret/", None),
        ];
        for (namespace, path, told, mount) in table {
            let mut mounts = Mounts::default();
            let Lookup::Unknown(guess) = mounts.look_up(namespace, path) else { panic!("{path}") };
            mounts.learn(namespace, &guess, (told.to_owned(), Engine::KvV2), Instant::now());
            let other = Classified::NotKvV2(Engine::Other("unknown".to_owned()));
            let expected = mount.map_or(Lookup::Known(other), |mount| at(mount, "foo"));
            assert_eq!(mounts.look_up(namespace, path), expected, "{namespace:?} {path} {told}");
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
        // Of a mount within it, or of another namespace, that says nothing.
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

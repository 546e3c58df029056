//! Mounts: which secrets engine a path belongs to. The server is asked before anything under a
//! mount is, because a read of another engine can mint a credential.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Deserialize;

use super::answer::{Answer, failure_of};
use super::client::Failure;
use crate::core::words::in_short;

/// How long an answer is kept: mounts can be replaced, and one small request in this time is
/// nothing beside the reads.
const KEPT_FOR: Duration = Duration::from_mins(5);

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
    Secret(Place),
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
pub struct Place {
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

/// The mounts that the server told of, each once. There are never more than secrets that are referred
/// to, since each covers one of those, and is forgotten after a while.
#[derive(Debug, Default)]
pub struct Mounts {
    known: Vec<Mount>,
}

impl Mounts {
    /// Forgets what was told too long ago.
    pub fn expire(&mut self) {
        self.known.retain(|mount| mount.asked.elapsed() < KEPT_FOR);
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
    pub fn learn(&mut self, namespace: Option<&str>, path: &str, answer: (String, Engine)) {
        let (mount, engine) = answer;
        let namespace = namespace.map(str::to_owned);
        let mount = Mount { namespace, path: mount, engine, asked: Instant::now() };
        if mount.covers(mount.namespace.as_deref(), path) {
            self.known
                .retain(|known| (&known.namespace, &known.path) != (&mount.namespace, &mount.path));
            self.known.push(mount);
        }
    }
}

impl Place {
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
        let is_within = path.starts_with(&self.path) || self.path.strip_suffix('/') == Some(path);
        is_within && self.namespace.as_deref() == namespace
    }

    fn classify(&self, path: &str) -> Classified {
        if self.engine != Engine::KvV2 {
            return Classified::NotKvV2(self.engine.clone());
        }
        let mount = &self.path;
        let rest = path.strip_prefix(mount.as_str()).unwrap_or_default();
        match rest.strip_prefix("data/") {
            Some(secret) if !secret.is_empty() => {
                Classified::Secret(Place { mount: mount.as_str().into(), secret: secret.into() })
            }
            _ => Classified::NoDataPrefix { correct: format!("{mount}data/{rest}") },
        }
    }
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
        .map_err(|error| Failure::BadAnswer(in_short(&format!("mount: {error}"))))?;
    let version = data.options.unwrap_or_default().version;
    let engine = match (data.engine.as_str(), version.as_deref()) {
        ("kv", Some("2")) => Engine::KvV2,
        ("kv" | "generic", _) => Engine::KvV1,
        _ => Engine::Other(in_short(&data.engine)),
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
        };
        let secret = |mount: &str, secret: &str| {
            Some(Classified::Secret(Place { mount: mount.into(), secret: secret.into() }))
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

    #[test]
    fn a_mount_that_does_not_cover_what_was_asked_for_is_not_learnt() {
        let mut mounts = Mounts::default();
        mounts.learn(
            None,
            "auth/secret/x",
            ("secret/".to_owned(), Engine::Other("jwt".to_owned())),
        );
        assert_eq!(mounts.classify(None, "secret/data/x"), None);
        mounts.learn(None, "secret/data/x", ("secret/".to_owned(), Engine::KvV2));
        assert!(mounts.classify(None, "secret/data/x").is_some());
    }

    #[test]
    fn a_mount_that_is_told_of_again_takes_the_place_of_what_was_told() {
        let mut mounts = Mounts::default();
        for engine in [Engine::KvV1, Engine::KvV2] {
            mounts.learn(None, "secret/data/x", ("secret/".to_owned(), engine));
            mounts.learn(Some("team"), "secret/data/x", ("secret/".to_owned(), Engine::KvV1));
        }
        assert_eq!(mounts.len(), 2);
        let place = Place { mount: "secret/".into(), secret: "x".into() };
        assert_eq!(place.metadata(), "secret/metadata/x");
        assert_eq!(mounts.classify(None, "secret/data/x"), Some(Classified::Secret(place)));
    }

    #[test]
    fn a_secret_is_in_a_folder_unless_it_is_spelt_oddly() {
        let place = |secret: &str| Place { mount: "secret/".into(), secret: secret.into() };
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

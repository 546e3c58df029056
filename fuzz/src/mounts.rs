//! The mounts that the server reports. Input: the requested path, and after the first newline the
//! body.

use std::time::Instant;

use serde_json::Value;
use vault_secrets_reloader::vault::answer::Answer;
use vault_secrets_reloader::vault::mounts::{Classified, Engine, Mounts};

use crate::input::{first_line, now};

/// Asserts the properties that hold for any answer.
pub fn check(data: &[u8]) {
    let (path, body) = first_line(data);
    let read = Mounts::read(&Answer::new(200, body.to_vec()), now());
    assert!(Mounts::read(&Answer::new(403, body.to_vec()), now()).is_err());
    let Ok((mount, engine)) = read else { return };
    assert!(mount.len() > 1 && mount.ends_with('/'), "{mount:?}");
    if let Ok(Value::Object(body)) = serde_json::from_slice(body) {
        let data = &body["data"];
        let is_kv2 = data["type"] == "kv" && data["options"]["version"] == "2";
        assert_eq!(engine == Engine::KvV2, is_kv2, "{data}");
    }
    if let Engine::Other(name) = &engine {
        assert!(name.len() <= 500);
    }

    let mut mounts = Mounts::default();
    for _ in 0..3 {
        mounts.learn(Some("team"), &path, (mount.clone(), engine.clone()), Instant::now());
    }
    // The server reports a mount of a child namespace by its path from the root.
    let within = mount.strip_prefix("team/").filter(|within| !within.is_empty());
    let is_within = |mount: &str| path.starts_with(mount) || mount == format!("{path}/");
    let mount = within.filter(|within| !is_within(&mount) && is_within(within)).unwrap_or(&mount);
    assert!(mounts.len() <= 1, "told thrice, kept once");
    assert_eq!(mounts.classify(None, &path), None, "another namespace");
    match mounts.classify(Some("team"), &path) {
        Some(Classified::Secret(place)) => {
            assert_eq!(engine, Engine::KvV2);
            assert_eq!(&*place.mount, mount);
            assert_eq!(path, format!("{mount}data/{}", place.secret));
            if let Some((folder, key)) = place.folder_and_key() {
                assert_eq!(*place.secret, format!("{folder}{key}"));
                assert!(!key.contains('/') && (folder.is_empty() || folder.ends_with('/')));
            }
        }
        Some(Classified::NoDataPrefix { correct }) => {
            assert_eq!(engine, Engine::KvV2);
            assert!(correct.starts_with(&format!("{mount}data/")));
        }
        Some(Classified::NotKvV2(other)) => assert!(other == engine && engine != Engine::KvV2),
        None => assert!(!path.starts_with(mount), "{path:?} is within {mount:?}"),
    }
}

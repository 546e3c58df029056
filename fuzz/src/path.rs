//! The properties of each path that is sent to Vault.

/// Asserts that a path is clean enough for a request to a server.
pub(crate) fn assert_is_clean(path: &str) {
    assert!(!path.is_empty() && path.len() <= 2048, "{} bytes", path.len());
    assert!(!path.chars().any(char::is_control), "{path:?}");
    assert!(!path.split('/').any(|segment| matches!(segment, "" | "." | "..")), "{path:?}");
    assert!(!path.contains('#'), "{path:?}");
}

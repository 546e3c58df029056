//! What must hold of each path that is sent to Vault.

/// A path as it may go to a server: see `core::reference`.
pub(crate) fn assert_is_clean(path: &str) {
    assert!(!path.is_empty() && path.len() <= 2048, "{} bytes", path.len());
    assert!(!path.chars().any(char::is_control), "{path:?}");
    assert!(!path.split('/').any(|segment| matches!(segment, "" | "." | "..")), "{path:?}");
    assert!(!path.contains('#'), "{path:?}");
}

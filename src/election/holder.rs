//! The identity of a holder of the Lease: `NAME_UUID`. In a cluster, the name is that of a pod.
//!
//! Architecture Invariant: the holder of a Lease is a text that others wrote. Only a text that can
//! be the name of a pod becomes a part of a request.

/// The longest name of a pod, in bytes.
const LONGEST_POD_NAME: usize = 253;

/// Returns the name of the pod that an identity names. `None` if the name cannot be that of a pod.
#[must_use]
pub fn pod(holder: &str) -> Option<&str> {
    let name = holder.rsplit_once('_').map_or(holder, |(name, _)| name);
    is_pod_name(name).then_some(name)
}

/// Whether a text can be the name of a pod.
fn is_pod_name(text: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label =
        |label: &str| !label.is_empty() && label.bytes().all(|byte| is_known(byte) || byte == b'-');
    text.len() <= LONGEST_POD_NAME && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_is_the_holder_without_its_uuid() {
        for (holder, expected) in [
            ("reloader-5d9c_0b7e3c2a-0000-4000-8000-000000000000", Some("reloader-5d9c")),
            ("reloader-5d9c", Some("reloader-5d9c")),
            ("node.example_x", Some("node.example")),
            ("", None),
            ("_x", None),
            ("../../secrets/a_x", None),
            ("a/b_x", None),
            ("a?b", None),
            ("Laptop_x", None),
        ] {
            assert_eq!(pod(holder), expected, "{holder}");
        }
        assert_eq!(pod(&"x".repeat(LONGEST_POD_NAME + 1)), None);
    }
}

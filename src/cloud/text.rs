//! The texts in the answers of clouds.

use super::proof::LONGEST_TEXT;

/// The longest error code that is shown, in bytes.
const LONGEST_CODE: usize = 64;

/// Whether a text has the form of an error code, such as `PERMISSION_DENIED`. Only codes of an error
/// are shown: its other texts may repeat a credential.
pub(crate) fn is_code(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=LONGEST_CODE).contains(&text.len()) && text.bytes().all(is_plain)
}

/// Returns a text without surrounding space if the text has the form of a signed JWT.
pub(crate) fn jwt(text: &str) -> Option<&str> {
    let text = text.trim();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(is_plain);
    let has_form =
        text.len() <= LONGEST_TEXT && text.split('.').count() == 3 && text.split('.').all(is_part);
    has_form.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jwt_has_three_parts_of_base64url() {
        assert_eq!(jwt("eyJh.eyJz.c2-_\n"), Some("eyJh.eyJz.c2-_"));
        let longest = format!("a.b.{}", "c".repeat(LONGEST_TEXT - 4));
        assert_eq!(jwt(&longest), Some(longest.as_str()));
        let longer = format!("{longest}c");
        for text in ["", "a.b", "a.b.", "a.b.c.d", "a b.c.d", "a.b=.c", "{\"a\":1}", &longer] {
            assert_eq!(jwt(text), None, "{text:.20}");
        }
    }

    #[test]
    fn a_code_is_one_short_word() {
        for text in ["PERMISSION_DENIED", "invalid_client", "AADSTS70021"] {
            assert!(is_code(text), "{text}");
        }
        for text in ["", "eyJh.eyJz.c2", "two words", "a\nb", &"x".repeat(LONGEST_CODE + 1)] {
            assert!(!is_code(text), "{text}");
        }
    }
}

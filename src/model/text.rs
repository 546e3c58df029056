//! Texts of servers and tenants. These may have any length, and are shortened for log lines.
//! Booleans are read as in Go.

/// The longest foreign text that is kept or logged, in bytes. An error of a server is a sentence or
/// two. A longer text would only fill memory and logs, once per secret.
const LONGEST: usize = 400;

/// Returns a text on one line, cut if it is too long.
#[must_use]
pub fn shorten(text: &str) -> String {
    let mut short = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if word.is_empty() {
            continue;
        }
        let gap = usize::from(!short.is_empty());
        let Some(room) = LONGEST.checked_sub(short.len() + gap) else {
            short.push('…');
            break;
        };
        if gap > 0 {
            short.push(' ');
        }
        if word.len() > room {
            short.push_str(&word[..word.floor_char_boundary(room)]);
            short.push('…');
            break;
        }
        short.push_str(word);
    }
    short
}

/// Reads a boolean as Go's `strconv.ParseBool` does. Returns `None` for any text that Go refuses.
#[must_use]
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_on_one_line_and_has_an_end() {
        assert_eq!(shorten("1 error occurred:\n\t* bad path\n\n"), "1 error occurred: * bad path");
        assert_eq!(shorten("a\u{0}\u{1b}b"), "a b");
        assert_eq!(shorten(""), "");
        for text in ["x".repeat(1 << 20), "ä ".repeat(1 << 20), "€".repeat(1 << 20)] {
            let short = shorten(&text);
            assert!(short.len() <= LONGEST + '…'.len_utf8(), "{} bytes", short.len());
            assert!(short.len() >= LONGEST - 4 && short.ends_with('…'), "{short}");
        }
        let full = "x".repeat(LONGEST);
        assert_eq!(shorten(&full), full);
        assert_eq!(shorten(&format!("{full} y")), format!("{full}…"));
    }
}

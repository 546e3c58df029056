//! The error texts of servers. Input: the status, and after the first newline the body.

use vault_secrets_reloader::model::text::shorten;
use vault_secrets_reloader::vault::answer::{failure_of, said};
use vault_secrets_reloader::vault::failure::Failure;

use crate::input::first_line;

/// Asserts the properties that hold for any answer.
pub fn check(data: &[u8]) {
    let (status, body) = first_line(data);
    assert_is_fit_for_a_log(&shorten(&String::from_utf8_lossy(body)));
    assert_is_fit_for_a_log(&said(body));
    let Ok(status) = status.trim().parse::<u16>() else { return };
    let failure = failure_of(status, body);
    assert_eq!(failure.is_none(), (200..300).contains(&status), "{status}");
    let Some(failure) = failure else { return };
    assert!(failure.to_string().len() <= 500);
    if failure == Failure::TokenEnded {
        assert_eq!(status, 403);
        let said = said(body);
        assert!(said == "permission denied" || said.contains("invalid token"), "{said:?}");
    }
}

fn assert_is_fit_for_a_log(text: &str) {
    assert!(text.len() <= 403, "{} bytes", text.len());
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert_eq!(text.trim(), text);
}

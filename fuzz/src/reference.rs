//! The references in a value. Input: the variable's name, and after the first newline its value.

use vault_secrets_reloader::model::annotation::Annotations;
use vault_secrets_reloader::model::scheme::Scheme;
use vault_secrets_reloader::references::environment::{Container, EnvVar};
use vault_secrets_reloader::references::extraction::{extract, read_value};
use vault_secrets_reloader::references::grammar::{Reading, may_hold_reference};
use vault_secrets_reloader::references::reason::Reason;
use vault_secrets_reloader::references::source::SourceState;
use vault_secrets_reloader::references::stored_reference::StoredReference;

use crate::input::first_line;
use crate::path::assert_is_clean;

/// Asserts the properties that hold for any value.
pub fn check(data: &[u8]) {
    let (variable, value) = first_line(data);
    let value = String::from_utf8_lossy(value).into_owned();
    let readings = read_value(&variable, &value);
    assert!(readings.is_empty() || may_hold_reference(&value));
    for reading in &readings {
        check_reading(reading);
    }
    // A value in a source has the same references.
    let kept = StoredReference::all_of(&value);
    let kept: Vec<_> = kept.iter().map(|kept| kept.reading_in(&variable)).collect();
    assert_eq!(kept, readings, "{variable}: {value:?}");
    check_that_text_around_does_not_matter(&variable, &value);
    check_extraction(variable, value, &readings);
}

fn check_reading(reading: &Reading) {
    let path = match reading {
        Reading::Watch(_, path) => path,
        Reading::WatchOdd(_, path, reason) => {
            assert!(reason.is_warning());
            path
        }
        Reading::Skip(reason) => {
            assert!(!reason.advice().is_empty());
            return;
        }
    };
    assert_is_clean(path);
    // A clean path stays as it is. Exceptions: the path now looks like a ciphertext, or it holds a
    // reference of the other injector, which is found too.
    let again = read_value("X", &format!("vault:{path}#k"));
    let transit = Reading::Skip(Reason::Transit);
    let watched = Reading::Watch(Scheme::Vault, path.clone());
    let odd = Reading::WatchOdd(Scheme::Vault, path.clone(), Reason::SpaceAroundPath);
    let same = |reading: &Reading| [&watched, &odd, &transit].contains(&reading);
    assert!(again.iter().any(same), "{path:?}: {again:?}");
}

/// Asserts that the value as the body of a reference is read the same alone and inline, with text
/// around it.
fn check_that_text_around_does_not_matter(variable: &str, body: &str) {
    if body.contains(['{', '}', '$', '\n']) {
        return;
    }
    for (scheme, text) in [("vault:", "vault:a#"), ("bao:", "bao:a#")] {
        let alone = read_value(variable, &format!("{scheme}{body}"));
        assert_eq!(alone.len(), 1, "{body:?}");
        for (before, behind) in [("", ""), ("x", "y"), (text, "#b"), ("\n>>", "\n${"), ("{", "#")] {
            let inline = read_value(variable, &format!("{before}${{{scheme}{body}}}{behind}"));
            assert_eq!(inline, alone, "{body:?} between {before:?} and {behind:?}");
        }
        let twice = read_value(variable, &format!("${{{scheme}{body}}}@${{{scheme}{body}}}"));
        assert_eq!(twice, [alone.clone(), alone].concat(), "{body:?}");
    }
}

fn check_extraction(variable: String, value: String, readings: &[Reading]) {
    let variables = vec![EnvVar::literal(variable, value.clone())];
    let containers = [Container { variables, ..Container::default() }];
    let unknown = |_: &_| SourceState::Unread;
    let annotations = Annotations::default();
    let found = extract(&annotations, &containers, unknown);
    assert!(found.paths.len() <= readings.len());
    let odd = readings.iter().filter(|reading| !matches!(reading, Reading::Watch(..))).count();
    assert_eq!(found.notes.len(), odd);

    let list = "secrets-webhook.security.bank-vaults.io/vault-from-path";
    let annotations: Annotations = [(list, value.clone())].into_iter().collect();
    let listed = extract(&annotations, &[], unknown);
    listed.paths.iter().for_each(|(.., path)| assert_is_clean(path));
    assert!(listed.paths.len() <= value.split(',').count());
    assert!(listed.notes.len() <= value.split(',').count());

    let provider = "secrets-webhook.security.bank-vaults.io/provider";
    let other: Annotations = [(list, value), (provider, "aws".to_owned())].into_iter().collect();
    assert!(extract(&other, &containers, unknown).paths.is_empty());
}

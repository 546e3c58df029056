//! The configuration of the namespaces that are watched.

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::Args;

use super::error::{ConfigError, error};
use super::status::StatusApi;
use crate::model::scope::{MOST_NAMESPACES, WatchScope};
use crate::rollouts::injector::{InjectorCheck, InjectorSettings};

const NAMES: &str = "--watch-namespaces";
const SELECTOR: &str = "--namespace-selector";

/// The longest selector, in bytes. It is part of the URL of each list and watch of Namespaces.
const LONGEST_SELECTOR: usize = 1024;

/// The longest name of a namespace, the longest value of a label, and the longest name in the key of
/// a label, by the rules of the API server.
const LONGEST_NAME: usize = 63;

/// The longest prefix of the key of a label.
const LONGEST_PREFIX: usize = 253;

// The flags. A doc comment would become the text of --help of the program.
#[derive(Debug, Args)]
pub(super) struct ScopeFlags {
    /// Watch only these namespaces: at most 100 names with commas between them. The service account then
    /// needs no right in the whole cluster
    #[arg(long, value_name = "NAMES")]
    watch_namespaces: Option<String>,
    /// Watch only the namespaces whose labels match this selector, as in `team=payments` or
    /// `team in (payments, shop)`. The syntax is that of label selectors in kubectl
    #[arg(long, value_name = "SELECTOR")]
    namespace_selector: Option<String>,
}

impl ScopeFlags {
    /// Returns which namespaces are watched. Refuses settings that need rights in the whole cluster
    /// if only named namespaces are watched.
    pub(super) fn scope(
        &self,
        injector: &InjectorSettings,
        status: Option<&StatusApi>,
    ) -> Result<WatchScope, ConfigError> {
        let scope = match (&self.watch_namespaces, &self.namespace_selector) {
            (None, None) => return Ok(WatchScope::All),
            (Some(_), Some(selector)) => {
                let problem = "does not go with --watch-namespaces, since the labels of namespaces can \
                               only be read with rights in the whole cluster; leave out one of the two";
                return Err(error(SELECTOR, selector, problem));
            }
            (Some(text), None) => names(text)?,
            (None, Some(text)) => return selector(text),
        };
        if injector.check == InjectorCheck::Required {
            let problem = "needs the right to watch MutatingWebhookConfigurations, which no Role can \
                           grant; leave it out, write off, or leave out --watch-namespaces";
            return Err(error("--injector-check", "required", problem));
        }
        if status.is_some_and(|status| status.audience.is_some()) {
            let problem = "needs the right to create TokenReviews and SubjectAccessReviews, which no \
                           Role can grant; use --status-token-file instead, or leave out \
                           --watch-namespaces";
            return Err(error("--status-kubernetes-auth", "true", problem));
        }
        Ok(scope)
    }
}

/// Reads a list of names.
fn names(text: &str) -> Result<WatchScope, ConfigError> {
    let names: BTreeSet<&str> = text.split(',').map(str::trim).collect();
    if !names.iter().all(|name| is_lower_name(name)) {
        let problem = "not a list of namespaces; write names with commas between them, or leave the \
                       flag out to watch all namespaces";
        return Err(error(NAMES, text, problem));
    }
    if names.len() > MOST_NAMESPACES {
        let problem = format!(
            "must not have more than {MOST_NAMESPACES} names, since each namespace takes up to five \
             connections to the API server; label the namespaces and use {SELECTOR} instead"
        );
        return Err(error(NAMES, text, &problem));
    }
    Ok(WatchScope::Named(names.into_iter().map(Arc::from).collect()))
}

/// Reads a label selector. The API server evaluates it, so that only its form is checked.
fn selector(text: &str) -> Result<WatchScope, ConfigError> {
    let text = text.trim();
    let is_selector = text.len() <= LONGEST_SELECTOR
        && requirements(text).is_some_and(|all| all.into_iter().all(is_requirement));
    if !is_selector {
        let problem = "not a label selector; write team=payments, `team in (payments, shop)` or \
                       another selector of kubectl, of at most 1024 bytes";
        return Err(error(SELECTOR, text, problem));
    }
    Ok(WatchScope::Selected(text.into()))
}

/// Splits a selector at the commas outside of parentheses. Returns `None` if the parentheses do not
/// match.
fn requirements(text: &str) -> Option<Vec<&str>> {
    let (mut parts, mut rest, mut is_inside) = (Vec::new(), text, false);
    let mut from = 0;
    while let Some(offset) = rest.get(from..)?.find([',', '(', ')']) {
        let place = from + offset;
        from = place + 1;
        match rest.as_bytes().get(place)? {
            b'(' if !is_inside => is_inside = true,
            b')' if is_inside => is_inside = false,
            b',' if is_inside => {}
            b',' => {
                parts.push(rest.get(..place)?);
                rest = rest.get(from..)?;
                from = 0;
            }
            _ => return None,
        }
    }
    parts.push(rest);
    (!is_inside).then_some(parts)
}

/// Whether a text is a requirement on one label.
fn is_requirement(text: &str) -> bool {
    let text = text.trim();
    if let Some(key) = text.strip_prefix('!') {
        return is_key(key.trim());
    }
    if let Some((key, value)) = ["!=", "==", "="].into_iter().find_map(|sign| text.split_once(sign))
    {
        return is_key(key.trim()) && is_value(value.trim());
    }
    let Some((start, list)) = text.split_once('(') else { return is_key(text) };
    let mut words = start.split_whitespace();
    let (key, operator) = (words.next(), words.next());
    key.is_some_and(is_key)
        && matches!(operator, Some("in" | "notin"))
        && words.next().is_none()
        && list
            .strip_suffix(')')
            .is_some_and(|list| list.split(',').all(|value| is_value(value.trim())))
}

/// Whether a text is the key of a label.
fn is_key(text: &str) -> bool {
    let Some((prefix, name)) = text.split_once('/') else { return is_name(text) };
    let is_prefix = prefix.len() <= LONGEST_PREFIX && prefix.split('.').all(is_lower_name);
    is_prefix && is_name(name)
}

/// Whether a text is the value of a label. It may be empty.
fn is_value(text: &str) -> bool {
    text.is_empty() || is_name(text)
}

fn is_name(text: &str) -> bool {
    is_name_of(text, |c: char| c.is_ascii_alphanumeric(), |c: char| matches!(c, '-' | '_' | '.'))
}

/// Whether a text can be the name of a namespace, or a part of the prefix of a key.
fn is_lower_name(text: &str) -> bool {
    is_name_of(text, |c: char| c.is_ascii_lowercase() || c.is_ascii_digit(), |c: char| c == '-')
}

/// Whether a text is a name that begins and ends with one kind of characters, and also has another
/// kind in between.
fn is_name_of(text: &str, is_plain: fn(char) -> bool, is_inner: fn(char) -> bool) -> bool {
    (1..=LONGEST_NAME).contains(&text.len())
        && text.starts_with(is_plain)
        && text.ends_with(is_plain)
        && text.chars().all(|c| is_plain(c) || is_inner(c))
}

#[cfg(test)]
mod tests {
    use super::super::value::Listen;
    use super::*;

    #[test]
    fn named_namespaces_go_with_no_setting_that_needs_rights_in_the_whole_cluster() {
        let text = |text: &str| Some(text.to_owned());
        let flags =
            |names, selector| ScopeFlags { watch_namespaces: names, namespace_selector: selector };
        let of = |check| InjectorSettings { check, ..InjectorSettings::default() };
        let with_auth = |audience| StatusApi {
            listen: Listen { host: None, port: 9180 },
            is_default: false,
            is_loopback: false,
            token_file: None,
            audience,
            page: false,
        };
        let (auto, required) = (of(InjectorCheck::Auto), of(InjectorCheck::Required));
        let (asks, does_not) = (with_auth(text("reloader")), with_auth(None));
        let everywhere = [flags(None, None), flags(None, text("team=payments"))];
        let expected = [WatchScope::All, WatchScope::Selected("team=payments".into())];
        for (flags, expected) in everywhere.iter().zip(expected) {
            assert_eq!(flags.scope(&required, Some(&asks)), Ok(expected));
        }
        let named = flags(text("shop"), None);
        for status in [None, Some(&does_not)] {
            assert!(named.scope(&auto, status).is_ok_and(|scope| scope.is_named()));
        }
        for (flags, injector, status, remedy) in [
            (&flags(text("shop"), text("team=a")), &auto, None, "leave out one of the two"),
            (&named, &required, None, "write off"),
            (&named, &auto, Some(&asks), "use --status-token-file instead"),
        ] {
            let refusal = flags.scope(injector, status).unwrap_err().to_string();
            assert!(refusal.contains(remedy), "{refusal}");
        }
    }

    #[test]
    fn names_are_sorted_and_each_is_watched_once() {
        let scope = names("shop, bank,shop").unwrap();
        assert_eq!(scope.names().iter().map(|name| &**name).collect::<Vec<_>>(), ["bank", "shop"]);
        for text in ["", ",", "shop,", "Shop", "a.b", "-a", "a-", "team=a", &"a".repeat(64)] {
            let refusal = names(text).unwrap_err().to_string();
            assert!(refusal.contains("--watch-namespaces="), "{refusal}");
        }
        let many = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        assert_eq!(names(&many(MOST_NAMESPACES)).unwrap().names().len(), MOST_NAMESPACES);
        let refusal = names(&many(MOST_NAMESPACES + 1)).unwrap_err().to_string();
        assert!(refusal.contains("--namespace-selector"), "{refusal}");
    }

    #[test]
    fn a_selector_has_the_form_that_kubectl_takes() {
        for text in [
            "team=payments",
            "team==payments",
            "team != payments",
            "team",
            "!team",
            "! team",
            "team=",
            "team in (payments, shop)",
            "team in (a),tier notin (b, c),example.com/on=true,!off",
            "kubernetes.io/metadata.name=shop",
        ] {
            assert_eq!(selector(text), Ok(WatchScope::Selected(text.into())), "{text}");
        }
        for text in [
            "",
            ",",
            "team=a,",
            "=a",
            "team=a b",
            "team in payments",
            "team in (a",
            "team in a)",
            "team in ((a))",
            "team (a)",
            "team in (a) b",
            "team like (a)",
            "Example.com/on=a",
            "a/b/c=d",
            "!",
            "-team=a",
            "team=a&limit=1",
            &"a".repeat(LONGEST_SELECTOR + 1),
        ] {
            assert!(selector(text).is_err(), "{text}");
        }
    }
}

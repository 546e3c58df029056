//! How one value is read: the references in it, part by part.
//!
//! ```text
//! value   = 1*( text | inline )                   where it holds an inline reference
//!         | ref                                   from its first byte to its last
//!         | literal
//! inline  = "${" [ ">" [ ">" ] ] scheme body "}"  up to the first "}" on its line, and one more "}"
//!                                                 where two stand together
//! ref     = [ ">>" ] scheme body                  case-sensitive, nothing trimmed
//! scheme  = "vault:" | "bao:"
//! body    = "login"                               only in VAULT_TOKEN, or BAO_TOKEN
//!         | "v" 1*DIGIT ":" 1*CHAR                after "vault:", on one line: a ciphertext
//!         | path "#" key [ "#" version ]          split at "#" into at most three parts
//! version = an integer as Go reads one; none, zero and below mean the latest
//! ```
//!
//! Each scheme has an injector of its own, which sees only its own references: a value is read once
//! for each. What stands between the braces is read as a value again, so an inline reference can hold
//! another one, which is then resolved in its place; deeper it does not go, since what is between the
//! braces has one closing brace at most.
//!
//! Architecture Invariant: reading a value takes time in proportion to its length, whatever it holds,
//! and a value that holds no scheme is not copied and costs one search.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use crate::model::scheme::Scheme;
use crate::references::reason::Reason;

/// The longest path that is watched, in bytes. No storage of Vault keeps a longer one, and it must
/// fit into the request line of any proxy, where a byte can take three.
pub(super) const LONGEST_PATH: usize = 2048;

/// Matches an inline reference of a scheme, up to the first brace that can end it; `}?` lets one more
/// brace, the end of a template, belong to it.
fn inline(scheme: Scheme) -> &'static Regex {
    #[expect(clippy::unwrap_used, reason = "constant patterns, compiled by every test here")]
    fn pattern(scheme: Scheme) -> Regex {
        Regex::new(&format!(r"\$\{{>{{0,2}}{}.*?\}}?\}}", scheme.prefix())).unwrap()
    }
    static VAULT: LazyLock<Regex> = LazyLock::new(|| pattern(Scheme::Vault));
    static BAO: LazyLock<Regex> = LazyLock::new(|| pattern(Scheme::Bao));
    match scheme {
        Scheme::Vault => &VAULT,
        Scheme::Bao => &BAO,
    }
}

/// One reference in a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference<'a> {
    /// Whose it is.
    pub scheme: Scheme,
    /// The bytes of the value that it replaces, with `${` and `}` where it is inline.
    pub span: Range<usize>,
    /// Whether it stands within the value, instead of being all of it.
    pub is_inline: bool,
    /// What it is.
    pub form: Form<'a>,
}

/// What a reference is, by its form alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form<'a> {
    /// `path#key`, with a version or without.
    Read {
        /// An API path, as it was written.
        path: &'a str,
        /// A key of the secret, or a template over its keys.
        key: &'a str,
        /// What stands behind a second `#`.
        version: Option<&'a str>,
    },
    /// `>>path#key`, which writes to the path and takes the answer.
    Write,
    /// A ciphertext of the transit engine.
    Transit,
    /// The pod's own token.
    Login,
    /// Without a key.
    NoKey,
    /// Inline with one arrow, which stays as it is.
    SingleArrow,
    /// Inline around another one, which is resolved, while this one stays as it is.
    Around,
}

/// What is done about a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Its latest version is used: watch this path, where this injector looks for it.
    Watch(Scheme, String),
    /// Watch this path, though the reference looks like a mistake.
    WatchOdd(Scheme, String, Reason),
    /// It is not watched.
    Skip(Reason),
}

/// Positions that are looked at together: the compiler makes a few vector instructions of a block.
const BLOCK: usize = 16;

/// Whether a value can hold a reference at all.
///
/// This is the cheap test that lets a decoder drop nearly every value at once. It looks for `t:` and
/// `o:`, the ends of both schemes, and then for a scheme before the colon.
#[must_use]
pub fn may_hold_reference(value: &str) -> bool {
    let value = value.as_bytes();
    let is_scheme = |colon: usize| {
        value[colon] == b':'
            && matches!(value[..colon], [.., b'v', b'a', b'u', b'l', b't'] | [.., b'b', b'a', b'o'])
    };
    let Some(last) = value.len().checked_sub(BLOCK + 1) else {
        return (1..value.len()).any(is_scheme);
    };
    let holds_scheme = |start: usize| (start + 1..=start + BLOCK).any(is_scheme);
    let mut start = 0;
    while start < last {
        if value[start..].first_chunk().is_some_and(holds_end) && holds_scheme(start) {
            return true;
        }
        start += BLOCK;
    }
    // The last one overlaps the one before.
    value.last_chunk().is_some_and(holds_end) && holds_scheme(last)
}

/// Whether `t:` or `o:` is in a block and the byte before it. It looks at all of them, without a
/// branch.
#[inline]
#[expect(
    clippy::needless_bitwise_bool,
    reason = "without a branch, a block is a few vector instructions"
)]
fn holds_end(block: &[u8; BLOCK + 1]) -> bool {
    let is_end = |pair: &[u8]| (pair[1] == b':') & ((pair[0] == b't') | (pair[0] == b'o'));
    block.windows(2).fold(false, |any, pair| any | is_end(pair))
}

/// Finds the references in one value, in order; a literal has none.
///
/// `variable` is the name of the variable that holds the value: one form counts only in
/// `VAULT_TOKEN` and `BAO_TOKEN`.
#[must_use]
pub fn parse<'a>(variable: &str, value: &'a str) -> Vec<Reference<'a>> {
    let mut found = Vec::new();
    if !may_hold_reference(value) {
        return found;
    }
    for scheme in Scheme::ALL.into_iter().filter(|scheme| value.contains(scheme.prefix())) {
        let before = found.len();
        for inline in inline(scheme).find_iter(value) {
            between_braces(scheme, variable, value, inline.range(), &mut found);
        }
        if found.len() == before {
            let form = form(scheme, variable, value);
            let span = 0..value.len();
            found.extend(form.map(|form| Reference { scheme, span, is_inline: false, form }));
        }
    }
    found.sort_by_key(|reference| reference.span.start);
    found
}

/// Reads an inline reference: it, or that it is around another one, and that.
fn between_braces<'a>(
    scheme: Scheme,
    variable: &str,
    value: &'a str,
    span: Range<usize>,
    found: &mut Vec<Reference<'a>>,
) {
    let between = &value[span.start + "${".len()..span.end - "}".len()];
    let inner = between.contains("${").then(|| inline(scheme).find(between)).flatten();
    let form = match inner {
        Some(_) => Form::Around,
        None => inline_form(scheme, variable, between),
    };
    let start = span.start + "${".len();
    found.push(Reference { scheme, span, is_inline: true, form });
    if let Some(inner) = inner {
        let form =
            inline_form(scheme, variable, &inner.as_str()["${".len()..inner.len() - "}".len()]);
        let span = start + inner.start()..start + inner.end();
        found.push(Reference { scheme, span, is_inline: true, form });
    }
}

fn inline_form<'a>(scheme: Scheme, variable: &str, between: &'a str) -> Form<'a> {
    // The pattern lets one arrow pass, and no injector then knows what to do.
    form(scheme, variable, between).unwrap_or(Form::SingleArrow)
}

/// The form of `[ ">>" ] scheme body`; `None` is a literal.
fn form<'a>(scheme: Scheme, variable: &str, reference: &'a str) -> Option<Form<'a>> {
    let (reference, is_write) = match reference.strip_prefix(">>") {
        Some(rest) => (rest, true),
        None => (reference, false),
    };
    let body = reference.strip_prefix(scheme.prefix())?;
    if body == "login" && variable == scheme.token_variable() {
        return Some(Form::Login);
    }
    if scheme == Scheme::Vault && is_transit(body) {
        return Some(Form::Transit);
    }
    let mut parts = body.splitn(3, '#');
    let (path, Some(key)) = (parts.next().unwrap_or_default(), parts.next()) else {
        return Some(Form::NoKey);
    };
    Some(if is_write { Form::Write } else { Form::Read { path, key, version: parts.next() } })
}

/// `v1:…` on one line, the form of a ciphertext of the transit engine.
fn is_transit(body: &str) -> bool {
    let Some((version, text)) = body.strip_prefix('v').and_then(|rest| rest.split_once(':')) else {
        return false;
    };
    !version.is_empty()
        && version.bytes().all(|byte| byte.is_ascii_digit())
        && !text.is_empty()
        && !text.contains('\n')
}

impl Reference<'_> {
    /// What is done about it, where some variables in the value are not known and stand as `$(NAME)`.
    #[must_use]
    pub fn read_partly(&self) -> Reading {
        match self.form {
            Form::Read { path, version, .. }
                if holds_expansion(path) || version.is_some_and(holds_expansion) =>
            {
                Reading::Skip(Reason::Expansion)
            }
            _ => self.read(),
        }
    }

    /// What is done about it.
    #[must_use]
    pub fn read(&self) -> Reading {
        let (path, key, version) = match self.form {
            Form::Read { path, key, version } => (path, key, version.unwrap_or_default()),
            Form::Write => return Reading::Skip(Reason::Write),
            Form::Transit => return Reading::Skip(Reason::Transit),
            Form::Login => return Reading::Skip(Reason::Login),
            Form::NoKey => return Reading::Skip(Reason::NoKey),
            Form::SingleArrow => return Reading::Skip(Reason::SingleArrow),
            Form::Around => return Reading::Skip(Reason::Nested),
        };
        match (read_latest(self.scheme, path, version), self.oddity(key)) {
            (Reading::Watch(scheme, path), Some(reason)) => Reading::WatchOdd(scheme, path, reason),
            (reading, _) => reading,
        }
    }

    /// What looks like a mistake in the key.
    fn oddity(&self, key: &str) -> Option<Reason> {
        match (key.contains("${"), key.contains('}')) {
            _ if key.is_empty() => Some(Reason::NoKey),
            _ if !self.is_inline => None,
            (false, true) => Some(Reason::BraceInKey),
            (true, false) => Some(Reason::TemplateCut),
            _ => None,
        }
    }

    /// The shortest spelling of what is read, as a value of its own; `None` where nothing is.
    ///
    /// It is read as the same path, key and version again.
    #[must_use]
    pub fn canonical(&self) -> Option<String> {
        let Form::Read { path, key, version } = self.form else {
            return None;
        };
        let path = clean_path(path).ok()?;
        let pinned = match version_number(version.unwrap_or_default()) {
            Some(number) if number > 0 => format!("#{number}"),
            Some(_) => String::new(),
            None => return None,
        };
        let body = format!("{path}#{key}{pinned}");
        // A path can look like a ciphertext, and then only a slash tells.
        let slash = if self.scheme == Scheme::Vault && is_transit(&body) { "/" } else { "" };
        Some(format!("{}{slash}{body}", self.scheme.prefix()))
    }
}

/// Reads a path with the version behind it.
pub(super) fn read_latest(scheme: Scheme, path: &str, version: &str) -> Reading {
    match version_number(version) {
        Some(number) if number > 0 => return Reading::Skip(Reason::Pinned),
        Some(_) => {}
        None => return Reading::Skip(Reason::BadVersion),
    }
    match clean_path(path) {
        Ok(path) if path.trim() != path => Reading::WatchOdd(scheme, path, Reason::SpaceAroundPath),
        Ok(path) => Reading::Watch(scheme, path),
        Err(reason) => Reading::Skip(reason),
    }
}

/// The number that the server makes of a version: an integer with a sign, a base and underscores as
/// Go's literals have them. An empty text is zero.
fn version_number(version: &str) -> Option<i64> {
    if version.is_empty() {
        return Some(0);
    }
    let (is_negative, digits) = match version.as_bytes()[0] {
        b'-' => (true, &version[1..]),
        b'+' => (false, &version[1..]),
        _ => (false, version),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &*lower),
    };
    // An underscore stands between two digits, or behind the base.
    if digits.contains("__") || digits.ends_with('_') || (digits.starts_with('_') && base == 10) {
        return None;
    }
    let digits = digits.replace('_', "");
    if digits.is_empty() || digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = i128::from_str_radix(&digits, base).ok()?;
    i64::try_from(if is_negative { -magnitude } else { magnitude }).ok()
}

/// `$(NAME)`, a variable that is not known.
fn holds_expansion(path: &str) -> bool {
    path.split_once("$(").is_some_and(|(_, rest)| rest.contains(')'))
}

/// Cleans a path as the injectors' client library does before it asks: empty segments and `.` are
/// dropped, `..` takes one segment away.
fn clean_path(path: &str) -> Result<String, Reason> {
    if path.len() > LONGEST_PATH || path.chars().any(char::is_control) {
        return Err(Reason::BadPath);
    }
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop().ok_or(Reason::BadPath)?;
            }
            name => segments.push(name),
        }
    }
    if segments.is_empty() { Err(Reason::NoPath) } else { Ok(segments.join("/")) }
}

#[cfg(test)]
mod tests;

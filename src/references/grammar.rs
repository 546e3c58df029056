//! Reads one value: finds the references in it, part by part.
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
//! Each scheme has its own injector, which sees only its own references. So a value is read once
//! per scheme. The text between the braces is read as a value again. An inline reference can
//! therefore hold another reference, which is resolved in its place. The nesting ends there, since
//! the text between the braces has at most one closing brace.
//!
//! Architecture Invariant: reading a value takes time in proportion to its length, whatever the
//! value is. A value without a scheme is not copied, and costs one search.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use crate::model::scheme::Scheme;
use crate::references::reason::Reason;

/// The longest path that is watched, in bytes. No storage of Vault keeps a longer path. The path
/// must fit into the request line of any proxy, where a byte can take three.
pub(super) const LONGEST_PATH: usize = 2048;

/// Matches an inline reference of a scheme, up to the first brace that can end it. `}?` includes
/// one more brace, the end of a template.
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
    /// The scheme of the reference.
    pub scheme: Scheme,
    /// The bytes of the value that the reference replaces. Includes `${` and `}` of an inline
    /// reference.
    pub span: Range<usize>,
    /// Whether the reference is a part of the value, and not all of it.
    pub is_inline: bool,
    /// The form of the reference.
    pub form: Form<'a>,
}

/// The form of a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form<'a> {
    /// `path#key`, with a version or without.
    Read {
        /// An API path, as written.
        path: &'a str,
        /// A key of the secret, or a template over its keys.
        key: &'a str,
        /// The text after a second `#`.
        version: Option<&'a str>,
    },
    /// `>>path#key`: writes to the path and uses the answer.
    Write,
    /// A ciphertext of the transit engine.
    Transit,
    /// The pod's own token.
    Login,
    /// A reference without a key.
    NoKey,
    /// An inline reference with one arrow, which is not resolved.
    SingleArrow,
    /// An inline reference around another one. The inner one is resolved, and the outer one is not.
    Around,
}

/// The decision about a reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Watch this path for this injector: the latest version is used.
    Watch(Scheme, String),
    /// Watch this path, although the reference looks like a mistake.
    WatchOdd(Scheme, String, Reason),
    /// Do not watch the reference.
    Skip(Reason),
}

/// The length of a block of positions. The compiler turns a block into a few vector instructions.
const BLOCK: usize = 16;

/// Whether a value can hold a reference at all.
///
/// A decoder drops nearly every value by this cheap test. The test looks for `t:` and `o:`, the
/// ends of both schemes, and then for a scheme before the colon.
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
    // The last block overlaps the one before.
    value.last_chunk().is_some_and(holds_end) && holds_scheme(last)
}

/// Whether a block, with the byte before it, holds `t:` or `o:`. All bytes are checked without a
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

/// Finds the references in one value, in order. A literal has none.
///
/// `variable` is the name of the variable with the value: the form `login` counts only in
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

/// Reads an inline reference. If it holds another one, both are added.
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
    // The pattern accepts one arrow, which no injector resolves.
    form(scheme, variable, between).unwrap_or(Form::SingleArrow)
}

/// Returns the form of `[ ">>" ] scheme body`. `None` means a literal.
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

/// Whether the text is `v1:…` on one line, the form of a ciphertext of the transit engine.
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
    /// As [`Self::read`], for a value with unknown variables, which stay as `$(NAME)`.
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

    /// Decides about the reference.
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

    /// Returns the reason why the key looks like a mistake.
    fn oddity(&self, key: &str) -> Option<Reason> {
        match (key.contains("${"), key.contains('}')) {
            _ if key.is_empty() => Some(Reason::NoKey),
            _ if !self.is_inline => None,
            (false, true) => Some(Reason::BraceInKey),
            (true, false) => Some(Reason::TemplateCut),
            _ => None,
        }
    }

    /// Returns the shortest spelling of a reference that is read, as a value of its own. Returns
    /// `None` for other forms.
    ///
    /// Reading that value gives the same path, key and version.
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
        // A path can look like a ciphertext. Then only a slash makes the difference.
        let slash = if self.scheme == Scheme::Vault && is_transit(&body) { "/" } else { "" };
        Some(format!("{}{slash}{body}", self.scheme.prefix()))
    }
}

/// Reads a path with its version.
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

/// Returns the number that the server reads from a version: an integer with a sign, a base and
/// underscores like Go's literals. An empty text is zero.
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
    // An underscore must stand between two digits, or after the base.
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

/// Whether a path holds `$(NAME)`, an unknown variable.
fn holds_expansion(path: &str) -> bool {
    path.split_once("$(").is_some_and(|(_, rest)| rest.contains(')'))
}

/// Cleans a path like the injectors' client library: empty segments and `.` are dropped, and `..`
/// removes the segment before it.
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

//! The fields of a login that prove an identity.

use serde_json::{Map, Value};

/// The longest text of a cloud that becomes part of a login, in bytes.
pub(crate) const LONGEST_TEXT: usize = 64 << 10;

/// The fields of a login that prove the identity, without the role. They are secret.
pub(crate) struct Proof(pub(crate) Map<String, Value>);

/// Puts the fields of a proof together.
pub(crate) fn proof(fields: impl IntoIterator<Item = (&'static str, String)>) -> Proof {
    let fields = fields.into_iter().map(|(name, text)| (name.to_owned(), Value::String(text)));
    Proof(fields.collect())
}

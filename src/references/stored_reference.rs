//! The stored form of references in the values of a source.

use crate::model::scheme::Scheme;
use crate::references::grammar::{self, Reading};
use crate::references::reason::Reason;

/// The stored form of one reference in the value of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredReference {
    reading: Reading,
    /// The variable in which the reference is the pod's own token.
    login_in: Option<&'static str>,
}

impl StoredReference {
    /// Returns all references of a value.
    #[must_use]
    pub fn all_of(value: &str) -> Box<[Self]> {
        let mut kept: Box<[Self]> = grammar::parse("", value)
            .iter()
            .map(|reference| Self { reading: reference.read(), login_in: None })
            .collect();
        for variable in Scheme::ALL.map(Scheme::token_variable) {
            // The variable changes only the form of a reference, not the places of references.
            let references =
                if kept.is_empty() { Vec::new() } else { grammar::parse(variable, value) };
            for (kept, reference) in kept.iter_mut().zip(references) {
                if reference.form == grammar::Form::Login {
                    kept.login_in = Some(variable);
                }
            }
        }
        kept
    }

    /// Decides about the reference in a variable.
    #[must_use]
    pub fn reading_in(&self, variable: &str) -> Reading {
        if self.login_in == Some(variable) {
            return Reading::Skip(Reason::Login);
        }
        self.reading.clone()
    }
}

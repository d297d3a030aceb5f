//! Refusals that point: where in the text, what is not possible, what can be written instead.

use sqlparser::tokenizer::Location;
use std::fmt;

/// Why a question is not asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError {
    /// Line and column, from 1; absent where the text has no one place for it.
    pub at: Option<(u64, u64)>,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub instead: String,
}

impl SqlError {
    /// At no place in particular.
    pub fn new(what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self {
            at: None,
            what: what.into(),
            instead: instead.into(),
        }
    }

    /// At a place; line 0 means that the parser did not keep it.
    pub fn at(place: Location, what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self {
            at: (place.line > 0).then_some((place.line, place.column)),
            ..Self::new(what, instead)
        }
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match self.at {
            Some((1, column)) => write!(f, " (at character {column})"),
            Some((line, column)) => write!(f, " (line {line}, character {column})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for SqlError {}

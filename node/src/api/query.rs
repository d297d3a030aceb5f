//! Questions in SQL over what the mesh says of itself, and honest answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A question. What may be asked: docs/query.md.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryRequest {
    /// One SELECT, or EXPLAIN and one SELECT.
    pub sql: String,
    /// Answer within this, milliseconds, 10 to 10000; `null`: 500.
    #[serde(default)]
    pub within_ms: Option<u64>,
    /// Go on, and send a line for every change of the answer until the connection ends.
    #[serde(default)]
    pub follow: bool,
}

/// An answer, and how far it can be relied on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct QueryView {
    /// Names of the columns, as the question names them.
    pub columns: Vec<String>,
    /// Rows: a list of cells each, in the order of `columns`; a cell is text, a number or `null`.
    pub rows: Vec<Vec<serde_json::Value>>,
    /// Nothing that exists is known to be missing.
    pub complete: bool,
    /// Nodes asked, this one included.
    pub asked: u32,
    /// Of those, answered in time.
    pub answered: u32,
    /// Share of what exists that the answer is made from, 0 to 1, as far as anybody knows.
    pub coverage: f64,
    /// Adverts that exist under the keys of the question, as the best informed reckon; 0 where it names none.
    pub estimated_total: u64,
    /// Age of the oldest word that was used, milliseconds; `null` where none was.
    pub oldest_age_ms: Option<u64>,
    /// Time was up before the rows were joined and sorted: those that were ready are here.
    pub deadline_hit: bool,
    /// Rows that had no room, of what was loaded or of the answer, at least.
    pub rows_dropped: u64,
    /// It counts or sums, and not everything is there: its numbers are about right at best.
    pub approximate: bool,
    /// From the question to the answer, milliseconds.
    pub elapsed_ms: u64,
}

/// What changed in an answer that is followed. The first line has every row as `added`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeLine {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows that were not there before.
    pub added: Vec<Vec<serde_json::Value>>,
    /// Rows that are no longer there; a row that changed is in both.
    pub removed: Vec<Vec<serde_json::Value>>,
    /// Nothing that exists is known to be missing.
    pub complete: bool,
    /// Since the question, milliseconds.
    pub at_ms: u64,
}

//! Questions in SQL: one SELECT over the tables of [`schema`], checked here, answered by SQLite in [`crate::io::sql`].
//!
//! [`parse`] takes the text apart and allows only what is listed; what is left says which tables are needed and which
//! predicates every row must meet ([`Need`]). Of those, [`pushdown::ask`] makes typed questions to the index, so that no
//! peer ever sees SQL, and [`rows::load`] keeps rows that cannot matter out of the engine. Paper: §3.2.

mod check;
mod error;
mod expr;
pub mod plan;
pub mod pushdown;
pub mod rows;
pub mod schema;

pub use check::{Need, Question, parse};
pub use error::SqlError;

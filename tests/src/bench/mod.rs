//! What the benchmark of the tunnel makes of what it measured: medians, ratios, verdicts, pages.
//!
//! What it does not do: it measures nothing, [`crate::io::bench`] does.

pub mod goals;
pub mod metrics;
pub mod parse;
pub mod paths;
pub mod report;

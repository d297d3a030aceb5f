//! Tables and plots of what was measured, as text: every benchmark writes its page under `docs/bench/` with these.

pub mod svg;
pub mod table;

//! What `cargo xtask check` holds a tree to: arrows, file sizes, citations of the paper. Each gives complaints in words.

pub mod arrows;
pub mod paper;
pub mod sizes;

//! Tests over several files of this crate; what one file promises is tested in that file.

pub(crate) mod build;
mod fdb;
mod fuzz;
mod guard;
mod hostile;
mod mactrans;
mod model;
mod path;
mod peek;
mod policy;
mod quiet;
pub(crate) mod segments;
mod sums;
mod switch;
mod travel;

//! Tests over several files of this crate; what one file promises is tested in that file.

mod build;
mod fdb;
mod hostile;
mod peek;
mod policy;
mod segments;
mod switch;
mod travel;

//! A network interface that carries this machine's own addresses is put into a bridge, and taken out again.
//!
//! This half is pure: what the kernel's messages say ([`attr`], [`holdings`]), which steps lead from the plain layout to the
//! bridged one and back ([`plan`]), and what is written down before the first of them ([`journal`]). `io::attach` asks the
//! kernel and does the steps.
//!
//! Both directions are goals, not inverses: each step is harmless where it was done already, so the way back is the same
//! after any part of the way there, and after a crash in the middle of a step.

pub mod attr;
pub mod holdings;
pub mod journal;
pub mod plan;

#[cfg(test)]
mod tests;

//! (owner fills)

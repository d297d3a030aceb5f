//! Whole meshes in virtual time over a pretended network, and each rule with the input that breaks it.

mod cells;
mod hostile;
mod idle;
mod index;
mod mesh;
mod placer;
mod rejoin;
mod replicas;
mod shell;
mod slots;
mod sql;
mod store;
mod world;

//! Whole meshes in virtual time over a pretended network, and each rule with the input that breaks it.

mod hostile;
mod mesh;
mod replicas;
mod shell;
mod slots;
mod store;
mod world;

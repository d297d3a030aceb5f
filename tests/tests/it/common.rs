//! What several lab tests begin with, and how they read a refusal.

use anyhow::{Context, Result, ensure};
use std::{fs, path::Path};
use tests::{
    io::{
        lab::Lab,
        node::{Node, NodeSpec, binary, text},
        sh::Output,
    },
    netem::Params,
    rng::SplitMix64,
};

/// Runs `body` in a lab, unless there is no node to run in it: that is a failure, for `cargo xtask test` builds one.
pub fn with_nodes(name: &str, body: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    binary()?;
    tests::io::lab::with_lab(name, body)
}

/// A started node that owns the LAN `home`, on a machine of its own.
pub fn owner(lab: &mut Lab) -> Result<Node> {
    let owner = started(lab, "owner", NodeSpec::default())?;
    owner.ok(&["lan", "create", "home"])?;
    Ok(owner)
}

/// A started node on a machine of its own, in no LAN.
pub fn started(lab: &mut Lab, name: &str, spec: NodeSpec) -> Result<Node> {
    let machine = lab.machine(name, &Params::home_line())?;
    let node = lab.node(&machine, name, spec)?;
    node.start()?;
    Ok(node)
}

/// A started node that joined the owner's LAN as `role`.
pub fn joined(lab: &mut Lab, owner: &Node, name: &str, role: &str, spec: NodeSpec) -> Result<Node> {
    let node = started(lab, name, spec)?;
    node.ok(&["join", &owner.ok(&["lan", "invite", "home", "--for", role])?])?;
    Ok(node)
}

/// A file of `len` bytes that no compressor shrinks; the same seed gives the same file.
pub fn noise(path: &Path, len: usize, seed: u64) -> Result<()> {
    let mut rng = SplitMix64::new(seed);
    let bytes: Vec<u8> = (0..len / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// Adds an image of noise and gives its id.
pub fn add_noise(lab: &Lab, node: &Node, len: usize) -> Result<String> {
    let file = lab.dir().join("noise.raw");
    noise(&file, len, 1)?;
    let id = text(
        &node.json(&["image", "add", &file.to_string_lossy(), "--name", "noise"])?,
        "id",
    )?;
    fs::remove_file(&file)?;
    Ok(id)
}

/// The command must have ended with `code` and have said a sentence on stderr that has each of `words` in it.
pub fn refused(out: &Output, code: i32, words: &[&str]) -> Result<()> {
    ensure!(out.code == code, "expected exit code {code}: {out}");
    let said = out.stderr.to_lowercase();
    ensure!(!said.contains("panicked"), "{out}");
    for w in words {
        ensure!(said.contains(w), "stderr does not speak of '{w}': {out}");
    }
    Ok(())
}

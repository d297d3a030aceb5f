//! What several lab tests begin with, and how they read a refusal.

use anyhow::{Context, Result, ensure};
use std::{fs, path::Path, time::Duration};
use tests::{
    io::{
        lab::{Lab, say},
        node::{Node, NodeSpec, binary, text},
        sh::{Output, eventually},
        small_guest::{self, SmallGuest},
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

/// A started host that lends two processors and so much memory to the owner, and that the owner sees.
pub fn lends(lab: &mut Lab, owner: &Node, name: &str, spec: NodeSpec, memory: &str) -> Result<Node> {
    let host = joined(lab, owner, name, "host", spec)?;
    host.ok(&["offer", "--cpus", "2", "--memory", memory])?;
    host.ok(&["grant", &owner.id()?, "--cpus", "2", "--memory", memory])?;
    let id = host.id()?;
    eventually(Duration::from_secs(120), "the owner to see the host's offer", || {
        let hosts = owner.cli(&["hosts", "--json"])?;
        Ok((hosts.code == 0 && hosts.stdout.contains(&id)).then_some(()))
    })?;
    Ok(host)
}

/// The small guest with QEMU's agent in it; `None`: something is missing, and is said in the test's name.
pub fn small_with_agent(lab: &Lab, test: &str) -> Result<Option<SmallGuest>> {
    let mut missing = small_guest::missing();
    let dir = lab.dir().join("small");
    fs::create_dir_all(&dir)?;
    if missing.is_empty() {
        if let Some(small) = SmallGuest::build_with_agent(&dir)? {
            return Ok(Some(small));
        }
        missing.push("qemu-ga");
    }
    say(&format!("skipped: {test}: missing {}", missing.join(", ")));
    Ok(None)
}

/// Counts on in a guest's memory, and gives the new count.
pub fn counts(owner: &Node, guest: &str) -> Result<u64> {
    let add = "n=$(cat /run/n); n=$((n+1)); echo $n | tee /run/n";
    let said = owner.ok(&["exec", guest, "--", "sh", "-c", add])?;
    said.trim().parse().with_context(|| format!("it counts '{said}'"))
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

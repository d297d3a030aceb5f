//! What a failed test leaves under `target/lab/<test>/`: logs, captures, and what each node said of itself.

use super::{lab::Lab, sh};
use anyhow::{Context, Result};
use std::{
    fs,
    os::unix::fs::lchown,
    path::{Path, PathBuf},
    time::Duration,
};

/// Largest file that is kept; a node's store is not evidence.
const FILE_MAX: u64 = 32 << 20;

/// A node that does not answer in this time is evidence enough.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Verbs whose answers tell most about a node: its state, its peers, its FDB, its guests.
const QUESTIONS: [&[&str]; 6] = [
    &["status"],
    &["peers"],
    &["lan", "show", "home"],
    &["image", "ls"],
    &["hosts"],
    &["ls"],
];

/// Asks every running node for its state; the answers join the lab's folder.
pub fn ask_nodes(lab: &Lab) {
    for node in lab.nodes().iter().filter(|n| n.is_running()) {
        for q in QUESTIONS {
            let said = match node.cli_within(&[q, &["--json"]].concat(), ANSWER_LIMIT) {
                Ok(out) if out.code == 0 => out.stdout,
                Ok(out) => out.to_string(),
                Err(e) => format!("{e:#}"),
            };
            let file = format!("{}.{}.json", node.name(), q.join("-"));
            // Evidence is best effort: the failure itself is already reported.
            fs::write(lab.dir().join(file), said).ok();
        }
    }
    for m in lab.machines() {
        let said: Vec<String> = [&["addr"][..], &["route"], &["neigh"], &["-s", "link"]]
            .iter()
            .map(|q| m.ns.ip(q).unwrap_or_else(|e| format!("{e:#}")))
            .collect();
        let links = format!("{:#?}", m.line.counters());
        fs::write(lab.dir().join(format!("{}.net.txt", m.name)), said.join("\n") + &links).ok();
    }
}

/// Removes what an earlier run of this test left, so that nobody takes it for this run's.
pub fn forget(test: &str) -> Result<()> {
    let old = output_dir()?.join(test);
    if old.exists() {
        fs::remove_dir_all(&old).with_context(|| format!("cannot remove {}", old.display()))?;
    }
    Ok(())
}

/// Copies the lab's files (not the nodes' stores) to `target/lab/<test>/` and gives that folder.
pub fn keep(lab: &Lab) -> Result<PathBuf> {
    let to = output_dir()?.join(lab.name());
    fs::create_dir_all(&to)?;
    copy_files(lab.dir(), &to)?;
    // QEMU's own words lie deeper, one folder a guest.
    for node in lab.nodes() {
        let mut logs = Vec::new();
        find_logs(node.state(), 0, &mut logs);
        for (i, log) in logs.iter().enumerate() {
            let name = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
            fs::copy(log, to.join(format!("{}.{i}.{name}", node.name()))).ok();
        }
    }
    give_to_caller(&to)?;
    Ok(to)
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_file() && meta.len() <= FILE_MAX && entry.file_name() != "lanline" {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn find_logs(dir: &Path, depth: u8, out: &mut Vec<PathBuf>) {
    let Ok(list) = fs::read_dir(dir) else { return };
    for entry in list.flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth < 3 {
            find_logs(&path, depth + 1, out);
        } else if kind.is_file() && path.extension().is_some_and(|e| e == "log") {
            out.push(path);
        }
    }
}

/// `target/lab` of the workspace, or `LANLINE_LAB_OUT`.
pub fn output_dir() -> Result<PathBuf> {
    let dir = match std::env::var_os("LANLINE_LAB_OUT") {
        Some(d) => PathBuf::from(d),
        None => workspace()?.join("target").join("lab"),
    };
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// The workspace's root: the folder above the current one that holds Cargo.lock.
pub fn workspace() -> Result<PathBuf> {
    let here = std::env::current_dir()?;
    let root = here.ancestors().find(|d| d.join("Cargo.lock").is_file());
    root.map(Path::to_owned)
        .context("run this inside the lanline workspace")
}

/// Writes files into a folder, which is made if it is missing; the person who called sudo owns them.
pub fn write(dir: &Path, files: &[(&str, String)]) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for (name, text) in files {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    give_to_caller(dir)
}

/// Files made under sudo go to the person who called it, so that they can remove them.
pub fn give_to_caller(path: &Path) -> Result<()> {
    let id = |name| std::env::var(name).ok().and_then(|v| v.parse::<u32>().ok());
    let (Some(uid), Some(gid)) = (id("SUDO_UID"), id("SUDO_GID")) else {
        return Ok(());
    };
    let path = path.to_string_lossy();
    sh::run("chown", &["-R", "-h", &format!("{uid}:{gid}"), &path])?;
    if let Some(parent) = Path::new(path.as_ref()).parent() {
        lchown(parent, Some(uid), Some(gid))?;
    }
    Ok(())
}

//! The tree: where it is, where its binaries are, and the checks that read it.

use super::{answer, say};
use crate::check::{arrows, paper, sizes};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// What cargo says of the workspace.
pub struct Workspace {
    /// Its root folder.
    pub root: PathBuf,
    /// Its target folder.
    pub target: PathBuf,
    metadata: Value,
}

/// Asks cargo.
pub fn read() -> Result<Workspace> {
    let out = cargo()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()?;
    if !out.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&out.stderr));
    }
    let metadata: Value = serde_json::from_slice(&out.stdout)?;
    let path = |key: &str| {
        metadata
            .get(key)
            .and_then(Value::as_str)
            .map(PathBuf::from)
            .context("cargo metadata")
    };
    Ok(Workspace {
        root: path("workspace_root")?,
        target: path("target_directory")?,
        metadata,
    })
}

/// The cargo that runs xtask.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// `cargo xtask check`.
pub fn check() -> Result<ExitCode> {
    let complaints = complaints()?;
    for c in &complaints {
        say(&format!("check: {c}"));
    }
    answer(&format!("check: {} complaints", complaints.len()))?;
    Ok(if complaints.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Everything the tree is held to; what only needs a thought is printed and not returned.
pub fn complaints() -> Result<Vec<String>> {
    let ws = read()?;
    let text = |p: &str| fs::read_to_string(ws.root.join(p)).with_context(|| format!("cannot read {p}"));
    let mut out = arrows::complaints(&ws.metadata, &arrows::allowed(&text("ARCHITECTURE.md")?));
    let mut cited = BTreeSet::new();
    for file in sources(&ws)? {
        let source = fs::read_to_string(&file)?;
        let short = file.strip_prefix(&ws.root).unwrap_or(&file).display().to_string();
        match sizes::complaint(&short, source.lines().count()) {
            Some((true, said)) => out.push(said),
            Some((false, said)) => say(&format!("check: {said}")),
            None => {}
        }
        // The words of the checker itself are no citation.
        if !short.starts_with("xtask") {
            cited.extend(paper::citations(&source));
        }
    }
    out.extend(paper::complaints(&paper::rows(&text("docs/paper.md")?), &cited));
    Ok(out)
}

/// Every `.rs` file of our crates.
fn sources(ws: &Workspace) -> Result<Vec<PathBuf>> {
    let packages = ws
        .metadata
        .get("packages")
        .and_then(Value::as_array)
        .context("cargo metadata")?;
    let manifests = packages
        .iter()
        .filter_map(|p| p.get("manifest_path").and_then(Value::as_str));
    let mut out = Vec::new();
    for manifest in manifests {
        find_rs(
            Path::new(manifest).parent().context("a manifest lies in a folder")?,
            &mut out,
        )?;
    }
    out.sort();
    Ok(out)
}

fn find_rs(dir: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" {
                find_rs(&path, out)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    Ok(())
}

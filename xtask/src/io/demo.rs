//! `cargo xtask demo`.

use super::{
    as_root, prepare, run, say, status,
    workspace::{self, cargo},
};
use crate::Demo;
use anyhow::Result;
use std::process::ExitCode;

/// Installs what is missing, builds, and runs the demo, by sudo if need be; its exit code is ours.
pub fn demo(args: &Demo) -> Result<ExitCode> {
    prepare::prepare(args.yes)?;
    let ws = workspace::read()?;
    say("· building lanline (the first time takes some minutes)");
    run(cargo().args(["build", "--quiet", "--package", "node", "--package", "tests", "--bins"]))?;
    let bin = ws.target.join("debug");
    let mut c = as_root(&bin.join("lanline-demo"), &env(&bin)?)?;
    for (flag, on) in [
        ("--json", args.json),
        ("--keep", args.keep),
        ("--kill-seeder", args.kill_seeder),
    ] {
        if on {
            c.arg(flag);
        }
    }
    c.current_dir(&ws.root);
    let code = status(&mut c)?.code().and_then(|c| u8::try_from(c).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// What the lab is told: which binary to run, and how loud.
pub fn env(bin: &std::path::Path) -> Result<Vec<(&'static str, String)>> {
    let lanline = std::env::var("LANLINE_BIN").unwrap_or_else(|_| bin.join("lanline").display().to_string());
    let mut out = vec![("LANLINE_BIN", lanline)];
    for key in ["RUST_LOG", "LANLINE_LAB_OUT"] {
        if let Ok(v) = std::env::var(key) {
            out.push((key, v));
        }
    }
    Ok(out)
}

//! Everything xtask touches: the tree's files, this machine's packages, and the commands that it runs.

#![expect(
    clippy::disallowed_methods,
    reason = "this module is xtask's I/O: it reads the tree and runs cargo, apt-get and the lab"
)]

pub mod bench;
pub mod demo;
pub mod prepare;
pub mod suite;
pub mod workspace;

use anyhow::{Context, Result, bail};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

/// A line for the person at the terminal; stdout is for answers.
pub fn say(line: &str) {
    eprintln!("{line}");
}

/// The one place that writes to stdout.
pub fn answer(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// Runs a command on this terminal; an exit status but 0 is an error.
pub fn run(c: &mut Command) -> Result<()> {
    let status = status(c)?;
    if !status.success() {
        bail!("`{}` ended with {status}", line(c));
    }
    Ok(())
}

/// Runs a command on this terminal.
pub fn status(c: &mut Command) -> Result<ExitStatus> {
    c.status().with_context(|| format!("cannot start `{}`", line(c)))
}

/// The command as a person would type it.
pub fn line(c: &Command) -> String {
    let words = std::iter::once(c.get_program()).chain(c.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The full path of a tool; sbin is searched too, which a user's PATH may lack.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let dirs = path.split(':').chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"]);
    dirs.map(|d| Path::new(d).join(name)).find(|p| p.is_file())
}

/// True if this process is root: then nothing has to be asked for.
pub fn is_root() -> bool {
    // The folder of this process belongs to its effective user.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}

/// `program`, by sudo if this process is not root, with these variables set for it.
pub fn as_root(program: &Path, env: &[(&str, String)]) -> Result<Command> {
    if is_root() {
        let mut c = Command::new(program);
        c.envs(env.iter().map(|(k, v)| (k, v)));
        return Ok(c);
    }
    let sudo = tool("sudo").with_context(|| {
        format!(
            "{} needs root, and sudo is missing: run this as root",
            program.display()
        )
    })?;
    let mut c = Command::new(sudo);
    c.args(env.iter().map(|(k, v)| format!("{k}={v}"))).arg(program);
    Ok(c)
}

//! `cargo xtask test`: every runner runs, every failure is reported at the end, the last line counts.

use super::{
    answer, as_root, demo, line, prepare, say,
    workspace::{self, Workspace, cargo},
};
use crate::{
    Test,
    tally::{self, Tally},
};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

struct Suite {
    ws: Workspace,
    total: Tally,
    reports: Vec<String>,
}

/// Runs the suite.
pub fn test(args: &Test) -> Result<ExitCode> {
    prepare::prepare(args.yes)?;
    let mut s = Suite {
        ws: workspace::read()?,
        total: Tally::default(),
        reports: Vec::new(),
    };
    fs::create_dir_all(s.ws.target.join("lab"))?;
    match &args.lab {
        Some(name) => s.lab(Some(name))?,
        None => s.everything(args.quick)?,
    }
    for r in &s.reports {
        say(r);
    }
    answer(&s.total.to_string())?;
    Ok(if s.total.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Suite {
    fn everything(&mut self, quick: bool) -> Result<()> {
        self.command("format", cargo().args(["fmt", "--all", "--check"]))?;
        let clippy = [
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ];
        self.command("lints", cargo().args(clippy))?;
        if !quick {
            let doc = [
                "doc",
                "--quiet",
                "--workspace",
                "--no-deps",
                "--document-private-items",
                "--keep-going",
            ];
            self.command("documentation", cargo().args(doc).env("RUSTDOCFLAGS", "-D warnings"))?;
        }
        self.checks()?;
        if !quick {
            // The tests of `vm` boot its kernel where the system has none of its own.
            let guest = [
                "run",
                "--quiet",
                "-p",
                "tests",
                "--bin",
                "lanline-demo",
                "--",
                "--guest-only",
            ];
            self.command("guest", cargo().args(guest))?;
        }
        let units = [
            "test",
            "--workspace",
            "--lib",
            "--bins",
            "--no-fail-fast",
            "--",
            "--show-output",
        ];
        self.tests("unit and property tests", cargo().args(units), false)?;
        if !self.ws.has_integration_tests() {
            return if quick { Ok(()) } else { self.lab(None) };
        }
        // Tests of one crate through its public face; the lab's own have their turn below.
        let faces = [
            "test",
            "--workspace",
            "--exclude",
            "tests",
            "--test",
            "*",
            "--no-fail-fast",
            "--",
            "--show-output",
        ];
        self.tests("crate tests", cargo().args(faces), false)?;
        if !quick {
            self.lab(None)?;
        }
        Ok(())
    }

    /// The lab tests, as root by sudo if need be, one after the other.
    fn lab(&mut self, only: Option<&str>) -> Result<()> {
        if !self.command("build", cargo().args(["build", "--quiet", "--package", "node"]))? {
            return Ok(());
        }
        let binary = self.lab_binary()?;
        let env = demo::env(&self.ws.target.join("debug"))?;
        let mut c = match as_root(&binary, &env) {
            Ok(c) => c,
            Err(e) => {
                // Its tests will say so one by one, and count as skipped.
                say(&format!("lab: {e:#}"));
                let mut c = Command::new(&binary);
                c.envs(env);
                c
            }
        };
        c.args(["--test-threads=1", "--show-output"])
            .args(only)
            .current_dir(self.ws.root.join("tests"));
        self.tests("lab tests", &mut c, true)
    }

    /// Builds the lab tests and asks cargo where the binary is.
    fn lab_binary(&self) -> Result<PathBuf> {
        let mut c = cargo();
        c.args([
            "test",
            "--quiet",
            "--package",
            "tests",
            "--test",
            "it",
            "--no-run",
            "--message-format",
            "json",
        ]);
        let out = c.stderr(Stdio::inherit()).output()?;
        let messages = String::from_utf8_lossy(&out.stdout);
        let values = messages.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let found = values
            .filter_map(|v| v.get("executable").and_then(Value::as_str).map(PathBuf::from))
            .next_back();
        found.context("cargo built no lab tests")
    }

    fn checks(&mut self) -> Result<()> {
        say("· arrows, file sizes, paper citations");
        let complaints = workspace::complaints()?;
        self.total += tally::one(complaints.is_empty());
        if !complaints.is_empty() {
            self.reports
                .push(format!("\n── check failed:\n{}", complaints.join("\n")));
        }
        Ok(())
    }

    /// A command that holds or not; true if it does.
    fn command(&mut self, what: &str, c: &mut Command) -> Result<bool> {
        let (ok, said) = self.watch(what, c, false)?;
        self.total += tally::one(ok);
        if !ok {
            self.reports.push(format!("\n── {what} failed: {}\n{said}", line(c)));
        }
        Ok(ok)
    }

    /// A command that runs libtest binaries.
    fn tests(&mut self, what: &str, c: &mut Command, each: bool) -> Result<()> {
        let (ok, said) = self.watch(what, c, each)?;
        let t = tally::libtest(&said, ok);
        self.total += t;
        say(&format!("  {t}"));
        for s in tally::skips(&said) {
            self.reports.push(format!("skipped: {s}"));
        }
        if t.failed > 0 {
            self.reports.push(format!("\n── {what}:\n{}", tally::failures(&said)));
        }
        Ok(())
    }

    /// Runs a command with its outputs in `target/lab/<what>.log`; `each` shows every test as it ends.
    fn watch(&self, what: &str, c: &mut Command, each: bool) -> Result<(bool, String)> {
        let began = Instant::now();
        say(&format!("· {what}"));
        let log = self.log(what);
        let file = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let (read, write) = std::io::pipe()?;
        let mut child = c
            .stdin(Stdio::null())
            .stdout(write.try_clone()?)
            .stderr(write)
            .spawn()?;
        // The command holds the writing end too, and would keep the pipe open.
        c.stdout(Stdio::null()).stderr(Stdio::null());
        let said = tee(read, file, each)?;
        let ok = child.wait()?.success();
        let verdict = if ok { "ok" } else { "FAILED" };
        say(&format!(
            "  {verdict}, {} s, {}",
            began.elapsed().as_secs(),
            short(&log, &self.ws.root)
        ));
        Ok((ok, said))
    }

    fn log(&self, what: &str) -> PathBuf {
        let name: String = what
            .chars()
            .map(|c| if c.is_alphanumeric() { c } else { '-' })
            .collect();
        self.ws.target.join("lab").join(format!("{name}.log"))
    }
}

/// Copies what a command says to its log and gives it back.
fn tee(read: impl std::io::Read, mut log: fs::File, each: bool) -> Result<String> {
    use std::io::Write;
    let mut said = String::new();
    let mut from = BufReader::new(read);
    let mut raw = Vec::new();
    let mut last = Instant::now();
    while from.read_until(b'\n', &mut raw)? > 0 {
        log.write_all(&raw)?;
        let text = String::from_utf8_lossy(&raw);
        if each && text.starts_with("test ") {
            // One test at a time: the time since the last line is this test's.
            say(&format!("  {:>4} s  {}", last.elapsed().as_secs(), text.trim_end()));
            last = Instant::now();
        }
        said.push_str(&text);
        raw.clear();
    }
    Ok(said)
}

fn short(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

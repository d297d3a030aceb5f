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
        Some(name) => {
            if let Some(built) = s.build()? {
                s.lab(&built, Some(name))?;
            }
        }
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
            // Examples bring in what only tests depend on, so that dependencies need not be checked anew for the documents.
            let doc = [
                "doc",
                "--quiet",
                "--workspace",
                "--no-deps",
                "--lib",
                "--bins",
                "--examples",
                "--document-private-items",
                "--keep-going",
            ];
            self.command("documentation", cargo().args(doc).env("RUSTDOCFLAGS", "-D warnings"))?;
        }
        self.checks()?;
        let Some(built) = self.build()? else {
            return Ok(());
        };
        if !quick {
            // The tests of `vm` boot its kernel where the system has none of its own.
            let demo = self.ws.target.join("debug/lanline-demo");
            self.command("guest", Command::new(demo).arg("--guest-only"))?;
        }
        for b in built.iter().filter(|b| b.kind != "test") {
            self.tests(&format!("unit tests of {}", b.name), &mut b.command(), false)?;
        }
        // Tests of one crate through its public face; the lab's own have their turn below.
        for b in built.iter().filter(|b| b.kind == "test" && !b.is_lab()) {
            self.tests(&format!("{} of {}", b.name, b.package), &mut b.command(), false)?;
        }
        if quick { Ok(()) } else { self.lab(&built, None) }
    }

    /// The lab tests, as root by sudo if need be, one after the other.
    fn lab(&mut self, built: &[Built], only: Option<&str>) -> Result<()> {
        let lab = built.iter().find(|b| b.is_lab()).context("cargo built no lab tests")?;
        let binary = lab.executable.clone();
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

    /// Builds everything at once and says what tests there are; none if the build failed, which is counted. Asked for one by
    /// one, packages have other features, and what they depend on is built again.
    fn build(&mut self) -> Result<Option<Vec<Built>>> {
        say("· build");
        let began = Instant::now();
        let mut c = cargo();
        c.args(["build", "--quiet", "--workspace", "--all-targets"]);
        c.args(["--message-format", "json-render-diagnostics"]);
        let out = c.stderr(Stdio::inherit()).output()?;
        let ok = out.status.success();
        self.total += tally::one(ok);
        say(&format!(
            "  {}, {} s",
            if ok { "ok" } else { "FAILED" },
            began.elapsed().as_secs()
        ));
        if !ok {
            self.reports.push(format!("\n── build failed, see above: {}", line(&c)));
            return Ok(None);
        }
        let said = String::from_utf8_lossy(&out.stdout);
        let messages = said.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        Ok(Some(messages.filter_map(|m| Built::read(&m)).collect()))
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

/// A binary of tests that cargo built.
struct Built {
    package: String,
    name: String,
    /// `lib`, `bin` or `test`.
    kind: String,
    folder: PathBuf,
    executable: PathBuf,
}

impl Built {
    /// What one message of cargo says, if it is of a test.
    fn read(message: &Value) -> Option<Self> {
        let text = |at: &str| message.pointer(at).and_then(Value::as_str);
        if message.pointer("/profile/test").and_then(Value::as_bool) != Some(true) {
            return None;
        }
        let kind = text("/target/kind/0")?;
        let folder = Path::new(text("/manifest_path")?).parent()?;
        ["lib", "bin", "test"].contains(&kind).then_some(Self {
            package: folder.file_name()?.to_str()?.to_owned(),
            name: text("/target/name")?.to_owned(),
            kind: kind.to_owned(),
            folder: folder.to_owned(),
            executable: text("/executable")?.into(),
        })
    }

    /// The namespaces' tests: they run last, as root, one after the other.
    fn is_lab(&self) -> bool {
        self.package == "tests" && self.kind == "test"
    }

    /// As `cargo test` would run it.
    fn command(&self) -> Command {
        let mut c = Command::new(&self.executable);
        c.arg("--show-output").current_dir(&self.folder);
        c.env("CARGO_MANIFEST_DIR", &self.folder);
        c
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

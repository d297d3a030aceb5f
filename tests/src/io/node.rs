//! A node of the lab: the `lanline` binary as a process in a machine's namespace, driven through its command line.

use super::{
    lab::Machine,
    netns::RunAs,
    sh::{self, Output},
    shell::Shell,
};
use crate::defaults;
use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

/// How to run a node; everything else is the lab's.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Whom the node runs as.
    pub who: RunAs,
    /// State folder; by default one of its own below the lab's.
    pub state: Option<PathBuf>,
    /// `PATH` of the node's process; by default the lab's.
    pub path: Option<String>,
    /// More arguments for `lanline up`.
    pub args: Vec<String>,
}

impl Default for NodeSpec {
    fn default() -> Self {
        Self {
            who: RunAs::Root,
            state: None,
            path: None,
            args: Vec::new(),
        }
    }
}

impl NodeSpec {
    /// A node that speaks IPv6 too; the lab's others have IPv4 alone.
    pub fn dual_stack() -> Self {
        Self {
            args: vec!["--listen".into(), format!("[::]:{}", defaults::NODE_PORT)],
            ..Self::default()
        }
    }

    /// A node without root rights or capabilities.
    pub fn unprivileged() -> Self {
        Self {
            who: RunAs::Id(defaults::UNPRIVILEGED),
            ..Self::default()
        }
    }
}

/// A node; clones are the same node.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    name: String,
    machine: Arc<Machine>,
    spec: NodeSpec,
    bin: PathBuf,
    state: PathBuf,
    log: PathBuf,
    id: OnceLock<String>,
    child: Mutex<Option<Child>>,
}

impl Node {
    /// Prepares the node's folders; use [`super::lab::Lab::node`].
    pub(super) fn new(lab_dir: &Path, machine: Arc<Machine>, name: &str, spec: NodeSpec) -> Result<Self> {
        let state = spec.state.clone().unwrap_or_else(|| lab_dir.join(name));
        fs::create_dir_all(&state)?;
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700))?;
        if let RunAs::Id(id) = spec.who {
            chown(&state, Some(id), Some(id))?;
        }
        Ok(Self(Arc::new(Inner {
            name: name.to_owned(),
            bin: reachable(lab_dir, &binary()?)?,
            log: lab_dir.join(format!("{name}.log")),
            machine,
            spec,
            state,
            id: OnceLock::new(),
            child: Mutex::new(None),
        })))
    }

    /// Its name, also `--name`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The machine it runs on.
    pub fn machine(&self) -> &Machine {
        &self.0.machine
    }

    /// Its state folder.
    pub fn state(&self) -> &Path {
        &self.0.state
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.0.log).unwrap_or_default()
    }

    /// Starts it and waits for `lanline: ready`.
    pub fn start(&self) -> Result<()> {
        let from = self.log().len();
        let log = OpenOptions::new().create(true).append(true).open(&self.0.log)?;
        let mut c = self.command()?;
        c.args(["up", "--name", self.name()]);
        if !self.0.spec.args.iter().any(|a| a == "--listen") {
            c.args(["--listen", &format!("0.0.0.0:{}", defaults::NODE_PORT)]);
        }
        c.args(&self.0.spec.args);
        let child = c.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        *self.child() = Some(child);
        sh::until(
            defaults::READY_LIMIT,
            &format!("node {} to be ready", self.name()),
            || {
                let said = self.log().split_off(from);
                if said.lines().any(|l| l.contains("lanline: ready")) {
                    return Ok(Some(()));
                }
                if let Some(status) = self.child().as_mut().map(Child::try_wait).transpose()?.flatten() {
                    bail!(
                        "node {} ended with {status} before it was ready; it said:\n{said}",
                        self.name()
                    );
                }
                Ok(None)
            },
        )
    }

    /// True while its process runs.
    pub fn is_running(&self) -> bool {
        self.child().as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    /// `kill -9`: it gets no chance to tidy up. Its guests go on.
    pub fn kill(&self) {
        if let Some(mut c) = self.child().take() {
            // Both fail only if it is gone already.
            c.kill().ok();
            c.wait().ok();
        }
    }

    /// SIGTERM; the contract of `lanline up` is to end within 5 s.
    pub fn terminate(&self) -> Result<()> {
        let Some(mut c) = self.child().take() else {
            return Ok(());
        };
        sh::signal(c.id(), Signal::TERM)?;
        if sh::wait_within(&mut c, Duration::from_secs(10))?.is_none() {
            c.kill()?;
            c.wait()?;
            bail!("node {} did not end within 10 s of SIGTERM", self.name());
        }
        Ok(())
    }

    /// Kills it and starts it again on the same state.
    pub fn restart(&self) -> Result<()> {
        self.kill();
        self.start()
    }

    /// Runs `lanline args` against this node, whatever the exit code.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        self.cli_within(args, defaults::CLI_LIMIT)
    }

    /// As [`Node::cli`], with a limit of its own.
    pub fn cli_within(&self, args: &[&str], limit: Duration) -> Result<Output> {
        let mut c = self.command()?;
        c.args(args);
        sh::run_within(c, limit)
    }

    /// Runs `lanline args`; an exit code but 0 is an error. Gives standard output without its last line end.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        Ok(self.cli(args)?.ok()?.stdout.trim_end().to_owned())
    }

    /// Runs `lanline args --json` and reads the document.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let out = self.cli(&[args, &["--json"]].concat())?.ok()?;
        serde_json::from_str(&out.stdout).with_context(|| format!("not one JSON document: {out}\n{}", out.stdout))
    }

    /// Starts `lanline args` without waiting for it; its outputs go to `NAME.out` and `NAME.err` in the lab's folder.
    pub fn spawn_cli(&self, name: &str, args: &[&str]) -> Result<Running> {
        let dir = self.0.log.parent().context("a log lies in a folder")?;
        let (out, err) = (dir.join(format!("{name}.out")), dir.join(format!("{name}.err")));
        let mut c = self.command()?;
        c.args(args).stdin(Stdio::null());
        let child = c
            .stdout(fs::File::create(&out)?)
            .stderr(fs::File::create(&err)?)
            .spawn()?;
        Ok(Running {
            line: sh::command_line(&c),
            child,
            out,
            err,
        })
    }

    /// Opens a guest's console, as `lanline console GUEST` with its input and output in pipes.
    pub fn console(&self, guest: &str) -> Result<Shell> {
        let mut c = self.command()?;
        c.args(["console", guest]);
        Shell::start(c)
    }

    /// Its node id, asked for once.
    pub fn id(&self) -> Result<String> {
        if let Some(id) = self.known_id() {
            return Ok(id);
        }
        let id = text(&self.json(&["status"])?, "id")?;
        Ok(self.0.id.get_or_init(|| id).clone())
    }

    /// Its node id if it was asked for before; works for a node that is down.
    pub fn known_id(&self) -> Option<String> {
        self.0.id.get().cloned()
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    fn command(&self) -> Result<Command> {
        let mut c = self.0.machine.ns.command(&self.0.bin, self.0.spec.who)?;
        let path = self
            .0
            .spec
            .path
            .clone()
            .or_else(|| std::env::var("PATH").ok())
            .unwrap_or_default();
        let log = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
        // A PATH for the node alone would hide `ip` and `setpriv` from the lab: env(1) sets it last.
        let before: Vec<_> = c.get_args().map(ToOwned::to_owned).collect();
        let Some((bin, rest)) = before.split_last() else {
            bail!("a command without arguments");
        };
        let mut full = Command::new("ip");
        full.args(rest).arg("env").arg(format!("PATH={path}")).arg(bin);
        full.env("LANLINE_STATE", &self.0.state).env("HOME", &self.0.state);
        full.env("RUST_LOG", log)
            .env("RUST_BACKTRACE", "1")
            .env("NO_COLOR", "1");
        c = full;
        Ok(c)
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.0.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A command of the CLI that is under way.
pub struct Running {
    line: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    /// What it has printed on stderr so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.err).unwrap_or_default()
    }

    /// What it has printed on stdout so far.
    pub fn stdout(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// True once it has ended.
    pub fn ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for its end and gives what it said.
    pub fn wait(mut self, limit: Duration) -> Result<Output> {
        let began = std::time::Instant::now();
        let Some(status) = sh::wait_within(&mut self.child, limit)? else {
            self.child.kill()?;
            self.child.wait()?;
            bail!(
                "`{}` did not end within {limit:?}; it had said: {}",
                self.line,
                self.stderr()
            );
        };
        Ok(Output {
            code: status.code().unwrap_or(-1),
            stdout: fs::read_to_string(&self.out)?,
            stderr: self.stderr(),
            took: began.elapsed(),
            line: self.line,
        })
    }
}

/// A text field of a JSON object.
pub fn text(v: &Value, key: &str) -> Result<String> {
    let s = v.get(key).and_then(Value::as_str);
    Ok(s.with_context(|| format!("no text '{key}' in {v}"))?.to_owned())
}

/// A whole number of a JSON object.
pub fn number(v: &Value, key: &str) -> Result<u64> {
    v.get(key)
        .and_then(Value::as_u64)
        .with_context(|| format!("no number '{key}' in {v}"))
}

/// The node's binary: `LANLINE_BIN`, or `lanline` next to the lab's own binary (tests are one folder deeper).
pub fn binary() -> Result<PathBuf> {
    if let Some(p) = std::env::var_os("LANLINE_BIN") {
        return Ok(p.into());
    }
    let me = std::env::current_exe()?;
    let near = me.ancestors().skip(1).take(2).map(|d| d.join("lanline"));
    near.into_iter().find(|p| p.is_file()).with_context(|| {
        format!(
            "no lanline beside {}; run `cargo build -p node`, or set LANLINE_BIN",
            me.display()
        )
    })
}

/// The binary at a path that unprivileged users can run: itself, or a copy in the lab's folder if a folder above it is
/// closed to others, as home folders are.
fn reachable(lab_dir: &Path, bin: &Path) -> Result<PathBuf> {
    let open = |p: &Path| fs::metadata(p).is_ok_and(|m| m.permissions().mode() & 0o001 != 0);
    let bin = bin
        .canonicalize()
        .with_context(|| format!("no binary at {}", bin.display()))?;
    if bin.ancestors().all(open) {
        return Ok(bin);
    }
    let copy = lab_dir.join("lanline");
    if !copy.exists() {
        fs::copy(&bin, &copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    }
    Ok(copy)
}

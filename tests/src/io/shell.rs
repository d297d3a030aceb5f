//! A shell on a guest's serial line: a command goes in as a line, what it printed and its exit code come out.

use super::sh::{self, Output};
use anyhow::{Context, Result, bail};
use std::{
    io::{Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// What the small guest says when its shell listens.
pub const READY: &str = "guest: ready";

/// How long an emulated guest on a loaded machine may take to boot. A guard against hanging.
const BOOT: Duration = Duration::from_secs(150);

/// How long one command may take, unless the test says otherwise. A guard against hanging.
const COMMAND: Duration = Duration::from_secs(60);

/// A process whose standard input and output are a guest's serial line.
pub struct Shell {
    child: Child,
    stdin: ChildStdin,
    said: Arc<Mutex<String>>,
    read: usize,
    nth: u32,
}

impl Shell {
    /// Starts the process and waits until the guest's shell listens.
    pub(super) fn start(mut c: Command) -> Result<Self> {
        let mut child = c
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("cannot start `{}`", sh::command_line(&c)))?;
        let stdin = child.stdin.take().context("a child without stdin")?;
        let mut out = child.stdout.take().context("a child without stdout")?;
        let said = Arc::new(Mutex::new(String::new()));
        let tell = Arc::clone(&said);
        std::thread::spawn(move || {
            let mut buf = [0; 4096];
            // An error means that the process is gone, which the next command finds out.
            while let Ok(n @ 1..) = out.read(&mut buf) {
                let text = String::from_utf8_lossy(buf.get(..n).unwrap_or_default()).replace('\r', "");
                tell.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        let mut shell = Self {
            child,
            stdin,
            said,
            read: 0,
            nth: 0,
        };
        shell.wait_for(READY, BOOT)?;
        Ok(shell)
    }

    /// Everything the guest has printed so far.
    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the guest has printed `what`, and gives what it had printed since the last time before it.
    pub fn wait_for(&mut self, what: &str, limit: Duration) -> Result<String> {
        let from = self.read;
        let (at, end) = sh::until(limit, &format!("the guest to print '{what}'"), || {
            let said = self.said();
            let new = said.get(from..).unwrap_or_default();
            if let Some(at) = new.find(what) {
                return Ok(Some((from + at, from + at + what.len())));
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the guest's console ended with {status}");
            }
            Ok(None)
        })
        .with_context(|| format!("its console said:\n{}", self.said()))?;
        self.read = end;
        Ok(self.said().get(from..at).unwrap_or_default().to_owned())
    }

    /// Runs a line in the guest, whatever its exit code.
    pub fn run(&mut self, line: &str) -> Result<Output> {
        self.run_within(line, COMMAND)
    }

    /// As [`Shell::run`], with a limit of its own.
    pub fn run_within(&mut self, line: &str, limit: Duration) -> Result<Output> {
        self.nth += 1;
        // The quotes keep the end mark out of an echo of the line itself.
        let (n, began) = (self.nth, Instant::now());
        writeln!(self.stdin, "{line}\necho \"@@\"$?\"@{n}@\"")?;
        self.stdin.flush()?;
        let end = format!("@{n}@");
        let (stdout, code) = loop {
            let text = self.wait_for(&end, limit)?;
            if let Some((out, code)) = text.rsplit_once("@@") {
                break (out.to_owned(), code.parse().context("an exit code is a number")?);
            }
        };
        Ok(Output {
            line: line.to_owned(),
            code,
            stdout,
            stderr: String::new(),
            took: began.elapsed(),
        })
    }

    /// Runs a line in the guest; an exit code but 0 is an error. Gives what it printed.
    pub fn ok(&mut self, line: &str) -> Result<String> {
        Ok(self.run(line)?.ok()?.stdout)
    }

    /// Ends the process: a guest that was started here is gone at once, the console of one elsewhere is left.
    pub fn end(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
